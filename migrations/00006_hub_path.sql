-- The hub at any path. mercure.hub_path() stays a constant, which costs
-- publishers nothing and is in every dump; mercure.set_hub_path() changes it.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- RFC 3986 section 5.2.4 on a path that starts with a slash.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.remove_dot_segments(path text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    segment text;
    kept text[] := '{}';
BEGIN
    IF position('/.' IN path) = 0 THEN
        RETURN path;
    END IF;
    FOREACH segment IN ARRAY string_to_array(substring(path FROM 2), '/') LOOP
        IF segment = '..' THEN
            kept := kept[1:cardinality(kept) - 1];
        ELSIF segment <> '.' THEN
            kept := array_append(kept, segment);
        END IF;
    END LOOP;
    -- A dot segment at the end leaves the slash before it.
    IF segment IN ('.', '..') THEN
        kept := array_append(kept, '');
    END IF;
    RETURN '/' || array_to_string(kept, '/');
END
$$;
-- +goose StatementEnd

-- Whether a topic lies in the hub's namespace, which only the hub may publish
-- in (N-2). It follows the WHATWG parser closely enough never to call a
-- reserved topic free. It calls reserved, too, what that parser refuses
-- although the path is the hub's, topics that are reserved for a hub of the
-- other of http and https, and whatever contains a control character.
--
-- Variables have the collation C: in others, lower() is not that of URLs.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.is_reserved_topic(topic text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    hub CONSTANT text COLLATE "C" := mercure.hub_path();
    directory CONSTANT text COLLATE "C" := regexp_replace(hub, '[^/]*$', '');
    last_segment CONSTANT text COLLATE "C" := substring(hub FROM '[^/]*$');
    rest text COLLATE "C" := topic;
    scheme text COLLATE "C";
    special boolean; -- is or has a scheme whose URLs have a host and a path
    path text COLLATE "C";
    paths text[] COLLATE "C";
    letter text COLLATE "C";
BEGIN
    -- Nearly every topic leaves here: to be reserved it must name the hub's
    -- last segment, in the open or percent-encoded, or resolve to nothing.
    IF position(last_segment IN rest) = 0 AND position('%' IN rest) = 0 AND position('%' IN last_segment) = 0
        AND rest !~ '^ *([A-Za-z][A-Za-z0-9+.-]*:)?[/\\]* *([?#]|$)|[\u0001-\u001f]' THEN
        RETURN false;
    END IF;
    -- URL parsers leave some out. No door lets them in.
    IF rest ~ '[\u0001-\u001f]' THEN
        RETURN true;
    END IF;

    rest := substring(btrim(rest, ' ') FROM '^[^?#]*');
    scheme := lower(substring(rest FROM '^([A-Za-z][A-Za-z0-9+.-]*):'));
    IF scheme IS NOT NULL THEN
        rest := substring(rest FROM length(scheme) + 2);
    END IF;
    special := scheme IS NULL OR scheme IN ('http', 'https', 'ws', 'wss', 'ftp', 'file');
    IF special THEN
        rest := translate(rest, '\', '/');
    END IF;
    -- Dots do not remove a drive letter from the path of a file.
    IF scheme = 'file' AND hub ~ '^/[A-Za-z][:|]' THEN
        RETURN true;
    END IF;

    -- Any number of slashes may precede the host, except where a scheme has
    -- rules of its own: there it is two.
    paths := ARRAY[regexp_replace(
        CASE WHEN special AND scheme IS DISTINCT FROM 'file' THEN ltrim(rest, '/') ELSE substring(rest FROM 3) END,
        '^[^/]*', ''
    )];
    IF rest NOT LIKE '//%' THEN
        path := CASE
            WHEN rest LIKE '/%' THEN rest
            WHEN scheme = 'file' THEN '/' || rest
            WHEN rest = '' THEN hub
            ELSE directory || rest
        END;
        IF scheme IS NULL OR scheme = 'file' THEN
            paths := ARRAY[path];
        ELSIF scheme IN ('http', 'https') THEN
            paths := paths || path; -- relative if it is the hub's own scheme
        ELSIF NOT special THEN
            IF rest NOT LIKE '/%' THEN
                RETURN false; -- an opaque path, as in urn:example:a
            END IF;
            paths := ARRAY[path];
        END IF;
    END IF;

    FOREACH path IN ARRAY paths LOOP
        IF path = '' AND special THEN
            path := '/';
        END IF;
        -- Parsers encode these characters: only there can they be the hub's.
        IF position('%' IN hub) > 0 THEN
            FOR letter IN SELECT DISTINCT m[1] FROM regexp_matches(path, '[ "<>`{}\u007f-\U0010ffff]', 'g') AS m LOOP
                path := replace(path, letter, upper(regexp_replace(encode(convert_to(letter, 'UTF8'), 'hex'), '(..)', '%\1', 'g')));
            END LOOP;
        END IF;
        -- Unreserved characters are decoded, once.
        IF position('%' IN path) > 0 THEN
            SELECT string_agg(
                CASE
                    WHEN p.ordinality = 1 THEN p.part
                    WHEN p.part ~ '^(2[DdEe]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9AaEe])'
                        THEN chr(get_byte(decode(left(p.part, 2), 'hex'), 0)) || substring(p.part FROM 3)
                    ELSE '%' || p.part
                END, '' ORDER BY p.ordinality
            ) INTO path
            FROM unnest(string_to_array(path, '%')) WITH ORDINALITY AS p (part, ordinality);
        END IF;
        path := mercure.remove_dot_segments(path);
        IF path = hub OR starts_with(path, hub || '/') THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;
-- +goose StatementEnd

-- Moves the reserved namespace to another path, for the owner of the schema.
-- The path is that of the hub's URL, with unreserved characters decoded. Returns
-- false, and does nothing, if hubs are connected that are at the present one:
-- they hold the lock, shared, as long as they are.
--
-- Rows of the outbox that were free before, and are not any more, are rejected.
-- +goose StatementBegin
CREATE FUNCTION mercure.set_hub_path(path text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE STRICT
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
    SET lock_timeout = '10s'
AS $$
BEGIN
    IF path !~ '^/[!$-;=@-Z\[\]^_a-z|~]*$' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = format('%L is not the path of a URL: it must start with a slash, and other characters than those of URLs must be percent-encoded', left(path, 200));
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('mercure.hub_path', 0::bigint)) THEN
        RETURN false;
    END IF;
    -- Who has inserted by the old rule must have committed before the new one
    -- is applied to what waits.
    LOCK TABLE mercure.outbox IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format('CREATE OR REPLACE FUNCTION mercure.hub_path() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %L', path);
    -- A hub from before this migration would be at the default path.
    UPDATE mercure.schema_version AS v
    SET oldest_hub = CASE WHEN path = '/.well-known/mercure' THEN 1 ELSE 6 END
    WHERE v.version = 6;
    WITH refused AS (
        DELETE FROM mercure.outbox AS o
        WHERE EXISTS (SELECT FROM unnest(o.topics) AS t WHERE mercure.is_reserved_topic(t))
        RETURNING o.seq, to_jsonb(o) AS outbox_row
    )
    INSERT INTO mercure.rejected (seq, reason, outbox_row)
    SELECT r.seq, 'a topic lies in the namespace of the hub, which has moved to ' || path, r.outbox_row
    FROM refused AS r;
    RETURN true;
END
$$;
-- +goose StatementEnd

REVOKE EXECUTE ON FUNCTION mercure.set_hub_path(text) FROM PUBLIC;

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (6, 1);

-- The other functions keep their new bodies, which are right for older hubs too.
-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 6;
DROP FUNCTION mercure.set_hub_path(text);
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.hub_path() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '/.well-known/mercure';
-- +goose StatementEnd
