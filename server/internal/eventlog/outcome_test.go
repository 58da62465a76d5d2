package eventlog

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// openOnly opens a log that does not run.
func openOnly(t *testing.T, database *dbtest.DB) *Log {
	t.Helper()
	l, err := Open(t.Context(), Config{DatabaseURL: database.URL, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// AwaitBlocked waits until as many calls as wanted wait for a lock of the
// database. It fails if ended, which may be nil, is closed instead.
func AwaitBlocked(t *testing.T, pool *pgxpool.Pool, call string, wanted int, ended <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for blocked := 0; blocked < wanted; {
		err := pool.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND position($1 IN query) > 0`, call).Scan(&blocked)
		if err != nil {
			t.Fatalf("waiting for %d blocked calls of %s: %v", wanted, call, err)
		}
		select {
		case <-ended:
			t.Fatalf("%s did not wait", call)
		default:
		}
	}
}

// The time of a batch is over while PostgreSQL works on it: its publishers are
// not told that nothing was published, and the batch is settled afterwards, so
// that it does not appear much later.
func TestAnOutcomeThatStaysUnknownIsFenced(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	w := &writer{Log: openOnly(t, database)}
	holder, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback(context.Background()) }()
	if _, err := holder.Exec(t.Context(), "LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	p := &pending{update: &protocol.Update{ID: "id", Topics: []string{"a"}}, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan struct{})
	go func() { // ends with ctx
		defer close(answered)
		w.appendBatch(ctx, []*pending{p})
	}()
	AwaitBlocked(t, pool, "mercure.append(", 1, answered)
	cancel()
	<-answered
	if err := <-p.done; !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("answered %v, want %v", err, ErrOutcomeUnknown)
	}
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.drain(t.Context())
	var updates, appended, fenced int
	if err := pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM mercure.updates), count(first_position), count(*) - count(first_position)
		FROM mercure.append_batches`).Scan(&updates, &appended, &fenced); err != nil {
		t.Fatal(err)
	}
	if len(w.fences) > 0 || appended+fenced != 1 || updates != appended {
		t.Errorf("%d updates, %d batches appended, %d fenced, %d unsettled", updates, appended, fenced, len(w.fences))
	}
}

// restarts counts what a sink is told.
type restarts struct{ delivered, restarted int }

func (*restarts) Start([]protocol.Entry, protocol.Position)     {}
func (r *restarts) Deliver(entries []protocol.Entry)            { r.delivered += len(entries) }
func (r *restarts) Restart([]protocol.Entry, protocol.Position) { r.restarted++ }
func (*restarts) Redact([]protocol.Position)                    {}

// The log went backwards, and has grown again until this node's own batch seems
// to follow what it has delivered.
func TestOwnBatchesAreNotTakenForAnotherLogs(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	l := openOnly(t, database)
	sink := &restarts{}
	at := &tail{Log: l, sink: sink}
	at.advance(3, "of the log that is gone")
	if _, err := database.Pool(t).Exec(t.Context(),
		"INSERT INTO mercure.updates (position, id, topics, size) SELECT n, 'new ' || n, '{a}', 1 FROM generate_series(1, 4) AS n"); err != nil {
		t.Fatal(err)
	}
	wake(l.backwards)
	own := ownBatch{after: 3, entries: []protocol.Entry{{Position: 4, Update: &protocol.Update{ID: "new 4", Topics: []string{"a"}}}}}
	if err := at.takeOwn(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	if sink.restarted != 1 || sink.delivered != 0 {
		t.Errorf("%d restarts, and %d updates delivered over the gap", sink.restarted, sink.delivered)
	}
}
