-- How long history is kept. The functions are in migrations/00011_retention.sql.

-- name: Policies :many
-- All, by priority, with the fingerprint that stands for them.
SELECT
    p.id, p.priority, p.match_type, p.match, p.max_updates, p.max_bytes, p.keep_last, p.enabled,
    coalesce(extract(epoch FROM p.max_age), 0)::bigint AS max_age_seconds,
    coalesce(p.problem, '')::text AS problem,
    mercure.policies_fingerprint()::bigint AS fingerprint
FROM mercure.policies AS p
ORDER BY p.priority;

-- name: ReportPolicy :exec
SELECT mercure.report_policy(@policy::integer, @for_match::text, sqlc.narg(problem)::text);

-- name: Classified :one
SELECT c.current::boolean AS current, c.up_to::bigint AS up_to, c.target::bigint AS target
FROM mercure.classified(@fingerprint::bigint) AS c;

-- name: CanonicalTopics :many
-- A page of updates with their canonical topics, empty where the contents were
-- removed or are the hub's own. Uses updates_pkey.
SELECT u.position, (CASE WHEN u.from_hub THEN '' ELSE coalesce(u.topics[1], '') END)::text AS topic
FROM mercure.updates AS u
WHERE u.position > @after_position AND u.position <= @up_to_position
ORDER BY u.position
LIMIT @max_rows;

-- name: Classify :one
-- False: somebody else was faster, or the policies have changed.
SELECT mercure.classify(@fingerprint::bigint, @after_position::bigint, @up_to::bigint, @positions::bigint[], @policies::integer[])::boolean AS done;

-- name: ApplyPolicies :one
SELECT a.removed::bigint AS removed, a.more::boolean AS more
FROM mercure.apply_policies(@min_age::interval, @max_rows::integer) AS a;

-- name: Retain :one
SELECT r.removed::bigint AS removed, r.more::boolean AS more
FROM mercure.retain(
    sqlc.narg(max_age)::interval, sqlc.narg(max_updates)::bigint, sqlc.narg(max_bytes)::bigint, @min_age::interval, @max_rows::integer
) AS r;

-- name: RedactionsAfter :many
SELECT r.seq, r.position
FROM mercure.redactions AS r
WHERE r.seq > @seq
ORDER BY r.seq
LIMIT @max_rows;

-- name: LastRedaction :one
SELECT coalesce(max(r.seq), 0)::bigint AS seq FROM mercure.redactions AS r;

-- name: UpdateSizes :many
-- What retention goes by, page by page. An empty topic has no policy. Uses
-- updates_pkey.
SELECT
    u.position, u.size, octet_length(u.id)::integer AS id_bytes, u.created_at,
    (CASE WHEN u.from_hub THEN '' ELSE coalesce(u.topics[1], '') END)::text AS topic
FROM mercure.updates AS u
WHERE u.position > @after_position
ORDER BY u.position
LIMIT @max_rows;

-- name: DiskBytes :one
SELECT h.disk_bytes::bigint AS bytes FROM mercure.history AS h;
