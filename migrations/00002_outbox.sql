-- Where applications publish from SQL, inside their own transactions.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- The path no publisher may publish under (N-2).
-- +goose StatementBegin
CREATE FUNCTION mercure.hub_path() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN '/.well-known/mercure';
-- +goose StatementEnd

-- RFC 3986 section 5.2.4 on an absolute path.
-- +goose StatementBegin
CREATE FUNCTION mercure.remove_dot_segments(path text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    segment text;
    kept text[] := '{}';
BEGIN
    FOREACH segment IN ARRAY string_to_array(ltrim(path, '/'), '/') LOOP
        IF segment = '..' THEN
            kept := kept[1:cardinality(kept) - 1];
        ELSIF segment <> '.' THEN
            kept := kept || segment;
        END IF;
    END LOOP;
    RETURN '/' || array_to_string(kept, '/');
END
$$;
-- +goose StatementEnd

-- Whether a topic lies in the hub's namespace, which only the hub may publish
-- in (N-2). It follows the WHATWG parser closely enough never to call a
-- reserved topic free; a few odd free ones it calls reserved.
-- +goose StatementBegin
CREATE FUNCTION mercure.is_reserved_topic(topic text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
AS $$
DECLARE
    hub CONSTANT text := mercure.hub_path();
    directory CONSTANT text := regexp_replace(hub, '[^/]*$', '');
    last_segment CONSTANT text := substring(hub FROM '[^/]*$');
    rest text := topic COLLATE "C";
    scheme text;
    octet text;
    decoded text;
    path text;
    paths text[];
BEGIN
    -- Nearly every topic leaves here: to be reserved it must name the hub's
    -- last segment, in the open or percent-encoded, or resolve to nothing.
    IF position(last_segment IN rest) = 0 AND position('%' IN rest) = 0
        AND rest !~ '^ *([A-Za-z][A-Za-z0-9+.-]*:)?[/\\]* *([?#]|$)' THEN
        RETURN false;
    END IF;

    FOR octet IN SELECT DISTINCT m[1] FROM regexp_matches(rest, '%([2-7][0-9A-Fa-f])', 'g') AS m LOOP
        decoded := chr(get_byte(decode(octet, 'hex'), 0));
        IF decoded ~ '[A-Za-z0-9._~-]' THEN
            rest := replace(rest, '%' || octet, decoded);
        END IF;
    END LOOP;
    rest := substring(btrim(translate(rest, '\', '/'), ' ') FROM '^[^?#]*');

    scheme := lower(substring(rest FROM '^([A-Za-z][A-Za-z0-9+.-]*):'));
    IF scheme IS NOT NULL THEN
        rest := substring(rest FROM length(scheme) + 2);
    END IF;
    IF scheme IN ('http', 'https', 'ws', 'wss', 'ftp', 'file') THEN
        -- Any number of slashes may precede the host, and without any the rest
        -- may be a path relative to the hub: judged as each.
        paths := ARRAY[
            directory || rest,
            rest,
            regexp_replace(ltrim(rest, '/'), '^[^/]*', '')
        ];
    ELSIF rest LIKE '//%' THEN
        paths := ARRAY[regexp_replace(substring(rest FROM 3), '^[^/]*', '')];
    ELSIF rest LIKE '/%' THEN
        paths := ARRAY[rest];
    ELSIF scheme IS NULL THEN
        paths := ARRAY[CASE WHEN rest = '' THEN hub ELSE directory || rest END];
    ELSE
        RETURN false; -- an opaque path, as in urn:example:a
    END IF;

    FOREACH path IN ARRAY paths LOOP
        path := mercure.remove_dot_segments(path);
        IF path = hub OR starts_with(path, hub || '/') THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN scheme IS NOT NULL AND rest = '';
END
$$;
-- +goose StatementEnd

-- The characters no topic, id or type may contain: controls and format
-- characters (TP-2). Returns the first one, NULL if there is none.
-- +goose StatementBegin
CREATE FUNCTION mercure.forbidden_character(value text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN substring(value COLLATE "C" FROM '[\u0001-\u001f\u007f-\u009f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]');
-- +goose StatementEnd

-- The checks of the outbox raise their own errors, because "violates check
-- constraint" does not tell a developer which of a thousand topics is wrong.
--
-- They pin the settings they are parsed under, for themselves and what they
-- call: with a search_path of its own, a publisher could put its functions in
-- the place of ours and publish in the hub's name.
-- +goose StatementBegin
CREATE FUNCTION mercure.check_text(field text, value text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    forbidden text := mercure.forbidden_character(value);
BEGIN
    IF octet_length(value) > 4096 THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation',
            MESSAGE = format('%s is %s bytes long; at most 4096 are allowed', field, octet_length(value));
    END IF;
    IF forbidden IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation',
            MESSAGE = format('%s contains the control or format character U+%s, which is not allowed',
                field, lpad(upper(to_hex(ascii(forbidden))), 4, '0')),
            HINT = 'Controls and invisible format characters, zero-width joiners among them, are forbidden in topics, ids and types.';
    END IF;
    RETURN true;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.check_topics(topics text[]) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
DECLARE
    topic text;
BEGIN
    IF topics IS NULL OR cardinality(topics) = 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = 'topics is empty; an update needs at least one topic';
    END IF;
    IF cardinality(topics) > 1000 THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation',
            MESSAGE = format('topics has %s elements; at most 1000 are allowed', cardinality(topics));
    END IF;
    IF array_ndims(topics) > 1 OR array_lower(topics, 1) <> 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = 'topics must be a one-dimensional array whose first index is 1';
    END IF;
    FOREACH topic IN ARRAY topics LOOP
        IF topic IS NULL OR topic = '' THEN
            RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = 'topics contains an empty topic';
        END IF;
        IF topic = '*' THEN
            RAISE EXCEPTION USING ERRCODE = 'check_violation',
                MESSAGE = 'the topic * cannot be published: it is the wildcard of subscribers';
        END IF;
        PERFORM mercure.check_text('topic', topic);
        IF mercure.is_reserved_topic(topic) THEN
            RAISE EXCEPTION USING ERRCODE = 'check_violation',
                MESSAGE = format('the topic %s lies in the namespace reserved for the hub, %s', quote_literal(left(topic, 200)), mercure.hub_path()),
                HINT = 'Topics without a scheme or a leading slash are relative to the hub''s directory; use an absolute URL.';
        END IF;
    END LOOP;
    RETURN true;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.check_id(id text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
BEGIN
    IF id = '' OR id = 'earliest' OR starts_with(id, '#') THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation',
            MESSAGE = format('the id %s cannot be used', quote_literal(left(id, 200))),
            HINT = 'An id must not be empty, must not be "earliest" and must not start with #. Leave it out to have one generated.';
    END IF;
    RETURN mercure.check_text('id', id);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.check_type(type text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on
AS $$
BEGIN
    IF type = 'mercure' THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = 'the type mercure is reserved for the hub';
    END IF;
    RETURN mercure.check_text('type', type);
END
$$;
-- +goose StatementEnd

-- Every hub holds what it delivers in memory, so a row must not be enough to
-- fill it. The limit is that of a batch.
-- +goose StatementBegin
CREATE FUNCTION mercure.check_data(data text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF octet_length(data) > 8388608 THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation',
            MESSAGE = format('data is %s bytes long; at most 8388608 are allowed', octet_length(data)),
            HINT = 'Publish the address of large content instead of the content.';
    END IF;
    RETURN true;
END
$$;
-- +goose StatementEnd

-- A plain queue: an INSERT takes no lock and sends no NOTIFY of its own (the
-- doorbell is in the next migration). xid tells a drain which rows are new
-- since its last one (see mercure.move_outbox).
CREATE TABLE mercure.outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT outbox_pkey PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    topics text[] COLLATE "C" NOT NULL,
    data text,
    private boolean NOT NULL DEFAULT false,
    type text COLLATE "C",
    retry bigint,
    id text COLLATE "C" NOT NULL DEFAULT mercure.new_id(),
    CONSTRAINT outbox_topics CHECK (mercure.check_topics(topics)),
    CONSTRAINT outbox_data CHECK (mercure.check_data(data)),
    CONSTRAINT outbox_id CHECK (mercure.check_id(id)),
    CONSTRAINT outbox_type CHECK (mercure.check_type(type)),
    CONSTRAINT outbox_retry CHECK (retry BETWEEN 0 AND 999999999999999)
)
WITH (
    -- Truncating needs a lock that would stop inserts; the file is reused anyway.
    vacuum_truncate = off,
    -- Rows live for milliseconds: vacuum by their number, not by a share.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);
CREATE INDEX outbox_xid_seq_idx ON mercure.outbox (xid, seq);
COMMENT ON TABLE mercure.outbox IS 'Insert here to publish when your transaction commits. Rows leave within milliseconds for mercure.updates.';
COMMENT ON COLUMN mercure.outbox.topics IS 'Canonical topic first, then alternates. Required.';
COMMENT ON COLUMN mercure.outbox.private IS 'Only subscribers with a grant receive it.';
COMMENT ON COLUMN mercure.outbox.type IS 'SSE event type.';
COMMENT ON COLUMN mercure.outbox.retry IS 'Reconnection delay for the receiver, in milliseconds.';
COMMENT ON COLUMN mercure.outbox.id IS 'Event id; generated when left out.';

-- Rows the log refused although the outbox took them, so that a bad row never
-- blocks the ones behind it. Should stay empty.
CREATE TABLE mercure.rejected (
    seq bigint CONSTRAINT rejected_pkey PRIMARY KEY,
    rejected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason text NOT NULL,
    outbox_row jsonb NOT NULL
);

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (2, 1);

-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 2;
DROP TABLE mercure.rejected, mercure.outbox;
DROP FUNCTION mercure.check_data(text);
DROP FUNCTION mercure.check_type(text);
DROP FUNCTION mercure.check_id(text);
DROP FUNCTION mercure.check_topics(text[]);
DROP FUNCTION mercure.check_text(text, text);
DROP FUNCTION mercure.forbidden_character(text);
DROP FUNCTION mercure.is_reserved_topic(text);
DROP FUNCTION mercure.remove_dot_segments(text);
DROP FUNCTION mercure.hub_path();
