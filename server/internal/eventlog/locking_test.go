package eventlog_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// awaitBlocked waits until as many calls as wanted wait for a lock of the database,
// or ended is closed.
func awaitBlocked(t *testing.T, pool *pgxpool.Pool, call string, wanted int, ended <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
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

// Whoever appends waits for those who have taken positions and have not
// committed them. That is what makes positions appear in their order.
//
// Spec: H-8.
func TestAppendsWaitForEachOther(t *testing.T) {
	t.Parallel()
	calls := map[string]func(ctx context.Context, q *db.Queries) error{
		"mercure.append(": func(ctx context.Context, q *db.Queries) error {
			_, err := q.AppendBatch(ctx, batch(uuid.New(), "http"))
			return err
		},
		"mercure.drain(": func(ctx context.Context, q *db.Queries) error {
			_, err := q.Drain(ctx, nil, 1)
			return err
		},
	}
	for first, begin := range calls {
		for second, follow := range calls {
			t.Run(first+" "+second, func(t *testing.T) {
				t.Parallel()
				pool := dbtest.New(t).Pool(t)
				exec(t, pool, "INSERT INTO mercure.outbox (topics, data) VALUES ('{a}', 'sql'), ('{a}', 'sql')")
				tx, err := pool.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := begin(t.Context(), db.New(tx)); err != nil {
					t.Fatal(err)
				}
				ended := make(chan struct{})
				var group errgroup.Group
				group.Go(func() error {
					defer close(ended)
					return follow(t.Context(), db.New(pool))
				})
				awaitBlocked(t, pool, second, 1, ended)
				if err := tx.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := group.Wait(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// What commits after the outbox was looked at and found empty, and before the
// call has ended, is new to the next call.
func TestWhatCommitsDuringADrainIsNew(t *testing.T) {
	t.Parallel()
	for name, look := range map[string]func(ctx context.Context, q *db.Queries, state *string) (string, error){
		"drain": func(ctx context.Context, q *db.Queries, state *string) (string, error) {
			row, err := q.Drain(ctx, state, 100)
			return row.State, err
		},
		"append": func(ctx context.Context, q *db.Queries, state *string) (string, error) {
			params := batch(uuid.New(), "http")
			params.State = state
			row, err := q.AppendBatch(ctx, params)
			return row.State, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.New(t).Pool(t)
			queries := db.New(pool)
			drained, err := queries.Drain(t.Context(), nil, 100)
			if err != nil {
				t.Fatal(err)
			}
			// The look takes as long as the test wants it to.
			exec(t, pool, `ALTER FUNCTION mercure.outbox_waiting(text) RENAME TO really_waiting;
				CREATE FUNCTION mercure.outbox_waiting(state text) RETURNS boolean LANGUAGE plpgsql AS $$
				DECLARE
					waiting CONSTANT boolean := mercure.really_waiting(state);
				BEGIN
					PERFORM pg_advisory_xact_lock(1);
					RETURN waiting;
				END $$`)
			holder, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_xact_lock(1)"); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			var (
				group errgroup.Group
				state string
			)
			group.Go(func() (err error) {
				defer close(ended)
				state, err = look(t.Context(), queries, &drained.State)
				return err
			})
			awaitBlocked(t, pool, "mercure."+name+"(", 1, ended)
			exec(t, pool, "SELECT mercure.publish('a', 'meanwhile')")
			if err := holder.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			if again, err := queries.Drain(t.Context(), &state, 100); err != nil || again.Moved != 1 {
				t.Errorf("the next drain moved %d rows, %v", again.Moved, err)
			}
		})
	}
}
