package eventlog

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db"
)

// prepared returns the queries on a connection or the pool, with statements that
// are parsed once for each connection. It is for calls of functions that run all
// the time. Behind a transaction pooler, where a name may mean another
// connection's statement, and where the address turns such statements off, it is
// as db.New.
func (l *Log) prepared(conn db.DBTX) *db.Queries {
	if !l.named {
		return db.New(conn)
	}
	return db.New(named{conn})
}

// named overrides the mode in which pgx executes queries.
type named struct{ db.DBTX }

func (n named) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return n.DBTX.Query(ctx, sql, withNames(args)...)
}

func (n named) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return n.DBTX.QueryRow(ctx, sql, withNames(args)...)
}

func withNames(args []any) []any {
	return append([]any{pgx.QueryExecModeCacheStatement}, args...)
}
