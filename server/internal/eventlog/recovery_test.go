package eventlog_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// One backend is killed, as when memory runs out: PostgreSQL recovers under the
// same postmaster and gives ids of transactions that had not committed anew. A
// drain that goes on from before sees the rows of the new ones.
func TestTransactionIDsAreGivenAnew(t *testing.T) {
	t.Parallel()
	// Else the end of the transaction may reach the disk, and its id is not given
	// anew.
	server := dbtest.NewServer(t, "wal_writer_delay=10s", "autovacuum=off")
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	connect := func() *pgx.Conn {
		t.Helper()
		for {
			conn, err := pgx.Connect(ctx, server.DB.URL)
			if err == nil {
				t.Cleanup(func() { _ = conn.Close(context.Background()) })
				return conn
			}
			select {
			case <-time.After(20 * time.Millisecond): // while it recovers
			case <-ctx.Done():
				t.Fatalf("PostgreSQL did not come back: %v", err)
			}
		}
	}
	const insert = "INSERT INTO mercure.outbox (topics) VALUES ('{a}') RETURNING pg_current_xact_id()::text"
	xid := func(from interface {
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	},
	) (id string) {
		t.Helper()
		if err := from.QueryRow(ctx, insert).Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	var (
		conn    *pgx.Conn
		drained db.DrainRow
	)
	for given := false; !given; {
		conn = connect()
		if _, err := db.New(conn).Drain(ctx, nil, 100); err != nil { // which may write
			t.Fatal(err)
		}
		transaction, err := conn.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		before := xid(transaction)
		if err := transaction.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		if drained, err = db.New(conn).Drain(ctx, nil, 100); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(int(connect().PgConn().PID()), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// The other connections end when the postmaster has noticed.
		for conn.Ping(ctx) == nil {
		}
		conn = connect()
		// Not if PostgreSQL had a reason of its own to write to the disk.
		given = xid(conn) == before
	}
	drained, err := db.New(conn).Drain(ctx, &drained.State, 100)
	if err != nil || drained.Moved != 1 {
		t.Errorf("%d rows were moved, %v", drained.Moved, err)
	}
}

// What was acknowledged is there after a crash, even where the administrator has
// traded that for speed.
func TestAcknowledgedUpdatesSurviveACrash(t *testing.T) { // Spec: P-16
	t.Parallel()
	server := dbtest.NewServer(t, "synchronous_commit=off", "wal_writer_delay=10s", "autovacuum=off")
	l := open(t, server.DB.URL)
	l.append(t, protocol.Update{Data: "acknowledged"})
	if err := server.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := query[int](t, server.DB.Pool(t), "SELECT count(*) FROM mercure.updates WHERE data = 'acknowledged'"); n != 1 {
		t.Errorf("the update is %d times in the log", n)
	}
}
