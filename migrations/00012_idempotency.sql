-- A publish that is repeated with the same idempotency key is the same update,
-- for 24 hours.
--
-- What decides is the order of the log: the first update with a key that enters
-- it is the one, and only whoever holds the append lock writes the table of
-- keys. A transaction that publishes reads that table at most, so none waits for
-- another, as with a unique index they would.
--
-- Over HTTP a key belongs to the issuer and subject of the token, in SQL to the
-- role that publishes.

-- +goose Up
SET LOCAL lock_timeout = '10s';

CREATE TABLE mercure.publish_keys (
    hash bytea CONSTRAINT publish_keys_pkey PRIMARY KEY,
    fingerprint bytea NOT NULL,
    id text COLLATE "C" NOT NULL,
    publisher text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
WITH (
    -- Rows live for a day: vacuum by their number, not by a share.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000
);
CREATE INDEX publish_keys_created_at_idx ON mercure.publish_keys (created_at);
COMMENT ON TABLE mercure.publish_keys IS 'Idempotency keys of the last 24 hours. Written by hubs only.';
COMMENT ON COLUMN mercure.publish_keys.hash IS 'Of the key and whom it belongs to.';
COMMENT ON COLUMN mercure.publish_keys.fingerprint IS 'Of the content of the update.';
COMMENT ON COLUMN mercure.publish_keys.id IS 'Id of the first update with the key.';
COMMENT ON COLUMN mercure.publish_keys.publisher IS 'Role that published in SQL; NULL: over HTTP.';

-- Makes ids that follow from a key as hard to guess as random ones (P-12).
CREATE TABLE mercure.key_salt (
    singleton boolean CONSTRAINT key_salt_pkey PRIMARY KEY DEFAULT true,
    salt uuid NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT key_salt_one_row CHECK (singleton)
);
INSERT INTO mercure.key_salt DEFAULT VALUES;

-- +goose StatementBegin
CREATE FUNCTION mercure.check_idempotency_key(idempotency_key text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF idempotency_key = '' OR octet_length(idempotency_key) > 255 THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation',
            MESSAGE = format('the idempotency key is %s bytes long; it must have 1 to 255', octet_length(idempotency_key)),
            HINT = 'Use the id of what is published, such as that of a job, or a random UUID that is kept for retries.';
    END IF;
    RETURN true;
END
$$;
-- +goose StatementEnd

-- publisher is not granted: nobody publishes under another's keys. The default
-- is a constant for rows that are there, so nothing is rewritten.
ALTER TABLE mercure.outbox
    ADD COLUMN publisher text NOT NULL DEFAULT current_user,
    ADD COLUMN idempotency_key text,
    ADD CONSTRAINT outbox_idempotency_key CHECK (idempotency_key IS NULL OR mercure.check_idempotency_key(idempotency_key));
COMMENT ON COLUMN mercure.outbox.publisher IS 'Role that published.';
COMMENT ON COLUMN mercure.outbox.idempotency_key IS 'A row with the key of an earlier one of the same role, within 24 hours, is not published again.';
-- Nearly always empty: one probe tells that there is nothing to compare.
CREATE INDEX outbox_idempotency_key_idx ON mercure.outbox (seq) WHERE idempotency_key IS NOT NULL;

-- +goose StatementBegin
CREATE FUNCTION mercure.keys_valid_after() RETURNS timestamptz
    LANGUAGE sql VOLATILE
    RETURN clock_timestamp() - interval '24 hours';
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.publish_key_hash(publisher text, idempotency_key text) RETURNS bytea
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN sha256(convert_to(jsonb_build_array('sql', publisher, idempotency_key)::text, 'UTF8'));
-- +goose StatementEnd

-- Of everything that a retry must have in common with the first publish. An id
-- that looks generated does not count: an INSERT into the outbox has another one
-- each time.
-- +goose StatementBegin
CREATE FUNCTION mercure.publish_fingerprint(
    topics text[], data text, private boolean, type text, retry bigint, id text
) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN sha256(convert_to(jsonb_build_array(
        topics, encode(sha256(convert_to(coalesce(data, ''), 'UTF8')), 'hex'), private, coalesce(type, ''), retry,
        CASE WHEN id !~ '^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[48][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN id END
    )::text, 'UTF8'));
-- +goose StatementEnd

-- The id of the update that a role publishes with a key: it must be known before
-- it is known which transaction comes first. A UUID of version 8, which the
-- standard leaves to applications.
-- +goose StatementBegin
CREATE FUNCTION mercure.id_of_key(publisher text, idempotency_key text) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    digits text;
BEGIN
    SELECT encode(sha256(uuid_send(s.salt) || mercure.publish_key_hash(publisher, idempotency_key)), 'hex') INTO digits
    FROM mercure.key_salt AS s;
    digits := overlay(overlay(left(digits, 32) PLACING '8' FROM 13) PLACING '8' FROM 17);
    RETURN 'urn:uuid:' || digits::uuid::text;
END
$$;
-- +goose StatementEnd

-- What a publisher may see of the keys.
CREATE VIEW mercure.own_publish_keys WITH (security_barrier) AS
SELECT k.hash, k.fingerprint, k.id
FROM mercure.publish_keys AS k
WHERE k.publisher = current_user AND k.created_at > mercure.keys_valid_after();

-- Records the keys of rows that are about to be moved into the log, and removes
-- the rows whose key was used before, and those with other content to
-- mercure.rejected. Returns which are left; NULL: none. The caller holds the
-- append lock.
--
-- Keys are looked up one by one: the planner must not read all of a table that
-- has grown since its statistics were made.
-- +goose StatementBegin
CREATE FUNCTION mercure.keep_first(INOUT seqs bigint[], OUT refused integer)
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    valid_after CONSTANT timestamptz := mercure.keys_valid_after();
    removed_seqs bigint[];
BEGIN
    refused := 0;
    IF NOT EXISTS (SELECT FROM mercure.outbox AS o WHERE o.idempotency_key IS NOT NULL) THEN
        RETURN;
    END IF;
    WITH hashed AS MATERIALIZED (
        SELECT
            o.seq, o.id, o.publisher, mercure.publish_key_hash(o.publisher, o.idempotency_key) AS hash,
            mercure.publish_fingerprint(o.topics, o.data, o.private, o.type, o.retry, o.id) AS fingerprint
        FROM mercure.outbox AS o
        WHERE o.idempotency_key IS NOT NULL AND o.seq = ANY (seqs)
    ), known AS MATERIALIZED (
        SELECT
            h.seq, h.id, h.publisher, h.hash, h.fingerprint,
            (SELECT k.fingerprint FROM mercure.publish_keys AS k WHERE k.hash = h.hash AND k.created_at > valid_after) AS used_for
        FROM hashed AS h
    ), judged AS MATERIALIZED (
        SELECT
            n.seq, n.id, n.publisher, n.hash, n.fingerprint,
            n.used_for IS NOT NULL OR row_number() OVER same_key > 1 AS again,
            coalesce(n.used_for, first_value(n.fingerprint) OVER same_key) = n.fingerprint AS same
        FROM known AS n
        WINDOW same_key AS (PARTITION BY n.hash ORDER BY n.seq)
    ), recorded AS (
        INSERT INTO mercure.publish_keys (hash, fingerprint, id, publisher)
        SELECT j.hash, j.fingerprint, j.id, j.publisher
        FROM judged AS j
        WHERE NOT j.again
        ON CONFLICT (hash) DO UPDATE
        SET fingerprint = EXCLUDED.fingerprint, id = EXCLUDED.id, publisher = EXCLUDED.publisher, created_at = EXCLUDED.created_at
    ), removed AS (
        DELETE FROM mercure.outbox AS o
        USING judged AS j
        WHERE o.seq = j.seq AND j.again
        RETURNING o.seq, j.same, o.idempotency_key, to_jsonb(o) AS outbox_row
    ), rejected AS (
        INSERT INTO mercure.rejected (seq, reason, outbox_row)
        SELECT r.seq, format('the idempotency key %L was used for another update', r.idempotency_key), r.outbox_row
        FROM removed AS r
        WHERE NOT r.same
        ON CONFLICT (seq) DO UPDATE SET rejected_at = EXCLUDED.rejected_at, reason = EXCLUDED.reason, outbox_row = EXCLUDED.outbox_row
    )
    SELECT array_agg(r.seq), count(*) FILTER (WHERE NOT r.same) INTO removed_seqs, refused
    FROM removed AS r;
    IF removed_seqs IS NOT NULL THEN
        seqs := (SELECT array_agg(s.seq ORDER BY s.seq) FROM unnest(seqs) AS s (seq) WHERE s.seq <> ALL (removed_seqs));
    END IF;
END
$$;
-- +goose StatementEnd

-- As before, but for keys.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.move_outbox(INOUT state text, max_rows integer, OUT moved integer, OUT refused integer, OUT more boolean)
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
DECLARE
    now_seen pg_snapshot;
    previous pg_snapshot;
    sweep_floor bigint := 0;
    sweep_ceiling bigint;
    max_bytes CONSTANT bigint := 8388608;
    seqs bigint[];
    fitting bigint[];
    outbox_row mercure.outbox;
    state_kind CONSTANT text := split_part(state, '|', 1);
BEGIN
    moved := 0;
    refused := 0;
    -- Taken before the rows are read: what commits in between is found twice,
    -- never missed.
    SELECT pg_current_snapshot() INTO now_seen;

    IF state_kind = 'diff' THEN
        previous := split_part(state, '|', 3)::pg_snapshot;
        SELECT array_agg(n.seq ORDER BY n.seq) INTO seqs
        FROM (
            (SELECT o.seq FROM mercure.outbox AS o WHERE o.xid >= pg_snapshot_xmax(previous))
            UNION ALL
            (SELECT o.seq FROM mercure.outbox AS o WHERE o.xid = ANY (ARRAY(SELECT pg_snapshot_xip(previous))))
            LIMIT max_rows + 1
        ) AS n;
        -- More than a chunk is moved in insertion order by a sweep: sorting
        -- all of it again for each chunk would be quadratic.
        IF cardinality(seqs) > max_rows OR cardinality(seqs) > cardinality(mercure.fitting_rows(seqs, max_bytes)) THEN
            seqs := NULL;
            state := NULL;
        END IF;
    ELSIF state_kind = 'sweep' THEN
        now_seen := split_part(state, '|', 3)::pg_snapshot;
        sweep_floor := split_part(state, '|', 4)::bigint;
        sweep_ceiling := split_part(state, '|', 5)::bigint;
    END IF;

    more := false;
    IF state IS NULL OR state_kind = 'sweep' THEN
        IF sweep_ceiling IS NULL THEN
            SELECT coalesce(max(o.seq), 0) INTO sweep_ceiling FROM mercure.outbox AS o;
        END IF;
        SELECT array_agg(n.seq ORDER BY n.seq) INTO seqs
        FROM (
            SELECT o.seq FROM mercure.outbox AS o
            WHERE o.seq > sweep_floor AND o.seq <= sweep_ceiling
            ORDER BY o.seq
            LIMIT max_rows
        ) AS n;
        fitting := mercure.fitting_rows(seqs, max_bytes);
        more := (cardinality(seqs) = max_rows OR cardinality(fitting) < cardinality(seqs))
            AND fitting[cardinality(fitting)] < sweep_ceiling;
        more := coalesce(more, false);
        seqs := fitting;
    END IF;
    IF more THEN
        state := format('sweep|%s|%s|%s|%s', mercure.server_start(), now_seen, seqs[cardinality(seqs)], sweep_ceiling);
    ELSE
        state := mercure.complete_state(now_seen);
    END IF;
    IF seqs IS NOT NULL THEN
        SELECT k.seqs, k.refused INTO seqs, refused FROM mercure.keep_first(seqs) AS k;
    END IF;
    IF seqs IS NULL THEN
        RETURN;
    END IF;

    BEGIN
        WITH taken AS (
            DELETE FROM mercure.outbox AS o WHERE o.seq = ANY (seqs)
            RETURNING o.seq, o.id, o.topics, o.data, o.private, o.type, o.retry
        ), numbered AS (
            SELECT t.*, row_number() OVER (PARTITION BY t.id ORDER BY t.seq) > 1 AS repeated
            FROM taken AS t
            ORDER BY t.seq
        )
        INSERT INTO mercure.updates (position, id, topics, data, private, type, retry, size, id_reused)
        SELECT
            nextval('mercure.updates_position_seq'),
            n.id, n.topics, coalesce(n.data, ''), n.private, nullif(n.type, ''), n.retry,
            mercure.update_size(n.id, n.topics, octet_length(n.data), n.type),
            n.repeated OR mercure.id_in_log(n.id)
        FROM numbered AS n;
        GET DIAGNOSTICS moved = ROW_COUNT;
        RETURN;
    EXCEPTION
        -- The rows themselves are at fault; a full disk or a lost lock is not
        -- caught here and leaves the outbox as it was.
        WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
            moved := 0;
    END;

    FOR outbox_row IN SELECT o.* FROM mercure.outbox AS o WHERE o.seq = ANY (seqs) ORDER BY o.seq LOOP
        BEGIN
            INSERT INTO mercure.updates (position, id, topics, data, private, type, retry, size, id_reused)
            VALUES (
                nextval('mercure.updates_position_seq'),
                outbox_row.id, outbox_row.topics, coalesce(outbox_row.data, ''), outbox_row.private,
                nullif(outbox_row.type, ''), outbox_row.retry,
                mercure.update_size(outbox_row.id, outbox_row.topics, octet_length(outbox_row.data), outbox_row.type),
                mercure.id_in_log(outbox_row.id)
            );
            moved := moved + 1;
        EXCEPTION
            WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
                INSERT INTO mercure.rejected (seq, reason, outbox_row)
                VALUES (outbox_row.seq, SQLSTATE || ': ' || SQLERRM, to_jsonb(outbox_row))
                ON CONFLICT (seq) DO UPDATE SET rejected_at = EXCLUDED.rejected_at, reason = EXCLUDED.reason, outbox_row = EXCLUDED.outbox_row;
                refused := refused + 1;
                DELETE FROM mercure.publish_keys AS k
                WHERE k.hash = mercure.publish_key_hash(outbox_row.publisher, outbox_row.idempotency_key);
        END;
        DELETE FROM mercure.outbox AS o WHERE o.seq = outbox_row.seq;
    END LOOP;
END
$$;
-- +goose StatementEnd

-- mercure.append() for batches in which some updates have a key: hash and
-- fingerprint, both NULL for the others. An update whose key was used before, or
-- by an earlier one of the batch, is not appended.
--
-- answers has the id for each publisher, empty if the key was used for another
-- update; fresh says which ones were appended now. A batch that is repeated is
-- judged by the keys that it has recorded itself. If nothing is left to append,
-- no trace of the batch is kept, and head_before is where the log ends.
-- +goose StatementBegin
CREATE FUNCTION mercure.append_once(
    INOUT state text, max_rows integer, batch_token uuid,
    ids text[], topics text[], data text[], binary_data bytea[], private boolean[],
    types text[], retries bigint[], trace_contexts text[], probe boolean[],
    hashes bytea[], fingerprints bytea[],
    OUT appended boolean, OUT repeated boolean, OUT head_before bigint, OUT head_drained bigint,
    OUT first_position bigint, OUT last_position bigint,
    OUT moved integer, OUT refused integer, OUT answers text[], OUT fresh boolean[]
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
DECLARE
    valid_after timestamptz;
BEGIN
    PERFORM mercure.require_primary();
    LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE;

    valid_after := mercure.keys_valid_after();
    SELECT array_agg(f.fresh ORDER BY f.place) INTO fresh
    FROM (
        SELECT h.place, h.hash IS NULL OR (
            row_number() OVER (PARTITION BY h.hash ORDER BY h.place) = 1
            AND (SELECT true FROM mercure.publish_keys AS k WHERE k.hash = h.hash AND k.created_at > valid_after) IS NULL
        ) AS fresh
        FROM unnest(hashes) WITH ORDINALITY AS h (hash, place)
    ) AS f;

    IF true = ANY (fresh) THEN
        SELECT a.* INTO state, appended, repeated, head_before, head_drained, first_position, last_position, moved, refused
        FROM (
            SELECT
                array_agg(b.id ORDER BY b.place) AS ids, array_agg(b.topics ORDER BY b.place) AS topics,
                array_agg(b.data ORDER BY b.place) AS data, array_agg(b.binary_data ORDER BY b.place) AS binary_data,
                array_agg(b.private ORDER BY b.place) AS private, array_agg(b.type ORDER BY b.place) AS types,
                array_agg(b.retry ORDER BY b.place) AS retries, array_agg(b.trace_context ORDER BY b.place) AS trace_contexts,
                array_agg(b.probe ORDER BY b.place) AS probe
            FROM unnest(ids, topics, data, binary_data, private, types, retries, trace_contexts, probe, fresh)
                WITH ORDINALITY AS b (id, topics, data, binary_data, private, type, retry, trace_context, probe, fresh, place)
            WHERE b.fresh
        ) AS f
        CROSS JOIN LATERAL mercure.append(
            state, max_rows, batch_token, f.ids, f.topics, f.data, f.binary_data, f.private,
            f.types, f.retries, f.trace_contexts, f.probe
        ) AS a;
        IF NOT appended THEN
            RETURN;
        END IF;
    ELSE
        appended := true;
        repeated := false;
        head_before := mercure.head();
        head_drained := head_before;
        moved := 0;
        refused := 0;
    END IF;

    IF NOT repeated THEN
        INSERT INTO mercure.publish_keys (hash, fingerprint, id)
        SELECT b.hash, b.fingerprint, b.id
        FROM unnest(hashes, fingerprints, ids, fresh) AS b (hash, fingerprint, id, fresh)
        WHERE b.fresh AND b.hash IS NOT NULL
        ON CONFLICT (hash) DO UPDATE
        SET fingerprint = EXCLUDED.fingerprint, id = EXCLUDED.id, publisher = EXCLUDED.publisher, created_at = EXCLUDED.created_at;
    END IF;
    SELECT array_agg(
        CASE WHEN b.hash IS NULL THEN b.id
        ELSE coalesce((SELECT k.id FROM mercure.publish_keys AS k WHERE k.hash = b.hash AND k.fingerprint = b.fingerprint), '')
        END ORDER BY b.place) INTO answers
    FROM unnest(hashes, fingerprints, ids) WITH ORDINALITY AS b (hash, fingerprint, id, place);
END
$$;
-- +goose StatementEnd

-- Forgets keys that do not count any more, up to a number. Returns how many.
-- The age is looked at twice because a key may be used anew in between.
-- +goose StatementBegin
CREATE FUNCTION mercure.forget_publish_keys(max_rows integer) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '10s'
AS $$
DECLARE
    valid_after CONSTANT timestamptz := mercure.keys_valid_after();
    forgotten bigint;
BEGIN
    DELETE FROM mercure.publish_keys AS k
    WHERE k.created_at <= valid_after AND k.hash IN (
        SELECT o.hash FROM mercure.publish_keys AS o
        WHERE o.created_at <= valid_after
        ORDER BY o.created_at
        LIMIT max_rows
    );
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END
$$;
-- +goose StatementEnd

-- Functions take defaults from their last parameter on, so those with one more
-- take the place of those without. These keep their identity under another name:
-- dropped, they would fail statements that were prepared before, and be missed
-- by objects of the application that use them.
ALTER FUNCTION mercure.publish(text[], text, boolean, text, bigint, text) RENAME TO publish_without_key;
ALTER FUNCTION mercure.publish(text, text, boolean, text, bigint, text) RENAME TO publish_without_key;

-- Publishes when the surrounding transaction commits. Returns the event id,
-- which with a key is that of the first publish with it.
-- +goose StatementBegin
CREATE FUNCTION mercure.publish(
    topics text[], data text DEFAULT NULL, private boolean DEFAULT false,
    type text DEFAULT NULL, retry bigint DEFAULT NULL, id varchar DEFAULT NULL, idempotency_key text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_variable
DECLARE
    event_id text;
    used_for bytea;
BEGIN
    IF idempotency_key IS NULL THEN
        event_id := coalesce(id, mercure.new_id());
        INSERT INTO mercure.outbox (topics, data, private, type, retry, id)
        VALUES (topics, data, private, type, retry, event_id);
        RETURN event_id;
    END IF;

    SELECT k.id, k.fingerprint INTO event_id, used_for
    FROM mercure.own_publish_keys AS k
    WHERE k.hash = mercure.publish_key_hash(current_user::text, idempotency_key);
    IF used_for = mercure.publish_fingerprint(topics, data, private, type, retry, id) THEN
        RETURN event_id;
    ELSIF used_for IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'unique_violation',
            MESSAGE = format('the idempotency key %L was used for another update, %s', idempotency_key, event_id),
            HINT = 'A retry must have the same topics, data, private, type, retry and id; what is not a retry needs a key of its own.';
    END IF;
    event_id := coalesce(id, mercure.id_of_key(current_user::text, idempotency_key));
    INSERT INTO mercure.outbox (topics, data, private, type, retry, id, idempotency_key)
    VALUES (topics, data, private, type, retry, event_id, idempotency_key);
    RETURN event_id;
END
$$;
-- +goose StatementEnd

-- These are one expression each, which the planner puts in the place of a call.
CREATE FUNCTION mercure.publish(
    topic text, data text DEFAULT NULL, private boolean DEFAULT false,
    type text DEFAULT NULL, retry bigint DEFAULT NULL, id varchar DEFAULT NULL, idempotency_key text DEFAULT NULL
) RETURNS text
    LANGUAGE sql VOLATILE
    RETURN mercure.publish(ARRAY[topic], data, private, type, retry, id, idempotency_key);

CREATE FUNCTION mercure.publish(
    topic text, data jsonb, private boolean DEFAULT false,
    type text DEFAULT NULL, retry bigint DEFAULT NULL, id varchar DEFAULT NULL, idempotency_key text DEFAULT NULL
) RETURNS text
    LANGUAGE sql VOLATILE
    RETURN mercure.publish(ARRAY[topic], data::text, private, type, retry, id, idempotency_key);

CREATE FUNCTION mercure.publish(
    topic text, data json, private boolean DEFAULT false,
    type text DEFAULT NULL, retry bigint DEFAULT NULL, id varchar DEFAULT NULL, idempotency_key text DEFAULT NULL
) RETURNS text
    LANGUAGE sql VOLATILE
    RETURN mercure.publish(ARRAY[topic], data::text, private, type, retry, id, idempotency_key);

CREATE FUNCTION mercure.publish(
    topics text[], data jsonb, private boolean DEFAULT false,
    type text DEFAULT NULL, retry bigint DEFAULT NULL, id varchar DEFAULT NULL, idempotency_key text DEFAULT NULL
) RETURNS text
    LANGUAGE sql VOLATILE
    RETURN mercure.publish(topics, data::text, private, type, retry, id, idempotency_key);

CREATE FUNCTION mercure.publish(
    topics text[], data json, private boolean DEFAULT false,
    type text DEFAULT NULL, retry bigint DEFAULT NULL, id varchar DEFAULT NULL, idempotency_key text DEFAULT NULL
) RETURNS text
    LANGUAGE sql VOLATILE
    RETURN mercure.publish(topics, data::text, private, type, retry, id, idempotency_key);

-- Functions with the old parameters, but no defaults, are there for those who
-- name them so, in grants foremost. A call with all of these could mean either
-- function, were it not for id, which is text here and varchar there.
-- +goose StatementBegin
CREATE FUNCTION mercure.publish(topics text[], data text, private boolean, type text, retry bigint, id text) RETURNS text
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    RETURN mercure.publish(topics, data, private, type, retry, id, NULL);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.publish(topic text, data text, private boolean, type text, retry bigint, id text) RETURNS text
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    RETURN mercure.publish(ARRAY[topic], data, private, type, retry, id, NULL);
END
$$;
-- +goose StatementEnd

REVOKE EXECUTE ON FUNCTION
    mercure.id_of_key(text, text),
    mercure.keep_first(bigint[]),
    mercure.append_once(text, integer, uuid, text[], text[], text[], bytea[], boolean[], text[], bigint[], text[], boolean[], bytea[], bytea[]),
    mercure.forget_publish_keys(integer)
FROM PUBLIC;

-- Whoever could call the functions before can call the new ones.
-- +goose StatementBegin
DO $$
DECLARE
    kept record;
BEGIN
    FOR kept IN
        SELECT
            n.oid::regprocedure AS new_function, a.grantee,
            row_number() OVER (PARTITION BY n.oid) = 1 AS first
        FROM pg_proc AS o
        JOIN pg_proc AS n ON n.pronamespace = o.pronamespace AND n.proname = 'publish'
            AND n.proargtypes[0] = o.proargtypes[0]
        CROSS JOIN LATERAL aclexplode(o.proacl) AS a
        WHERE o.pronamespace = 'mercure'::regnamespace AND o.proname = 'publish_without_key'
    LOOP
        IF kept.first THEN
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', kept.new_function);
        END IF;
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', kept.new_function,
            CASE kept.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(kept.grantee)) END);
    END LOOP;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    statement text;
    grants CONSTANT text[] := ARRAY[
        'GRANT INSERT (idempotency_key) ON mercure.outbox TO mercure_publisher',
        'GRANT SELECT ON mercure.own_publish_keys TO mercure_publisher',
        'GRANT EXECUTE ON FUNCTION mercure.publish(text, text, boolean, text, bigint, varchar, text), '
            'mercure.publish(text[], text, boolean, text, bigint, varchar, text), '
            'mercure.publish(text, jsonb, boolean, text, bigint, varchar, text), mercure.publish(text, json, boolean, text, bigint, varchar, text), '
            'mercure.publish(text[], jsonb, boolean, text, bigint, varchar, text), mercure.publish(text[], json, boolean, text, bigint, varchar, text), '
            'mercure.check_idempotency_key(text), '
            'mercure.keys_valid_after(), mercure.publish_key_hash(text, text), '
            'mercure.publish_fingerprint(text[], text, boolean, text, bigint, text), mercure.id_of_key(text, text) TO mercure_publisher'
    ];
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mercure_publisher') THEN
        RAISE WARNING 'The role mercure_publisher does not exist. To let other roles publish with a key, run as the owner of the schema, once it does: %;', array_to_string(grants, '; ');
        RETURN;
    END IF;
    FOREACH statement IN ARRAY grants LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
-- +goose StatementEnd

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (12, 1);

-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 12;
DROP FUNCTION mercure.publish(text, jsonb, boolean, text, bigint, varchar, text);
DROP FUNCTION mercure.publish(text, json, boolean, text, bigint, varchar, text);
DROP FUNCTION mercure.publish(text[], jsonb, boolean, text, bigint, varchar, text);
DROP FUNCTION mercure.publish(text[], json, boolean, text, bigint, varchar, text);
DROP FUNCTION mercure.publish(text, text, boolean, text, bigint, text);
DROP FUNCTION mercure.publish(text[], text, boolean, text, bigint, text);
DROP FUNCTION mercure.publish(text, text, boolean, text, bigint, varchar, text);
DROP FUNCTION mercure.publish(text[], text, boolean, text, bigint, varchar, text);
ALTER FUNCTION mercure.publish_without_key(text, text, boolean, text, bigint, text) RENAME TO publish;
ALTER FUNCTION mercure.publish_without_key(text[], text, boolean, text, bigint, text) RENAME TO publish;
DROP FUNCTION mercure.forget_publish_keys(integer);
DROP FUNCTION mercure.append_once(text, integer, uuid, text[], text[], text[], bytea[], boolean[], text[], bigint[], text[], boolean[], bytea[], bytea[]);
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.move_outbox(INOUT state text, max_rows integer, OUT moved integer, OUT refused integer, OUT more boolean)
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
DECLARE
    now_seen pg_snapshot;
    previous pg_snapshot;
    sweep_floor bigint := 0;
    sweep_ceiling bigint;
    max_bytes CONSTANT bigint := 8388608;
    seqs bigint[];
    fitting bigint[];
    outbox_row mercure.outbox;
    state_kind CONSTANT text := split_part(state, '|', 1);
BEGIN
    moved := 0;
    refused := 0;
    -- Taken before the rows are read: what commits in between is found twice,
    -- never missed.
    SELECT pg_current_snapshot() INTO now_seen;

    IF state_kind = 'diff' THEN
        previous := split_part(state, '|', 3)::pg_snapshot;
        SELECT array_agg(n.seq ORDER BY n.seq) INTO seqs
        FROM (
            (SELECT o.seq FROM mercure.outbox AS o WHERE o.xid >= pg_snapshot_xmax(previous))
            UNION ALL
            (SELECT o.seq FROM mercure.outbox AS o WHERE o.xid = ANY (ARRAY(SELECT pg_snapshot_xip(previous))))
            LIMIT max_rows + 1
        ) AS n;
        -- More than a chunk is moved in insertion order by a sweep: sorting
        -- all of it again for each chunk would be quadratic.
        IF cardinality(seqs) > max_rows OR cardinality(seqs) > cardinality(mercure.fitting_rows(seqs, max_bytes)) THEN
            seqs := NULL;
            state := NULL;
        END IF;
    ELSIF state_kind = 'sweep' THEN
        now_seen := split_part(state, '|', 3)::pg_snapshot;
        sweep_floor := split_part(state, '|', 4)::bigint;
        sweep_ceiling := split_part(state, '|', 5)::bigint;
    END IF;

    more := false;
    IF state IS NULL OR state_kind = 'sweep' THEN
        IF sweep_ceiling IS NULL THEN
            SELECT coalesce(max(o.seq), 0) INTO sweep_ceiling FROM mercure.outbox AS o;
        END IF;
        SELECT array_agg(n.seq ORDER BY n.seq) INTO seqs
        FROM (
            SELECT o.seq FROM mercure.outbox AS o
            WHERE o.seq > sweep_floor AND o.seq <= sweep_ceiling
            ORDER BY o.seq
            LIMIT max_rows
        ) AS n;
        fitting := mercure.fitting_rows(seqs, max_bytes);
        more := (cardinality(seqs) = max_rows OR cardinality(fitting) < cardinality(seqs))
            AND fitting[cardinality(fitting)] < sweep_ceiling;
        more := coalesce(more, false);
        seqs := fitting;
    END IF;
    IF more THEN
        state := format('sweep|%s|%s|%s|%s', mercure.server_start(), now_seen, seqs[cardinality(seqs)], sweep_ceiling);
    ELSE
        state := mercure.complete_state(now_seen);
    END IF;
    IF seqs IS NULL THEN
        RETURN;
    END IF;

    BEGIN
        WITH taken AS (
            DELETE FROM mercure.outbox AS o WHERE o.seq = ANY (seqs)
            RETURNING o.seq, o.id, o.topics, o.data, o.private, o.type, o.retry
        ), numbered AS (
            SELECT t.*, row_number() OVER (PARTITION BY t.id ORDER BY t.seq) > 1 AS repeated
            FROM taken AS t
            ORDER BY t.seq
        )
        INSERT INTO mercure.updates (position, id, topics, data, private, type, retry, size, id_reused)
        SELECT
            nextval('mercure.updates_position_seq'),
            n.id, n.topics, coalesce(n.data, ''), n.private, nullif(n.type, ''), n.retry,
            mercure.update_size(n.id, n.topics, octet_length(n.data), n.type),
            n.repeated OR mercure.id_in_log(n.id)
        FROM numbered AS n;
        GET DIAGNOSTICS moved = ROW_COUNT;
        RETURN;
    EXCEPTION
        -- The rows themselves are at fault; a full disk or a lost lock is not
        -- caught here and leaves the outbox as it was.
        WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
            moved := 0;
    END;

    FOR outbox_row IN SELECT o.* FROM mercure.outbox AS o WHERE o.seq = ANY (seqs) ORDER BY o.seq LOOP
        BEGIN
            INSERT INTO mercure.updates (position, id, topics, data, private, type, retry, size, id_reused)
            VALUES (
                nextval('mercure.updates_position_seq'),
                outbox_row.id, outbox_row.topics, coalesce(outbox_row.data, ''), outbox_row.private,
                nullif(outbox_row.type, ''), outbox_row.retry,
                mercure.update_size(outbox_row.id, outbox_row.topics, octet_length(outbox_row.data), outbox_row.type),
                mercure.id_in_log(outbox_row.id)
            );
            moved := moved + 1;
        EXCEPTION
            WHEN data_exception OR integrity_constraint_violation OR program_limit_exceeded THEN
                INSERT INTO mercure.rejected (seq, reason, outbox_row)
                VALUES (outbox_row.seq, SQLSTATE || ': ' || SQLERRM, to_jsonb(outbox_row))
                ON CONFLICT (seq) DO UPDATE SET rejected_at = EXCLUDED.rejected_at, reason = EXCLUDED.reason, outbox_row = EXCLUDED.outbox_row;
                refused := refused + 1;
        END;
        DELETE FROM mercure.outbox AS o WHERE o.seq = outbox_row.seq;
    END LOOP;
END
$$;
-- +goose StatementEnd
DROP FUNCTION mercure.keep_first(bigint[]);
DROP VIEW mercure.own_publish_keys;
DROP FUNCTION mercure.id_of_key(text, text);
DROP FUNCTION mercure.publish_fingerprint(text[], text, boolean, text, bigint, text);
ALTER TABLE mercure.outbox DROP COLUMN publisher, DROP COLUMN idempotency_key;
DROP FUNCTION mercure.publish_key_hash(text, text);
DROP FUNCTION mercure.keys_valid_after();
DROP FUNCTION mercure.check_idempotency_key(text);
DROP TABLE mercure.key_salt, mercure.publish_keys;
