-- Who is subscribed on all nodes. The functions are in migrations/00008_presence.sql.

-- name: AddNode :exec
SELECT mercure.add_node(@node::uuid);

-- name: RenewNode :one
-- The last batch of the node; -1: it was given up.
SELECT coalesce(mercure.renew_node(@node::uuid), -1)::bigint AS batch;

-- name: Nodes :many
SELECT n.id, n.lease, n.dead FROM mercure.nodes AS n;

-- name: WritePresence :one
-- Arrays other than ended have one element for each subscription that began.
SELECT mercure.write_presence(
    @node::uuid, @batch::bigint, @acknowledged::bigint, @ended::bigint[],
    @numbers::bigint[], @selectors::boolean[], @topics::text[], @collections::text[], @documents::text[]
)::boolean AS alive;

-- name: EndNode :one
SELECT mercure.end_node(@node::uuid, sqlc.narg(observed)::bigint, @max_rows::integer, @max_bytes::bigint)::boolean AS more;

-- name: EmptyHubEvents :one
SELECT mercure.empty_hub_events(@older_than::interval, @max_rows::integer)::boolean AS more;

-- name: Subscriptions :many
-- A page of those of one dialect, and of one collection if it is not empty.
SELECT p.node::uuid AS node, p.number::bigint AS number, p.document::text AS document
FROM mercure.subscriptions_page(
    @selector::boolean, @collection::text, @after_node::uuid, @after_number::bigint, @max_rows::integer, @max_bytes::bigint
) AS p;

-- name: SubscriptionByTopic :one
-- Uses subscriptions_topic_idx. There is one at most, but for a moment after the
-- hub that wrote it was given up by mistake.
SELECT s.document
FROM mercure.subscriptions AS s
WHERE pg_catalog.hashtextextended(s.topic, 0::bigint) = pg_catalog.hashtextextended(@topic::text, 0::bigint)
    AND s.topic = @topic::text AND s.selector = @selector::boolean
LIMIT 1;
