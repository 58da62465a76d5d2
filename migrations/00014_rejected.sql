-- Bounds mercure.rejected: an application that goes on inserting what the log
-- refuses, with nobody looking, would fill the disk.
--
-- Age and number are here and not the hub's to say: hubs of all releases agree,
-- and their role cannot delete what somebody may still want to see.

-- +goose Up
SET LOCAL lock_timeout = '10s';

-- Also of a table that has grown without bound it is made in seconds, in which
-- hubs that have something to refuse wait.
CREATE INDEX rejected_rejected_at_idx ON mercure.rejected (rejected_at, seq);
COMMENT ON TABLE mercure.rejected IS 'Rows that the log refused, with the reason. Kept for 30 days, the newest 100,000; delete those that are dealt with.';

-- Forgets rows that are too old, and the oldest of those that are too many, up to
-- a number. Returns how many. Rows that are locked, by another hub or by
-- mercure.redact(), are left to the next call: waiting for several of them could
-- be a deadlock.
-- +goose StatementBegin
CREATE FUNCTION mercure.forget_rejected(max_rows integer) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '10s'
AS $$
DECLARE
    max_age CONSTANT interval := interval '30 days';
    max_kept CONSTANT bigint := 100000;
    up_to timestamptz;
    up_to_seq bigint;
    forgotten bigint;
BEGIN
    -- The newest row that is one too many. Reads rejected_rejected_at_idx only.
    SELECT r.rejected_at, r.seq INTO up_to, up_to_seq
    FROM mercure.rejected AS r
    ORDER BY r.rejected_at DESC, r.seq DESC
    OFFSET max_kept
    LIMIT 1;
    IF up_to IS NULL OR up_to < clock_timestamp() - max_age THEN
        up_to := clock_timestamp() - max_age;
        up_to_seq := 0;
    END IF;
    DELETE FROM mercure.rejected AS r
    WHERE r.seq = ANY (ARRAY(
        SELECT o.seq FROM mercure.rejected AS o
        WHERE (o.rejected_at, o.seq) <= (up_to, up_to_seq)
        ORDER BY o.rejected_at, o.seq
        LIMIT max_rows
        FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END
$$;
-- +goose StatementEnd

REVOKE EXECUTE ON FUNCTION mercure.forget_rejected(integer) FROM PUBLIC;

INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (14, 1);

-- +goose Down
SET LOCAL lock_timeout = '10s';
DELETE FROM mercure.schema_version WHERE version = 14;
DROP FUNCTION mercure.forget_rejected(integer);
COMMENT ON TABLE mercure.rejected IS NULL;
DROP INDEX mercure.rejected_rejected_at_idx;
