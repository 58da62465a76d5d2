package eventlog

import (
	"context"
	"log/slog"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// On a full disk an empty outbox is drained as ever. That must not end the
// outage, and what does must leave no trace.
func TestADrainDoesNotHideThatAppendsFail(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	execute := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	execute(`CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'could not extend file'; END $$;
		CREATE TRIGGER disk_full BEFORE INSERT ON mercure.updates FOR EACH ROW WHEN (NEW.position IS NOT NULL) EXECUTE FUNCTION disk_full()`)
	l, err := Open(t.Context(), Config{DatabaseURL: database.URL, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := &writer{Log: l}
	ctx, cancel := context.WithTimeout(t.Context(), appendTimeout/20)
	defer cancel()
	p := &pending{update: &protocol.Update{ID: "id", Topics: []string{"a"}}, done: make(chan error, 1)}
	w.appendBatch(ctx, []*pending{p})
	if err := <-p.done; err == nil {
		t.Fatal("an append succeeded")
	}
	for range 3 {
		w.drain(t.Context())
		if l.health.Err() == nil {
			t.Fatal("the outage is over, and no append would succeed")
		}
	}
	execute("DROP FUNCTION disk_full CASCADE")
	w.drain(t.Context())
	if err := l.health.Err(); err != nil {
		t.Errorf("the outage goes on: %v", err)
	}
	var updates, batches int
	if err := pool.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM mercure.updates), (SELECT count(*) FROM mercure.append_batches WHERE first_position IS NOT NULL)").Scan(&updates, &batches); err != nil {
		t.Fatal(err)
	}
	if updates+batches > 0 {
		t.Errorf("%d updates and %d batches are left of the trials", updates, batches)
	}
}
