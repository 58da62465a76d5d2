-- The log and what feeds it. Why it is built like this: README.md, "How the
-- log keeps its promises".
--
-- Every migration sets a lock_timeout, so that a forgotten transaction makes
-- it fail instead of queueing the whole application behind it, and records in
-- mercure.schema_version the oldest hub that can work with the result.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- +goose StatementBegin
DO $$
BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'the database encoding is %, but the hub needs UTF8', current_setting('server_encoding')
            USING HINT = 'Create the database with ENCODING ''UTF8'' TEMPLATE template0.';
    END IF;
    IF current_setting('server_version_num')::integer < 150000 THEN
        RAISE EXCEPTION 'PostgreSQL % is too old: the hub needs version 15 or later', current_setting('server_version');
    END IF;
END
$$;
-- +goose StatementEnd

CREATE SCHEMA mercure;
COMMENT ON SCHEMA mercure IS 'Cinnabar, a Mercure hub: insert into mercure.outbox or call mercure.publish() to publish.';

-- One row for each migration. A hub works with a schema newer than its own as
-- long as every migration it does not know names it, or an older hub, here.
CREATE TABLE mercure.schema_version (
    version bigint CONSTRAINT schema_version_pkey PRIMARY KEY,
    oldest_hub bigint NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN mercure.schema_version.oldest_hub IS 'Schema version of the oldest hub release that works with this one.';

-- +goose StatementBegin
CREATE FUNCTION mercure.new_id() RETURNS text
    LANGUAGE sql VOLATILE PARALLEL SAFE
    -- Random, not time-ordered: an id must not disclose when a private update
    -- was published (P-12).
    RETURN 'urn:uuid:' || gen_random_uuid()::text;
-- +goose StatementEnd

-- Topics and ids may be 4,096 bytes, an index row may not; indexes hold hashes
-- and every query compares the values themselves as well.
--
-- Names are qualified and literals typed because a function found by the
-- caller's search_path would run with the rights of the hub. PARALLEL UNSAFE
-- keeps readers of history from taking several processes each.
-- +goose StatementBegin
CREATE FUNCTION mercure.topic_hashes(topics text[]) RETURNS bigint[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
AS $$
BEGIN
    IF pg_catalog.array_upper(topics, 1) = 1 AND pg_catalog.array_lower(topics, 1) = 1 THEN
        RETURN ARRAY[pg_catalog.hashtextextended(topics[1] COLLATE pg_catalog."C", 0::bigint)];
    END IF;
    RETURN ARRAY(SELECT pg_catalog.hashtextextended(t COLLATE pg_catalog."C", 0::bigint) FROM pg_catalog.unnest(topics) AS t);
END
$$;
-- +goose StatementEnd

-- The log. Rows are written by mercure.append() and mercure.drain() only, in
-- the order of their positions.
CREATE TABLE mercure.updates (
    position bigint CONSTRAINT updates_pkey PRIMARY KEY,
    id text COLLATE "C" NOT NULL DEFAULT mercure.new_id(),
    topics text[] COLLATE "C" NOT NULL,
    data text,
    private boolean NOT NULL DEFAULT false,
    type text COLLATE "C",
    retry bigint,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    binary_data bytea,
    size integer NOT NULL,
    id_reused boolean NOT NULL DEFAULT false,
    trace_context text,
    CONSTRAINT updates_topics_not_empty CHECK (cardinality(topics) > 0)
);
COMMENT ON TABLE mercure.updates IS 'The log: every published update, in the order every subscriber sees.';
COMMENT ON COLUMN mercure.updates.position IS 'Place in the one order of the hub. Gaps are normal. Never shown to clients.';
COMMENT ON COLUMN mercure.updates.id IS 'Public event id; need not be unique.';
COMMENT ON COLUMN mercure.updates.topics IS 'Canonical topic first, then alternates.';
COMMENT ON COLUMN mercure.updates.data IS 'Payload; NULL when it contains U+0000, which text cannot hold: see binary_data.';
COMMENT ON COLUMN mercure.updates.binary_data IS 'The UTF-8 bytes of a payload that contains U+0000.';
COMMENT ON COLUMN mercure.updates.retry IS 'Reconnection delay for the receiver, in milliseconds.';
COMMENT ON COLUMN mercure.updates.created_at IS 'When the update entered the log.';
COMMENT ON COLUMN mercure.updates.size IS 'Bytes of id, topics, data and type together.';
COMMENT ON COLUMN mercure.updates.id_reused IS 'An older update in the log has the same id.';
COMMENT ON COLUMN mercure.updates.trace_context IS 'W3C traceparent of the publish request.';

-- CACHE 1 and taken under the append lock only, so that positions are handed
-- out in commit order.
CREATE SEQUENCE mercure.updates_position_seq AS bigint CACHE 1 OWNED BY mercure.updates.position;

-- A small pending list bounds what one insert may have to merge while it holds
-- the append lock.
CREATE INDEX updates_topics_idx ON mercure.updates
    USING gin (mercure.topic_hashes(topics)) WITH (fastupdate = on, gin_pending_list_limit = 256);
-- With position behind it the earliest occurrence of a reused id is one probe.
CREATE INDEX updates_id_idx ON mercure.updates (pg_catalog.hashtextextended(id, 0::bigint), position);

-- Where the log begins: everything at or below was removed by retention.
-- Positions have gaps, so readers could not tell otherwise that rows are gone.
CREATE TABLE mercure.horizon (
    singleton boolean CONSTRAINT horizon_pkey PRIMARY KEY DEFAULT true,
    position bigint NOT NULL DEFAULT 0,
    CONSTRAINT horizon_one_row CHECK (singleton)
);
INSERT INTO mercure.horizon DEFAULT VALUES;

-- Held by whoever appends, from before its snapshot until its commit: positions
-- become visible in their order. A table, not an advisory lock: privileges
-- protect it.
CREATE TABLE mercure.append_lock ();
COMMENT ON TABLE mercure.append_lock IS 'Locked by appends. Holds no rows.';

-- What became of each batch that hubs appended, so that a hub whose connection
-- broke during COMMIT can ask. first_position is NULL for a fenced batch: it
-- was given up and must never be appended.
CREATE TABLE mercure.append_batches (
    token uuid CONSTRAINT append_batches_pkey PRIMARY KEY,
    first_position bigint,
    last_position bigint,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX append_batches_created_at_idx ON mercure.append_batches (created_at);

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (1, 1);

-- +goose Down
SET LOCAL lock_timeout = '10s';
DROP TABLE mercure.append_batches, mercure.append_lock, mercure.horizon, mercure.updates;
DROP FUNCTION mercure.topic_hashes(text[]);
DROP FUNCTION mercure.new_id();
DROP TABLE mercure.schema_version;
DROP SCHEMA mercure;
