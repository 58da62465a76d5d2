-- What a drain and an append cost. Each statement of PL/pgSQL is set up anew when
-- it runs, and each setting of a function is set and taken back with its call:
-- for one row that was most of the time. So there are fewer of both.
--
-- Measured as processor time of the hub's session, the two in turn: a drain of
-- 1, 15 and 100 rows takes 0.95, 0.85 and 0.76 of what it did.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- What a drain or an append must know first, in one statement, and so in one
-- snapshot: where the log ends, and whether there is anything in the outbox that
-- a drain with this state, of this run of the server, would find. A complete
-- state for the next call comes with it.
-- +goose StatementBegin
CREATE FUNCTION mercure.log_state(state text, run text, OUT head bigint, OUT last_given bigint, OUT complete text, OUT waiting boolean)
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    previous pg_snapshot;
BEGIN
    IF state LIKE 'diff|%' THEN
        previous := split_part(state, '|', 3)::pg_snapshot;
    END IF;
    SELECT
        coalesce((SELECT max(u.position) FROM mercure.updates AS u), 0),
        (SELECT s.last_value FROM mercure.updates_position_seq AS s),
        'diff|' || run || '|' || pg_current_snapshot(),
        CASE WHEN previous IS NULL THEN (SELECT true FROM mercure.outbox LIMIT 1)
        ELSE coalesce(
            (SELECT true FROM mercure.outbox AS o WHERE o.xid >= pg_snapshot_xmax(previous) LIMIT 1),
            (SELECT true FROM mercure.outbox AS o WHERE o.xid = ANY (ARRAY(SELECT pg_snapshot_xip(previous))) LIMIT 1)
        )
        END IS NOT NULL
    INTO head, last_given, complete, waiting;
END
$$;
-- +goose StatementEnd

-- As before. In the nearly always case, one statement finds the rows and one
-- moves them.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.move_outbox(INOUT state text, max_rows integer, OUT moved integer, OUT refused integer, OUT more boolean)
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    now_seen pg_snapshot;
    previous pg_snapshot;
    sweep_floor bigint := 0;
    sweep_ceiling bigint;
    max_bytes CONSTANT bigint := 8388608;
    seqs bigint[];
    fitting bigint[];
    bytes bigint;
    with_keys boolean;
    outbox_row mercure.outbox;
    state_kind CONSTANT text := split_part(state, '|', 1);
BEGIN
    moved := 0;
    refused := 0;
    more := false;
    IF state_kind = 'diff' THEN
        previous := split_part(state, '|', 3)::pg_snapshot;
        -- The snapshot is that in which the rows are looked for.
        SELECT array_agg(n.seq ORDER BY n.seq), sum(n.bytes), bool_or(n.with_key), pg_current_snapshot()
        INTO seqs, bytes, with_keys, now_seen
        FROM (
            (SELECT o.seq, octet_length(o.data) AS bytes, o.idempotency_key IS NOT NULL AS with_key
            FROM mercure.outbox AS o WHERE o.xid >= pg_snapshot_xmax(previous))
            UNION ALL
            (SELECT o.seq, octet_length(o.data), o.idempotency_key IS NOT NULL
            FROM mercure.outbox AS o WHERE o.xid = ANY (ARRAY(SELECT pg_snapshot_xip(previous))))
            LIMIT max_rows + 1
        ) AS n;
        -- More than a chunk is moved in insertion order by a sweep: sorting
        -- all of it again for each chunk would be quadratic.
        IF cardinality(seqs) > max_rows OR bytes > max_bytes THEN
            seqs := NULL;
            state := NULL;
        END IF;
    ELSIF state_kind = 'sweep' THEN
        now_seen := split_part(state, '|', 3)::pg_snapshot;
        sweep_floor := split_part(state, '|', 4)::bigint;
        sweep_ceiling := split_part(state, '|', 5)::bigint;
    ELSE
        -- Taken before the rows are read: what commits in between is found twice,
        -- never missed.
        SELECT pg_current_snapshot() INTO now_seen;
    END IF;

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
        with_keys := true; -- perhaps
    END IF;
    IF more THEN
        state := format('sweep|%s|%s|%s|%s', mercure.server_start(), now_seen, seqs[cardinality(seqs)], sweep_ceiling);
    ELSIF state_kind = 'diff' AND state IS NOT NULL THEN
        state := 'diff|' || split_part(state, '|', 2) || '|' || now_seen;
    ELSE
        state := 'diff|' || mercure.server_start() || '|' || now_seen;
    END IF;
    IF seqs IS NOT NULL AND with_keys THEN
        SELECT k.seqs, k.refused INTO seqs, refused FROM mercure.keep_first(seqs) AS k;
    END IF;
    IF seqs IS NULL THEN
        RETURN;
    END IF;

    BEGIN
        -- Whether the id is in the log is asked once for each row, never of the log
        -- as a whole: a scalar subquery cannot be hashed.
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
            octet_length(n.id) + octet_length(array_to_string(n.topics, '')) + coalesce(octet_length(n.data), 0) + coalesce(octet_length(n.type), 0),
            n.repeated OR (
                SELECT true FROM mercure.updates AS u
                WHERE hashtextextended(u.id, 0::bigint) = hashtextextended(n.id, 0::bigint) AND u.id = n.id
                LIMIT 1
            ) IS NOT NULL
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

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.drain(
    INOUT state text, max_rows integer,
    OUT head_before bigint, OUT head_after bigint, OUT moved integer, OUT refused integer, OUT more boolean
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    run text;
    complete text;
    waiting boolean;
BEGIN
    PERFORM mercure.require_primary();
    run := mercure.server_start();
    IF split_part(state, '|', 2) <> run THEN
        state := NULL;
    END IF;
    SELECT s.head, s.complete, s.waiting INTO head_before, complete, waiting FROM mercure.log_state(state, run) AS s;
    IF NOT waiting THEN
        state := complete;
        head_after := head_before;
        moved := 0;
        refused := 0;
        more := false;
        RETURN;
    END IF;

    LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE;
    head_before := mercure.head_to_append();
    SELECT m.state, m.moved, m.refused, m.more INTO state, moved, refused, more
    FROM mercure.move_outbox(state, max_rows) AS m;
    head_after := mercure.head();
    IF head_after > head_before THEN
        PERFORM pg_notify('mercure_updates', head_before || ',' || head_after);
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.append(
    INOUT state text, max_rows integer, batch_token uuid,
    ids text[], topics text[], data text[], binary_data bytea[], private boolean[],
    types text[], retries bigint[], trace_contexts text[], probe boolean[],
    OUT appended boolean, OUT repeated boolean, OUT head_before bigint, OUT head_drained bigint,
    OUT first_position bigint, OUT last_position bigint,
    OUT moved integer, OUT refused integer
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    more boolean := false;
    run text;
    complete text;
    last_given bigint;
    waiting boolean;
BEGIN
    PERFORM mercure.require_primary();
    LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE;

    moved := 0;
    refused := 0;
    appended := true;
    SELECT true, b.first_position, b.last_position INTO repeated, first_position, last_position
    FROM mercure.append_batches AS b
    WHERE b.token = batch_token;
    IF repeated THEN
        IF first_position IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'MR001', MESSAGE = 'this batch was given up and fenced';
        END IF;
        RETURN;
    END IF;

    repeated := false;
    run := mercure.server_start();
    IF split_part(state, '|', 2) <> run THEN
        state := NULL;
    END IF;
    SELECT s.head, s.last_given, s.complete, s.waiting INTO head_before, last_given, complete, waiting
    FROM mercure.log_state(state, run) AS s;
    IF head_before > last_given THEN
        PERFORM mercure.head_to_append();
    END IF;
    head_drained := head_before;
    IF waiting THEN
        SELECT m.state, m.moved, m.refused, m.more INTO state, moved, refused, more
        FROM mercure.move_outbox(state, max_rows) AS m;
        head_drained := mercure.head();
    ELSE
        state := complete;
    END IF;
    IF more THEN
        appended := false;
        PERFORM pg_notify('mercure_updates', head_before || ',' || head_drained);
        RETURN;
    END IF;

    WITH inserted AS (
        INSERT INTO mercure.updates AS u (position, id, topics, data, binary_data, private, type, retry, trace_context, size, id_reused)
        SELECT
            nextval('mercure.updates_position_seq'),
            n.id, n.topics, n.data, n.binary_data, n.private, n.type, n.retry, n.trace_context,
            octet_length(n.id) + octet_length(array_to_string(n.topics, ''))
                + coalesce(octet_length(n.data), octet_length(n.binary_data), 0) + coalesce(octet_length(n.type), 0),
            -- Ids that a hub has made are new; who gives others is told apart. As
            -- in move_outbox, a scalar subquery, one for each row.
            n.probe AND (n.in_batch OR (
                SELECT true FROM mercure.updates AS known
                WHERE hashtextextended(known.id, 0::bigint) = hashtextextended(n.id, 0::bigint) AND known.id = n.id
                LIMIT 1
            ) IS NOT NULL)
        FROM (
            SELECT
                b.id, b.topics::text[] AS topics,
                CASE WHEN b.binary_data IS NULL THEN b.data END AS data, b.binary_data,
                b.private, nullif(b.type, '') AS type, nullif(b.retry, -1) AS retry,
                nullif(b.trace_context, '') AS trace_context, b.probe,
                row_number() OVER (PARTITION BY b.id ORDER BY b.ordinality) > 1 AS in_batch
            FROM unnest(ids, topics, data, binary_data, private, types, retries, trace_contexts, probe)
                WITH ORDINALITY AS b (id, topics, data, binary_data, private, type, retry, trace_context, probe, ordinality)
            ORDER BY b.ordinality
        ) AS n
        RETURNING u.position
    ), batch AS (
        INSERT INTO mercure.append_batches AS b (token, first_position, last_position)
        SELECT batch_token, min(i.position), max(i.position) FROM inserted AS i
        RETURNING b.first_position, b.last_position
    )
    SELECT b.first_position, b.last_position INTO first_position, last_position
    FROM batch AS b;
    PERFORM pg_notify('mercure_updates', head_before || ',' || last_position);
END
$$;
-- +goose StatementEnd

-- mercure.outbox_waiting stays: calls that are running still use it.

-- One constraint instead of two: each is read and set up anew by every INSERT.
-- +goose StatementBegin
CREATE FUNCTION mercure.check_update(topics text[], data text, type text, id text, idempotency_key text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN (mercure.is_ordinary_update(topics, data, type, id)
            OR mercure.check_topics(topics) AND mercure.check_data(data) AND mercure.check_id(id) AND mercure.check_type(type))
        AND (idempotency_key IS NULL OR mercure.check_idempotency_key(idempotency_key));
END
$$;
-- +goose StatementEnd

ALTER TABLE mercure.outbox
    DROP CONSTRAINT outbox_update,
    DROP CONSTRAINT outbox_idempotency_key,
    -- What is there was checked when it came.
    ADD CONSTRAINT outbox_update CHECK (mercure.check_update(topics, data, type, id, idempotency_key)) NOT VALID;

REVOKE EXECUTE ON FUNCTION mercure.log_state(text, text) FROM PUBLIC;

-- +goose StatementBegin
DO $$
DECLARE
    statement CONSTANT text := 'GRANT EXECUTE ON FUNCTION mercure.check_update(text[], text, text, text, text) TO mercure_publisher';
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mercure_publisher') THEN
        RAISE WARNING 'The role mercure_publisher does not exist. To let other roles publish from SQL, run as the owner of the schema, once it does: %;', statement;
        RETURN;
    END IF;
    EXECUTE statement;
END
$$;
-- +goose StatementEnd

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (13, 1);

-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 13;
ALTER TABLE mercure.outbox
    DROP CONSTRAINT outbox_update,
    ADD CONSTRAINT outbox_update CHECK (
        mercure.is_ordinary_update(topics, data, type, id)
        OR (mercure.check_topics(topics) AND mercure.check_data(data) AND mercure.check_id(id) AND mercure.check_type(type))
    ) NOT VALID,
    ADD CONSTRAINT outbox_idempotency_key CHECK (idempotency_key IS NULL OR mercure.check_idempotency_key(idempotency_key));
DROP FUNCTION mercure.check_update(text[], text, text, text, text);
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
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.drain(
    INOUT state text, max_rows integer,
    OUT head_before bigint, OUT head_after bigint, OUT moved integer, OUT refused integer, OUT more boolean
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    seen pg_snapshot;
BEGIN
    PERFORM mercure.require_primary();
    IF split_part(state, '|', 2) <> mercure.server_start() THEN
        state := NULL;
    END IF;
    SELECT pg_current_snapshot() INTO seen;
    IF NOT mercure.outbox_waiting(state) THEN
        state := mercure.complete_state(seen);
        head_before := mercure.head();
        head_after := head_before;
        moved := 0;
        refused := 0;
        more := false;
        RETURN;
    END IF;

    LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE;
    head_before := mercure.head_to_append();
    SELECT m.state, m.moved, m.refused, m.more INTO state, moved, refused, more
    FROM mercure.move_outbox(state, max_rows) AS m;
    head_after := mercure.head();
    IF head_after > head_before THEN
        PERFORM pg_notify('mercure_updates', head_before || ',' || head_after);
    END IF;
END
$$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.append(
    INOUT state text, max_rows integer, batch_token uuid,
    ids text[], topics text[], data text[], binary_data bytea[], private boolean[],
    types text[], retries bigint[], trace_contexts text[], probe boolean[],
    OUT appended boolean, OUT repeated boolean, OUT head_before bigint, OUT head_drained bigint,
    OUT first_position bigint, OUT last_position bigint,
    OUT moved integer, OUT refused integer
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    more boolean := false;
    seen pg_snapshot;
BEGIN
    PERFORM mercure.require_primary();
    LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE;

    moved := 0;
    refused := 0;
    appended := true;
    SELECT true, b.first_position, b.last_position INTO repeated, first_position, last_position
    FROM mercure.append_batches AS b
    WHERE b.token = batch_token;
    IF repeated THEN
        IF first_position IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'MR001', MESSAGE = 'this batch was given up and fenced';
        END IF;
        RETURN;
    END IF;

    repeated := false;
    IF split_part(state, '|', 2) <> mercure.server_start() THEN
        state := NULL;
    END IF;
    head_before := mercure.head_to_append();
    head_drained := head_before;
    SELECT pg_current_snapshot() INTO seen;
    IF mercure.outbox_waiting(state) THEN
        SELECT m.state, m.moved, m.refused, m.more INTO state, moved, refused, more
        FROM mercure.move_outbox(state, max_rows) AS m;
        head_drained := mercure.head();
    ELSE
        state := mercure.complete_state(seen);
    END IF;
    IF more THEN
        appended := false;
        PERFORM pg_notify('mercure_updates', head_before || ',' || head_drained);
        RETURN;
    END IF;

    WITH inserted AS (
        INSERT INTO mercure.updates AS u (position, id, topics, data, binary_data, private, type, retry, trace_context, size, id_reused)
        SELECT
            nextval('mercure.updates_position_seq'),
            n.id, n.topics, n.data, n.binary_data, n.private, n.type, n.retry, n.trace_context,
            mercure.update_size(n.id, n.topics, coalesce(octet_length(n.data), octet_length(n.binary_data)), n.type),
            n.in_batch OR (n.probe AND mercure.id_in_log(n.id))
        FROM (
            SELECT
                b.id, b.topics::text[] AS topics,
                CASE WHEN b.binary_data IS NULL THEN b.data END AS data, b.binary_data,
                b.private, nullif(b.type, '') AS type, nullif(b.retry, -1) AS retry,
                nullif(b.trace_context, '') AS trace_context, b.probe,
                row_number() OVER (PARTITION BY b.id ORDER BY b.ordinality) > 1 AS in_batch
            FROM unnest(ids, topics, data, binary_data, private, types, retries, trace_contexts, probe)
                WITH ORDINALITY AS b (id, topics, data, binary_data, private, type, retry, trace_context, probe, ordinality)
            ORDER BY b.ordinality
        ) AS n
        RETURNING u.position
    )
    SELECT min(i.position), max(i.position) INTO first_position, last_position
    FROM inserted AS i;

    INSERT INTO mercure.append_batches (token, first_position, last_position)
    VALUES (batch_token, first_position, last_position);
    PERFORM pg_notify('mercure_updates', head_before || ',' || last_position);
END
$$;
-- +goose StatementEnd
DROP FUNCTION mercure.log_state(text, text);
