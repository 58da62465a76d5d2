package migrations_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/migrations"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func value[T any](t *testing.T, pool *pgxpool.Pool, sql string) (v T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Rules that every file keeps, so that whoever writes the next one learns of
// them here.
func TestFilesKeepTheRules(t *testing.T) {
	t.Parallel()
	entries, err := migrations.FS.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for i, entry := range entries {
		content, err := migrations.FS.ReadFile(entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		version, _, _ := strings.Cut(entry.Name(), "_")
		if n, err := strconv.Atoi(version); err != nil || n != i+1 {
			t.Errorf("%s: numbers go up by one", entry.Name())
		}
		up, down, _ := strings.Cut(string(content), "-- +goose Down")
		for part, text := range map[string]string{"up": up, "down": down} {
			if !regexp.MustCompile(`(?m)^SET LOCAL lock_timeout = '\d+s';$`).MatchString(text) {
				t.Errorf("%s: %s sets no lock_timeout", entry.Name(), part)
			}
		}
		if !strings.Contains(up, "INSERT INTO mercure.schema_version (version, oldest_hub) VALUES ("+strconv.Itoa(i+1)+", ") {
			t.Errorf("%s: does not record the oldest hub that works with it", entry.Name())
		}
	}
	if migrations.Latest() != int64(len(entries)) {
		t.Errorf("Latest is %d, there are %d files", migrations.Latest(), len(entries))
	}
}

func TestUpAndDownAndUp(t *testing.T) {
	t.Parallel()
	database := dbtest.NewEmpty(t)
	pool := database.Pool(t)
	runner := migrations.Runner{DatabaseURL: database.URL}
	before := objects(t, pool)
	for range 2 {
		applied, err := runner.Up(t.Context())
		if err != nil || len(applied) != int(migrations.Latest()) {
			t.Fatalf("up: %d applied, %v", len(applied), err)
		}
		if again, err := runner.Up(t.Context()); err != nil || len(again) != 0 {
			t.Fatalf("up again: %d applied, %v", len(again), err)
		}
		if err := migrations.Check(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		for {
			undone, err := runner.Down(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if undone == nil {
				break
			}
		}
		if after := objects(t, pool); !slices.Equal(after, before) {
			t.Errorf("down leaves %q", after)
		}
	}
	list, err := runner.Status(t.Context())
	if err != nil || len(list) != int(migrations.Latest()) || !list[0].AppliedAt.IsZero() {
		t.Errorf("status: %+v, %v", list, err)
	}
	if !value[bool](t, pool, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mercure_publisher')") {
		t.Error("down dropped the role, which other databases may use")
	}
}

// A log of millions of updates must not keep publishers waiting until it has
// been read: newer migrations neither read it nor write it anew.
func TestLogIsNotReadThrough(t *testing.T) {
	t.Parallel()
	const firstRelease = 7
	database := dbtest.New(t)
	pool := database.Pool(t)
	runner := migrations.Runner{DatabaseURL: database.URL}
	exec(t, pool, "INSERT INTO mercure.outbox (topics) SELECT '{a}' FROM generate_series(1, 100)")
	exec(t, pool, "SELECT mercure.drain(NULL, 1000)")
	for value[int](t, pool, "SELECT max(version) FROM mercure.schema_version") > firstRelease {
		if _, err := runner.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// A session counts its scans before it leaves the list of sessions.
	scans := func() string {
		exec(t, pool, "SELECT pg_stat_force_next_flush()")
		for value[int](t, pool, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'cinnabar migrate'") > 0 {
			runtime.Gosched()
		}
		return value[string](t, pool, "SELECT concat(pg_relation_filenode(relid), ' ', seq_scan) FROM pg_stat_user_tables WHERE relid = 'mercure.updates'::regclass")
	}
	before := scans()
	if _, err := runner.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := scans(); after != before {
		t.Errorf("file and scans of the log were %s, are %s", before, after)
	}
}

// objects lists what is in the database besides goose's own table.
func objects(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		SELECT oid::regclass::text FROM pg_class WHERE relnamespace >= 16384 OR relnamespace = 'public'::regnamespace AND relname NOT LIKE 'mercure_goose%'
		UNION ALL SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace >= 16384 OR pronamespace = 'public'::regnamespace
		UNION ALL SELECT nspname FROM pg_namespace WHERE oid >= 16384 AND nspname NOT LIKE 'pg_%'
		ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestNodesThatStartAtOnce(t *testing.T) {
	t.Parallel()
	database := dbtest.NewEmpty(t)
	var (
		group errgroup.Group
		mu    sync.Mutex
		total int
	)
	for range 5 {
		group.Go(func() error {
			applied, err := migrations.Runner{DatabaseURL: database.URL}.Up(t.Context())
			mu.Lock()
			defer mu.Unlock()
			total += len(applied)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if total != int(migrations.Latest()) {
		t.Errorf("%d migrations applied, want each once", total)
	}
}

func TestSchemaThatDoesNotFit(t *testing.T) {
	t.Parallel()
	t.Run("empty", func(t *testing.T) {
		t.Parallel()
		err := migrations.Check(t.Context(), dbtest.NewEmpty(t).Pool(t))
		var tooOld *migrations.TooOldError
		if !errors.As(err, &tooOld) || !strings.Contains(err.Error(), "cinnabar migrate up") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("newer, and needs a newer hub", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		pool := database.Pool(t)
		exec(t, pool, "INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (99, 98)")
		var tooNew *migrations.TooNewError
		if err := migrations.Check(t.Context(), pool); !errors.As(err, &tooNew) || !strings.Contains(err.Error(), "upgrade this hub") {
			t.Errorf("check: %v", err)
		}
		if _, err := (migrations.Runner{DatabaseURL: database.URL}).Up(t.Context()); !errors.As(err, &tooNew) {
			t.Errorf("up: %v", err)
		}
	})
	t.Run("newer, and works with this hub", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		pool := database.Pool(t)
		exec(t, pool, "INSERT INTO mercure.schema_version (version, oldest_hub) VALUES (99, 1)")
		if err := migrations.Check(t.Context(), pool); err != nil {
			t.Errorf("check: %v", err)
		}
		if applied, err := (migrations.Runner{DatabaseURL: database.URL}).Up(t.Context()); err != nil || len(applied) > 0 {
			t.Errorf("up: %d applied, %v", len(applied), err)
		}
	})
	t.Run("migrated under another table", func(t *testing.T) {
		t.Parallel()
		database := dbtest.New(t)
		pool := database.Pool(t)
		exec(t, pool, "ALTER TABLE "+migrations.VersionTable+" RENAME TO goose_db_version")
		exec(t, pool, "DELETE FROM mercure.schema_version WHERE version > 3")
		_, err := migrations.Runner{DatabaseURL: database.URL}.Up(t.Context())
		var foreign *migrations.ForeignVersionTableError
		if !errors.As(err, &foreign) || !strings.Contains(err.Error(), "-table "+migrations.VersionTable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another encoding", func(t *testing.T) {
		t.Parallel()
		pool := dbtest.NewEmpty(t).Pool(t)
		name := value[string](t, pool, "SELECT 'latin1_' || substr(md5(current_database()), 1, 12)")
		exec(t, pool, `CREATE DATABASE "`+name+`" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`)
		t.Cleanup(func() {
			_, _ = pool.Exec(context.Background(), `DROP DATABASE "`+name+`"`)
		})
		address, err := url.Parse(pool.Config().ConnString())
		if err != nil {
			t.Fatal(err)
		}
		address.Path = "/" + name
		if err := migrations.Up(t.Context(), address.String()); err == nil || !strings.Contains(err.Error(), "the hub needs UTF8") {
			t.Errorf("got %v", err)
		}
	})
}

// What the role may do, and nothing else.
func TestPublisherRole(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	for sql, allowed := range map[string]bool{
		"INSERT INTO mercure.outbox (topics, data, private, type, retry, id) VALUES ('{a}', 'x', true, 't', 1, 'i')": true,
		"INSERT INTO mercure.outbox (topics) VALUES ('{a}') RETURNING id":                                            true,
		"INSERT INTO mercure.updates (topics, data) VALUES ('{a}', 'x')":                                             true,
		"SELECT mercure.publish('a', 'x')":                                                                           true,
		"SELECT mercure.publish(ARRAY['a', 'b'], 'x')":                                                               true,
		"SELECT mercure.publish('a', '{}'::jsonb), mercure.publish('{a}'::text[], '{}'::json)":                       true,
		"INSERT INTO mercure.outbox (topics, xid) VALUES ('{a}', '1')":                                               false,
		"INSERT INTO mercure.updates (position, topics, size) VALUES (1, '{a}', 1)":                                  false,
		"SELECT data FROM mercure.outbox":                                                                            false,
		"SELECT data FROM mercure.updates":                                                                           false,
		"SELECT id FROM mercure.updates":                                                                             false,
		"DELETE FROM mercure.outbox":                                                                                 false,
		"UPDATE mercure.outbox SET data = ''":                                                                        false,
		"SELECT mercure.drain(NULL, 1)":                                                                              false,
		"SELECT mercure.fence_batch(gen_random_uuid())":                                                              false,
		"SELECT mercure.arm_doorbell()":                                                                              false,
		"SELECT setval('mercure.doorbell', 1)":                                                                       false,
		"LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE":                                                           false,
		"SELECT nextval('mercure.updates_position_seq')":                                                             false,
		"TABLE mercure.rejected":                                                                                     false,
	} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "SET LOCAL ROLE mercure_publisher"); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), sql)
			return err
		})
		var pgErr *pgconn.PgError
		refused := errors.As(err, &pgErr) && pgErr.Code == "42501"
		if allowed != (err == nil) || !allowed && !refused {
			t.Errorf("%s: %v; allowed should be %v", sql, err, allowed)
		}
	}
}

// A publisher that puts functions of its own in front of ours must not get
// around the checks.
func TestChecksIgnoreTheCallersSearchPath(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	exec(t, pool, "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO mercure_publisher")
	for _, f := range []string{
		"starts_with(text, text) RETURNS boolean LANGUAGE sql RETURN false",
		"cardinality(text[]) RETURNS integer LANGUAGE sql RETURN 1",
		"position(text, text) RETURNS integer LANGUAGE sql RETURN 0",
		"octet_length(text) RETURNS integer LANGUAGE sql RETURN 0",
		"strpos(text, text) RETURNS integer LANGUAGE sql RETURN 0",
		"hashtextextended(text, integer) RETURNS bigint LANGUAGE sql RETURN 0",
	} {
		exec(t, pool, "CREATE FUNCTION evil."+f)
	}
	for topic, allowed := range map[string]bool{"/.well-known/mercure/subscriptions/x": false, strings.Repeat("x", 5000): false, "https://example.com/": true} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			for _, sql := range []string{"SET LOCAL ROLE mercure_publisher", "SET LOCAL search_path = evil, pg_catalog"} {
				if _, err := tx.Exec(t.Context(), sql); err != nil {
					return err
				}
			}
			_, err := tx.Exec(t.Context(), "INSERT INTO mercure.outbox (topics) VALUES (ARRAY[$1])", topic)
			return err
		})
		if allowed != (err == nil) {
			t.Errorf("%.40s: %v; allowed should be %v", topic, err, allowed)
		}
	}
	hash := "SELECT mercure.topic_hashes('{a}') = ARRAY[pg_catalog.hashtextextended('a', 0)]"
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SET LOCAL search_path = evil, pg_catalog"); err != nil {
			return err
		}
		var same bool
		if err := tx.QueryRow(t.Context(), hash).Scan(&same); err != nil || !same {
			t.Errorf("topic_hashes uses a function of the caller's: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Where execution is not granted by default, the role can publish all the same.
func TestPublisherRoleWithoutDefaultPrivileges(t *testing.T) {
	t.Parallel()
	database := dbtest.NewEmpty(t)
	pool := database.Pool(t)
	exec(t, pool, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
	if err := migrations.Up(t.Context(), database.URL); err != nil {
		t.Fatal(err)
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SET LOCAL ROLE mercure_publisher"); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), "SELECT mercure.publish('https://example.com/%20', 'x', type => 't', id => 'i')")
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// An owner who may not create roles gets a working hub and the statements to
// run for publishers.
func TestOwnerMayNotCreateRoles(t *testing.T) {
	t.Parallel()
	server := dbtest.NewServer(t)
	pool := server.DB.Pool(t)
	exec(t, pool, "DROP OWNED BY mercure_publisher")
	exec(t, pool, "DROP ROLE mercure_publisher")
	exec(t, pool, "CREATE ROLE plain LOGIN PASSWORD 'plain'")
	exec(t, pool, "CREATE DATABASE theirs OWNER plain")
	address, err := url.Parse(server.URL("theirs"))
	if err != nil {
		t.Fatal(err)
	}
	admin := address.String()
	address.User = url.UserPassword("plain", "plain")

	var log bytes.Buffer
	runner := migrations.Runner{DatabaseURL: address.String(), Logger: slog.New(slog.NewJSONHandler(&log, nil))}
	if _, err := runner.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	printed := log.String()
	create := regexp.MustCompile(`CREATE ROLE [^;]+;`).FindString(printed)
	grants := regexp.MustCompile(`GRANT [^;]+;`).FindAllString(printed, -1)
	if create == "" || len(grants) != 12 {
		t.Fatalf("printed %s", printed)
	}
	run := func(url string, statements ...string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(context.Background()) }()
		for _, statement := range statements {
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Errorf("%s: %v", statement, err)
			}
		}
	}
	run(admin, create)
	run(address.String(), grants...)
	run(admin, "SET ROLE mercure_publisher", "SELECT mercure.publish('a', 'x')")
}
