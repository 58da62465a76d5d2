-- How a hub writes. The functions are in migrations/00003_append.sql.

-- name: AppendBatch :one
-- Arrays have one element for each update; see mercure.append for what stands
-- for NULL in each. No state comes back with a repeated batch.
SELECT
    coalesce(a.state, '')::text AS state,
    a.appended::boolean AS appended,
    a.repeated::boolean AS repeated,
    coalesce(a.head_before, 0)::bigint AS head_before,
    coalesce(a.head_drained, 0)::bigint AS head_drained,
    coalesce(a.first_position, 0)::bigint AS first_position,
    coalesce(a.last_position, 0)::bigint AS last_position,
    a.moved::integer AS moved,
    a.refused::integer AS refused
FROM mercure.append(
    sqlc.narg(state)::text, @max_rows::integer, @batch_token::uuid,
    @ids::text[], @topics::text[], @data::text[], @binary_data::bytea[], @private::boolean[],
    @types::text[], @retries::bigint[], @trace_contexts::text[], @probe::boolean[]
) AS a;

-- name: Drain :one
SELECT
    d.state::text AS state,
    d.head_before::bigint AS head_before,
    d.head_after::bigint AS head_after,
    d.moved::integer AS moved,
    d.refused::integer AS refused,
    d.more::boolean AS more
FROM mercure.drain(sqlc.narg(state)::text, @max_rows::integer) AS d;

-- name: FenceBatch :one
-- Whether the batch is in the log; if not, it never will be.
SELECT mercure.fence_batch(@batch_token::uuid)::boolean AS in_log;

-- name: ForgetBatches :one
SELECT mercure.forget_batches(@older_than::interval, @max_rows::integer)::bigint AS forgotten;

-- name: ArmDoorbell :one
-- Whether the doorbell will ring.
SELECT mercure.arm_doorbell()::boolean AS armed;

-- name: AppendBatchOnce :one
-- AppendBatch with hash and fingerprint of each update's idempotency key, NULL
-- for those that have none. See mercure.append_once.
SELECT
    coalesce(a.state, '')::text AS state,
    a.appended::boolean AS appended,
    a.repeated::boolean AS repeated,
    coalesce(a.head_before, 0)::bigint AS head_before,
    coalesce(a.head_drained, 0)::bigint AS head_drained,
    coalesce(a.first_position, 0)::bigint AS first_position,
    coalesce(a.last_position, 0)::bigint AS last_position,
    a.moved::integer AS moved,
    a.refused::integer AS refused,
    coalesce(a.answers, '{}')::text[] AS answers,
    coalesce(a.fresh, '{}')::boolean[] AS fresh
FROM mercure.append_once(
    sqlc.narg(state)::text, @max_rows::integer, @batch_token::uuid,
    @ids::text[], @topics::text[], @data::text[], @binary_data::bytea[], @private::boolean[],
    @types::text[], @retries::bigint[], @trace_contexts::text[], @probe::boolean[],
    @hashes::bytea[], @fingerprints::bytea[]
) AS a;

-- name: ForgetPublishKeys :one
SELECT mercure.forget_publish_keys(@max_rows::integer)::bigint AS forgotten;

-- name: ForgetRejected :one
SELECT mercure.forget_rejected(@max_rows::integer)::bigint AS forgotten;
