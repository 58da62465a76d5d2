package dbtest

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/localpg"
	"github.com/cinnabar-hub/cinnabar/migrations"
)

func TestMain(m *testing.M) {
	if os.Getenv(childMode) == withoutMain {
		os.Exit(m.Run())
	}
	Main(m)
}

func value[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestNew(t *testing.T) {
	t.Parallel()
	a, b, empty := New(t), New(t), NewEmpty(t)
	if a.URL == b.URL {
		t.Fatalf("two tests share %s", a.URL)
	}
	const migrated = `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'mercure')`
	for d, want := range map[*DB]bool{a: true, b: true, empty: false} {
		conn := d.Conn(t)
		if got := value[bool](t, conn, migrated); got != want {
			t.Errorf("%s is migrated: %t", d.URL, got)
		}
		if got := value[string](t, conn, `SHOW server_encoding`); got != "UTF8" {
			t.Errorf("encoding is %s", got)
		}
	}
	pool := a.Pool(t)
	if _, err := pool.Exec(t.Context(), `CREATE TABLE only_here ()`); err != nil {
		t.Fatal(err)
	}
	if got := value[bool](t, b.Conn(t), `SELECT to_regclass('only_here') IS NULL`); !got {
		t.Error("a table of one database is in the other")
	}
}

func TestDatabasesAreDropped(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("use", func(t *testing.T) {
		conn := New(t).Conn(t)
		name = value[string](t, conn, `SELECT current_database()`)
		if !strings.HasSuffix(name, "_testdatabasesaredropped_use") {
			t.Errorf("%s does not tell the test", name)
		}
	})
	const q = `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`
	if value[bool](t, NewEmpty(t).Conn(t), q, name) {
		t.Errorf("%s is still there", name)
	}
}

func TestNewServer(t *testing.T) {
	t.Parallel()
	s := NewServer(t, "max_connections=11", "application_name=a=b")
	if err := s.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := s.DB.Conn(t)
	if got := value[string](t, conn, `SHOW max_connections`); got != "11" {
		t.Errorf("max_connections is %s", got)
	}
	if got := value[bool](t, conn, `SELECT to_regnamespace('mercure') IS NOT NULL`); !got {
		t.Error("the migrations are gone")
	}
}

// recorder is a test that can be declared failed.
type recorder struct {
	testing.TB
	failed   bool
	cleanups []func()
	logged   []string
}

func (r *recorder) Failed() bool     { return r.failed }
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Logf(format string, args ...any) {
	for _, a := range args {
		if s, ok := a.(string); ok {
			r.logged = append(r.logged, s)
		}
	}
}

func (r *recorder) finish() {
	for _, v := range slices.Backward(r.cleanups) {
		v()
	}
}

// externalServer is a server as CINNABAR_TEST_DATABASE_URL would name one.
func externalServer(t *testing.T) (url string) {
	t.Helper()
	s, err := localpg.Start(t.Context(), localpg.Options{Throwaway: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s.URL("")
}

func open(t *testing.T, url string) *cluster {
	t.Helper()
	c, err := openCluster(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testDatabases(t *testing.T, url string) []string {
	t.Helper()
	conn := (&DB{URL: url}).Conn(t)
	rows, err := conn.Query(t.Context(), `SELECT datname FROM pg_database WHERE starts_with(datname, $1)`, testPrefix)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestExternalServer(t *testing.T) {
	t.Parallel()
	url := externalServer(t)
	conn := (&DB{URL: url}).Conn(t)

	// A template whose builder was killed.
	name, err := templateName(migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}

	// Several test binaries at once.
	var binaries errgroup.Group
	for range 4 {
		binaries.Go(func() error {
			c, err := openCluster(t.Context(), url)
			if err != nil {
				return err
			}
			err = c.administer(t.Context(), func(a *admin) error { return c.ensureTemplate(t.Context(), a) })
			return errors.Join(err, c.close())
		})
	}
	if err := binaries.Wait(); err != nil {
		t.Fatal(err)
	}
	if !value[bool](t, conn, `SELECT datistemplate AND NOT datallowconn FROM pg_database WHERE datname = $1`, name) {
		t.Errorf("%s is not a template", name)
	}

	live, dead := open(t, url), open(t, url)
	passed, failed := &recorder{TB: t}, &recorder{TB: t, failed: true}
	live.newDB(t.Context(), passed, true)
	kept := live.newDB(t.Context(), failed, true)
	dead.newDB(t.Context(), &recorder{TB: t}, true)
	if got := testDatabases(t, url); len(got) != 3 {
		t.Fatalf("databases: %q", got)
	}
	passed.finish()
	failed.finish()
	if len(failed.logged) != 1 || failed.logged[0] != kept.URL {
		t.Errorf("a failed test logs %q, want the URL %s", failed.logged, kept.URL)
	}
	if got := value[string](t, kept.Conn(t), `SELECT current_database()`); !strings.Contains(kept.URL, got) {
		t.Errorf("%s leads to %s", kept.URL, got)
	}
	if err := dead.close(); err != nil { // without having dropped its database
		t.Fatal(err)
	}
	inUse := live.newDB(t.Context(), &recorder{TB: t}, false)
	next := open(t, url)
	if got := testDatabases(t, url); len(got) != 2 {
		t.Errorf("left are %q, want the kept one and the one in use", got)
	}
	inUse.Conn(t)
	for _, c := range []*cluster{live, next} {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}
}

func TestURLsOfDifferentDatabases(t *testing.T) {
	t.Parallel()
	url := externalServer(t)
	if _, err := (&DB{URL: url}).Conn(t).Exec(t.Context(), `CREATE DATABASE other`); err != nil {
		t.Fatal(err)
	}
	live := open(t, databaseURL(url, "other"))
	r := &recorder{TB: t}
	inUse := live.newDB(t.Context(), r, false)
	next := open(t, url)
	inUse.Conn(t)
	r.finish()
	for _, c := range []*cluster{live, next} {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}
}

func TestPrivateServerOfAFailedTest(t *testing.T) {
	t.Parallel()
	c, err := startCluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{TB: t, failed: true}
	c.newDB(t.Context(), r, false)
	r.finish()
	if len(r.logged) != 1 || r.logged[0] != urlVariable {
		t.Errorf("logged %q, want the name of the variable", r.logged)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
}

func TestUnreachableServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := openCluster(ctx, "postgres://nobody@127.0.0.1:1/x")
	if err == nil || !strings.Contains(err.Error(), urlVariable) {
		t.Errorf("got %v", err)
	}
}

func TestDatabaseURL(t *testing.T) {
	t.Parallel()
	tests := []struct{ server, want string }{
		{"postgres://u:p@h:1/a?sslmode=disable", "postgres://u:p@h:1/b?sslmode=disable"},
		{"postgresql://h", "postgresql://h/b"},
		{"postgres://h/?dbname=a", "postgres://h/b"},
		{"host=h dbname=a", "host=h dbname=a dbname=b"},
	}
	for _, tt := range tests {
		got := databaseURL(tt.server, "b")
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.server, got, tt.want)
		}
		config, err := pgx.ParseConfig(got)
		if err != nil || config.Database != "b" {
			t.Errorf("%s is understood as %+v, %v", got, config, err)
		}
	}
}

func TestDatabaseName(t *testing.T) {
	t.Parallel()
	name := databaseName(0x1234abcd, 12, "TestÄ/"+strings.Repeat("long", 30))
	if !strings.HasPrefix(name, "cinnabar_test_1234abcd_12_test__long") || len(name) != 63 {
		t.Errorf("got %s, %d bytes", name, len(name))
	}
	if run, ok := runOf(name); !ok || run != 0x1234abcd {
		t.Errorf("got run %x, %t", run, ok)
	}
	for _, other := range []string{"cinnabar_test_", "cinnabar_test_mine", "cinnabar_test_12345678"} {
		if run, ok := runOf(other); ok {
			t.Errorf("%s is taken for run %x", other, run)
		}
	}
}

func TestTemplateName(t *testing.T) {
	t.Parallel()
	seen := make(map[string]string)
	for label, files := range map[string]fstest.MapFS{
		"one":     {"1.sql": {Data: []byte("a")}},
		"content": {"1.sql": {Data: []byte("b")}},
		"name":    {"2.sql": {Data: []byte("a")}},
		"two":     {"1.sql": {Data: []byte("a")}, "2.sql": {Data: []byte("a")}},
	} {
		name, err := templateName(files)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%s and %s are both %s", label, other, name)
		}
		seen[name] = label
	}
}

func BenchmarkNew(b *testing.B) {
	New(b) // the server and the template
	for b.Loop() {
		r := &recorder{TB: b}
		newDB(r, true)
		r.finish()
	}
}
