package server_test

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

func debugLogger(lines logLines) *slog.Logger {
	return slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// fillLog puts numbered updates into the log and returns their ids.
func fillLog(t *testing.T, database *dbtest.DB, updates int) (ids []string) {
	t.Helper()
	hub := servertest.Start(t, database, func(c *server.Config) { c.TailBytes = 0 })
	conn := database.Conn(t)
	first := newReader(t, hub, "", 0)
	insertNumbered(t, conn, 1, updates, 10)
	if err := first.read(1, updates); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), "SELECT id FROM mercure.updates ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	if ids, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		t.Fatal(err)
	}
	hub.Stop()
	if err := hub.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return ids
}

// A node has died, and its streams come to one that has just started: as far as
// its memory reaches, PostgreSQL is not asked for any of them.
func TestReconnectStorm(t *testing.T) {
	t.Parallel()
	const streams, updates = 1000, 2000
	database := dbtest.New(t)
	ids := fillLog(t, database, updates)
	proxy := dbtest.NewProxy(t, database)
	hub := servertest.Start(t, proxy.DB, func(c *server.Config) { c.TailBytes = 16 << 20 })
	const finds, pages = "name: FirstPositionsOfIDs", "name: PageAfter"
	proxy.Count(finds)
	proxy.Count(pages)
	var group errgroup.Group
	group.SetLimit(100)
	for i := range streams {
		group.Go(func() error {
			missed := i % 500
			r, err := openReader(t.Context(), hub, ids[updates-1-missed], 0)
			if err != nil {
				return err
			}
			defer func() { _ = r.body.Close() }()
			return r.read(updates-missed+1, updates)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	// The node itself looks every second or two whether the log has grown.
	if n, m := proxy.Count(finds), proxy.Count(pages); n > 0 || m > streams/20 {
		t.Errorf("%d streams made the hub look up %d cursors and read %d pages", streams, n, m)
	}
}

// Readers of the whole history take turns with those who missed a little.
func TestGreedyReplaysKeepNobodyWaiting(t *testing.T) {
	t.Parallel()
	const greedy, small, updates = 8, 20, 50_000 // eight are more than read at a time
	database := dbtest.New(t)
	ids := fillLog(t, database, updates)
	hub := servertest.Start(t, database, func(c *server.Config) { c.TailBytes = 10_000 })
	var (
		greedyOnes, smallOnes errgroup.Group
		done                  atomic.Int32
		begun                 = make(chan struct{}, greedy)
	)
	for range greedy {
		r := newReader(t, hub, "earliest", 0)
		greedyOnes.Go(func() error {
			err := r.read(1, 1)
			begun <- struct{}{}
			if err == nil {
				err = r.read(2, updates)
			}
			done.Add(1)
			return err
		})
	}
	for range greedy {
		<-begun
	}
	for i := range small {
		smallOnes.Go(func() error {
			at := updates - 1000 - i
			r, err := openReader(t.Context(), hub, ids[at-1], 0)
			if err != nil {
				return err
			}
			defer func() { _ = r.body.Close() }()
			if err := r.read(at+1, updates); err != nil {
				return fmt.Errorf("resume after %d: %w", at, err)
			}
			return nil
		})
	}
	if err := smallOnes.Wait(); err != nil {
		t.Error(err)
	}
	if n := done.Load(); n > 0 {
		t.Errorf("%d of %d replays of everything were done before those who had missed a little", n, greedy)
	}
	if err := greedyOnes.Wait(); err != nil {
		t.Error(err)
	}
}
