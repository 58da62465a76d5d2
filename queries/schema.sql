-- What a hub must know of the schema before it works with it.

-- name: SchemaVersion :one
-- The newest migration, and the oldest hub that works with all of them.
SELECT
    coalesce(max(v.version), 0)::bigint AS version,
    coalesce(max(v.oldest_hub), 0)::bigint AS oldest_hub
FROM mercure.schema_version AS v;

-- name: HubPath :one
-- The path whose namespace publishers are kept out of.
SELECT mercure.hub_path()::text AS path;

-- name: SetHubPath :one
-- Whether the path could be changed: not while hubs are connected.
SELECT mercure.set_hub_path(@path::text)::boolean AS moved;
