package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/hubproc"
	"github.com/cinnabar-hub/cinnabar/db/localpg"
	"github.com/cinnabar-hub/cinnabar/server"
)

// ownName is the name of a target that is a hub of our own.
const ownName = "own hub"

const (
	ownIssuer = "https://bench.example"
	ownURL    = ownIssuer + hubproc.Path
	// startTimeout is how long a hub may take to start, which migrates.
	startTimeout = time.Minute
	stopTimeout  = 30 * time.Second
)

// OwnHub starts hubs of this program on a private PostgreSQL that is as durable
// as a real one.
type OwnHub struct {
	Program string
	Environ []string
	// Settings are NAME=VALUE.
	Settings []string

	postgres *localpg.Server
	dir      string
	started  int
	// template is the database that others are copies of; empty: a new one.
	template string
}

func (o *OwnHub) open(ctx context.Context) (err error) {
	if o.dir, err = os.MkdirTemp("", "cinnabar-bench-"); err != nil {
		return err
	}
	o.postgres, err = localpg.Start(ctx, localpg.Options{URLVariable: "-"})
	if err != nil {
		_ = os.RemoveAll(o.dir)
	}
	return err
}

func (o *OwnHub) close() error { return joined(o.postgres.Stop(), os.RemoveAll(o.dir)) }

// storedDatabase is the template with updates in the log.
const storedDatabase = "stored"

// store puts updates into the log that every hub begins with.
func (o *OwnHub) store(ctx context.Context, s *stored, progress func(done int)) error {
	if err := o.createDatabase(ctx, storedDatabase); err != nil {
		return err
	}
	// A hub makes the tables.
	t, stop, err := o.startOn(ctx, storedDatabase)
	if err != nil {
		return err
	}
	if err := stop(); err != nil {
		return err
	}
	if err := s.fill(ctx, t.DatabaseURL, true, progress); err != nil {
		return err
	}
	o.template = storedDatabase
	return nil
}

// start runs a hub on a database of its own until stop is called.
func (o *OwnHub) start(ctx context.Context) (t Target, stop func() error, err error) {
	o.started++
	database := fmt.Sprintf("bench_%d", o.started)
	if err := o.createDatabase(ctx, database); err != nil {
		return Target{}, nil, err
	}
	t, stopHub, err := o.startOn(ctx, database)
	if err != nil {
		return Target{}, nil, err
	}
	return t, func() error { return joined(stopHub(), o.dropDatabase(ctx, database)) }, nil
}

func (o *OwnHub) startOn(ctx context.Context, database string) (t Target, stop func() error, err error) {
	t = Target{Name: ownName, Dialect: Dialect1, DatabaseURL: o.postgres.URL(database)}
	publisherKey, subscriberKey := rand.Text()+rand.Text(), rand.Text()+rand.Text()
	everything := []server.MatcherSpec{{Match: "*"}}
	if t.PublishToken, err = mint(publisherKey, server.TokenSpec{Publish: everything}); err != nil {
		return Target{}, nil, err
	}
	if t.SubscribeToken, err = mint(subscriberKey, server.TokenSpec{Subscribe: everything}); err != nil {
		return Target{}, nil, err
	}
	logPath := filepath.Join(o.dir, database+".log")
	log, err := os.Create(logPath)
	if err != nil {
		return Target{}, nil, err
	}
	p := hubproc.Start(context.WithoutCancel(ctx), o.Program, "serve", o.environ(t.DatabaseURL, publisherKey, subscriberKey), log)
	stop = func() error {
		defer func() { _ = log.Close() }()
		return stopProcess(p)
	}
	if err := awaitReady(ctx, p, logPath); err != nil {
		_ = stop()
		return Target{}, nil, err
	}
	t.URLs, t.PIDs = []string{"http://" + p.Address + hubproc.Path}, []int{p.PID()}
	return t, stop, nil
}

func mint(key string, spec server.TokenSpec) (string, error) {
	signing, err := server.ParseSigningKey(key, "HS256")
	if err != nil {
		return "", err
	}
	spec.Dialect, spec.Key = server.Dialect1, signing
	spec.Issuer, spec.Audience, spec.Expires = ownIssuer, ownURL, time.Now().Add(24*time.Hour)
	return server.MintToken(spec)
}

func (o *OwnHub) environ(databaseURL, publisherKey, subscriberKey string) []string {
	return append(append(hubproc.WithoutSettings(o.Environ),
		"DATABASE_URL="+databaseURL,
		"MERCURE_ADDR=127.0.0.1:0",
		"MERCURE_PUBLIC_URL="+ownURL,
		"MERCURE_TRUSTED_ISSUERS="+ownIssuer,
		"MERCURE_PUBLISHER_JWT_KEY="+publisherKey,
		"MERCURE_SUBSCRIBER_JWT_KEY="+subscriberKey,
		"MERCURE_WRITE_TIMEOUT=0s", // a stream that ends by itself looks like a fault
		"MERCURE_DRAIN_TIMEOUT=0s",
		"MERCURE_LOG_FORMAT=json",
	), o.Settings...)
}

func (o *OwnHub) createDatabase(ctx context.Context, name string) error {
	if o.template != "" {
		return o.administer(ctx, "CREATE DATABASE "+name+" TEMPLATE "+o.template+" STRATEGY FILE_COPY")
	}
	return o.administer(ctx, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
}

// dropDatabase makes room for the next one.
func (o *OwnHub) dropDatabase(ctx context.Context, name string) error {
	return o.administer(context.WithoutCancel(ctx), "DROP DATABASE "+name+" WITH (FORCE)")
}

func (o *OwnHub) administer(ctx context.Context, command string) error {
	conn, err := pgx.Connect(ctx, o.postgres.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, command)
	return err
}

func awaitReady(ctx context.Context, p *hubproc.Process, logPath string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := awaitStarted(ctx, p, logPath); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: dialTimeout}
	for !hubproc.Ready(ctx, client, "http://"+p.Address) {
		if err := sleepUntil(ctx, time.Now().Add(20*time.Millisecond)); err != nil {
			return fmt.Errorf("the hub was not ready within %s; %s", startTimeout, hubproc.LastLine(logPath))
		}
	}
	return nil
}

func awaitStarted(ctx context.Context, p *hubproc.Process, logPath string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-p.Started:
		return nil
	case <-p.Exited:
		return fmt.Errorf("the hub does not start; %s", hubproc.LastLine(logPath))
	case <-ctx.Done():
		return fmt.Errorf("the hub did not start within %s; %s", startTimeout, hubproc.LastLine(logPath))
	}
}

func stopProcess(p *hubproc.Process) error {
	p.End(syscall.SIGTERM)
	late := time.NewTimer(stopTimeout)
	defer late.Stop()
	select {
	case <-p.Exited:
		return nil
	case <-late.C:
		p.End(syscall.SIGKILL)
		<-p.Exited
		return fmt.Errorf("the hub did not stop within %s of SIGTERM", stopTimeout)
	}
}
