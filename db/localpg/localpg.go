// Package localpg runs a private PostgreSQL from the binaries that are installed on this machine. It is what
// `cinnabar serve --dev` and DATABASE_URL=private stand on, and what the tests run against. Nothing is downloaded.
//
// What it promises:
//
//   - Data in a named directory is as durable as PostgreSQL itself: fsync is on, and an initialisation that was
//     interrupted is noticed and done again. Only [Options.Throwaway] gives durability away.
//   - The server ends with this process, also when this process is killed with SIGKILL: a small watchdog (a shell
//     script on the other end of a pipe) shuts it down and removes a temporary directory. Only killing the watchdog
//     at the same moment defeats that; then the next [Start] on the directory ends what was left behind.
//   - One process owns a directory. A second one gets a [LockedError] that names the owner.
//   - A PostgreSQL that somebody else made is left alone: [Start] refuses its directory and changes nothing in it.
//   - The server listens on a port of 127.0.0.1 only and asks for a random password, which is part of [Server.URL].
//     Whoever has the URL can use it, with any driver and under any account of this machine; nobody else can. There
//     is no Unix socket, and so no file of ours outside the directory and no limit on the length of its path.
//   - As root, everything of PostgreSQL runs under another account: the owner of existing data, else `postgres`, else
//     `nobody`. PostgreSQL refuses to run as root.
//
// Linux and macOS are supported; Windows is not.
//
// A directory holds data/ (the cluster), postgres.log (its log), password (of the superuser `cinnabar`) and lock.
package localpg

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// superuser is the role that URLs of [Server.URL] log in as.
const superuser = "cinnabar"

const (
	// initTimeout bounds initdb, which takes 0.7 s on an idle machine; slow disks and CI deserve patience.
	initTimeout = 2 * time.Minute
	// beginTimeout bounds the time until a new postmaster says that it is starting, which it does before it looks at
	// its data: milliseconds. How long the start takes from there is up to crash recovery, which would have to begin
	// again if it were ended.
	beginTimeout = 2 * time.Minute
	// connectTimeout bounds a login into a server that says it is ready: milliseconds, unless the machine is overloaded.
	connectTimeout = 30 * time.Second
)

// Options says what [Start] is to run. The zero value is a durable server in a temporary directory.
type Options struct {
	// Dir is where the server keeps everything; made if missing. Empty: a new temporary directory, which is removed
	// when the server stops or this process ends.
	Dir string

	// Database is a database that is created unless it exists. Empty: none besides `postgres`.
	Database string

	// Settings are postgresql.conf settings by name; they win over the file, except for those which say where the
	// server listens and logs.
	Settings map[string]string

	// Throwaway gives up durability for speed: fsync is off and memory is small. A crash of PostgreSQL loses
	// nothing; a crash of the machine may lose everything. A temporary directory is made in memory (/dev/shm) if
	// that has 2 GB of room and TMPDIR is not set. For tests.
	Throwaway bool

	// BinDir is the directory of the PostgreSQL binaries. Empty: CINNABAR_PG_BINDIR if that is set, else the usual
	// places are searched.
	BinDir string

	// URLVariable is named by the message of a [NotInstalledError] as the way to use another server. Empty:
	// DATABASE_URL. "-": none.
	URLVariable string

	// Logger gets the life cycle: started, stopped, ended unexpectedly. Nil: nothing is logged.
	Logger *slog.Logger
}

// Server is a running private PostgreSQL. Its methods may be called from several goroutines.
type Server struct {
	// Fixed by Start.
	log      *slog.Logger
	install  Installation
	account  account
	dir      string
	data     string
	logPath  string
	temp     bool // dir goes away with the server
	password string
	settings map[string]string
	lock     *os.File // nil when temp: nobody else knows the directory

	// after is time.After, except in tests.
	after func(time.Duration) <-chan time.Time

	// turn is held (one token) by the call that changes the state of the server: Start, Stop, Crash, Kill, Restart.
	turn chan struct{}

	// Owned by whoever holds turn.
	dog *watchdog

	// mu guards what follows; it is held for assignments only.
	mu      sync.Mutex
	port    int
	run     *run // the last one, possibly over
	stopped bool
}

// Start initialises the directory if it is new, starts a server in it and returns when that takes connections.
// After a crash that may take long, as long as recovery does; ctx is the way out. ctx is for starting only: the server
// lives until [Server.Stop] or the end of this process.
//
// Errors to branch on: [ErrNotInstalled], [*LockedError], [*VersionError].
func Start(ctx context.Context, opts Options) (*Server, error) {
	began := time.Now()
	s := &Server{
		log:      opts.Logger,
		settings: opts.Settings,
		turn:     make(chan struct{}, 1),
		after:    time.After,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for name := range opts.Settings {
		if !settingName.MatchString(name) {
			return nil, fmt.Errorf("start a private PostgreSQL: %q is not the name of a setting", name)
		}
	}
	if opts.Throwaway {
		s.settings = throwawaySettings(opts.Settings)
	}
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if err := s.start(ctx, opts); err != nil {
		if cerr := s.dismantle(); cerr != nil {
			s.log.Warn("private postgresql not cleaned up", "dir", s.dir, "error", cerr)
		}
		return nil, fmt.Errorf("start a private PostgreSQL: %w", err)
	}
	s.log.Info("private postgresql started", "version", s.install.Version, "dir", s.dir, "port", s.port,
		"took", time.Since(began))
	return s, nil
}

func (s *Server) start(ctx context.Context, opts Options) error {
	if err := s.openDir(ctx, opts); err != nil {
		return err
	}
	have, err := dataMajor(s.data)
	if err != nil {
		return err
	}
	if s.install, err = findFor(ctx, opts, have, s.data); err != nil {
		return err
	}
	if err := s.account.canRun(ctx, filepath.Join(s.install.BinDir, "postgres")); err != nil {
		return err
	}
	// Data without its password may not be ours to touch, so this comes first.
	if s.password, err = s.loadPassword(have != 0); err != nil {
		return err
	}
	if err := rotateLog(s.logPath); err != nil {
		return err
	}
	if s.dog, err = newWatchdog(s); err != nil {
		return err
	}
	unclean, err := s.endLeftBehind(ctx)
	if err != nil {
		return err
	}
	if have == 0 {
		if err := s.initialise(ctx, opts.Throwaway); err != nil {
			return err
		}
	}
	if err := s.up(ctx, unclean); err != nil {
		return err
	}
	return s.greet(ctx, opts.Database)
}

// greet logs in once, which proves that it is our server that answers, and creates the database.
func (s *Server) greet(ctx context.Context, database string) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL(""))
	if err != nil {
		return fmt.Errorf("log in: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if database == "" {
		return nil
	}
	var exists bool
	const q = `SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)`
	if err := conn.QueryRow(ctx, q, database).Scan(&exists); err != nil {
		return fmt.Errorf("look for database %s: %w", database, err)
	}
	if exists {
		return nil
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{database}.Sanitize()); err != nil {
		return fmt.Errorf("create database %s: %w", database, err)
	}
	return nil
}

// URL is the address of a database of the server, password included; an empty name means `postgres`. It stays the
// same across [Server.Restart] and may change from one Start to the next.
func (s *Server) URL(database string) string {
	if database == "" {
		database = "postgres"
	}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, s.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port())),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Dir is the directory the server lives in.
func (s *Server) Dir() string { return s.dir }

// Port is the port on 127.0.0.1.
func (s *Server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

// PID is the process id of the server, 0 while it is down.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil || s.run.process.hasExited() {
		return 0
	}
	return s.run.process.pid
}

// Installation says which PostgreSQL is running.
func (s *Server) Installation() Installation { return s.install }

// Done returns a channel that is closed when the server ends without one of our calls having ended it. Each
// [Server.Restart] begins a new life with a new channel.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run.done
}

// Err says why the channel of [Server.Done] was closed, with the last lines of the server's log. It is nil before.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run.err
}

// loadPassword returns the password of the superuser. It is on disk before the cluster that uses it, so that an
// interrupted initialisation cannot leave a cluster which nobody can log in to.
func (s *Server) loadPassword(mustExist bool) (string, error) {
	if s.temp {
		return rand.Text(), nil
	}
	path := filepath.Join(s.dir, "password")
	b, err := os.ReadFile(path)
	switch {
	case err == nil && len(strings.TrimSpace(string(b))) > 0:
		return strings.TrimSpace(string(b)), nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("read the password: %w", err)
	case mustExist:
		return "", fmt.Errorf("the password of the data in %s is missing: restore %s", s.data, path)
	}
	password := rand.Text()
	if err := writeSecret(path+".new", password, nil); err != nil {
		return "", err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", err
	}
	return password, nil
}
