package dbtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db/localpg"
	"github.com/cinnabar-hub/cinnabar/migrations"
)

// Names of our databases: test databases are cinnabar_test_RUN_NUMBER_TEST, where RUN is one test binary.
const (
	testPrefix     = "cinnabar_test_"
	templatePrefix = "cinnabar_template_"
)

// Advisory locks, of the form with two keys. A lock belongs to a database, so all are taken in [adminDatabase].
const (
	lockClass    = 0x63696e6e // first key of all of them
	templateLock = 0          // held while a template is built; also keeps migrations apart, which create roles
	// any other: the RUN of a test binary, held as long as it lives
)

// adminDatabase is where every test binary works, whichever database its URL names.
const adminDatabase = "postgres"

// cluster is the server that one test binary uses.
type cluster struct {
	server *localpg.Server // nil: not ours
	url    string          // of adminDatabase
	run    int32
	count  atomic.Int64 // of databases

	// admin carries the administration's connection and what is known through it: whoever has taken it from the
	// channel owns it. CREATE DATABASE is no faster in parallel.
	admin chan *admin
}

type admin struct {
	conn     *pgx.Conn // nil or closed: to be opened
	template string    // complete; empty: not looked for yet
}

// startCluster starts a private server.
func startCluster(ctx context.Context) (*cluster, error) {
	server, err := localpg.Start(ctx, localpg.Options{Throwaway: true, URLVariable: urlVariable})
	if err != nil {
		return nil, err
	}
	c := newCluster(server.URL(adminDatabase))
	c.server = server
	return c, nil
}

// openCluster uses a running server.
func openCluster(ctx context.Context, url string) (*cluster, error) {
	if _, err := pgx.ParseConfig(url); err != nil {
		return nil, fmt.Errorf("%s: %w", urlVariable, err)
	}
	c := newCluster(databaseURL(url, adminDatabase))
	if err := c.administer(ctx, func(a *admin) error { return sweep(ctx, a.conn) }); err != nil {
		return nil, errors.Join(fmt.Errorf("use the server of %s: %w", urlVariable, err), c.close())
	}
	return c, nil
}

func newCluster(url string) *cluster {
	c := &cluster{url: url, run: rand.Int32N(1<<31-2) + 1, admin: make(chan *admin, 1)}
	c.admin <- &admin{}
	return c
}

// alive returns why the private server has ended, if it has.
func (c *cluster) alive() error {
	if c.server == nil {
		return nil
	}
	return c.server.Err()
}

func (c *cluster) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	var err error
	select {
	case a := <-c.admin: // not put back: nothing can be administered any more
		if a.conn != nil {
			err = a.conn.Close(ctx)
		}
	case <-ctx.Done():
		err = errors.New("a test is still creating or dropping a database")
	}
	if c.server != nil {
		err = c.server.Stop() // whatever was wrong with the connection does not matter any more
	}
	return err
}

// administer lends the administration's connection to a function.
func (c *cluster) administer(ctx context.Context, do func(*admin) error) error {
	var a *admin
	select {
	case a = <-c.admin:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { c.admin <- a }()
	if a.conn == nil || a.conn.IsClosed() {
		conn, err := pgx.Connect(ctx, c.url)
		if err != nil {
			return err
		}
		a.conn = conn
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1, $2)`, lockClass, c.run); err != nil {
			return errors.Join(err, conn.Close(ctx))
		}
	}
	return do(a)
}

// newDB creates a database for t.
func (c *cluster) newDB(ctx context.Context, t testing.TB, migrated bool) *DB {
	t.Helper()
	name := databaseName(c.run, c.count.Add(1), t.Name())
	err := c.administer(ctx, func(a *admin) error {
		template := "template0"
		if migrated {
			if err := c.ensureTemplate(ctx, a); err != nil {
				return fmt.Errorf("build the template database: %w", err)
			}
			template = a.template
		}
		return create(ctx, a.conn, name, template)
	})
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	d := &DB{URL: databaseURL(c.url, name)}
	t.Cleanup(func() { c.release(t, name, d.URL) })
	return d
}

// release drops a test's database, or keeps it for a look at why the test failed.
func (c *cluster) release(t testing.TB, name, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	sql := "DROP DATABASE IF EXISTS " + quote(name) + " WITH (FORCE)"
	if t.Failed() {
		if c.server != nil {
			t.Logf("dbtest: the database is dropped together with its private server; set %s to keep databases of failed tests",
				urlVariable)
			return
		}
		t.Logf("dbtest: the database is kept, until you drop it: %s", url)
		sql = "COMMENT ON DATABASE " + quote(name) + " IS " + keptComment
	}
	err := c.administer(ctx, func(a *admin) error {
		_, err := a.conn.Exec(ctx, sql)
		return err
	})
	if err != nil {
		t.Errorf("dbtest: %v", errors.Join(err, c.alive()))
	}
}

// keptComment marks a database that sweep must leave alone.
const keptComment = `'kept for a failed test'`

// ensureTemplate finds or builds the template database. It becomes a template only when it is complete; one that is
// none was abandoned in the middle, because its builder would hold the lock.
func (c *cluster) ensureTemplate(ctx context.Context, a *admin) error {
	if a.template != "" {
		return nil
	}
	name, err := templateName(migrations.FS)
	if err != nil {
		return err
	}
	if _, err := a.conn.Exec(ctx, `SELECT pg_advisory_lock($1, $2)`, lockClass, templateLock); err != nil {
		return err
	}
	if err := buildTemplate(ctx, a.conn, name, databaseURL(c.url, name)); err != nil {
		// The lock goes with the connection.
		return errors.Join(err, a.conn.Close(context.WithoutCancel(ctx)))
	}
	if _, err := a.conn.Exec(ctx, `SELECT pg_advisory_unlock($1, $2)`, lockClass, templateLock); err != nil {
		return err
	}
	a.template = name
	return nil
}

func buildTemplate(ctx context.Context, conn *pgx.Conn, name, url string) error {
	var complete bool
	err := conn.QueryRow(ctx, `SELECT datistemplate FROM pg_catalog.pg_database WHERE datname = $1`, name).Scan(&complete)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return err
	case complete:
		return nil
	default:
		if _, err := conn.Exec(ctx, "DROP DATABASE "+quote(name)+" WITH (FORCE)"); err != nil {
			return err
		}
	}
	if err := create(ctx, conn, name, "template0"); err != nil {
		return err
	}
	if err := migrations.Up(ctx, url); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	// Nobody can connect from here on, since a connection to the template would make cloning fail.
	_, err = conn.Exec(ctx, "ALTER DATABASE "+quote(name)+" WITH IS_TEMPLATE true ALLOW_CONNECTIONS false")
	return err
}

func create(ctx context.Context, conn *pgx.Conn, name, template string) error {
	// A template that is not template0 has the encoding already, and template1 might have another one.
	sql := "CREATE DATABASE " + quote(name) + " TEMPLATE " + quote(template) + " ENCODING 'UTF8'"
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// sweep drops the databases of test binaries that did not live to do it: those whose lock is free.
func sweep(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		SELECT datname
		FROM pg_catalog.pg_database
		WHERE starts_with(datname, $1)
		  AND pg_catalog.pg_get_userbyid(datdba) = current_user
		  AND pg_catalog.shobj_description(oid, 'pg_database') IS NULL
		ORDER BY datname`, testPrefix)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		run, ok := runOf(name)
		if !ok {
			continue
		}
		var abandoned bool
		err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, $2)`, lockClass, run).Scan(&abandoned)
		if err != nil {
			return err
		}
		if !abandoned {
			continue
		}
		_, err = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)")
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock($1, $2)`, lockClass, run); err != nil {
			return err
		}
	}
	return nil
}

// databaseName is unique, shows the test, and fits the 63 bytes of an identifier.
func databaseName(run int32, count int64, test string) string {
	readable := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '_'
	}, test)
	name := fmt.Sprintf("%s%08x_%d_%s", testPrefix, run, count, readable)
	return name[:min(len(name), 63)]
}

// runOf is the inverse of databaseName.
func runOf(name string) (int32, bool) {
	hexRun, _, ok := strings.Cut(strings.TrimPrefix(name, testPrefix), "_")
	if !ok || len(hexRun) != 8 {
		return 0, false
	}
	run, err := strconv.ParseInt(hexRun, 16, 32)
	return int32(run), err == nil
}

// templateName contains the hash of names and contents of all migrations.
func templateName(files fs.FS) (string, error) {
	h := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %d\n", path, len(content))
		h.Write(content)
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("hash the migrations: %w", err)
	}
	return templatePrefix + hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// databaseURL is the address of another database of the same server. Both forms of addresses are understood.
func databaseURL(server, name string) string {
	u, err := url.Parse(server)
	if err != nil || u.Scheme == "" {
		return server + " dbname=" + name // the last one counts
	}
	u.Path = "/" + name
	q := u.Query()
	q.Del("dbname")
	q.Del("database")
	u.RawQuery = q.Encode()
	return u.String()
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func parseSettings(settings []string) (map[string]string, error) {
	parsed := make(map[string]string, len(settings))
	for _, s := range settings {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("setting %q is not of the form name=value", s)
		}
		parsed[name] = value
	}
	return parsed, nil
}
