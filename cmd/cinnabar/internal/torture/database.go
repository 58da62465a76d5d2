package torture

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cinnabar-hub/cinnabar/db/localpg"
)

// databasePrefix is what the names of our databases begin with.
const databasePrefix = "cinnabar_torture_"

// adminTimeout bounds creating and dropping a database.
const adminTimeout = time.Minute

// database is where the hubs keep their log, in a server of our own or of the
// user's.
type database struct {
	name string
	// url leads there straight, for publishers.
	url string
	// private is nil if the server is the user's, who is asked through admin.
	private *localpg.Server
	admin   string
	// twoPhase: it takes PREPARE TRANSACTION.
	twoPhase bool
}

// openDatabase makes a database. twoPhase is for a server of our own.
func openDatabase(ctx context.Context, address string, twoPhase bool, warn func(format string, args ...any)) (*database, error) {
	d := &database{name: databasePrefix + strings.ToLower(rand.Text()[:10]), admin: address}
	if address == "" {
		return d, d.startPrivate(ctx, twoPhase)
	}
	var err error
	if d.url, err = withDatabase(address, d.name); err != nil {
		return nil, err
	}
	return d, d.create(ctx, warn)
}

// startPrivate starts a server that is as durable as any.
func (d *database) startPrivate(ctx context.Context, twoPhase bool) error {
	settings := map[string]string{"max_connections": "200", "max_prepared_transactions": "0"}
	if twoPhase {
		settings["max_prepared_transactions"] = "50"
	}
	private, err := localpg.Start(ctx, localpg.Options{Database: d.name, Settings: settings})
	if err != nil {
		return err
	}
	d.private, d.url, d.twoPhase = private, private.URL(d.name), twoPhase
	return nil
}

func (d *database) create(ctx context.Context, warn func(format string, args ...any)) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, d.admin)
	if err != nil {
		return fmt.Errorf("connect to the server given with --database-url: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	var prepared int
	if err := conn.QueryRow(ctx, "SELECT current_setting('max_prepared_transactions')::integer").Scan(&prepared); err != nil {
		return err
	}
	d.twoPhase = prepared > 0
	if err := warnOfLeftovers(ctx, conn, warn); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+d.name+" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42501" {
		return fmt.Errorf("create database %s: the role may not create databases; run ALTER ROLE %s CREATEDB as a superuser, "+
			"or leave --database-url out for a private PostgreSQL", d.name, pgx.Identifier{conn.Config().User}.Sanitize())
	}
	return err
}

// warnOfLeftovers names databases of runs that were killed. Nothing tells them
// from those of runs that go on elsewhere, so they are left alone.
func warnOfLeftovers(ctx context.Context, conn *pgx.Conn, warn func(format string, args ...any)) error {
	rows, err := conn.Query(ctx, "SELECT datname::text FROM pg_database WHERE starts_with(datname, $1) ORDER BY 1", databasePrefix)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		warn("the database %s is there; unless another run uses it, one that was killed left it behind: DROP DATABASE %s WITH (FORCE);", name, name)
	}
	return err
}

// close drops the database, or stops the server. keepLog, if not empty, is a
// directory for the log of a private server.
func (d *database) close(ctx context.Context, keepLog string) error {
	if d.private != nil {
		var err error
		if keepLog != "" {
			err = copyFile(filepath.Join(keepLog, "postgres.log"), filepath.Join(d.private.Dir(), "postgres.log"))
		}
		return errors.Join(err, d.private.Stop())
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	if err := d.rollbackPrepared(ctx); err != nil {
		return d.notDropped(err)
	}
	conn, err := pgx.Connect(ctx, d.admin)
	if err != nil {
		return d.notDropped(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "DROP DATABASE "+d.name+" WITH (FORCE)"); err != nil {
		return d.notDropped(err)
	}
	return nil
}

func (d *database) notDropped(err error) error {
	return fmt.Errorf("drop the database: %w; do it by hand: DROP DATABASE %s WITH (FORCE);", err, d.name)
}

// rollbackPrepared ends transactions that would keep the database from being
// dropped.
func (d *database) rollbackPrepared(ctx context.Context) error {
	if !d.twoPhase {
		return nil
	}
	conn, err := pgx.Connect(ctx, d.url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
	if err != nil {
		return err
	}
	gids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, gid := range gids {
		_, failed := conn.Exec(ctx, "ROLLBACK PREPARED "+quote(gid))
		err = errors.Join(err, failed)
	}
	return err
}

func quote(literal string) string { return "'" + strings.ReplaceAll(literal, "'", "''") + "'" }

func copyFile(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o600) //nolint:gosec // a directory of ours
}

// withDatabase is the address of another database of the same server.
func withDatabase(address, name string) (string, error) {
	if !isURL(address) {
		return address + " dbname=" + name, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("--database-url is not a PostgreSQL connection string such as postgres://app@localhost/app")
	}
	u.Path = "/" + name
	setQuery(u, func(q url.Values) { q.Del("dbname") })
	return u.String(), nil
}

// throughProxy is the same address by way of a port of this machine. The name
// in a certificate cannot be checked there.
func throughProxy(address string, port int) (string, error) {
	if !isURL(address) {
		address = strings.ReplaceAll(address, "verify-full", "verify-ca")
		return fmt.Sprintf("%s host=127.0.0.1 port=%d", address, port), nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	u.Host = fmt.Sprintf("127.0.0.1:%d", port)
	setQuery(u, func(q url.Values) {
		q.Del("host")
		q.Del("hostaddr")
		q.Del("port")
		if q.Get("sslmode") == "verify-full" {
			q.Set("sslmode", "verify-ca")
		}
	})
	return u.String(), nil
}

func setQuery(u *url.URL, change func(url.Values)) {
	query := u.Query()
	change(query)
	u.RawQuery = query.Encode()
}

func isURL(address string) bool {
	return strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://")
}
