// Package migrations holds the schema as goose migrations and runs them.
//
// The files are plain goose SQL and work with goose's own command line; the
// binary embeds them. goose keeps its books in VersionTable, a name of its own,
// so that an application that uses goose in the same database is not disturbed.
//
// Promises:
//   - Nodes that start at once do not collide: one migrates, the others wait.
//   - A hub refuses to work with a schema that is too old for it, or that names
//     a newer hub as the oldest one that works with it. In between, old and new
//     hubs run side by side during an upgrade.
//   - Roles are never dropped.
package migrations

import "embed"

// FS holds the migration files at its root.
//
//go:embed *.sql
var FS embed.FS

// VersionTable is where goose records which migrations were applied.
const VersionTable = "mercure_goose_db_version"
