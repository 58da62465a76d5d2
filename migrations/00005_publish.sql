-- What applications use: mercure.publish(), and an INSERT into either table.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- Publishes when the surrounding transaction commits. Returns the event id.
-- +goose StatementBegin
CREATE FUNCTION mercure.publish(
    topics text[], data text DEFAULT NULL, private boolean DEFAULT false,
    type text DEFAULT NULL, retry bigint DEFAULT NULL, id text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_variable
DECLARE
    event_id text := coalesce(id, mercure.new_id());
BEGIN
    INSERT INTO mercure.outbox (topics, data, private, type, retry, id)
    VALUES (topics, data, private, type, retry, event_id);
    RETURN event_id;
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.publish(
    topic text, data text DEFAULT NULL, private boolean DEFAULT false,
    type text DEFAULT NULL, retry bigint DEFAULT NULL, id text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    RETURN mercure.publish(ARRAY[topic], data, private, type, retry, id);
END
$$;
-- +goose StatementEnd

-- The obvious thing works: an INSERT into the log itself goes to the outbox.
-- +goose StatementBegin
CREATE FUNCTION mercure.divert_to_outbox() RETURNS trigger
    LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    INSERT INTO mercure.outbox (topics, data, private, type, retry, id)
    VALUES (NEW.topics, NEW.data, NEW.private, NEW.type, NEW.retry, NEW.id);
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER divert_to_outbox BEFORE INSERT ON mercure.updates
    FOR EACH ROW WHEN (NEW.position IS NULL) EXECUTE FUNCTION mercure.divert_to_outbox();

-- The role is shared by all databases of the server: created if missing,
-- never dropped. Execution is granted by name for databases where it is not
-- the default.
-- +goose StatementBegin
DO $$
DECLARE
    statement text;
    grants CONSTANT text[] := ARRAY[
        'GRANT USAGE ON SCHEMA mercure TO mercure_publisher',
        -- Not seq and xid: a publisher must not choose its place in the queue.
        'GRANT INSERT (topics, data, private, type, retry, id), SELECT (id) ON mercure.outbox TO mercure_publisher',
        'GRANT INSERT (topics, data, private, type, retry, id) ON mercure.updates TO mercure_publisher',
        'GRANT EXECUTE ON FUNCTION mercure.publish(text, text, boolean, text, bigint, text), '
            'mercure.publish(text[], text, boolean, text, bigint, text), mercure.new_id(), mercure.hub_path(), '
            'mercure.check_topics(text[]), mercure.check_data(text), mercure.check_id(text), mercure.check_type(text), '
            'mercure.check_text(text, text), mercure.forbidden_character(text), mercure.is_reserved_topic(text), '
            'mercure.remove_dot_segments(text) TO mercure_publisher'
    ];
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mercure_publisher') THEN
        BEGIN
            CREATE ROLE mercure_publisher NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database's migration was faster
            WHEN insufficient_privilege THEN
                RAISE WARNING 'The role mercure_publisher could not be created. To let other roles publish from SQL, run as a role that may create roles: CREATE ROLE mercure_publisher NOLOGIN; and then as the owner of the schema: %;', array_to_string(grants, '; ');
                RETURN;
        END;
    END IF;
    FOREACH statement IN ARRAY grants LOOP
        EXECUTE statement;
    END LOOP;
END
$$;
-- +goose StatementEnd

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (5, 1);

-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 5;
DROP TRIGGER divert_to_outbox ON mercure.updates;
DROP FUNCTION mercure.divert_to_outbox();
DROP FUNCTION mercure.publish(text, text, boolean, text, bigint, text);
DROP FUNCTION mercure.publish(text[], text, boolean, text, bigint, text);
