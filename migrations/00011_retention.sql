-- How long history is kept: limits for the whole log, which hubs are given as
-- settings, and policies for topics, which are rows. What a policy governs, the
-- limits of the whole log do not touch.
--
-- The whole log loses its oldest updates: the horizon moves in the transaction
-- that deletes them. What a policy keeps stays below the horizon; who begins at
-- the beginning gets it, but it is no cursor any more, since what came after it
-- may be gone. What a policy removes above the horizon is emptied, and its id
-- and position stay, so that it still is one.
--
-- Hubs of before this migration work with it; they need not know policies as
-- long as there are none.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- Nothing here reads or rewrites the log, which may be long.
ALTER TABLE mercure.updates
    ADD COLUMN emptied_at timestamptz,
    DROP CONSTRAINT updates_topics_not_empty,
    ADD CONSTRAINT updates_topics_not_empty CHECK (cardinality(topics) > 0 OR from_hub OR emptied_at IS NOT NULL) NOT VALID;
COMMENT ON COLUMN mercure.updates.emptied_at IS 'When a policy or mercure.redact() removed the contents. Id and position stay until the horizon has passed.';

-- Held by whoever removes something, or notes what is to be removed, until the
-- end of the transaction. Publishers never wait for it.
CREATE TABLE mercure.retention_lock ();
COMMENT ON TABLE mercure.retention_lock IS 'Locked by retention. Holds no rows.';

-- Like the checks of the outbox: what is wrong is said in words.
-- +goose StatementBegin
CREATE FUNCTION mercure.check_policy(
    match_type text, match text, max_age interval, max_updates bigint, max_bytes bigint, keep_last boolean
) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    problem CONSTANT text := CASE
        WHEN match_type IS NULL OR match_type NOT IN ('exact', 'urlpattern') THEN
            format('match_type is %s; it must be exact or urlpattern', coalesce(quote_literal(left(match_type, 100)), 'NULL'))
        WHEN match IS NULL OR match = '' THEN
            'match is empty; it must be a topic or a URL pattern, or * for all topics'
        WHEN max_age < interval '1 minute' THEN
            'max_age must be at least 1 minute; leave it NULL to keep updates of any age'
        WHEN max_updates < 1 THEN
            'max_updates must be at least 1; leave it NULL to keep any number'
        WHEN max_bytes < 1 THEN
            'max_bytes must be at least 1; leave it NULL to keep any number'
        WHEN keep_last AND (max_updates IS NOT NULL OR max_bytes IS NOT NULL) THEN
            'keep_last keeps one update of each topic; leave max_updates and max_bytes out'
    END;
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = problem;
    END IF;
    RETURN mercure.check_text('match', match);
END
$$;
-- +goose StatementEnd

CREATE TABLE mercure.policies (
    id integer GENERATED ALWAYS AS IDENTITY CONSTRAINT policies_pkey PRIMARY KEY,
    priority integer NOT NULL CONSTRAINT policies_priority_key UNIQUE DEFERRABLE INITIALLY IMMEDIATE,
    match_type text COLLATE "C" NOT NULL DEFAULT 'exact',
    match text COLLATE "C" NOT NULL,
    max_age interval,
    max_updates bigint,
    max_bytes bigint,
    keep_last boolean NOT NULL DEFAULT false,
    enabled boolean NOT NULL DEFAULT true,
    problem text,
    CONSTRAINT policies_valid CHECK (mercure.check_policy(match_type, match, max_age, max_updates, max_bytes, keep_last))
);
COMMENT ON TABLE mercure.policies IS 'How long updates are kept, by their canonical topic. Topics that none of these matches are kept as long as the hub''s settings say.';
COMMENT ON COLUMN mercure.policies.priority IS 'Of the policies that match a topic, the one with the lowest number counts.';
COMMENT ON COLUMN mercure.policies.match_type IS 'exact or urlpattern.';
COMMENT ON COLUMN mercure.policies.match IS 'A topic, a URL pattern, or * for all topics.';
COMMENT ON COLUMN mercure.policies.max_updates IS 'Of each topic. The newest one is kept in any case, unless it is too old.';
COMMENT ON COLUMN mercure.policies.max_bytes IS 'Of each topic, as the column size of mercure.updates counts them.';
COMMENT ON COLUMN mercure.policies.keep_last IS 'Of each topic, only the newest update is history.';
COMMENT ON COLUMN mercure.policies.enabled IS 'If not, it matches nothing; cinnabar retention shows what it would do.';
COMMENT ON COLUMN mercure.policies.problem IS 'Written by hubs: why the policy matches nothing.';

-- Changes whenever a policy does. A hash of what is there, not a counter: a
-- counter would make who changes policies wait for each other and for hubs.
-- +goose StatementBegin
CREATE FUNCTION mercure.policies_fingerprint() RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((
        SELECT hashtextextended(string_agg(
            ROW(p.id, p.priority, p.match_type, p.match, extract(epoch FROM p.max_age), p.max_updates, p.max_bytes, p.keep_last, p.enabled)::text,
            E'\n' ORDER BY p.id
        ) COLLATE "C", 0::bigint)
        FROM mercure.policies AS p
    ), 0);
END
$$;
-- +goose StatementEnd

CREATE TABLE mercure.retention_state (
    singleton boolean CONSTRAINT retention_state_pkey PRIMARY KEY DEFAULT true,
    policies bigint NOT NULL DEFAULT 0,
    classified_up_to bigint NOT NULL DEFAULT 0,
    counted_up_to bigint NOT NULL DEFAULT 0,
    CONSTRAINT retention_state_one_row CHECK (singleton)
);
INSERT INTO mercure.retention_state DEFAULT VALUES;
COMMENT ON COLUMN mercure.retention_state.policies IS 'Fingerprint of the policies that mercure.governed was made for.';
COMMENT ON COLUMN mercure.retention_state.classified_up_to IS 'Behind this position mercure.governed is not complete.';
COMMENT ON COLUMN mercure.retention_state.counted_up_to IS 'Behind this position mercure.segments does not count.';

-- The updates that a policy governs and has not removed. SQL cannot match URL
-- patterns: hubs do, soon after an update has entered the log, and before
-- anybody reads it from the beginning.
CREATE TABLE mercure.governed (
    position bigint CONSTRAINT governed_pkey PRIMARY KEY,
    policy integer NOT NULL,
    topic uuid NOT NULL,
    size integer NOT NULL,
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE mercure.governed IS 'Updates in the log that a policy governs.';
COMMENT ON COLUMN mercure.governed.topic IS 'MD5 of the canonical topic.';
CREATE INDEX governed_topic_idx ON mercure.governed (topic, position);
CREATE INDEX governed_age_idx ON mercure.governed (policy, created_at);

-- Topics that got an update since they were last looked at, of policies that
-- limit what each topic has.
CREATE TABLE mercure.grown_topics (
    topic uuid CONSTRAINT grown_topics_pkey PRIMARY KEY,
    policy integer NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX grown_topics_since_idx ON mercure.grown_topics (since);

-- How many updates there are above the horizon, and how large they are, summed up
-- so that nobody has to count them again.
CREATE TABLE mercure.segments (
    up_to_position bigint CONSTRAINT segments_pkey PRIMARY KEY,
    after_position bigint NOT NULL,
    updates bigint NOT NULL,
    bytes bigint NOT NULL
);

-- What was emptied on request, for hubs that may have it in memory. seq is taken
-- under the retention lock: the numbers become visible in their order.
CREATE TABLE mercure.redactions (
    seq bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT redactions_pkey PRIMARY KEY,
    position bigint NOT NULL,
    redacted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Empties updates, or deletes those below the horizon, and takes their size out
-- of the sums. The caller holds the retention lock.
-- +goose StatementBegin
CREATE FUNCTION mercure.empty_updates(positions bigint[]) RETURNS void
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    horizon CONSTANT bigint := (SELECT h.position FROM mercure.horizon AS h);
BEGIN
    DELETE FROM mercure.updates AS u WHERE u.position = ANY (positions) AND u.position <= horizon;
    WITH old AS (
        SELECT u.position, u.size
        FROM mercure.updates AS u
        WHERE u.position = ANY (positions) AND u.emptied_at IS NULL
    ), emptied AS (
        UPDATE mercure.updates AS u
        SET topics = '{}', data = '', binary_data = NULL, type = NULL, retry = NULL, trace_context = NULL,
            size = octet_length(u.id), emptied_at = clock_timestamp()
        FROM old AS o
        WHERE u.position = o.position
        RETURNING u.position, o.size - u.size AS freed
    ), sums AS (
        SELECT s.up_to_position, sum(e.freed) AS freed
        FROM emptied AS e
        CROSS JOIN LATERAL (
            SELECT c.up_to_position, c.after_position
            FROM mercure.segments AS c
            WHERE c.up_to_position >= e.position
            ORDER BY c.up_to_position
            LIMIT 1
        ) AS s
        WHERE e.position > s.after_position
        GROUP BY s.up_to_position
    )
    UPDATE mercure.segments AS s
    SET bytes = s.bytes - d.freed
    FROM sums AS d
    WHERE s.up_to_position = d.up_to_position;
END
$$;
-- +goose StatementEnd

-- As before, and the sums learn of it.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.empty_hub_events(older_than interval, max_rows integer, OUT more boolean)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
DECLARE
    positions bigint[];
BEGIN
    LOCK TABLE mercure.retention_lock IN EXCLUSIVE MODE;
    WITH old AS (
        DELETE FROM mercure.hub_events AS e
        WHERE e.up_to_position IN (
            SELECT m.up_to_position
            FROM (
                SELECT
                    c.up_to_position, c.created_at,
                    sum(c.events) OVER (ORDER BY c.up_to_position) - c.events AS before
                FROM (
                    SELECT h.up_to_position, h.created_at, h.up_to_position - h.after_position AS events
                    FROM mercure.hub_events AS h
                    ORDER BY h.up_to_position
                    LIMIT max_rows
                ) AS c
            ) AS m
            WHERE m.before < max_rows AND m.created_at < clock_timestamp() - older_than
        )
        RETURNING e.after_position, e.up_to_position
    )
    SELECT count(*) > 0, array_agg(u.position) INTO more, positions
    FROM old AS o
    LEFT JOIN mercure.updates AS u ON u.position > o.after_position AND u.position <= o.up_to_position AND u.from_hub;
    PERFORM mercure.empty_updates(positions);
END
$$;
-- +goose StatementEnd

-- How far governed is complete for the policies with this fingerprint, and how
-- far it is to be. Not current: these are not the policies any more.
-- +goose StatementBegin
CREATE FUNCTION mercure.classified(fingerprint bigint, OUT current boolean, OUT up_to bigint, OUT target bigint)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET lock_timeout = '10s'
AS $$
BEGIN
    current := mercure.policies_fingerprint() = fingerprint;
    IF NOT current THEN
        up_to := 0;
        target := 0;
        RETURN;
    END IF;
    -- Without policies, until nothing is left of those that there were.
    target := CASE WHEN fingerprint = 0 THEN coalesce((SELECT max(g.position) FROM mercure.governed AS g), 0) ELSE mercure.head() END;
    SELECT s.classified_up_to INTO up_to FROM mercure.retention_state AS s WHERE s.policies = fingerprint;
    IF up_to IS NULL THEN
        PERFORM mercure.require_primary();
        LOCK TABLE mercure.retention_lock IN EXCLUSIVE MODE;
        UPDATE mercure.retention_state AS s SET policies = fingerprint, classified_up_to = 0 WHERE s.policies <> fingerprint;
        SELECT s.classified_up_to INTO up_to FROM mercure.retention_state AS s;
    END IF;
END
$$;
-- +goose StatementEnd

-- Notes which policies govern updates, of all that stand behind one position, up
-- to and including another: those with these positions, and no others. What no
-- policy keeps below the horizon any more is deleted. False, and nothing is done,
-- if somebody else was faster or the policies have changed.
-- +goose StatementBegin
CREATE FUNCTION mercure.classify(
    fingerprint bigint, after_position bigint, up_to bigint, positions bigint[], policies integer[]
) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
BEGIN
    PERFORM mercure.require_primary();
    LOCK TABLE mercure.retention_lock IN EXCLUSIVE MODE;
    UPDATE mercure.retention_state AS s
    SET classified_up_to = up_to
    WHERE s.policies = fingerprint AND s.classified_up_to = after_position AND mercure.policies_fingerprint() = fingerprint;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM mercure.governed AS g WHERE g.position > after_position AND g.position <= up_to;
    WITH added AS (
        INSERT INTO mercure.governed AS g (position, policy, topic, size, created_at)
        SELECT u.position, w.policy, md5(u.topics[1])::uuid, u.size, u.created_at
        FROM unnest(positions, policies) AS w (position, policy)
        JOIN mercure.updates AS u ON u.position = w.position
        WHERE u.emptied_at IS NULL AND NOT u.from_hub
        RETURNING g.topic, g.policy
    )
    INSERT INTO mercure.grown_topics (topic, policy)
    SELECT DISTINCT ON (a.topic) a.topic, a.policy
    FROM added AS a
    JOIN mercure.policies AS p ON p.id = a.policy
    WHERE p.keep_last OR p.max_updates IS NOT NULL OR p.max_bytes IS NOT NULL
    ON CONFLICT ON CONSTRAINT grown_topics_pkey DO UPDATE SET policy = EXCLUDED.policy;
    DELETE FROM mercure.updates AS u
    WHERE u.position > after_position
        AND u.position <= least(up_to, (SELECT h.position FROM mercure.horizon AS h))
        AND NOT EXISTS (SELECT FROM mercure.governed AS g WHERE g.position = u.position);
    RETURN true;
END
$$;
-- +goose StatementEnd

-- Whether an update is not history any more because of a newer one. Known of
-- updates that are classified.
-- +goose StatementBegin
CREATE FUNCTION mercure.superseded(update_position bigint) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET enable_seqscan = off
AS $$
BEGIN
    RETURN EXISTS (
        SELECT
        FROM mercure.governed AS g
        JOIN mercure.policies AS p ON p.id = g.policy
        WHERE g.position = update_position AND p.keep_last
            AND EXISTS (SELECT FROM mercure.governed AS n WHERE n.topic = g.topic AND n.position > g.position)
    );
END
$$;
-- +goose StatementEnd

-- Removes what policies do not keep, about max_rows updates, none younger than
-- min_age: a hub that lags a little must not lose what it has not delivered. Call
-- again while more is true.
-- +goose StatementBegin
CREATE FUNCTION mercure.apply_policies(min_age interval, max_rows integer, OUT removed bigint, OUT more boolean)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    complete bigint; -- up to here everything is classified
    policy mercure.policies;
    grown record;
    positions bigint[] := '{}';
    excess bigint[];
BEGIN
    PERFORM mercure.require_primary();
    LOCK TABLE mercure.retention_lock IN EXCLUSIVE MODE;
    removed := 0;
    more := false;
    SELECT s.classified_up_to INTO complete FROM mercure.retention_state AS s WHERE s.policies = mercure.policies_fingerprint();
    IF complete IS NULL THEN
        RETURN;
    END IF;
    FOR policy IN SELECT p.* FROM mercure.policies AS p WHERE p.max_age IS NOT NULL LOOP
        positions := positions || ARRAY(
            SELECT g.position
            FROM mercure.governed AS g
            WHERE g.policy = policy.id AND g.created_at < now - greatest(policy.max_age, min_age) AND g.position <= complete
            ORDER BY g.created_at
            LIMIT max_rows - cardinality(positions)
        );
    END LOOP;
    FOR grown IN
        SELECT t.topic, p.keep_last, p.max_updates, p.max_bytes
        FROM mercure.grown_topics AS t
        LEFT JOIN mercure.policies AS p ON p.id = t.policy
        WHERE t.since <= now - min_age
        ORDER BY t.since
        LIMIT max_rows
    LOOP
        IF cardinality(positions) >= max_rows THEN
            more := true;
            EXIT;
        END IF;
        SELECT coalesce(array_agg(l.position), '{}') INTO excess
        FROM (
            SELECT e.position
            FROM (
                SELECT g.position, g.created_at, row_number() OVER newest AS number, sum(g.size) OVER newest AS bytes
                FROM mercure.governed AS g
                WHERE g.topic = grown.topic AND g.position <= complete
                WINDOW newest AS (ORDER BY g.position DESC)
            ) AS e
            WHERE e.number > CASE WHEN grown.keep_last THEN 1 WHEN e.bytes > grown.max_bytes THEN 1 ELSE grown.max_updates END
                AND e.created_at < now - min_age
            ORDER BY e.position
            LIMIT max_rows - cardinality(positions)
        ) AS l;
        positions := positions || excess;
        IF cardinality(positions) >= max_rows THEN
            more := true;
            EXIT;
        END IF;
        -- Later again, if some were too young.
        IF EXISTS (SELECT FROM mercure.governed AS g WHERE g.topic = grown.topic AND (g.created_at >= now - min_age OR g.position > complete)) THEN
            UPDATE mercure.grown_topics AS t SET since = now WHERE t.topic = grown.topic;
        ELSE
            DELETE FROM mercure.grown_topics AS t WHERE t.topic = grown.topic;
        END IF;
    END LOOP;
    more := more OR cardinality(positions) >= max_rows;
    DELETE FROM mercure.governed AS g WHERE g.position = ANY (positions);
    GET DIAGNOSTICS removed = ROW_COUNT;
    PERFORM mercure.empty_updates(positions);
END
$$;
-- +goose StatementEnd

-- Sums up what entered the log above the horizon, up to 20 segments of 5,000 rows,
-- and returns what is left in the last one. The caller holds the retention lock.
-- +goose StatementBegin
CREATE FUNCTION mercure.count_updates(OUT updates bigint, OUT bytes bigint, OUT more boolean)
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    segment_rows CONSTANT bigint := 5000;
    counted bigint;
    last bigint;
BEGIN
    SELECT greatest(s.counted_up_to, h.position) INTO counted FROM mercure.retention_state AS s, mercure.horizon AS h;
    more := true;
    FOR i IN 1..20 LOOP
        SELECT count(*), coalesce(sum(c.size), 0), max(c.position) INTO updates, bytes, last
        FROM (
            SELECT u.position, u.size FROM mercure.updates AS u WHERE u.position > counted ORDER BY u.position LIMIT segment_rows
        ) AS c;
        IF updates < segment_rows THEN
            more := false;
            EXIT;
        END IF;
        INSERT INTO mercure.segments (up_to_position, after_position, updates, bytes) VALUES (last, counted, updates, bytes);
        counted := last;
        updates := 0;
        bytes := 0;
    END LOOP;
    UPDATE mercure.retention_state AS s SET counted_up_to = counted WHERE s.counted_up_to <> counted;
END
$$;
-- +goose StatementEnd

-- Removes the oldest updates that the whole log has too many of: older than
-- max_age, or beyond the newest max_updates, or beyond the newest max_bytes; NULL
-- is no limit. Those that a policy governs stay where they are, below the
-- horizon. Passes max_rows updates at most; call again while more is true.
--
-- Never the newest update, and none younger than min_age: a hub that lags a
-- little must not lose what it has not delivered.
-- +goose StatementBegin
CREATE FUNCTION mercure.retain(
    max_age interval, max_updates bigint, max_bytes bigint, min_age interval, max_rows integer,
    OUT removed bigint, OUT more boolean
)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
DECLARE
    now CONSTANT timestamptz := clock_timestamp();
    horizon bigint;
    ceiling bigint;
    complete bigint;
    counted record;
    excess_updates bigint;
    excess_bytes bigint;
    new_horizon bigint;
    passed bigint;
BEGIN
    PERFORM mercure.require_primary();
    LOCK TABLE mercure.retention_lock IN EXCLUSIVE MODE;
    removed := 0;
    more := false;
    SELECT h.position INTO horizon FROM mercure.horizon AS h;
    ceiling := mercure.head() - 1;
    -- What is not classified may be kept by a policy.
    IF EXISTS (SELECT FROM mercure.governed) OR EXISTS (SELECT FROM mercure.policies) THEN
        SELECT s.classified_up_to INTO complete FROM mercure.retention_state AS s WHERE s.policies = mercure.policies_fingerprint();
        ceiling := least(ceiling, coalesce(complete, 0));
    END IF;
    IF max_updates IS NOT NULL OR max_bytes IS NOT NULL THEN
        counted := mercure.count_updates();
        more := counted.more;
        SELECT
            coalesce(sum(s.updates), 0) + counted.updates - max_updates,
            coalesce(sum(s.bytes), 0) + counted.bytes - max_bytes
        INTO excess_updates, excess_bytes
        FROM mercure.segments AS s
        WHERE s.up_to_position > horizon;
    END IF;

    SELECT max(g.position), count(*) INTO new_horizon, passed
    FROM (
        SELECT
            m.position,
            bool_and(
                m.created_at < now - min_age AND (
                    coalesce(m.created_at < now - max_age, false)
                    OR coalesce(m.number <= excess_updates, false)
                    OR coalesce(m.bytes_before < excess_bytes, false)
                )
            ) OVER (ORDER BY m.position) AS gone
        FROM (
            SELECT
                c.position, c.created_at, row_number() OVER oldest AS number,
                sum(c.size) OVER oldest - c.size AS bytes_before
            FROM (
                SELECT u.position, u.created_at, u.size
                FROM mercure.updates AS u
                WHERE u.position > horizon AND u.position <= ceiling
                ORDER BY u.position
                LIMIT max_rows
            ) AS c
            WINDOW oldest AS (ORDER BY c.position)
        ) AS m
    ) AS g
    WHERE g.gone;
    IF passed = 0 THEN
        RETURN;
    END IF;
    more := more OR passed = max_rows;

    WITH sums AS (
        SELECT s.up_to_position, count(*) AS updates, sum(u.size) AS bytes
        FROM mercure.segments AS s
        JOIN mercure.updates AS u ON u.position > s.after_position AND u.position <= least(s.up_to_position, new_horizon)
        WHERE s.after_position < new_horizon AND u.position > horizon
        GROUP BY s.up_to_position
    )
    UPDATE mercure.segments AS s
    SET updates = s.updates - d.updates, bytes = s.bytes - d.bytes
    FROM sums AS d
    WHERE s.up_to_position = d.up_to_position;
    DELETE FROM mercure.segments AS s WHERE s.up_to_position <= new_horizon;
    DELETE FROM mercure.updates AS u
    WHERE u.position > horizon AND u.position <= new_horizon
        AND NOT EXISTS (SELECT FROM mercure.governed AS g WHERE g.position = u.position);
    GET DIAGNOSTICS removed = ROW_COUNT;
    UPDATE mercure.horizon AS h SET position = new_horizon;
    DELETE FROM mercure.redactions AS r WHERE r.position <= new_horizon AND r.redacted_at < now - interval '1 day';
END
$$;
-- +goose StatementEnd

-- Empties all updates with an id, at once and for good: in the log, and within
-- seconds in the memory of hubs. Their id and their place in the order stay.
-- Returns how many there were. Others who redact, and retention, wait until the
-- transaction ends; publishers do not.
-- +goose StatementBegin
CREATE FUNCTION mercure.redact(id text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
#variable_conflict use_column
DECLARE
    event_id CONSTANT text COLLATE "C" := redact.id;
    positions bigint[];
BEGIN
    LOCK TABLE mercure.retention_lock IN EXCLUSIVE MODE;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_transaction_state',
            MESSAGE = 'mercure.redact() must be called under READ COMMITTED: it might miss an update otherwise';
    END IF;
    positions := ARRAY(
        SELECT u.position
        FROM mercure.updates AS u
        WHERE hashtextextended(u.id, 0::bigint) = hashtextextended(event_id, 0::bigint) AND u.id = event_id
    );
    DELETE FROM mercure.rejected AS r WHERE r.outbox_row ->> 'id' = event_id;
    IF cardinality(positions) > 0 THEN
        -- Governed rows stay: what an update has replaced must not come back.
        PERFORM mercure.empty_updates(positions);
        INSERT INTO mercure.redactions (position) SELECT p.position FROM unnest(positions) AS p (position);
        NOTIFY mercure_redactions;
    END IF;
    RETURN cardinality(positions);
END
$$;
-- +goose StatementEnd

-- Whether a policy can be used, as a hub found it; NULL if it can.
-- +goose StatementBegin
CREATE FUNCTION mercure.report_policy(policy integer, for_match text, reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '1s'
AS $$
BEGIN
    UPDATE mercure.policies AS p
    SET problem = reason
    WHERE p.id = policy AND p.match = for_match AND p.problem IS DISTINCT FROM reason;
END
$$;
-- +goose StatementEnd

-- As of the last vacuum: counting a long log takes its time.
-- +goose StatementBegin
CREATE FUNCTION mercure.about_updates() RETURNS bigint
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN (SELECT greatest(c.reltuples, 0) FROM pg_class AS c WHERE c.oid = 'mercure.updates'::regclass);
END
$$;
-- +goose StatementEnd

-- For people: where the log begins and ends, and how much there is.
CREATE VIEW mercure.history AS
SELECT
    h.position AS horizon,
    oldest.id AS oldest_id,
    oldest.created_at AS oldest_at,
    newest.id AS newest_id,
    newest.created_at AS newest_at,
    mercure.about_updates() AS about_updates,
    pg_total_relation_size('mercure.updates'::regclass) AS disk_bytes,
    (SELECT count(*) FROM mercure.governed AS g WHERE g.position <= h.position) AS kept_by_policies
FROM mercure.horizon AS h
LEFT JOIN mercure.updates AS oldest ON oldest.position = (SELECT min(u.position) FROM mercure.updates AS u WHERE u.position > h.position)
LEFT JOIN mercure.updates AS newest ON newest.position = (SELECT max(u.position) FROM mercure.updates AS u);
COMMENT ON VIEW mercure.history IS 'Where the log begins and ends, and its size. Resuming works from oldest_id on.';

REVOKE EXECUTE ON FUNCTION
    mercure.policies_fingerprint(),
    mercure.empty_updates(bigint[]),
    mercure.classified(bigint),
    mercure.classify(bigint, bigint, bigint, bigint[], integer[]),
    mercure.superseded(bigint),
    mercure.apply_policies(interval, integer),
    mercure.count_updates(),
    mercure.retain(interval, bigint, bigint, interval, integer),
    mercure.redact(text),
    mercure.report_policy(integer, text, text)
FROM PUBLIC;

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (11, 1);

-- Updates that were emptied stay: the constraint looks at new rows only. Those
-- that only a policy kept go, since older hubs would take them for cursors.
-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 11;
DELETE FROM mercure.updates WHERE position <= (SELECT h.position FROM mercure.horizon AS h);
DROP VIEW mercure.history;
DROP FUNCTION mercure.about_updates();
DROP FUNCTION mercure.report_policy(integer, text, text);
DROP FUNCTION mercure.redact(text);
DROP FUNCTION mercure.retain(interval, bigint, bigint, interval, integer);
DROP FUNCTION mercure.count_updates();
DROP FUNCTION mercure.apply_policies(interval, integer);
DROP FUNCTION mercure.superseded(bigint);
DROP FUNCTION mercure.classify(bigint, bigint, bigint, bigint[], integer[]);
DROP FUNCTION mercure.classified(bigint);
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.empty_hub_events(older_than interval, max_rows integer, OUT more boolean)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
    SET lock_timeout = '10s'
AS $$
BEGIN
    WITH old AS (
        DELETE FROM mercure.hub_events AS e
        WHERE e.up_to_position IN (
            SELECT m.up_to_position
            FROM (
                SELECT
                    c.up_to_position, c.created_at,
                    sum(c.events) OVER (ORDER BY c.up_to_position) - c.events AS before
                FROM (
                    SELECT h.up_to_position, h.created_at, h.up_to_position - h.after_position AS events
                    FROM mercure.hub_events AS h
                    ORDER BY h.up_to_position
                    LIMIT max_rows
                ) AS c
            ) AS m
            WHERE m.before < max_rows AND m.created_at < clock_timestamp() - older_than
        )
        RETURNING e.after_position, e.up_to_position
    ), emptied AS (
        UPDATE mercure.updates AS u
        SET topics = '{}', data = '', type = NULL, size = octet_length(u.id)
        FROM old AS o
        WHERE u.position > o.after_position AND u.position <= o.up_to_position AND u.from_hub
    )
    SELECT count(*) > 0 INTO more FROM old;
END
$$;
-- +goose StatementEnd
DROP FUNCTION mercure.empty_updates(bigint[]);
DROP TABLE mercure.redactions, mercure.segments, mercure.grown_topics, mercure.governed, mercure.retention_state;
DROP FUNCTION mercure.policies_fingerprint();
DROP TABLE mercure.policies, mercure.retention_lock;
DROP FUNCTION mercure.check_policy(text, text, interval, bigint, bigint, boolean);
ALTER TABLE mercure.updates
    DROP CONSTRAINT updates_topics_not_empty,
    ADD CONSTRAINT updates_topics_not_empty CHECK (cardinality(topics) > 0 OR from_hub) NOT VALID,
    DROP COLUMN emptied_at;
