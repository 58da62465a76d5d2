-- Wakes sleeping hubs. While traffic flows a hub polls the outbox; when it
-- falls silent the hub arms the doorbell and sleeps, and the next insert rings
-- it once. So inserts pay for a NOTIFY, which serializes commits of the whole
-- cluster, only after a silence, and never when no hub is there to hear it.
-- Where two-phase commit is enabled the doorbell stays silent: a NOTIFY makes
-- PREPARE TRANSACTION fail.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- The state is a sequence because its value can be read and set outside the
-- application's snapshot, under REPEATABLE READ too, and is not undone by a
-- rollback: 1 silent, 2 armed.
CREATE SEQUENCE mercure.doorbell AS bigint MINVALUE 1 MAXVALUE 2 START 1 CACHE 1;

-- +goose StatementBegin
CREATE FUNCTION mercure.doorbell_usable() RETURNS boolean
    LANGUAGE sql STABLE
    RETURN current_setting('max_prepared_transactions')::integer = 0;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION mercure.ring_doorbell() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT last_value FROM mercure.doorbell) = 2 THEN
        PERFORM setval('mercure.doorbell', 1);
        IF mercure.doorbell_usable() THEN
            PERFORM pg_notify('mercure_doorbell', '');
        END IF;
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER ring_doorbell AFTER INSERT ON mercure.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION mercure.ring_doorbell();

-- Returns whether the doorbell will ring.
-- +goose StatementBegin
CREATE FUNCTION mercure.arm_doorbell() RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT mercure.doorbell_usable() THEN
        RETURN false;
    END IF;
    PERFORM setval('mercure.doorbell', 2);
    RETURN true;
END
$$;
-- +goose StatementEnd

REVOKE EXECUTE ON FUNCTION mercure.ring_doorbell(), mercure.arm_doorbell() FROM PUBLIC;

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (4, 1);

-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 4;
DROP TRIGGER ring_doorbell ON mercure.outbox;
DROP FUNCTION mercure.arm_doorbell();
DROP FUNCTION mercure.ring_doorbell();
DROP FUNCTION mercure.doorbell_usable();
DROP SEQUENCE mercure.doorbell;
