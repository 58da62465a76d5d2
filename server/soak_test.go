package server_test

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

var soakFor = flag.Duration("soak", 4*time.Second, "how long TestSoak keeps two hubs busy")

const (
	soakHubs = 2
	// soakRound is after how long the clients are sent away and what is left is
	// counted; shorter, if the whole soak is short.
	soakRound     = 15 * time.Second
	soakRoundsMin = 8
	// soakRetained is how many updates retention leaves.
	soakRetained = 5000
	// soakAllowance is how much more may be in use in the second half of a soak
	// than in its second quarter.
	soakAllowance = 4 << 20
	// soakTokens are enough for a cache of tokens to be full, which takes too long
	// for a short soak, in which it grows by less than the allowance.
	soakTokens = 20_000
	soakLong   = time.Minute
)

// Clients that come and go in every way there is, publishers of both kinds, and
// retention, on two hubs: whenever the clients are away, no goroutine,
// descriptor or stream of theirs is left, memory does not grow, and neither do
// the tables that are kept short. One reader at each hub stays, and gets every
// update once.
//
// Not parallel, since memory, goroutines and descriptors are those of all tests
// that run.
//
// Spec: S-23.
func TestSoak(t *testing.T) { //nolint:paralleltest // see above
	database := dbtest.New(t)
	admin := database.Conn(t)
	before := inUse(t, admin)
	s := &soak{database: database, admin: admin, ends: new(streamsAtEnd), began: time.Now()}
	for range soakHubs {
		s.hubs = append(s.hubs, servertest.Start(t, database, bothDialects, func(c *server.Config) {
			c.DispatchTimeout = 300 * time.Millisecond
			c.WriteTimeout = 3 * time.Second
			c.Heartbeat = 100 * time.Millisecond
			c.Logger = slog.New(slog.NewTextHandler(s.ends, nil))
		}))
	}
	empty := inUse(t, admin)
	s.stay(t)
	s.idle = inUse(t, admin)
	if *soakFor >= soakLong {
		s.fillTokenCaches(t)
	}
	for len(s.samples) < soakRoundsMin || time.Since(s.began) < *soakFor {
		s.round(t, min(soakRound, *soakFor/soakRoundsMin))
	}
	s.leave(t)
	awaitUse(t, admin, empty)
	for _, hub := range s.hubs {
		hub.Stop()
		if err := hub.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	s.ends.check(t)
	awaitUse(t, admin, before)
	checkGrowth(t, s.samples)
}

// soak is the state of TestSoak.
type soak struct {
	database *dbtest.DB
	hubs     []*servertest.Hub
	admin    *pgx.Conn
	ends     *streamsAtEnd
	began    time.Time
	idle     use // with hubs, without clients
	samples  []sample

	// numbered is how many updates of the readers that stay were published.
	numbered  int
	stayers   errgroup.Group
	leaving   context.CancelFunc
	delivered atomic.Int64
}

// fillTokenCaches lets memory be at once what it would be after a while.
func (s *soak) fillTokenCaches(t *testing.T) {
	t.Helper()
	c := s.newChurn(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	random := rand.New(rand.NewPCG(1, 0))
	for range soakTokens {
		for _, hub := range s.hubs {
			if err := c.showToken(t.Context(), client, hub, random); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (s *soak) newChurn(t *testing.T) *churn {
	t.Helper()
	c := &churn{hubs: s.hubs, database: s.database, seed: uint64(len(s.samples)), numbered: s.numbered}
	var err error
	if c.publisher, err = server.ParseSigningKey(servertest.PublisherSecret, "HS256"); err != nil {
		t.Fatal(err)
	}
	if c.subscriber, err = server.ParseSigningKey(servertest.SubscriberSecret, "HS256"); err != nil {
		t.Fatal(err)
	}
	return c
}

// round sends the clients to the hubs, and counts what they leave behind.
func (s *soak) round(t *testing.T, length time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	c := s.newChurn(t)
	if err := c.run(ctx); err != nil {
		t.Fatal(err)
	}
	s.numbered = c.numbered
	s.awaitDelivered(t)
	s.retain(t)
	awaitUse(t, s.admin, s.idle)
	now := takeSample(t, s.admin)
	s.samples = append(s.samples, now)
	t.Logf("%6s  %s  updates=%d %s", time.Since(s.began).Round(time.Second), now, s.numbered, &c.counts)
}

// stay begins a reader at each hub that is there all the time.
func (s *soak) stay(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	s.leaving = cancel
	for _, hub := range s.hubs {
		r, err := openReader(ctx, hub, "earliest", 0)
		if err != nil {
			t.Fatal(err)
		}
		s.stayers.Go(func() error { return s.follow(ctx, hub, r) })
	}
	t.Cleanup(func() { s.leave(t) })
}

// follow reads what is published, in order, and resumes when the stream has
// lived long enough.
func (s *soak) follow(ctx context.Context, hub *servertest.Hub, r *reader) error {
	defer func() { _ = r.body.Close() }()
	for want := 1; ; {
		got, err := r.next()
		switch {
		case err == nil && got == want:
			want++
			s.delivered.Add(1)
		case err == nil:
			return fmt.Errorf("a reader that stayed got %d, want %d", got, want)
		case ctx.Err() != nil:
			return nil
		default:
			_ = r.body.Close()
			next, err := resume(ctx, hub, r.lastID)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("resume after %d: %w", want-1, err)
			}
			r = next
		}
	}
}

// resume tries again while the hub has no connection to the database.
func resume(ctx context.Context, hub *servertest.Hub, lastID string) (*reader, error) {
	for began := time.Now(); ; {
		r, err := openReader(ctx, hub, lastID, 0)
		if err == nil || ctx.Err() != nil || time.Since(began) > servertest.Deadline {
			return r, err
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// awaitDelivered waits until the readers that stay have everything.
func (s *soak) awaitDelivered(t *testing.T) {
	t.Helper()
	waitFor(t, func() string {
		if n := s.delivered.Load(); n != int64(s.numbered*soakHubs) {
			return fmt.Sprintf("%d of %d updates were delivered to %d readers", n, s.numbered, soakHubs)
		}
		return ""
	})
}

// leave ends the readers that stayed.
func (s *soak) leave(t *testing.T) {
	t.Helper()
	s.leaving()
	if err := s.stayers.Wait(); err != nil {
		t.Error(err)
	}
}

// retain removes all but the newest updates, and the tokens of old batches, as
// retention does.
func (s *soak) retain(t *testing.T) {
	t.Helper()
	if _, err := s.admin.Exec(t.Context(), `WITH gone AS (
			DELETE FROM mercure.updates WHERE position <= (SELECT max(position) FROM mercure.updates) - $1::bigint RETURNING position
		) UPDATE mercure.horizon SET position = greatest(position, (SELECT max(position) FROM gone))`, soakRetained); err != nil {
		t.Fatal(err)
	}
	if _, err := s.admin.Exec(t.Context(), "SELECT mercure.forget_batches('1 minute', 1000000)"); err != nil {
		t.Fatal(err)
	}
}

// use is what clients must give back, without what belongs to connections to the
// database: their pools grow and shrink.
type use struct{ goroutines, descriptors int }

func inUse(t *testing.T, admin *pgx.Conn) use {
	t.Helper()
	descriptors, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
		t.Fatal(err)
	}
	// pgx leaves a goroutine that reads to a connection over which much was sent.
	readers := bytes.Count(stacks.Bytes(), []byte("bgreader.(*BGReader).bgRead("))
	return use{goroutines: runtime.NumGoroutine() - readers, descriptors: len(descriptors) - connectionsOfHubs(t, admin)}
}

func connectionsOfHubs(t *testing.T, admin *pgx.Conn) (n int) {
	t.Helper()
	if err := admin.QueryRow(t.Context(),
		"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'cinnabar%'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// awaitUse waits until no more is in use than this.
func awaitUse(t *testing.T, admin *pgx.Conn, want use) {
	t.Helper()
	servertest.CloseIdle()
	waitFor(t, func() string {
		got := inUse(t, admin)
		if got.goroutines <= want.goroutines && got.descriptors <= want.descriptors {
			return ""
		}
		var stacks bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		return fmt.Sprintf("%+v are in use, and were %+v before\n%s", got, want, &stacks)
	})
}

// waitFor fails the test with what keeps it waiting too long.
func waitFor(t *testing.T, waiting func() string) {
	t.Helper()
	timeout := time.After(servertest.Deadline)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		why := waiting()
		if why == "" {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal(why)
		}
	}
}

// sample is what is in use when only the hubs are.
type sample struct {
	heap, rss int // bytes
	use       use
	database  string
}

func (s sample) String() string {
	return fmt.Sprintf("heap=%dkB rss=%dkB goroutines=%d descriptors=%d %s", s.heap>>10, s.rss>>10, s.use.goroutines, s.use.descriptors, s.database)
}

func takeSample(t *testing.T, admin *pgx.Conn) sample {
	t.Helper()
	s := sample{heap: heapInUse(), rss: residentSet(), use: inUse(t, admin)}
	if err := admin.QueryRow(t.Context(), `SELECT string_agg(format('%s=%skB+%skB,%s dead', c.relname,
			pg_relation_size(c.oid) / 1024, pg_indexes_size(c.oid) / 1024, pg_stat_get_dead_tuples(c.oid)), ' ' ORDER BY c.relname)
		FROM pg_class AS c WHERE c.relnamespace = 'mercure'::regnamespace AND c.relname IN ('outbox', 'updates', 'append_batches')`).Scan(&s.database); err != nil {
		t.Fatal(err)
	}
	return s
}

// residentSet is zero where the system does not tell.
func residentSet() int {
	content, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int
	if _, err := fmt.Sscan(string(content), &size, &resident); err != nil {
		return 0
	}
	return resident * os.Getpagesize()
}

// checkGrowth compares the second half of the samples with the quarter before. What
// leaks is in all samples, the least one as well, which what happens to be in use
// in one moment is not.
func checkGrowth(t *testing.T, samples []sample) {
	t.Helper()
	half := len(samples) / 2
	early, late := medianHeap(samples[half/2:half]), leastHeap(samples[half:])
	t.Logf("heap in use: %d kB in the second quarter, %d kB at least in the second half, of %d rounds", early>>10, late>>10, len(samples))
	if late > early+soakAllowance {
		t.Errorf("the heap grew by %d kB", (late-early)>>10)
	}
}

func leastHeap(samples []sample) int {
	return slices.MinFunc(samples, func(a, b sample) int { return cmp.Compare(a.heap, b.heap) }).heap
}

func medianHeap(samples []sample) int {
	var heaps []int
	for _, s := range samples {
		heaps = append(heaps, s.heap)
	}
	slices.Sort(heaps)
	return heaps[len(heaps)/2]
}

// streamsAtEnd finds in the log of hubs how many streams they had when they
// were told to stop. It keeps no more: a soak is long.
type streamsAtEnd struct {
	mu    sync.Mutex
	lines []string
}

func (l *streamsAtEnd) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("hub stopping")) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func (l *streamsAtEnd) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) != soakHubs {
		t.Errorf("%d hubs said that they stop", len(l.lines))
	}
	for _, line := range l.lines {
		if !strings.Contains(line, "streams=0") {
			t.Errorf("streams were left: %s", line)
		}
	}
}
