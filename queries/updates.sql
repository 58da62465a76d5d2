-- How a hub reads the log. Pages are bounded by rows and by bytes; every page
-- carries the horizon as of the same snapshot, so that a reader notices when
-- retention overtook it.

-- name: PageAfter :many
-- The next updates after a position, whatever their topics. Uses updates_pkey.
-- With the id of the update at that position, every row says whether it is still
-- there. With only_current, without those that are not history any more because of
-- a newer one.
WITH candidate AS (
    SELECT u.position, u.id, u.topics, u.data, u.binary_data, u.private, u.type, u.retry, u.size, u.id_reused
    FROM mercure.updates AS u
    WHERE u.position > @after_position AND u.position <= @up_to_position
        AND CASE WHEN @only_current::boolean THEN NOT mercure.superseded(u.position) ELSE true END
    ORDER BY u.position
    LIMIT @max_rows
), measured AS (
    SELECT
        c.position, c.id, c.topics, c.data, c.binary_data, c.private, c.type, c.retry, c.size, c.id_reused,
        sum(c.size) OVER (ORDER BY c.position) - c.size AS bytes_before
    FROM candidate AS c
)
SELECT
    m.position, m.id, m.topics, m.data, m.binary_data, m.private, m.type, m.retry, m.size, m.id_reused,
    (SELECT h.position FROM mercure.horizon AS h)::bigint AS horizon,
    (sqlc.narg(cursor_id)::text IS NULL OR EXISTS (
        SELECT FROM mercure.updates AS u WHERE u.position = @after_position AND u.id = sqlc.narg(cursor_id)::text
    ))::boolean AS cursor_present
FROM measured AS m
WHERE m.bytes_before < @max_bytes::bigint
ORDER BY m.position;

-- name: PageAfterByTopics :many
-- The same for updates that have one of the given topics. Uses
-- updates_topics_idx where few match, updates_pkey where many do. The topics
-- themselves are compared inside CASE, whose selectivity the planner does not
-- multiply with that of the hashes: it would think that next to nothing matches.
WITH candidate AS (
    SELECT u.position, u.id, u.topics, u.data, u.binary_data, u.private, u.type, u.retry, u.size, u.id_reused
    FROM mercure.updates AS u
    WHERE u.position > @after_position AND u.position <= @up_to_position
        AND mercure.topic_hashes(u.topics) && mercure.topic_hashes(@topics::text[])
        AND CASE WHEN u.topics && @topics::text[] THEN true END
        AND CASE WHEN @only_current::boolean THEN NOT mercure.superseded(u.position) ELSE true END
    ORDER BY u.position
    LIMIT @max_rows
), measured AS (
    SELECT
        c.position, c.id, c.topics, c.data, c.binary_data, c.private, c.type, c.retry, c.size, c.id_reused,
        sum(c.size) OVER (ORDER BY c.position) - c.size AS bytes_before
    FROM candidate AS c
)
SELECT
    m.position, m.id, m.topics, m.data, m.binary_data, m.private, m.type, m.retry, m.size, m.id_reused,
    (SELECT h.position FROM mercure.horizon AS h)::bigint AS horizon,
    true::boolean AS cursor_present
FROM measured AS m
WHERE m.bytes_before < @max_bytes::bigint
ORDER BY m.position;

-- name: PageBefore :many
-- The newest updates up to a position, newest first: how a node that starts
-- fills its warm tail. Uses updates_pkey.
WITH candidate AS (
    SELECT u.position, u.id, u.topics, u.data, u.binary_data, u.private, u.type, u.retry, u.size, u.id_reused
    FROM mercure.updates AS u
    WHERE u.position <= @up_to_position
    ORDER BY u.position DESC
    LIMIT @max_rows
), measured AS (
    SELECT
        c.position, c.id, c.topics, c.data, c.binary_data, c.private, c.type, c.retry, c.size, c.id_reused,
        sum(c.size) OVER (ORDER BY c.position DESC) - c.size AS bytes_before
    FROM candidate AS c
)
SELECT
    m.position, m.id, m.topics, m.data, m.binary_data, m.private, m.type, m.retry, m.size, m.id_reused,
    (SELECT h.position FROM mercure.horizon AS h)::bigint AS horizon,
    true::boolean AS cursor_present
FROM measured AS m
WHERE m.bytes_before < @max_bytes::bigint
ORDER BY m.position DESC;

-- name: FirstPositionsOfIDs :many
-- The earliest occurrence of each of the event ids that occur (H-4), of those
-- behind which nothing was removed. Uses updates_id_idx.
SELECT wanted.id::text AS id, earliest.position::bigint AS position
FROM unnest(@event_ids::text[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT u.position
    FROM mercure.updates AS u
    WHERE pg_catalog.hashtextextended(u.id, 0::bigint) = pg_catalog.hashtextextended(wanted.id, 0::bigint) AND u.id = wanted.id
        AND u.position >= (SELECT h.position FROM mercure.horizon AS h)
    ORDER BY u.position
    LIMIT 1
) AS earliest;

-- name: Head :one
-- The newest update; position zero while the log is empty. Not writable while
-- the server is a standby or read-only: then it is not the one hubs append to.
SELECT
    coalesce(max(h.position), 0)::bigint AS position,
    coalesce(max(h.id), '')::text AS id,
    (NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off')::boolean AS writable
FROM (
    SELECT u.position, u.id
    FROM mercure.updates AS u
    ORDER BY u.position DESC
    LIMIT 1
) AS h;

-- name: CursorState :one
-- Where the log begins, and whether the update a reader got last is still where
-- it was: if not, and retention has not removed it, the log went backwards. Also
-- what tells whether policies have changed, and updates were redacted.
SELECT
    h.position AS horizon,
    EXISTS (
        SELECT FROM mercure.updates AS u WHERE u.position = @position::bigint AND u.id = @event_id::text
    )::boolean AS present,
    (NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off')::boolean AS writable,
    mercure.policies_fingerprint()::bigint AS policies,
    (SELECT coalesce(max(r.seq), 0) FROM mercure.redactions AS r)::bigint AS redactions
FROM mercure.horizon AS h;

-- name: Horizon :one
-- At and below this position, there is only what policies keep.
SELECT h.position FROM mercure.horizon AS h;
