package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// Bounds that are promised, with a margin for machines that run tests.
const (
	// A publish is answered within ten seconds.
	answerBound = 10*time.Second + margin
	// Readiness tells of a database that hangs within twenty seconds, of one
	// that refuses within two.
	hangBound   = 20*time.Second + margin
	refuseBound = 2*time.Second + margin
	margin      = 5 * time.Second
)

// outage is a hub whose database is disturbed while it is being used: streams
// are open, and updates are published all the time.
type outage struct {
	hub    *servertest.Hub
	admin  *pgx.Conn // to the database, past every proxy
	first  int64     // position before everything
	lines  *lineLog
	stream *servertest.Stream // from before the fault to the end
	beats  *beats
	memory string // an id that is in the warm tail

	stop       chan struct{}
	publishers sync.WaitGroup
	mu         sync.Mutex
	outcomes   map[string]string // data: acknowledged, unknown, refused
	slowest    time.Duration
}

var everything = servertest.Request{Query: url.Values{"topic": {"*"}}}

func beginOutage(t *testing.T, database *dbtest.DB, admin *pgx.Conn, options ...servertest.Option) *outage {
	t.Helper()
	o := &outage{admin: admin, lines: newLineLog(), stop: make(chan struct{}), outcomes: map[string]string{}}
	o.hub = servertest.Start(t, database, append(options, func(c *server.Config) {
		c.Heartbeat = 100 * time.Millisecond
		c.Logger = slog.New(slog.NewTextHandler(o.lines, nil))
	})...)
	if err := admin.QueryRow(t.Context(), "SELECT mercure.head()").Scan(&o.first); err != nil {
		t.Fatal(err)
	}
	o.stream = o.hub.Subscribe(t, everything)
	o.beats = countBeats(t, dial(t, o.hub, "nothing"))
	// An acknowledged update is in the log; in memory it is when streams have it.
	tail := o.hub.Subscribe(t, everything)
	o.memory = o.hub.Publish(t, url.Values{"topic": {"a"}, "data": {"before"}})
	if got := tail.NextID(t); got != o.memory {
		t.Fatalf("got %q, want %q", got, o.memory)
	}
	tail.Close()
	token := servertest.PublisherToken(t)
	for i := range 3 {
		o.publishers.Go(func() { o.publish(fmt.Sprint("publisher", i), token) })
	}
	t.Cleanup(func() { o.end() })
	return o
}

// publish goes on until the outage ends.
func (o *outage) publish(name, token string) {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for n := 0; ; n++ {
		select {
		case <-o.stop:
			return
		case <-pace.C:
		}
		data := fmt.Sprint(name, ":", n)
		began := time.Now()
		outcome := tryPublish(o.hub, token, data)
		o.mu.Lock()
		o.slowest = max(o.slowest, time.Since(began))
		o.outcomes[data] = outcome
		o.mu.Unlock()
	}
}

// tryPublish returns "acknowledged", "unknown", "refused", or what went wrong.
func tryPublish(hub *servertest.Hub, token, data string) string {
	ctx, cancel := context.WithTimeout(context.Background(), servertest.Deadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, hub.URL, strings.NewReader(url.Values{"topic": {"a"}, "data": {data}}.Encode()))
	if err != nil {
		return err.Error()
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(response.Body)
	switch err = errors.Join(err, response.Body.Close()); {
	case err != nil:
		return err.Error()
	case response.StatusCode == http.StatusOK:
		return "acknowledged"
	case response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "":
		return fmt.Sprintf("%d %v %s", response.StatusCode, response.Header, body)
	case bytes.Contains(body, []byte("#outcome-unknown")):
		return "unknown"
	}
	return "refused"
}

func (o *outage) end() {
	select {
	case <-o.stop:
	default:
		close(o.stop)
	}
	o.publishers.Wait()
}

// readiness waits until the hub is ready, or is not.
func (o *outage) readiness(t *testing.T, want int, within time.Duration) {
	t.Helper()
	began := time.Now()
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for {
		got := send(t, "GET", strings.TrimSuffix(o.hub.URL, "/.well-known/mercure")+"/readyz", "")
		if got.status == want {
			t.Logf("readyz answers %d after %s: %s", want, time.Since(began).Round(10*time.Millisecond), strings.TrimSpace(got.body))
			return
		}
		if time.Since(began) > within {
			t.Fatalf("readyz answers %d %s; want %d within %s", got.status, got.body, want, within)
		}
		<-pace.C
	}
}

// streamsStayOpen looks at what subscribers see while the database is away.
func (o *outage) streamsStayOpen(t *testing.T) {
	t.Helper()
	o.beats.wait(t, 5)
	// Spec: S-20. A cursor in memory is served from there.
	resumed := o.hub.Subscribe(t, servertest.Request{Query: everything.Query, LastEventID: o.memory})
	if got := resumed.Header.Get("Mercure-Last-Event-ID"); got != o.memory {
		t.Errorf("resumed after %q", got)
	}
	resumed.Close()
}

// newStreamsAreRefused looks for a cursor that is not in memory.
//
// Spec: S-20.
func (o *outage) newStreamsAreRefused(t *testing.T) {
	t.Helper()
	unknown := o.hub.URL + "?match=a&last_event_id=unknown"
	began := time.Now()
	soft := send(t, "HEAD", unknown, "", "Accept: text/event-stream", "Cache-Control: no-cache")
	if soft.status != http.StatusOK || soft.header.Get("Mercure-Last-Event-ID") != "unknown" {
		t.Errorf("a browser is answered %d %v", soft.status, soft.header)
	}
	if hard := send(t, "GET", unknown, ""); hard.status != http.StatusServiceUnavailable || hard.header.Get("Retry-After") == "" {
		t.Errorf("another client is answered %d", hard.status)
	}
	if took := time.Since(began); took > 10*time.Second+margin {
		t.Errorf("refusing took %s", took)
	}
}

// over checks what must hold once the database is back: the stream that was open
// all the time got what is in the log, in its order; what was acknowledged is
// there once, what was refused is not.
func (o *outage) over(t *testing.T) {
	t.Helper()
	o.readiness(t, http.StatusOK, servertest.Deadline)
	o.end()
	o.hub.Publish(t, url.Values{"topic": {"a"}, "data": {"end"}})
	var got []string
	for {
		event := o.stream.Next(t)
		got = append(got, event.Data)
		if event.Data == "end" {
			break
		}
	}
	rows, err := o.admin.Query(t.Context(), "SELECT data FROM mercure.updates WHERE position > $1 ORDER BY position", o.first)
	if err != nil {
		t.Fatal(err)
	}
	want, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the stream got %s", difference(got, want))
	}
	o.checkOutcomes(t, want)
}

func (o *outage) checkOutcomes(t *testing.T, log []string) {
	t.Helper()
	times := map[string]int{}
	for _, data := range log {
		times[data]++
	}
	count := map[string]int{}
	for data, outcome := range o.outcomes {
		count[outcome]++
		n := times[data]
		switch {
		case outcome == "acknowledged" && n == 1:
		case outcome == "unknown" && n <= 1:
		case outcome == "refused" && n == 0:
		default:
			t.Errorf("%s: %s, and %d times in the log", data, outcome, n)
		}
	}
	t.Logf("publishes: %v, the slowest answered after %s", count, o.slowest.Round(time.Millisecond))
	if o.slowest > answerBound {
		t.Errorf("a publish was answered after %s", o.slowest)
	}
}

// Log lines of an outage.
const (
	lineAway       = "the database is not available"
	lineBack       = "the database is available again"
	lineDeaf       = "notifications are not heard"
	lineHeardAgain = "notifications are heard again"
)

// loggedOnce checks that these lines were logged, each once, and nothing else.
func (o *outage) loggedOnce(t *testing.T, want ...string) {
	t.Helper()
	for _, line := range want {
		o.lines.wait(t, line)
	}
	for _, line := range o.lines.all() {
		if strings.Contains(line, "hub started") || strings.Contains(line, "protocol 0.x") {
			continue
		}
		at := slices.IndexFunc(want, func(w string) bool { return strings.Contains(line, w) })
		if at < 0 {
			t.Errorf("logged too often, or not expected: %s", line)
			continue
		}
		want = slices.Delete(slices.Clone(want), at, at+1)
	}
}

// lineLog keeps what is logged.
type lineLog struct {
	mu      sync.Mutex
	lines   []string
	changed chan struct{}
}

func newLineLog() *lineLog { return &lineLog{changed: make(chan struct{}, 1)} }

func (l *lineLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.lines = append(l.lines, strings.TrimSpace(string(p)))
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *lineLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func (l *lineLog) wait(t *testing.T, part string) {
	t.Helper()
	timeout := time.After(servertest.Deadline)
	for {
		if slices.ContainsFunc(l.all(), func(line string) bool { return strings.Contains(line, part) }) {
			return
		}
		select {
		case <-l.changed:
		case <-timeout:
			t.Fatalf("%q was not logged, but %q", part, l.all())
		}
	}
}

// beats counts the comments of a stream.
type beats struct {
	seen  chan struct{}
	ended chan error
}

func countBeats(t *testing.T, conn net.Conn) *beats {
	t.Helper()
	b := &beats{seen: make(chan struct{}), ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() { // ends when the connection does, which the clean-up sees to
		defer close(done)
		reader := bufio.NewScanner(conn)
		for reader.Scan() {
			if strings.TrimSpace(reader.Text()) != ":" {
				continue
			}
			select {
			case b.seen <- struct{}{}:
			default: // nobody counts at the moment
			}
		}
		b.ended <- reader.Err()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return b
}

// wait waits for comments that come from now on.
func (b *beats) wait(t *testing.T, n int) {
	t.Helper()
	timeout := time.After(servertest.Deadline)
	for range n {
		select {
		case <-b.seen:
		case err := <-b.ended:
			t.Fatalf("the stream ended: %v", err)
		case <-timeout:
			t.Fatal("there is no heartbeat")
		}
	}
}

func statement(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

const terminateHubs = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cinnabar%'"

const maxConnections = 30

// A database that refuses in one way or another. Promise 5.
//
// Spec: P-16, S-20, S-28.
func TestDatabaseRefuses(t *testing.T) {
	t.Parallel()
	database := dbtest.NewServer(t, fmt.Sprint("max_connections=", maxConnections))
	address, err := url.Parse(database.DB.URL)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := address.User.Password()
	var filling []*pgx.Conn
	for _, fault := range []struct {
		name       string
		begin, end func(*testing.T, *pgx.Conn)
		// reads still work.
		reads bool
	}{
		{
			name:  "max_connections is used up",
			begin: func(t *testing.T, admin *pgx.Conn) { filling = fill(t, database.DB, admin) },
			end: func(t *testing.T, _ *pgx.Conn) {
				for _, conn := range filling {
					_ = conn.Close(t.Context())
				}
			},
		}, {
			name: "the password was changed",
			begin: func(t *testing.T, admin *pgx.Conn) {
				statement(t, admin, "ALTER ROLE CURRENT_USER PASSWORD 'another'")
				statement(t, admin, terminateHubs)
			},
			end: func(t *testing.T, admin *pgx.Conn) {
				statement(t, admin, "ALTER ROLE CURRENT_USER PASSWORD '"+password+"'")
			},
		}, {
			// Not ended by terminating: the hub must think of new connections.
			name: "read-only",
			begin: func(t *testing.T, admin *pgx.Conn) {
				statement(t, admin, "ALTER DATABASE cinnabar SET default_transaction_read_only = on")
				statement(t, admin, terminateHubs)
			},
			end: func(t *testing.T, admin *pgx.Conn) {
				statement(t, admin, "ALTER DATABASE cinnabar RESET default_transaction_read_only")
			},
			reads: true,
		}, {
			// What PostgreSQL says when a table cannot grow. What needs no space
			// still works then, as an empty outbox being drained.
			name: "the disk is full",
			begin: func(t *testing.T, admin *pgx.Conn) {
				statement(t, admin, `CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS
					$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'disk_full', MESSAGE = 'could not extend file'; END $$;
					CREATE TRIGGER disk_full BEFORE INSERT ON mercure.updates FOR EACH ROW WHEN (NEW.position IS NOT NULL) EXECUTE FUNCTION disk_full()`)
			},
			end:   func(t *testing.T, admin *pgx.Conn) { statement(t, admin, "DROP FUNCTION disk_full CASCADE") },
			reads: true,
		},
	} {
		t.Run(fault.name, func(t *testing.T) {
			admin := database.DB.Conn(t)
			o := beginOutage(t, database.DB, admin)
			fault.begin(t, admin)
			o.readiness(t, http.StatusServiceUnavailable, refuseBound)
			o.streamsStayOpen(t)
			if !fault.reads {
				o.newStreamsAreRefused(t)
			}
			o.beats.wait(t, 30) // for the readiness and the log to waver
			o.readiness(t, http.StatusServiceUnavailable, 0)
			fault.end(t, admin)
			o.over(t)
			o.loggedOnce(t, lineAway, lineBack)
		})
	}
}

// fill takes every connection the server has but that of the administrator.
func fill(t *testing.T, database *dbtest.DB, admin *pgx.Conn) (taken []*pgx.Conn) {
	t.Helper()
	for len(taken) < maxConnections-1 {
		conn, err := pgx.Connect(t.Context(), database.URL)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close(context.Background()) })
			taken = append(taken, conn)
			continue
		}
		statement(t, admin, terminateHubs)
	}
	return taken
}

// Spec: P-16.
func TestServerCrashes(t *testing.T) {
	t.Parallel()
	database := dbtest.NewServer(t)
	o := beginOutage(t, database.DB, database.DB.Conn(t))
	if err := database.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.readiness(t, http.StatusServiceUnavailable, refuseBound)
	o.streamsStayOpen(t)
	o.newStreamsAreRefused(t)
	o.beats.wait(t, 30)
	if err := database.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.admin = database.DB.Conn(t)
	o.over(t)
	o.loggedOnce(t, lineAway, lineBack)
}

// Whatever is in flight when connections break is resolved: nothing is lost,
// doubled, or in doubt.
func TestConnectionsBreakWhilePublishing(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	proxy := dbtest.NewProxy(t, database)
	o := beginOutage(t, proxy.DB, database.Conn(t))
	for range 25 {
		o.beats.wait(t, 1)
		proxy.Cut()
	}
	o.over(t)
	for data, outcome := range o.outcomes {
		if outcome != "acknowledged" {
			t.Errorf("%s: %s", data, outcome)
		}
	}
	// Connections that are cut all the time are one trouble, not many.
	if lines := o.lines.all(); len(lines) > 3+2*2 {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}

// The network swallows everything without a word, for longer than every timeout;
// what it held back arrives later, when nobody waits for it any more.
func TestNetworkIsABlackHole(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	proxy := dbtest.NewProxy(t, database)
	o := beginOutage(t, proxy.DB, database.Conn(t))
	proxy.Set(dbtest.Fault{Hold: true})
	o.readiness(t, http.StatusServiceUnavailable, hangBound)
	o.streamsStayOpen(t)
	o.newStreamsAreRefused(t)
	proxy.Set(dbtest.Fault{})
	o.over(t)
	o.loggedOnce(t, lineAway, lineBack)
}

// The LISTEN connection alone is dead, without an error. Updates of other nodes
// arrive all the same, and readiness tells.
func TestListenerIsDead(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]dbtest.Fault{
		"all of it":                  {Hold: true},
		"in the middle of its start": {HoldFrom: "LISTEN"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			proxy := dbtest.NewProxy(t, database)
			other := servertest.Start(t, database)
			o := beginOutage(t, database, database.Conn(t), func(c *server.Config) { c.ListenURL = server.Secret(proxy.DB.URL) })
			elsewhere := url.Values{"topic": {"elsewhere"}}
			stream := o.hub.Subscribe(t, servertest.Request{Query: elsewhere})
			proxy.Set(fault)
			if fault.HoldFrom != "" {
				proxy.Cut()
			}
			o.readiness(t, http.StatusServiceUnavailable, hangBound)
			o.lines.wait(t, lineDeaf)
			for range 3 {
				id := other.Publish(t, elsewhere)
				if got := stream.NextID(t); got != id {
					t.Errorf("got %q, want %q", got, id)
				}
			}
			proxy.Set(dbtest.Fault{})
			proxy.Cut()
			o.over(t)
			o.loggedOnce(t, lineDeaf, lineHeardAgain)
		})
	}
}

// Somebody locks a table of the log and forgets it.
func TestTableIsLocked(t *testing.T) {
	t.Parallel()
	var (
		outages []*outage
		holders []pgx.Tx
	)
	for _, table := range []string{"mercure.append_lock", "mercure.updates"} {
		database := dbtest.New(t)
		outages = append(outages, beginOutage(t, database, database.Conn(t)))
		holder, err := database.Conn(t).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := holder.Exec(t.Context(), "LOCK TABLE "+table+" IN ACCESS EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
		holders = append(holders, holder)
	}
	for i, o := range outages {
		o.readiness(t, http.StatusServiceUnavailable, hangBound)
		o.streamsStayOpen(t)
		if err := holders[i].Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.over(t)
		o.loggedOnce(t, lineAway, lineBack)
	}
}
