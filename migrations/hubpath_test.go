package migrations_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/migrations"
)

func setHubPath(t *testing.T, database *dbtest.DB, path string) {
	t.Helper()
	if changed, err := (migrations.Runner{DatabaseURL: database.URL}).SetHubPath(t.Context(), path); err != nil || !changed {
		t.Fatalf("set the path to %s: %v, %v", path, changed, err)
	}
}

func refused(err error) bool {
	return err != nil && strings.Contains(err.Error(), "namespace reserved for the hub")
}

// hub_path is a constant to PostgreSQL: sessions that have used the old one, in
// plans they keep, must see the new one all the same. Spec: E-19, N-2.
func TestOpenSessionsSeeTheNewHubPath(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	conn := database.Conn(t)
	for name, sql := range map[string]string{
		"outbox": "INSERT INTO mercure.outbox (topics) VALUES (ARRAY[$1])",
		"log":    "INSERT INTO mercure.updates (topics) VALUES (ARRAY[$1])",
		"call":   "SELECT mercure.publish($1::text)",
	} {
		if _, err := conn.Prepare(t.Context(), name, sql); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(t.Context(), "SET plan_cache_mode = force_generic_plan"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/.well-known/mercure", "/push/hub", "/a/~b", "/.well-known/mercure"} {
		if path != value[string](t, database.Pool(t), "SELECT mercure.hub_path()") {
			setHubPath(t, database, path)
		}
		for _, statement := range []string{"outbox", "log", "call"} {
			for topic, reserved := range map[string]bool{
				"/.well-known/mercure/x": path == "/.well-known/mercure", "/push/hub/x": path == "/push/hub", "/a/%7Eb/x": path == "/a/~b",
				"https://example.com/books/1": false,
			} {
				if _, err := conn.Exec(t.Context(), statement, topic); refused(err) != reserved || err != nil && !reserved {
					t.Errorf("at %s, %s %s: got %v, want reserved = %v", path, statement, topic, err, reserved)
				}
			}
		}
	}
}

func TestHubPathIsNotTakenFromConnectedHubs(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hub := database.Conn(t)
	if _, err := hub.Exec(t.Context(), "SELECT pg_advisory_lock_shared(hashtextextended('mercure.hub_path', 0))"); err != nil {
		t.Fatal(err)
	}
	runner := migrations.Runner{DatabaseURL: database.URL}
	if changed, err := runner.SetHubPath(t.Context(), "/.well-known/mercure"); err != nil || changed {
		t.Errorf("the same path: %v, %v", changed, err)
	}
	_, err := runner.SetHubPath(t.Context(), "/push/hub")
	var wrong *migrations.HubPathError
	if !errors.As(err, &wrong) || !wrong.InUse || !strings.Contains(err.Error(), "stop the others first") {
		t.Errorf("got %v", err)
	}
	if err := hub.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	setHubPath(t, database, "/push/hub")
	if path, err := runner.HubPath(t.Context()); path != "/push/hub" || err != nil {
		t.Errorf("the path is %q, %v", path, err)
	}
}

// What was published before the move, and is reserved after it, is not
// delivered. Transactions that are still open are waited for.
func TestHubPathMovesOverTheOutbox(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	exec(t, pool, "INSERT INTO mercure.outbox (topics) VALUES ('{a}'), ('{b,/push/hub/subscriptions/x}')")
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT mercure.publish('/push/hub')"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := migrations.Runner{DatabaseURL: database.URL}.SetHubPath(t.Context(), "/push/hub")
		done <- err
	}()
	waitFor(t, pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'mercure.outbox'::regclass)")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if left := value[[]string](t, pool, "SELECT array_agg(topics[1] ORDER BY seq) FROM mercure.outbox"); len(left) != 1 || left[0] != "a" {
		t.Errorf("the outbox holds %q", left)
	}
	if n := value[int](t, pool, "SELECT count(*) FROM mercure.rejected WHERE reason LIKE '%moved to /push/hub'"); n != 2 {
		t.Errorf("%d rows were rejected, want 2", n)
	}
}

// waitFor asks until the answer is yes.
func waitFor(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !value[bool](t, pool, sql); {
		if time.Now().After(deadline) {
			t.Fatalf("never true: %s", sql)
		}
	}
}

// Hubs from before this migration are at the default path, whatever the
// database says.
func TestOlderHubsKnowOnlyTheDefaultPath(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	oldest := func() int { return value[int](t, pool, "SELECT max(oldest_hub) FROM mercure.schema_version") }
	before := oldest()
	setHubPath(t, database, "/push/hub")
	if got := oldest(); got != 6 {
		t.Errorf("at another path the oldest hub is %d, want 6", got)
	}
	setHubPath(t, database, "/.well-known/mercure")
	if got := oldest(); got != before {
		t.Errorf("back at the default path the oldest hub is %d, want %d", got, before)
	}
}

func TestHubPathNeedsItsOwnerAndAPath(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	for _, path := range []string{"", "push/hub", "/é", "/a b", `/a\b`, "/a?b", "/a#b", "/'", "https://x/y"} {
		_, err := pool.Exec(t.Context(), "SELECT mercure.set_hub_path($1)", path)
		if accepted := err == nil; accepted != (path == "/'") {
			t.Errorf("path %q: %v", path, err)
		}
	}
	if got := value[string](t, pool, "SELECT mercure.hub_path()"); got != "/'" {
		t.Errorf("the path is %q", got)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), "SET LOCAL ROLE mercure_publisher"); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT mercure.set_hub_path('/x')"); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a publisher set the path: %v", err)
	}
}

func TestHubPathOfAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	database := dbtest.NewEmpty(t)
	if path, err := (migrations.Runner{DatabaseURL: database.URL}).HubPath(t.Context()); path != "" || err != nil {
		t.Errorf("got %q, %v", path, err)
	}
}
