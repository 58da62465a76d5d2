package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// pair is a primary and its standby, and the address that leads to whichever of
// them takes writes.
type pair struct {
	primary, standby *dbtest.Server
	either           *dbtest.DB
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{primary: dbtest.NewServer(t)}
	p.standby = dbtest.NewStandby(t, p.primary)
	address, err := url.Parse(p.primary.DB.URL)
	if err != nil {
		t.Fatal(err)
	}
	address.Host += fmt.Sprintf(",127.0.0.1:%d", p.standby.Port())
	address.RawQuery += "&target_session_attrs=read-write"
	p.either = &dbtest.DB{URL: address.String()}
	return p
}

// synchronize makes commits wait for the standby.
func (p *pair) synchronize(t *testing.T) {
	t.Helper()
	conn := p.primary.DB.Conn(t)
	statement(t, conn, "ALTER SYSTEM SET synchronous_standby_names = '*'")
	statement(t, conn, "SELECT pg_reload_conf()")
	waitForRow(t, conn, "SELECT sync_state = 'sync' FROM pg_stat_replication")
}

// separate ends replication while both live on.
func (p *pair) separate(t *testing.T) {
	t.Helper()
	conn := p.standby.DB.Conn(t)
	waitForRow(t, p.primary.DB.Conn(t), "SELECT replay_lsn = pg_current_wal_lsn() FROM pg_stat_replication")
	statement(t, conn, "ALTER SYSTEM SET primary_conninfo = ''")
	statement(t, conn, "SELECT pg_reload_conf()")
	waitForRow(t, conn, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")
}

// fail kills the primary and promotes the standby.
func (p *pair) fail(t *testing.T) {
	t.Helper()
	if err := p.primary.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.promote(t)
}

func (p *pair) promote(t *testing.T) {
	t.Helper()
	statement(t, p.standby.DB.Conn(t), "SELECT pg_promote()")
}

// waitForRow waits until a query returns a row that says true.
func waitForRow(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	waitFor(t, func() string {
		rows, err := conn.Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowTo[*bool])
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 1 && found[0] != nil && *found[0] {
			return ""
		}
		return "it does not become true: " + sql
	})
}

// The primary is killed while updates are published, and its synchronous
// standby becomes the primary: streams stay open, and whatever was acknowledged
// reaches everybody, once and in order. The old primary comes back as if nothing
// had happened, and is not written to.
//
// Spec: P-16, S-20.
func TestFailoverToSynchronousStandby(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.synchronize(t)
	other := servertest.Start(t, p.either)
	elsewhere := other.Subscribe(t, everything)
	o := beginOutage(t, p.either, p.primary.DB.Conn(t))
	o.beats.wait(t, 10)

	began := time.Now()
	p.fail(t)
	promoted := time.Now()
	o.admin = p.standby.DB.Conn(t)
	o.readiness(t, http.StatusOK, servertest.Deadline)
	t.Logf("ready %s after the kill, %s after the promotion", time.Since(began), time.Since(promoted))

	if err := p.primary.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := p.primary.DB.Conn(t)
	before := contents(t, old)
	for range 5 {
		o.beats.wait(t, 1)
		statement(t, o.admin, terminateHubs)
	}
	o.over(t)
	o.loggedOnce(t, lineAway, lineBack)
	if after := contents(t, old); !slices.Equal(after, before) {
		t.Errorf("the old primary was written to: %s", difference(after, before))
	}
	want := contents(t, o.admin)
	for i, data := range want {
		if got := elsewhere.Next(t); got.Data != data {
			t.Fatalf("update %d of another hub is %q, want %q", i, got.Data, data)
		}
	}
}

// contents is the data of everything in the log.
func contents(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "SELECT data FROM mercure.updates ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	data, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// An asynchronous standby lacks what was acknowledged and delivered last. The
// streams that got it cannot go on, since the log went backwards: they end, and
// resume by id.
func TestFailoverLosesUpdates(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	lines := newLineLog()
	hub := servertest.Start(t, p.either, func(c *server.Config) { c.Logger = slog.New(slog.NewTextHandler(lines, nil)) })
	stream := hub.Subscribe(t, everything)
	publish := func(hub *servertest.Hub, data string) (id string) {
		t.Helper()
		id = hub.Publish(t, url.Values{"topic": {"a"}, "data": {data}})
		return id
	}
	kept := publish(hub, "kept")
	stream.Next(t)
	p.separate(t)
	var lost string
	for n := range 50 { // more than the sequence is ahead of the log by
		lost = publish(hub, fmt.Sprint("lost ", n))
		stream.Next(t)
	}

	began := time.Now()
	p.fail(t)
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Deadline)
	defer cancel()
	if got, err := stream.TryNext(ctx); !errors.Is(err, servertest.ErrEnded) {
		t.Fatalf("the stream did not end: %+v, %v", got, err)
	}
	t.Logf("the stream ended %s after the kill", time.Since(began))
	// A browser resumes by what it had last, which is not in the log any more.
	replayed := subscribeSoon(t, hub, lost)
	resumed := subscribeSoon(t, hub, kept)
	publish(hub, "new")
	for _, want := range []string{"kept", "new"} {
		if got := replayed.Next(t); got.Data != want {
			t.Errorf("the stream with the lost cursor got %+v, want %s", got, want)
		}
	}
	if got := resumed.Next(t); got.Data != "new" {
		t.Errorf("the stream with the older cursor got %+v", got)
	}
	const backwards = "does not continue"
	var told []string
	for _, line := range lines.all() {
		if strings.Contains(line, backwards) {
			told = append(told, line)
		}
	}
	if len(told) != 1 || !strings.Contains(told[0], "level=ERROR") {
		t.Errorf("operators were told %q", told)
	}
}

// subscribeSoon is for a hub that may not have found its database again.
func subscribeSoon(t *testing.T, hub *servertest.Hub, lastEventID string) (stream *servertest.Stream) {
	t.Helper()
	waitFor(t, func() string {
		var err error
		stream, err = hub.TrySubscribe(t.Context(), servertest.Request{Query: everything.Query, LastEventID: lastEventID})
		if err != nil {
			return err.Error()
		}
		return ""
	})
	t.Cleanup(stream.Close)
	return stream
}

// A hub whose address leads to a standby says so once, is not ready, and begins
// when that is promoted.
func TestHubOnStandby(t *testing.T) {
	t.Parallel()
	standby := dbtest.NewStandby(t, dbtest.NewServer(t))
	proxy := dbtest.NewProxy(t, standby.DB)
	lines := newLineLog()
	config := server.DefaultConfig()
	config.HistoryMaxAge = time.Hour // else it warns of its absence
	config.DatabaseURL = server.Secret(proxy.DB.URL)
	config.Addr = "127.0.0.1:0"
	config.Anonymous = true
	config.SubscriberJWTKey, config.PublisherJWTKey = servertest.SubscriberSecret, servertest.PublisherSecret
	config.DrainTimeout = 0
	config.Logger = slog.New(slog.NewTextHandler(lines, nil))
	hub, err := server.New(config)
	if err != nil {
		t.Fatal(err)
	}
	const attempt = "name: Head "
	proxy.Count(attempt)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- hub.Run(ctx) }() // ends with ctx
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() string {
		if n := proxy.Count(attempt); n < 4 {
			return fmt.Sprintf("%d attempts to begin; logged: %q", n, lines.all())
		}
		return ""
	})
	select {
	case <-hub.Started():
		t.Fatal("the hub has started on a standby")
	default:
	}
	(&pair{standby: standby}).promote(t)
	promoted := time.Now()
	select {
	case <-hub.Started():
		t.Logf("started %s after the promotion", time.Since(promoted))
	case <-time.After(servertest.Deadline):
		t.Fatal("the hub did not start after the promotion")
	}
	(&outage{lines: lines}).loggedOnce(t, lineAway, lineBack)
	if away := lines.all()[0]; !strings.Contains(away, "standby") {
		t.Errorf("it does not say why: %s", away)
	}
}
