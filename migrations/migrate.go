package migrations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/cinnabar-hub/cinnabar/db"
)

// lockID keeps migrating nodes apart: "mercure" in ASCII, so that it shows
// what it is in pg_locks and collides with no other use of goose.
const lockID = 0x6d657263757265

// Seconds between two attempts to take the lock, and how many there are. A
// migration of a big log may build an index for many minutes.
const (
	lockRetrySeconds = 1
	lockAttempts     = 3600
)

// How long SetHubPath waits for the sessions of hubs that have just ended.
const (
	hubPathAttempts = 10
	hubPathPause    = 200 * time.Millisecond
)

// TooOldError says that migrations are missing.
type TooOldError struct{ Found, Needed int64 }

func (e *TooOldError) Error() string {
	if e.Found == 0 {
		return fmt.Sprintf("the database has no mercure schema, version %d is needed: run `cinnabar migrate up` with the same DATABASE_URL, or start with --migrate=on", e.Needed)
	}
	return fmt.Sprintf("the mercure schema of the database is at version %d, but this hub needs %d: run `cinnabar migrate up` with the same DATABASE_URL, or start with --migrate=on", e.Found, e.Needed)
}

// TooNewError says that this hub is older than the schema allows.
type TooNewError struct{ Found, OldestHub, Known int64 }

func (e *TooNewError) Error() string {
	return fmt.Sprintf("the mercure schema of the database is at version %d and works with hubs that know version %d or later, but this hub only knows %d: upgrade this hub", e.Found, e.OldestHub, e.Known)
}

// ForeignVersionTableError says that goose was run under another table name, so
// that running migrations now would run them twice.
type ForeignVersionTableError struct{ Found int64 }

func (e *ForeignVersionTableError) Error() string {
	return fmt.Sprintf("the mercure schema is at version %d, but the table %s does not know it: it was migrated by goose without `-table %s`; rename the version table that was used, or grant access to it", e.Found, VersionTable, VersionTable)
}

// HubPathError says that the database reserves another namespace than that of
// the hub, so that publishers could speak in the hub's name.
type HubPathError struct {
	Found, Wanted string
	// InUse: hubs are connected that are at the path that was found.
	InUse bool
}

func (e *HubPathError) Error() string {
	if e.InUse {
		return fmt.Sprintf("MERCURE_PUBLIC_URL says that the path of the hub is %s, but hubs are connected to the database whose path is %s: set the same path for all of them, or stop the others first", e.Wanted, e.Found)
	}
	return fmt.Sprintf("MERCURE_PUBLIC_URL says that the path of the hub is %s, but the database keeps publishers out of %s instead: run `cinnabar migrate up` with the same DATABASE_URL and MERCURE_PUBLIC_URL, or start with --migrate=on", e.Wanted, e.Found)
}

// Latest is the schema version this binary was built for.
func Latest() int64 {
	entries, err := FS.ReadDir(".")
	if err != nil {
		panic(err) // embedded at build time
	}
	var latest int64
	for _, entry := range entries {
		number, _, _ := strings.Cut(path.Base(entry.Name()), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic(fmt.Errorf("migration %s: %w", entry.Name(), err))
		}
		latest = max(latest, version)
	}
	return latest
}

// Check returns nil if this binary can work with the schema it finds, else a
// *TooOldError, a *TooNewError, or what went wrong while looking.
func Check(ctx context.Context, conn db.DBTX) error {
	found, err := schemaVersion(ctx, conn)
	if err != nil {
		return err
	}
	switch known := Latest(); {
	case found.Version < known:
		return &TooOldError{Found: found.Version, Needed: known}
	case found.OldestHub > known:
		return &TooNewError{Found: found.Version, OldestHub: found.OldestHub, Known: known}
	}
	return nil
}

// CheckHubPath returns a *HubPathError if the namespace that the database
// reserves is not that of a hub whose path is given as protocol.HubURL.Namespace
// returns it.
//
// Spec: N-2, E-19.
func CheckHubPath(ctx context.Context, conn db.DBTX, path string) error {
	found, err := db.New(conn).HubPath(ctx)
	if err != nil {
		return fmt.Errorf("read the path of the hub: %w", err)
	}
	if found != path {
		return &HubPathError{Found: found, Wanted: path}
	}
	return nil
}

// schemaVersion is zero in a database without the schema.
func schemaVersion(ctx context.Context, conn db.DBTX) (db.SchemaVersionRow, error) {
	found, err := db.New(conn).SchemaVersion(ctx)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "42P01" || pgErr.Code == "3F000") { // undefined table, schema
		return db.SchemaVersionRow{}, nil
	}
	if err != nil {
		return found, fmt.Errorf("read the schema version: %w", err)
	}
	return found, nil
}

// Up brings the database to Latest. See Runner.Up.
func Up(ctx context.Context, databaseURL string) error {
	_, err := Runner{DatabaseURL: databaseURL}.Up(ctx)
	return err
}

// Runner migrates one database.
type Runner struct {
	// DatabaseURL must lead straight to the server: the lock that keeps
	// migrating nodes apart does not survive a transaction pooler.
	DatabaseURL string
	// Logger receives warnings the migrations raise, such as GRANTs that the
	// operator has to run; nil discards them.
	Logger *slog.Logger
}

// Applied is one migration that was run.
type Applied struct {
	Version  int64
	Name     string
	Duration time.Duration
}

// Up runs every missing migration and returns those it ran. It waits while
// another process migrates the same database.
func (r Runner) Up(ctx context.Context) (applied []Applied, err error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	err = r.mayMigrate(ctx, conn)
	// Waiting for the lock takes a second when several nodes start at once:
	// only those wait that have something to do.
	upToDate := err == nil && Check(ctx, conn) == nil
	if closeErr := conn.Close(ctx); err == nil {
		err = closeErr
	}
	if err != nil || upToDate {
		return nil, err
	}
	err = r.withProvider(func(p *goose.Provider) error {
		results, err := p.Up(ctx)
		applied = appliedFrom(results)
		return err
	})
	return applied, err
}

// SetHubPath makes the database reserve the namespace of a hub with this path,
// and says whether it did not already. While hubs with another path are
// connected it returns a *HubPathError: two that take turns at moving it would
// each leave the other without protection. It needs the schema that Up makes,
// and its owner.
func (r Runner) SetHubPath(ctx context.Context, path string) (changed bool, err error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	err = CheckHubPath(ctx, conn, path)
	var other *HubPathError
	if !errors.As(err, &other) {
		return false, err
	}
	for patience := hubPathAttempts; ; patience-- {
		changed, err = db.New(conn).SetHubPath(ctx, path)
		switch {
		case err != nil:
			return false, fmt.Errorf("change the path of the hub from %s to %s: %w", other.Found, path, err)
		case changed:
			return true, nil
		case patience == 0:
			other.InUse = true
			return false, other
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(hubPathPause):
		}
	}
}

// HubPath returns the path whose namespace the database reserves; empty in a
// database without the schema.
func (r Runner) HubPath(ctx context.Context) (path string, err error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	path, err = db.New(conn).HubPath(ctx)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == "42883" || pgErr.Code == "3F000") { // undefined function, schema
		return "", nil
	}
	return path, err
}

// mayMigrate refuses schemas that running migrations would damage.
func (r Runner) mayMigrate(ctx context.Context, conn *pgx.Conn) error {
	found, err := schemaVersion(ctx, conn)
	if err != nil || found.Version == 0 {
		return err
	}
	if found.OldestHub > Latest() {
		return &TooNewError{Found: found.Version, OldestHub: found.OldestHub, Known: Latest()}
	}
	var table pgtype.Text
	if err := conn.QueryRow(ctx, "SELECT to_regclass($1)::text", VersionTable).Scan(&table); err != nil {
		return fmt.Errorf("look for %s: %w", VersionTable, err)
	}
	if !table.Valid {
		return &ForeignVersionTableError{Found: found.Version}
	}
	return nil
}

// Down takes the newest migration back. It deletes what that migration
// created, updates included. Returns nil if there was none.
func (r Runner) Down(ctx context.Context) (undone *Applied, err error) {
	err = r.withProvider(func(p *goose.Provider) error {
		result, err := p.Down(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		if result != nil {
			undone = &appliedFrom([]*goose.MigrationResult{result})[0]
		}
		return err
	})
	return undone, err
}

// Migration says whether one migration was applied, and when.
type Migration struct {
	Version   int64
	Name      string
	AppliedAt time.Time // zero: pending
}

// Status lists every migration this binary knows.
func (r Runner) Status(ctx context.Context) (list []Migration, err error) {
	err = r.withProvider(func(p *goose.Provider) error {
		statuses, err := p.Status(ctx)
		for _, s := range statuses {
			list = append(list, Migration{Version: s.Source.Version, Name: path.Base(s.Source.Path), AppliedAt: s.AppliedAt})
		}
		return err
	})
	return list, err
}

func (r Runner) config() (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(r.DatabaseURL)
	if err != nil {
		return nil, errors.New("the address of the database is not a PostgreSQL connection string; special characters in the password must be percent-encoded")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	config.RuntimeParams["application_name"] = "cinnabar migrate"
	config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		if r.Logger != nil && notice.Severity == "WARNING" {
			r.Logger.Warn("migration needs attention", "message", notice.Message)
		}
	}
	return config, nil
}

func (r Runner) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := r.config()
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, config)
}

func (r Runner) withProvider(use func(*goose.Provider) error) error {
	config, err := r.config()
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(
		lock.WithLockID(lockID), lock.WithLockTimeout(lockRetrySeconds, lockAttempts))
	if err != nil {
		return fmt.Errorf("prepare the migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, stdlib.OpenDB(*config), FS,
		goose.WithTableName(VersionTable), goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("load migrations: %w", err)
	}
	return errors.Join(use(provider), provider.Close())
}

func appliedFrom(results []*goose.MigrationResult) []Applied {
	applied := make([]Applied, 0, len(results))
	for _, result := range results {
		applied = append(applied, Applied{
			Version: result.Source.Version, Name: path.Base(result.Source.Path), Duration: result.Duration,
		})
	}
	return applied
}
