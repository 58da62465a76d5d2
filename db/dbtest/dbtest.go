// Package dbtest gives every test a PostgreSQL database of its own, cloned from a template that has all migrations.
//
//	func TestMain(m *testing.M) { dbtest.Main(m) }
//
//	func TestAppend(t *testing.T) {
//		t.Parallel()
//		pool := dbtest.New(t).Pool(t)
//		...
//	}
//
// Each test binary starts a private server (package localpg) when the first test asks for a database, without fsync. It
// is not shared with the other binaries of one `go test ./...`: a start costs about a second per binary (initdb 0.6 s,
// start 0.1 s, migrations 0.15 s), against which a shared one would need somebody to know when the last binary has
// ended, and would let a test that breaks the server, or uses up its connections, fail tests of other packages. Nothing
// is left behind however the binary ends: [Main] stops the server, and the watchdog of localpg does in its absence. A
// database costs 21 ms where localpg can work in memory, else up to 0.3 s (BenchmarkNew).
//
// When CINNABAR_TEST_DATABASE_URL is set, that server is used instead; its role must be allowed to create databases and
// to log in to the database `postgres`, and the URL must not lead through a pooler. The template is then shared by all binaries and all runs, under a name
// that contains the hash of the migrations; templates of other migrations stay until somebody drops them. A test that
// fails keeps its database and prints the URL. Databases that killed binaries left behind are dropped by the next one.
//
// Nothing here skips: a test without PostgreSQL fails, with a message that says what to install or to set.
package dbtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/cinnabar-hub/cinnabar/db/localpg"
	"github.com/cinnabar-hub/cinnabar/migrations"
)

// urlVariable names another server to use.
const urlVariable = "CINNABAR_TEST_DATABASE_URL"

const (
	// setupTimeout bounds what a test waits for its database. Normally that is 0.1 s, and a second or two for the
	// first one; a machine that compiles beside it, and a template that another binary is building, need more.
	setupTimeout = 2 * time.Minute
	// cleanupTimeout bounds dropping a database and closing connections, which takes milliseconds on an idle machine.
	cleanupTimeout = time.Minute
)

// DB is a database that belongs to one test and is dropped after it.
type DB struct {
	// URL is the address of the database, password included.
	URL string
}

// New returns a new database with all migrations.
func New(t testing.TB) *DB {
	t.Helper()
	return newDB(t, true)
}

// NewEmpty returns a new database without any migration.
func NewEmpty(t testing.TB) *DB {
	t.Helper()
	return newDB(t, false)
}

func newDB(t testing.TB, migrated bool) *DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), setupTimeout)
	defer cancel()
	c, err := binary.get(ctx)
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	return c.newDB(ctx, t, migrated)
}

// Pool returns a pool of connections to the database. It is closed when t ends; t fails if it still holds connections
// then, since closing would wait for them.
func (d *DB) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), setupTimeout)
	defer cancel()
	pool, err := pgxpool.New(ctx, d.URL)
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	t.Cleanup(func() {
		closed := make(chan struct{})
		go func() { // ends when all connections have been released
			pool.Close()
			close(closed)
		}()
		select {
		case <-closed:
		case <-time.After(cleanupTimeout):
			t.Errorf("dbtest: %d connections of the pool were not released", pool.Stat().AcquiredConns())
		}
	})
	if err := pool.Ping(ctx); err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	return pool
}

// Conn returns a connection to the database, which is closed when t ends.
func (d *DB) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), setupTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, d.URL)
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		_ = conn.Close(ctx) // the test may have closed or broken it
	})
	return conn
}

// Server is a private PostgreSQL that belongs to one test.
type Server struct {
	*localpg.Server

	// DB is a database with all migrations. It is there again after a crash and a restart.
	DB *DB
}

// NewServer starts a private PostgreSQL for tests that interrupt it. Settings are of the form name=value. It needs
// installed binaries also when CINNABAR_TEST_DATABASE_URL is set, and it takes a second: use [New] where that will do.
func NewServer(t testing.TB, settings ...string) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), setupTimeout)
	defer cancel()
	parsed, err := parseSettings(settings)
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	server, err := localpg.Start(ctx, localpg.Options{
		Database:    "cinnabar",
		Settings:    parsed,
		Throwaway:   true,
		URLVariable: "-", // no other server could be interrupted
	})
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Errorf("dbtest: %v", err)
		}
	})
	s := &Server{Server: server, DB: &DB{URL: server.URL("cinnabar")}}
	if err := migrations.Up(ctx, s.DB.URL); err != nil {
		t.Fatalf("dbtest: migrate: %v", err)
	}
	return s
}

// Main is for TestMain. It runs the tests, stops the server of this binary, and fails a run that leaves goroutines
// behind; options are for goroutines that are known to stay. It does not return.
func Main(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	if err := binary.close(); err != nil {
		fmt.Fprintf(os.Stderr, "dbtest: %v\n", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(options...); err != nil {
			fmt.Fprintf(os.Stderr, "dbtest: goroutines were left running: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// binary is the cluster that the tests of this test binary share.
var binary lazyCluster

// lazyCluster opens a cluster once.
type lazyCluster struct {
	once    sync.Once
	cluster *cluster
	err     error
}

// get opens the cluster unless that was tried before. Tests that come in the meantime wait: none could go on.
func (l *lazyCluster) get(ctx context.Context) (*cluster, error) {
	l.once.Do(func() {
		// One test's end must not decide for the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), setupTimeout)
		defer cancel()
		if url := os.Getenv(urlVariable); url != "" {
			l.cluster, l.err = openCluster(ctx, url)
		} else {
			l.cluster, l.err = startCluster(ctx)
		}
	})
	if l.err != nil {
		return nil, l.err
	}
	return l.cluster, l.cluster.alive()
}

// close ends what get began, and keeps it from beginning.
func (l *lazyCluster) close() error {
	l.once.Do(func() { l.err = errors.New("the tests are over") })
	if l.cluster == nil {
		return nil
	}
	return l.cluster.close()
}
