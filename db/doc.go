// Package db is sqlc's output for the queries in queries/, and this comment.
// Only server/internal/eventlog and migrations import it; nothing in it is
// edited by hand (`go generate ./db` writes it anew).
package db

//go:generate go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1 generate -f ../sqlc.yaml
