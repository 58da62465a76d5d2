-- How updates enter the log: mercure.append() for what hubs received over
-- HTTP, mercure.drain() for what applications committed to the outbox.
--
-- Both are single autocommit calls under READ COMMITTED: the lock is taken by
-- a statement of its own, so that every later statement sees all that earlier
-- holders committed, and never spans a round trip.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- A drain knows what is new in the outbox by snapshot difference: a row is new
-- if its transaction was not yet finished in the snapshot of the last complete
-- drain. The cost is that of the new rows, however many dead ones an old
-- snapshot somewhere keeps from being vacuumed.
--
-- The caller keeps the state between calls, as opaque text, and forgets it on
-- any error. NULL asks for a sweep of the whole outbox, which also finds rows
-- restored from a dump, whose xid belongs to another cluster. The formats are
--     diff|<server>|<snapshot>
--     sweep|<server>|<snapshot>|<floor>|<ceiling>
-- where a sweep moves floor < seq <= ceiling in chunks and ends as a diff from
-- the snapshot at which it began. The ceiling keeps the order: what is
-- inserted after a sweep began waits for the next drain. The server is known by
-- its start: after a crash or a failover transaction ids may be given anew.

-- +goose StatementBegin
CREATE FUNCTION mercure.server_start() RETURNS text
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN extract(epoch FROM pg_postmaster_start_time())::text;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.complete_state(seen pg_snapshot) RETURNS text
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN 'diff|' || mercure.server_start() || '|' || seen::text;
END
$$;
-- +goose StatementEnd

-- Whether move_outbox would find anything; needs no lock.
-- +goose StatementBegin
CREATE FUNCTION mercure.outbox_waiting(state text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
DECLARE
    previous pg_snapshot;
BEGIN
    IF state IS NULL OR split_part(state, '|', 1) <> 'diff' THEN
        RETURN EXISTS (SELECT FROM mercure.outbox);
    END IF;
    previous := split_part(state, '|', 3)::pg_snapshot;
    RETURN EXISTS (SELECT FROM mercure.outbox WHERE xid >= pg_snapshot_xmax(previous))
        OR EXISTS (SELECT FROM mercure.outbox WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip(previous))));
END
$$;
-- +goose StatementEnd

-- The first of these rows that fit, at least one. Does not read long values.
-- +goose StatementBegin
CREATE FUNCTION mercure.fitting_rows(seqs bigint[], max_bytes bigint) RETURNS bigint[]
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (
        SELECT array_agg(m.seq ORDER BY m.seq)
        FROM (
            SELECT o.seq, sum(coalesce(octet_length(o.data), 0)) OVER (ORDER BY o.seq) - coalesce(octet_length(o.data), 0) AS before
            FROM mercure.outbox AS o
            WHERE o.seq = ANY (seqs)
        ) AS m
        WHERE m.before < max_bytes
    );
END
$$;
-- +goose StatementEnd

-- Moves committed rows of the outbox into the log, in insertion order, up to
-- max_rows and about 8 MiB: what takes longer than the caller is ready to wait
-- would be rolled back and tried again for ever. The caller holds the append
-- lock. more says that others wait.
-- +goose StatementBegin
CREATE FUNCTION mercure.move_outbox(INOUT state text, max_rows integer, OUT moved integer, OUT refused integer, OUT more boolean)
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

-- +goose StatementBegin
CREATE FUNCTION mercure.update_size(id text, topics text[], data_bytes integer, type text) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN octet_length(id) + octet_length(array_to_string(topics, ''))
        + coalesce(data_bytes, 0) + coalesce(octet_length(type), 0);
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.id_in_log(event_id text) RETURNS boolean
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM mercure.updates AS u
        WHERE hashtextextended(u.id, 0::bigint) = hashtextextended(event_id, 0::bigint) AND u.id = event_id
    );
END
$$;
-- +goose StatementEnd

-- The newest position in the log. Never the sequence's last value: that runs
-- ahead of what is committed.
-- +goose StatementBegin
CREATE FUNCTION mercure.head() RETURNS bigint
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    RETURN coalesce((SELECT max(u.position) FROM mercure.updates AS u), 0);
END
$$;
-- +goose StatementEnd

-- The same for those who hold the append lock. A sequence that is behind the
-- log, as after a logical replica took over, is brought forward.
-- +goose StatementBegin
CREATE FUNCTION mercure.head_to_append() RETURNS bigint
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    head CONSTANT bigint := mercure.head();
BEGIN
    IF head > (SELECT s.last_value FROM mercure.updates_position_seq AS s) THEN
        PERFORM setval('mercure.updates_position_seq', head);
    END IF;
    RETURN head;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.require_primary() RETURNS void
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    IF pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' THEN
        RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction', MESSAGE = 'the server is a standby or read-only';
    END IF;
    -- With an older snapshot than the lock, positions could be read out of order.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the hub must append under READ COMMITTED, not %', upper(current_setting('transaction_isolation'))
            USING HINT = 'Remove default_transaction_isolation from the settings of the hub''s role or database.';
    END IF;
    -- An acknowledged update must survive a crash, whatever the default is.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
END
$$;
-- +goose StatementEnd

-- Moves one chunk of the outbox into the log and notifies the hubs. Call again
-- while more is true.
-- +goose StatementBegin
CREATE FUNCTION mercure.drain(
    INOUT state text, max_rows integer,
    OUT head_before bigint, OUT head_after bigint, OUT moved integer, OUT refused integer, OUT more boolean
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
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

-- Appends a batch of updates, after what waits in the outbox: an update
-- published over HTTP after an application's COMMIT never overtakes it.
--
-- The arrays have one element for each update. topics holds each update's
-- topics as the text of an array, since SQL has no ragged ones; data counts
-- only where binary_data is NULL; an empty type or trace context and a retry of
-- -1 mean none; probe says whether the id may already be in the log (it was not
-- generated by a hub).
--
-- appended is false when more than a chunk waited in the outbox: a chunk was
-- moved, nothing of the batch was appended, and the call is to be repeated.
--
-- A call with a token already used (repeated) returns the positions stored for
-- it and appends nothing: calling again is safe when the outcome is unknown.
-- Raises MR001 if the token was fenced.
-- +goose StatementBegin
CREATE FUNCTION mercure.append(
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

-- Gives a batch up: afterwards it either is in the log (true) or never will be
-- (false), even if its append is still waiting for the lock somewhere.
-- +goose StatementBegin
CREATE FUNCTION mercure.fence_batch(batch_token uuid) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '10s'
AS $$
DECLARE
    first_position bigint;
BEGIN
    PERFORM mercure.require_primary();
    LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE;
    INSERT INTO mercure.append_batches (token) VALUES (batch_token) ON CONFLICT DO NOTHING;
    SELECT b.first_position INTO first_position FROM mercure.append_batches AS b WHERE b.token = batch_token;
    RETURN first_position IS NOT NULL;
END
$$;
-- +goose StatementEnd

-- Forgets batches nobody can ask about any more, up to a number. Returns how
-- many.
-- +goose StatementBegin
CREATE FUNCTION mercure.forget_batches(older_than interval, max_rows integer) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    forgotten bigint;
BEGIN
    DELETE FROM mercure.append_batches AS b
    WHERE b.token IN (
        SELECT o.token FROM mercure.append_batches AS o
        WHERE o.created_at < clock_timestamp() - older_than
        ORDER BY o.created_at
        LIMIT max_rows
    );
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END
$$;
-- +goose StatementEnd

REVOKE EXECUTE ON FUNCTION
    mercure.outbox_waiting(text),
    mercure.fitting_rows(bigint[], bigint),
    mercure.head_to_append(),
    mercure.move_outbox(text, integer),
    mercure.drain(text, integer),
    mercure.append(text, integer, uuid, text[], text[], text[], bytea[], boolean[], text[], bigint[], text[], boolean[]),
    mercure.fence_batch(uuid),
    mercure.forget_batches(interval, integer)
FROM PUBLIC;

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (3, 1);

-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 3;
DROP FUNCTION mercure.forget_batches(interval, integer);
DROP FUNCTION mercure.fence_batch(uuid);
DROP FUNCTION mercure.append(text, integer, uuid, text[], text[], text[], bytea[], boolean[], text[], bigint[], text[], boolean[]);
DROP FUNCTION mercure.drain(text, integer);
DROP FUNCTION mercure.require_primary();
DROP FUNCTION mercure.head_to_append();
DROP FUNCTION mercure.head();
DROP FUNCTION mercure.id_in_log(text);
DROP FUNCTION mercure.update_size(text, text[], integer, text);
DROP FUNCTION mercure.move_outbox(text, integer);
DROP FUNCTION mercure.fitting_rows(bigint[], bigint);
DROP FUNCTION mercure.outbox_waiting(text);
DROP FUNCTION mercure.complete_state(pg_snapshot);
DROP FUNCTION mercure.server_start();
