-- What publishing costs an application. Nearly all updates have one topic in
-- plain ASCII that does not name the hub; for them one expression takes the
-- place of all checks, and of their settings, which are expensive: PL/pgSQL
-- prepares an expression once in every transaction that evaluates it.
--
-- Measured as processor time in the application's session, of a transaction
-- that updates a row and inserts another: 282 us; with a third plain INSERT 331;
-- with one into the outbox 512 before this migration and 350 after it.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- Whether an update obviously keeps all rules; false says nothing.
--
-- The pattern proves that a topic resolves to something: there is a letter or a
-- digit before the first ? or #, with nothing but a slash between them. Then
-- only those that contain the hub's last segment can be reserved, or those with
-- a percent sign (see mercure.is_reserved_topic). It also proves that a topic
-- is neither empty nor "*".
--
-- Everything is qualified, which costs nothing: there is no search_path of its
-- own to keep a publisher's functions out.
-- +goose StatementBegin
CREATE FUNCTION mercure.is_ordinary_update(topics text[], data text, type text, id text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    RETURN pg_catalog.array_dims(topics) OPERATOR(pg_catalog.=) '[1:1]'::pg_catalog.text
        AND pg_catalog.octet_length(topics[1]) OPERATOR(pg_catalog.<=) 4096
        AND topics[1] COLLATE pg_catalog."C" OPERATOR(pg_catalog.~) '^[ !"$&->@-~]*[A-Za-z0-9]/?([?#][ -$&-~]*)?$'::pg_catalog.text
        AND pg_catalog.strpos(topics[1], pg_catalog.regexp_replace(mercure.hub_path(), '^.*/'::pg_catalog.text, ''::pg_catalog.text)) OPERATOR(pg_catalog.=) 0
        AND pg_catalog.strpos(mercure.hub_path(), '%'::pg_catalog.text) OPERATOR(pg_catalog.=) 0
        AND (data IS NULL OR pg_catalog.octet_length(data) OPERATOR(pg_catalog.<=) 8388608)
        AND (type IS NULL OR type COLLATE pg_catalog."C" OPERATOR(pg_catalog.~) '^[A-Za-z0-9_.-]{0,100}$'::pg_catalog.text
            AND type COLLATE pg_catalog."C" OPERATOR(pg_catalog.<>) 'mercure'::pg_catalog.text)
        AND id COLLATE pg_catalog."C" OPERATOR(pg_catalog.~) '^urn:uuid:[0-9a-f-]{36}$'::pg_catalog.text;
END
$$;
-- +goose StatementEnd

ALTER TABLE mercure.outbox
    DROP CONSTRAINT outbox_topics,
    DROP CONSTRAINT outbox_data,
    DROP CONSTRAINT outbox_id,
    DROP CONSTRAINT outbox_type,
    -- What is there was checked when it came.
    ADD CONSTRAINT outbox_update CHECK (
        mercure.is_ordinary_update(topics, data, type, id)
        OR (mercure.check_topics(topics) AND mercure.check_data(data) AND mercure.check_id(id) AND mercure.check_type(type))
    ) NOT VALID;

-- To read (xid, seq) by seq alone is to read all of it, dead entries too, once
-- for each of a drain's rows; and PostgreSQL did.
DROP INDEX mercure.outbox_xid_seq_idx;
CREATE INDEX outbox_xid_idx ON mercure.outbox (xid);

-- There is one good plan for each of their queries, whatever the arguments.
ALTER FUNCTION mercure.drain(text, integer) SET plan_cache_mode = force_generic_plan;
ALTER FUNCTION mercure.append(text, integer, uuid, text[], text[], text[], bytea[], boolean[], text[], bigint[], text[], boolean[])
    SET plan_cache_mode = force_generic_plan;

-- A row looks at the bell itself, and only calls the function that rings it if
-- that is needed; a statement without rows does nothing. pg_sequence_last_value
-- is what the view pg_sequences reads. Who may not read the bell leaves it to
-- the function.
DROP TRIGGER ring_doorbell ON mercure.outbox;
CREATE TRIGGER ring_doorbell AFTER INSERT ON mercure.outbox
    FOR EACH ROW WHEN (
        CASE WHEN has_sequence_privilege('mercure.doorbell'::regclass, 'SELECT')
            THEN pg_sequence_last_value('mercure.doorbell'::regclass) = 2
            ELSE true
        END
    )
    EXECUTE FUNCTION mercure.ring_doorbell();

-- One expression, which the planner puts in the place of a call.
CREATE OR REPLACE FUNCTION mercure.publish(
    topic text, data text DEFAULT NULL, private boolean DEFAULT false,
    type text DEFAULT NULL, retry bigint DEFAULT NULL, id text DEFAULT NULL
) RETURNS text
    LANGUAGE sql VOLATILE
    RETURN mercure.publish(ARRAY[topic], data, private, type, retry, id);

-- +goose StatementBegin
DO $$
DECLARE
    statement text;
    grants CONSTANT text[] := ARRAY[
        'GRANT SELECT ON SEQUENCE mercure.doorbell TO mercure_publisher',
        'GRANT EXECUTE ON FUNCTION mercure.is_ordinary_update(text[], text, text, text) TO mercure_publisher'
    ];
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mercure_publisher') THEN
        RAISE WARNING 'The role mercure_publisher does not exist. To let other roles publish from SQL, run as the owner of the schema, once it does: %;', array_to_string(grants, '; ');
        RETURN;
    END IF;
    FOREACH statement IN ARRAY grants LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
-- +goose StatementEnd

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (9, 1);

-- The publish() of one topic keeps its new body.
-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 9;
DROP TRIGGER ring_doorbell ON mercure.outbox;
CREATE TRIGGER ring_doorbell AFTER INSERT ON mercure.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION mercure.ring_doorbell();
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mercure_publisher') THEN
        REVOKE SELECT ON SEQUENCE mercure.doorbell FROM mercure_publisher;
    END IF;
END
$$;
-- +goose StatementEnd
ALTER FUNCTION mercure.append(text, integer, uuid, text[], text[], text[], bytea[], boolean[], text[], bigint[], text[], boolean[])
    RESET plan_cache_mode;
ALTER FUNCTION mercure.drain(text, integer) RESET plan_cache_mode;
DROP INDEX mercure.outbox_xid_idx;
CREATE INDEX outbox_xid_seq_idx ON mercure.outbox (xid, seq);
ALTER TABLE mercure.outbox
    DROP CONSTRAINT outbox_update,
    ADD CONSTRAINT outbox_topics CHECK (mercure.check_topics(topics)) NOT VALID,
    ADD CONSTRAINT outbox_data CHECK (mercure.check_data(data)) NOT VALID,
    ADD CONSTRAINT outbox_id CHECK (mercure.check_id(id)) NOT VALID,
    ADD CONSTRAINT outbox_type CHECK (mercure.check_type(type)) NOT VALID;
DROP FUNCTION mercure.is_ordinary_update(text[], text, text, text);
