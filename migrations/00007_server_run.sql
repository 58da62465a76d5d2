-- Tells one run of the server from another by more than the start of its first
-- process: after the crash of a single backend PostgreSQL recovers under the
-- same postmaster, and gives transaction ids that were never committed out
-- again. A drain that went on from before would not see rows that carry one.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- Unlogged, so that recovery and a promotion empty it.
CREATE UNLOGGED TABLE mercure.server_run (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id uuid NOT NULL DEFAULT gen_random_uuid()
);

COMMENT ON TABLE mercure.server_run IS 'One row, which vanishes whenever transaction ids may be given anew.';

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.server_start() RETURNS text
    LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    run uuid;
BEGIN
    SELECT r.id INTO run FROM mercure.server_run AS r;
    IF run IS NULL THEN
        INSERT INTO mercure.server_run DEFAULT VALUES ON CONFLICT DO NOTHING;
        SELECT r.id INTO run FROM mercure.server_run AS r;
    END IF;
    RETURN extract(epoch FROM pg_postmaster_start_time()) || '/' || run;
END
$$;
-- +goose StatementEnd

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (7, 1);

-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 7;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION mercure.server_start() RETURNS text
    LANGUAGE plpgsql STABLE
AS $$
BEGIN
    RETURN extract(epoch FROM pg_postmaster_start_time())::text;
END
$$;
-- +goose StatementEnd
DROP TABLE mercure.server_run;
