package eventlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

// deadline is how long a test waits for what must happen; it says nothing
// about speed.
const deadline = 30 * time.Second

// sink collects what a log delivers.
type sink struct {
	changed chan struct{}

	mu       sync.Mutex
	recent   []protocol.Entry
	entries  []protocol.Entry
	restarts int
	redacted []protocol.Position
}

func newSink() *sink { return &sink{changed: make(chan struct{}, 1)} }

func (s *sink) Start(recent []protocol.Entry, _ protocol.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recent = recent
}

func (s *sink) Deliver(entries []protocol.Entry) {
	s.mu.Lock()
	s.entries = append(s.entries, entries...)
	s.mu.Unlock()
	s.signal()
}

func (s *sink) Restart(recent []protocol.Entry, _ protocol.Position) {
	s.mu.Lock()
	s.recent = recent
	s.restarts++
	s.mu.Unlock()
	s.signal()
}

func (s *sink) Redact(positions []protocol.Position) {
	s.mu.Lock()
	s.redacted = append(s.redacted, positions...)
	s.mu.Unlock()
	s.signal()
}

func (s *sink) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// wait returns what was delivered once enough says it is.
func (s *sink) wait(t *testing.T, what string, enough func(entries []protocol.Entry, restarts int) bool) []protocol.Entry {
	t.Helper()
	timeout := time.After(deadline)
	for {
		s.mu.Lock()
		entries, restarts := slices.Clone(s.entries), s.restarts
		s.mu.Unlock()
		if enough(entries, restarts) {
			return entries
		}
		select {
		case <-s.changed:
		case <-timeout:
			t.Fatalf("waiting for %s: got %d updates: %q", what, len(entries), data(entries))
		}
	}
}

// waitFor waits for a number of updates and returns their data.
func (s *sink) waitFor(t *testing.T, n int) []protocol.Entry {
	t.Helper()
	return s.wait(t, fmt.Sprintf("%d updates", n), func(e []protocol.Entry, _ int) bool { return len(e) >= n })
}

func data(entries []protocol.Entry) []string {
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.Update.Data
	}
	return list
}

type testLog struct {
	*eventlog.Log
	*sink
	stop func()
}

// open runs a log on a database until the test ends or stop is called.
func open(t testing.TB, url string) *testLog {
	t.Helper()
	return openWith(t, eventlog.Config{DatabaseURL: url})
}

func openWith(t testing.TB, config eventlog.Config) *testLog {
	t.Helper()
	l := begin(t, config)
	select {
	case <-l.Started():
	case <-time.After(deadline):
		t.Fatal("the log did not start")
	}
	return l
}

// begin does not wait for the log to have started.
func begin(t testing.TB, config eventlog.Config) *testLog {
	t.Helper()
	config.RecentBytes, config.Logger = 1<<20, slog.New(slog.DiscardHandler)
	log, err := eventlog.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	l := &testLog{Log: log, sink: newSink()}
	ctx, cancel := context.WithCancel(context.Background())
	var group errgroup.Group
	group.Go(func() error { return log.Run(ctx, l.sink) })
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("the log ended with %v", err)
		}
		log.Close()
	})
	t.Cleanup(l.stop)
	return l
}

func (l *testLog) append(t *testing.T, update protocol.Update) protocol.EventID {
	t.Helper()
	if update.Topics == nil {
		update.Topics = []string{"https://example.com/a"}
	}
	id, err := l.Append(t.Context(), &update)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func query[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (value T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// Spec: TP-6, TP-8, P-13.
func TestUpdatesSurviveTheLogUnchanged(t *testing.T) {
	t.Parallel()
	retry := int64(0)
	long := strings.Repeat("é", 2048)
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("https://example.com/%d", i)
	}
	updates := map[string]protocol.Update{
		"plain":             {Topics: []string{"https://example.com/a"}, Data: "hello"},
		"everything":        {ID: "my-id", Topics: []string{"a", "b"}, Data: "x\ny", Private: true, Type: "t", Retry: &retry},
		"no data":           {Topics: []string{"a"}},
		"NUL in data":       {Topics: []string{"a"}, Data: "a\x00b"},
		"syntax of arrays":  {Topics: []string{`{"a",NULL}`, `b\c`, `"`, "NULL", " ", ","}, Data: `{"a":1}`},
		"4,096 bytes":       {ID: protocol.EventID(long), Topics: []string{long}, Type: long},
		"1,000 topics":      {Topics: many},
		"a megabyte":        {Topics: []string{"a"}, Data: strings.Repeat("0123456789abcdef", 1<<16)},
		"more than a batch": {Topics: []string{"a"}, Data: strings.Repeat("x", 9<<20)},
	}
	database := dbtest.New(t)
	l := open(t, database.URL)
	other := open(t, database.URL) // reads from the table what l delivers from memory
	for name, update := range updates {
		t.Run(name, func(t *testing.T) {
			id := l.append(t, update)
			if update.ID != "" && id != update.ID {
				t.Errorf("id %q became %q", update.ID, id)
			}
			for _, log := range []*testLog{l, other} {
				entries := log.wait(t, name, func(e []protocol.Entry, _ int) bool {
					return len(e) > 0 && e[len(e)-1].Update.ID == id
				})
				want := update
				want.ID = id
				compare(t, entries[len(entries)-1].Update, &want)
			}
		})
	}
	replay, covered, err := l.PageAfter(t.Context(), 0, 5, nil)
	if err != nil || len(replay) == 0 || covered < replay[len(replay)-1].Position {
		t.Errorf("replay: %d updates up to %d, %v", len(replay), covered, err)
	}
}

func compare(t *testing.T, got, want *protocol.Update) {
	t.Helper()
	sameRetry := (got.Retry == nil) == (want.Retry == nil) && (got.Retry == nil || *got.Retry == *want.Retry)
	if got.ID != want.ID || !slices.Equal(got.Topics, want.Topics) || got.Data != want.Data ||
		got.Private != want.Private || got.Type != want.Type || !sameRetry {
		t.Errorf("got %.200v, want %.200v", got, want)
	}
}

func TestFindReturnsTheEarliestOccurrence(t *testing.T) { // Spec: H-4, H-10, P-14
	t.Parallel()
	database := dbtest.New(t)
	l := open(t, database.URL)
	l.append(t, protocol.Update{ID: "again", Data: "1"})
	l.append(t, protocol.Update{ID: "other", Data: "2"})
	l.append(t, protocol.Update{ID: "again", Data: "3"})
	exec(t, database.Pool(t), "INSERT INTO mercure.outbox (topics, id, data) VALUES ('{a}', 'again', '4'), ('{a}', 'twice', '5'), ('{a}', 'twice', '6')")
	entries := l.waitFor(t, 6)
	position, found, err := l.Find(t.Context(), "again")
	if err != nil || !found || position != entries[0].Position {
		t.Errorf("Find(again) = %d, %v, %v; want %d", position, found, err, entries[0].Position)
	}
	for _, unknown := range []protocol.EventID{"unknown", "", "a\x00b"} {
		if _, found, err := l.Find(t.Context(), unknown); err != nil || found {
			t.Errorf("Find(%q) = %v, %v", unknown, found, err)
		}
	}
	flags := query[[]bool](t, database.Pool(t), "SELECT array_agg(id_reused ORDER BY position) FROM mercure.updates")
	if want := []bool{false, false, true, true, false, true}; !slices.Equal(flags, want) {
		t.Errorf("id_reused is %v, want %v", flags, want)
	}
}

func TestPagesByTopic(t *testing.T) { // Spec: H-11
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	l := open(t, database.URL)
	exec(t, pool, `INSERT INTO mercure.outbox (topics, data) SELECT ARRAY['https://example.com/' || i % 10, 'all'], i::text FROM generate_series(1, 3000) AS i`)
	head := l.waitFor(t, 3000)[2999].Position

	for name, test := range map[string]struct {
		topics []string
		want   int
	}{
		"one of ten":      {[]string{"https://example.com/3"}, 300},
		"an alternate":    {[]string{"all"}, 3000},
		"several topics":  {[]string{"https://example.com/3", "https://example.com/4"}, 600},
		"no such topic":   {[]string{"https://example.com/11"}, 0},
		"all, unfiltered": {nil, 3000},
	} {
		t.Run(name, func(t *testing.T) {
			var got []protocol.Entry
			for after := protocol.Position(0); after < head; {
				page, covered, err := l.PageAfter(t.Context(), after, head, test.topics)
				if err != nil || covered <= after {
					t.Fatalf("page after %d: covered %d, %v", after, covered, err)
				}
				got = append(got, page...)
				after = covered
			}
			sorted := slices.IsSortedFunc(got, func(a, b protocol.Entry) int { return int(a.Position - b.Position) })
			if len(got) != test.want || !sorted {
				t.Errorf("got %d updates (sorted: %v), want %d", len(got), sorted, test.want)
			}
		})
	}
}

func TestPagesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	l := open(t, database.URL)
	for range 5 {
		l.append(t, protocol.Update{Data: strings.Repeat("x", 100<<10)})
	}
	page, covered, err := l.PageAfter(t.Context(), 0, 5, nil)
	if err != nil || len(page) != 3 || covered != page[2].Position {
		t.Errorf("got %d updates up to %d, %v; want 3, which cross 256 KiB", len(page), covered, err)
	}
}

func TestRetentionIsNoticed(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	l := open(t, database.URL)
	for range 3 {
		l.append(t, protocol.Update{})
	}
	exec(t, pool, "WITH gone AS (DELETE FROM mercure.updates WHERE position <= 2) UPDATE mercure.horizon SET position = 2")
	if _, _, err := l.PageAfter(t.Context(), 1, 3, nil); err == nil || !strings.Contains(err.Error(), "horizon") {
		t.Errorf("a page from behind the horizon: %v", err)
	}
	if page, _, err := l.PageAfter(t.Context(), 2, 3, nil); err != nil || len(page) != 1 {
		t.Errorf("a page from the horizon: %d updates, %v", len(page), err)
	}
	// Nor does a page without a match hide that something is gone.
	if _, _, err := l.PageAfter(t.Context(), 1, 3, []string{"unknown"}); !errors.Is(err, eventlog.ErrBelowHorizon) {
		t.Errorf("a page by topics from behind the horizon: %v", err)
	}
	// From the beginning means: whatever there is.
	if page, _, err := l.PageAfter(t.Context(), 0, 3, nil); err != nil || len(page) != 1 {
		t.Errorf("a page from the beginning: %d updates, %v", len(page), err)
	}
}

func TestListenAddressMustLeadToTheSameDatabase(t *testing.T) {
	t.Parallel()
	_, err := eventlog.Open(t.Context(), eventlog.Config{
		DatabaseURL: dbtest.New(t).URL, ListenURL: dbtest.New(t).URL, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil || !strings.Contains(err.Error(), "different databases") {
		t.Errorf("got %v", err)
	}
}

func TestStartDeliversTheEndOfTheLog(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	first := open(t, database.URL)
	for i := range 2500 {
		if i%500 == 0 {
			exec(t, database.Pool(t), "INSERT INTO mercure.outbox (topics, data) SELECT '{a}', repeat('x', 10) FROM generate_series(1, 500)")
		}
	}
	all := first.waitFor(t, 2500)
	second := open(t, database.URL)
	if len(second.recent) != 2500 || second.recent[0].Position != all[0].Position || second.recent[2499].Position != all[2499].Position {
		t.Errorf("got %d recent updates, want all 2500 in order", len(second.recent))
	}
}

// A node is not ready before its warm tail is filled, however well it hears.
func TestNotReadyBeforeTheEndOfTheLogIsRead(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	proxy := dbtest.NewProxy(t, database)
	const probe = "SELECT pg_notify"
	proxy.Count(probe)
	proxy.Set(dbtest.Fault{HoldFrom: "name: Head"})
	l := begin(t, eventlog.Config{DatabaseURL: proxy.DB.URL, ListenURL: database.URL})
	// The second probe says that the first was heard. Each connection is asked what
	// one means before it sends one, so that it has the text once or twice.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); proxy.Count(probe) < 3; {
		if <-tick.C; time.Since(began) > deadline {
			t.Fatal("nobody looks whether notifications are heard")
		}
	}
	if err := l.Ready(); !errors.Is(err, eventlog.ErrStarting) {
		t.Errorf("ready says %v, and nothing was read", err)
	}
	proxy.Set(dbtest.Fault{})
	proxy.Cut()
	select {
	case <-l.Started():
	case <-time.After(deadline):
		t.Error("the log did not start")
	}
}

// Notifications and the doorbell save the second or two that polls take.
func TestUpdatesArriveBeforeTheNextPoll(t *testing.T) {
	t.Parallel()
	const rounds = 5
	database := dbtest.New(t)
	pool := database.Pool(t)
	writer, reader := open(t, database.URL), open(t, database.URL)
	var http, sql time.Duration
	for i := range rounds {
		began := time.Now()
		writer.append(t, protocol.Update{})
		reader.waitFor(t, 2*i+1)
		http += time.Since(began)
		await(t, pool, "SELECT last_value FROM mercure.doorbell", 2) // silence
		began = time.Now()
		exec(t, pool, "SELECT mercure.publish('a')")
		reader.waitFor(t, 2*i+2)
		sql += time.Since(began)
	}
	t.Logf("from another node: %s, from SQL: %s, each %d times", http, sql, rounds)
	if bound := rounds * 400 * time.Millisecond; http > bound || sql > bound {
		t.Errorf("updates wait for the next poll: %s from another node, %s from SQL", http, sql)
	}
}

// pgx is often told to keep no statements, for the sake of poolers.
func TestStatementsWithoutNames(t *testing.T) {
	t.Parallel()
	l := open(t, dbtest.New(t).URL+"&statement_cache_capacity=0")
	if _, err := l.Append(t.Context(), &protocol.Update{Topics: []string{"a"}, Data: "x"}); err != nil {
		t.Fatal(err)
	}
	l.waitFor(t, 1)
}
