package eventlog_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
)

// Whoever appends waits for those who have taken positions and have not
// committed them. That is what makes positions appear in their order.
//
// Spec: H-8.
func TestAppendsWaitForEachOther(t *testing.T) {
	t.Parallel()
	const drain = "mercure.drain("
	calls := map[string]func(ctx context.Context, q *db.Queries) error{
		"mercure.append(": func(ctx context.Context, q *db.Queries) error {
			_, err := q.AppendBatch(ctx, batch(uuid.New(), "http"))
			return err
		},
		drain: func(ctx context.Context, q *db.Queries) error {
			_, err := q.Drain(ctx, nil, 1)
			return err
		},
	}
	for first, begin := range calls {
		for second, follow := range calls {
			t.Run(first+" "+second, func(t *testing.T) {
				t.Parallel()
				pool := dbtest.New(t).Pool(t)
				if _, err := db.New(pool).Drain(t.Context(), nil, 1); err != nil { // writes once for each run of the server
					t.Fatal(err)
				}
				const insert = "INSERT INTO mercure.outbox (topics) VALUES ('{a}')"
				if first == drain {
					exec(t, pool, insert) // else it has nothing to append
				}
				tx, err := pool.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = tx.Rollback(context.Background()) }()
				if err := begin(t.Context(), db.New(tx)); err != nil {
					t.Fatal(err)
				}
				exec(t, pool, insert) // which the first has not touched
				ended := make(chan struct{})
				var group errgroup.Group
				group.Go(func() error {
					defer close(ended)
					return follow(t.Context(), db.New(pool))
				})
				eventlog.AwaitBlocked(t, pool, second, 1, ended)
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
			exec(t, pool, `ALTER FUNCTION mercure.log_state(text, text) RENAME TO real_log_state;
				CREATE FUNCTION mercure.log_state(state text, run text, OUT head bigint, OUT last_given bigint, OUT complete text, OUT waiting boolean)
				LANGUAGE plpgsql AS $$
				BEGIN
					SELECT s.* INTO head, last_given, complete, waiting FROM mercure.real_log_state(state, run) AS s;
					PERFORM pg_advisory_xact_lock(1);
				END $$`)
			holder, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = holder.Rollback(context.Background()) }()
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
			eventlog.AwaitBlocked(t, pool, "mercure."+name+"(", 1, ended)
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
