package presence_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/presence"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

// deadline is how long a test waits for what must happen.
const deadline = 30 * time.Second

// clock is the time of a test, the same on all nodes.
type clock struct{ elapsed atomic.Int64 }

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (c *clock) now() time.Time          { return epoch.Add(time.Duration(c.elapsed.Load())) }
func (c *clock) advance(d time.Duration) { c.elapsed.Add(int64(d)) }

// node is a registry that runs, on a store that can be cut off.
type node struct {
	*presence.Registry
	store *cuttable
	log   *lines
	run   func()
	tick  func()
	stop  func()
	kill  func()

	mu     sync.Mutex
	onGone []func() // what is no longer true without this node
}

func (n *node) whenGone(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.onGone = append(n.onGone, do)
}

func (n *node) gone() {
	for _, do := range n.onGone {
		do()
	}
}

// lines is what a node has logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// cuttable is a store whose node has lost its connection while away is set.
type cuttable struct {
	*eventlog.Log
	away    atomic.Bool
	unclean atomic.Bool   // nodes cannot be ended
	refused atomic.Int64  // writes while it was away
	looks   chan struct{} // one for each look at the leases, after it
	// afterWrite, if set, is told of each batch that was written, and may hide
	// the outcome.
	afterWrite atomic.Pointer[func() error]
}

var errAway = errors.New("the connection is cut")

func (c *cuttable) AddNode(ctx context.Context, id uuid.UUID) error {
	if c.away.Load() {
		c.refused.Add(1)
		return errAway
	}
	return c.Log.AddNode(ctx, id)
}

func (c *cuttable) RenewNode(ctx context.Context, id uuid.UUID) (int64, bool, error) {
	if c.away.Load() {
		c.looked(ctx)
		return 0, false, errAway
	}
	return c.Log.RenewNode(ctx, id)
}

func (c *cuttable) Nodes(ctx context.Context) (map[uuid.UUID]int64, []uuid.UUID, error) {
	defer c.looked(ctx)
	if c.away.Load() {
		return nil, nil, errAway
	}
	return c.Log.Nodes(ctx)
}

func (c *cuttable) looked(ctx context.Context) {
	select {
	case c.looks <- struct{}{}:
	case <-ctx.Done():
	}
}

func (c *cuttable) WritePresence(ctx context.Context, id uuid.UUID, batch, acknowledged int64, began []protocol.Subscription, numbers, ended []int64) (bool, error) {
	if c.away.Load() {
		c.refused.Add(1)
		return false, errAway
	}
	alive, err := c.Log.WritePresence(ctx, id, batch, acknowledged, began, numbers, ended)
	if after := c.afterWrite.Load(); after != nil {
		err = errors.Join(err, (*after)())
	}
	return alive, err
}

func (c *cuttable) EndNode(ctx context.Context, id uuid.UUID, observed *int64) (bool, error) {
	if c.away.Load() || c.unclean.Load() {
		return false, errAway
	}
	return c.Log.EndNode(ctx, id, observed)
}

func openLog(t testing.TB, url string) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Open(t.Context(), eventlog.Config{DatabaseURL: url, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return log
}

// start runs a registry whose leases follow the clock.
func start(t testing.TB, url string, c *clock) *node {
	t.Helper()
	n := prepare(t, url, c)
	n.run()
	eventually(t, "a name", func() bool { return n.Node() != uuid.Nil })
	return n
}

func prepare(t testing.TB, url string, c *clock) *node {
	t.Helper()
	store := &cuttable{Log: openLog(t, url), looks: make(chan struct{})}
	n := &node{log: &lines{}, store: store}
	n.Registry = presence.New(presence.Config{Store: store, Logger: slog.New(slog.NewTextHandler(n.log, nil))})
	ticks := make(chan time.Time)
	n.SetClock(c.now, ticks)
	ctx, cancel := context.WithCancel(context.Background())
	var group errgroup.Group
	n.run = func() {
		group.Go(func() error { return n.Run(ctx) })
	}
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("the registry ended with %v", err)
		}
	})
	n.kill = func() {
		n.KillAtEnd()
		n.stop()
	}
	n.tick = func() {
		ticks <- time.Time{}
		<-store.looks
	}
	t.Cleanup(n.stop)
	return n
}

// eventually polls what has no signal.
func eventually(t testing.TB, what string, ready func() bool) {
	t.Helper()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for timeout := time.After(deadline); !ready(); {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// pass lets time pass in the steps of a lease; every node looks at each.
func pass(c *clock, d time.Duration, nodes ...*node) {
	for ; d > 0; d -= presence.ContactGap / 3 {
		c.advance(presence.ContactGap / 3)
		for _, n := range nodes {
			n.tick()
		}
	}
}

func subscription(selector bool, match, subscriber string) protocol.Subscription {
	collection := "/.well-known/mercure/subscriptions/exact/" + match
	s := protocol.Subscription{Selector: selector, Topic: collection + "/" + subscriber, Collection: collection}
	s.Document = fmt.Sprintf(`{"id":%q,"subscriber":%q,"active":true,"payload":{"text":"\"active\":true"}}`, s.Topic, subscriber)
	return s
}

func (n *node) join(t testing.TB, subscriptions ...protocol.Subscription) func() {
	t.Helper()
	leave, err := n.Join(t.Context(), subscriptions)
	if err != nil {
		t.Fatal(err)
	}
	return leave
}

func (n *node) list(t testing.TB, filter protocol.SubscriptionFilter) (cursor protocol.EventID, ids []string) {
	t.Helper()
	ids = []string{}
	err := n.List(t.Context(), filter, func(id protocol.EventID) error {
		cursor = id
		return nil
	}, func(document string) error {
		id, active := read(t, document)
		if !active {
			t.Errorf("listed as ended: %s", document)
		}
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	return cursor, ids
}

func read(t testing.TB, document string) (id string, active bool) {
	t.Helper()
	var d struct {
		ID     string
		Active bool
	}
	if err := json.Unmarshal([]byte(document), &d); err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	return d.ID, d.Active
}

// event is one in the log, as "+topic" or "-topic".
func events(t testing.TB, pool *pgxpool.Pool, after protocol.EventID) (list []string) {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT data FROM mercure.updates
		WHERE from_hub AND position > coalesce((SELECT min(position) FROM mercure.updates WHERE id = $1), 0) ORDER BY position`, string(after))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var document string
		if err := rows.Scan(&document); err != nil {
			t.Fatal(err)
		}
		id, active := read(t, document)
		list = append(list, map[bool]string{true: "+", false: "-"}[active]+id)
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return list
}

func value[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func rowsLeft(t testing.TB, pool *pgxpool.Pool) int {
	t.Helper()
	return value[int](t, pool, "SELECT count(*) FROM mercure.subscriptions")
}

// Spec.
func TestEventsOfBeginningAndEnd(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	n := start(t, database.URL, &clock{})
	old, matcher := subscription(true, "old", "s"), subscription(false, "new", "s")
	leave := n.join(t, old, matcher)
	if _, ids := n.list(t, protocol.SubscriptionFilter{}); !slices.Equal(ids, []string{matcher.Topic}) {
		t.Errorf("listed %q", ids)
	}
	leave()
	leave()
	eventually(t, "the end", func() bool { return rowsLeft(t, pool) == 0 })
	type row struct {
		Topics  []string
		Data    string
		Private bool
		Type    *string
		Hub     bool
		ID      string
		Size    int
	}
	rows, err := pool.Query(t.Context(), "SELECT topics, data, private, type, from_hub, id, size FROM mercure.updates ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.Topics, &r.Data, &r.Private, &r.Type, &r.Hub, &r.ID, &r.Size); err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	if len(got) != 4 {
		t.Fatalf("got %d events: %+v", len(got), got)
	}
	for i, s := range []protocol.Subscription{old, matcher, old, matcher} {
		r, document := got[i], s.Document
		if i > 1 {
			document = strings.Replace(document, `"active":true`, `"active":false`, 1)
		}
		size := len(r.ID) + len(s.Topic) + len(document)
		if !s.Selector {
			size += len("mercure")
		}
		typed := r.Type != nil && *r.Type == "mercure"
		if !slices.Equal(r.Topics, []string{s.Topic}) || r.Data != document || !r.Private || typed == s.Selector ||
			!r.Hub || uuid.Validate(r.ID) != nil || !strings.HasPrefix(r.ID, "urn:uuid:") || r.Size != size {
			t.Errorf("event %d is %+v", i, r)
		}
	}
}

// Spec: R-21.
func TestListsAreOfAllNodes(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	a, b := start(t, database.URL, &clock{}), start(t, database.URL, &clock{})
	one, two := subscription(false, "x", "1"), subscription(false, "x", "2")
	other, selector := subscription(false, "y", "2"), subscription(true, "x", "3")
	if cursor, ids := a.list(t, protocol.SubscriptionFilter{}); cursor != protocol.Earliest || len(ids) > 0 {
		t.Errorf("empty: %s, %q", cursor, ids)
	}
	a.join(t, one)
	b.join(t, two, other)
	a.join(t, selector)
	for name, test := range map[string]struct {
		filter protocol.SubscriptionFilter
		want   []string
	}{
		"all":                   {protocol.SubscriptionFilter{}, []string{one.Topic, two.Topic, other.Topic}},
		"all selectors":         {protocol.SubscriptionFilter{Selector: true}, []string{selector.Topic}},
		"collection":            {protocol.SubscriptionFilter{Collection: one.Collection}, []string{one.Topic, two.Topic}},
		"collection, selectors": {protocol.SubscriptionFilter{Selector: true, Collection: one.Collection}, []string{selector.Topic}},
		"no such collection":    {protocol.SubscriptionFilter{Collection: "/z"}, []string{}},
		"one":                   {protocol.SubscriptionFilter{Topic: two.Topic}, []string{two.Topic}},
		"one, other dialect":    {protocol.SubscriptionFilter{Selector: true, Topic: two.Topic}, []string{}},
	} {
		for _, n := range []*node{a, b} {
			if _, ids := n.list(t, test.filter); !slices.Equal(ids, test.want) {
				t.Errorf("%s: got %q, want %q", name, ids, test.want)
			}
		}
	}
}

func TestBurstIsWrittenInBatches(t *testing.T) {
	t.Parallel()
	server := dbtest.NewServer(t)
	proxy := dbtest.NewProxy(t, server.DB)
	pool := server.DB.Pool(t)
	n := start(t, proxy.DB.URL, &clock{})
	proxy.Count("write_presence") // from here on
	const joins = 10_000
	leaves := make([]func(), joins)
	var group errgroup.Group
	for i := range leaves {
		group.Go(func() (err error) {
			leaves[i], err = n.Join(t.Context(), []protocol.Subscription{subscription(false, "x", fmt.Sprint(i))})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := rowsLeft(t, pool); got != joins {
		t.Errorf("%d rows", got)
	}
	began := proxy.Count("write_presence")
	for _, leave := range leaves {
		leave()
	}
	eventually(t, "the ends", func() bool { return rowsLeft(t, pool) == 0 })
	all := proxy.Count("write_presence")
	t.Logf("%d statements for %d beginnings, %d for as many ends", began, joins, all-began)
	if began > joins/50 || all-began > joins/50 {
		t.Errorf("%d and %d statements for %d subscribers", began, all-began, joins)
	}
	if got := len(events(t, pool, "")); got != 2*joins {
		t.Errorf("%d events", got)
	}
	if n.Waiting() != 0 {
		t.Errorf("%d bytes are said to wait", n.Waiting())
	}
}

// Spec: R-2.
func TestKilledNodeIsEndedOnceByAll(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	c := &clock{}
	victim, a, b := start(t, database.URL, c), start(t, database.URL, c), start(t, database.URL, c)
	want := map[string]int{}
	for i := range 25 { // more than a chunk
		var list []protocol.Subscription
		for j := range 100 {
			s := subscription(false, fmt.Sprint(j), fmt.Sprint(i))
			list = append(list, s)
			want["+"+s.Topic], want["-"+s.Topic] = 1, 1
		}
		victim.join(t, list...)
	}
	staying := subscription(false, "stays", "a")
	a.join(t, staying)
	want["+"+staying.Topic] = 1
	pass(c, 3*presence.LeaseTime, victim, a, b)
	if rowsLeft(t, pool) != 2501 {
		t.Fatal("nodes that live were ended")
	}
	victim.kill()
	pass(c, presence.LeaseTime-presence.ContactGap/3, a, b)
	if rowsLeft(t, pool) != 2501 {
		t.Fatal("ended too early")
	}
	pass(c, presence.ContactGap, a, b)
	eventually(t, "the end of the dead node", func() bool {
		return rowsLeft(t, pool) == 1 && value[int](t, pool, "SELECT count(*) FROM mercure.nodes") == 2
	})
	got := map[string]int{}
	for _, e := range events(t, pool, "") {
		got[e]++
	}
	if !maps.Equal(got, want) {
		t.Errorf("%d kinds of events, want %d", len(got), len(want))
	}
	for e, times := range got {
		if times != 1 {
			t.Fatalf("%s %d times", e, times)
		}
	}
}

func TestNodeThatWasCutOffAnnouncesItselfAgain(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	c := &clock{}
	lost, other := start(t, database.URL, c), start(t, database.URL, c)
	stays, leaves := subscription(false, "x", "stays"), subscription(false, "x", "leaves")
	lost.join(t, stays)
	leave := lost.join(t, leaves)
	name := lost.Node()
	pass(c, presence.ContactGap, lost, other)
	lost.store.away.Store(true)
	pass(c, presence.LeaseTime+presence.ContactGap, lost, other)
	eventually(t, "its end", func() bool { return rowsLeft(t, pool) == 0 })
	leave()
	lost.store.away.Store(false)
	lost.tick()
	eventually(t, "its return", func() bool { return rowsLeft(t, pool) == 1 })
	if lost.Node() == name {
		t.Error("it has kept its name")
	}
	want := []string{"+" + stays.Topic, "+" + leaves.Topic, "-" + stays.Topic, "-" + leaves.Topic, "+" + stays.Topic}
	if got := events(t, pool, ""); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	eventually(t, "an empty queue", func() bool { return lost.Waiting() == 0 })
}

// The others come back from an outage later than this node does, whether it was
// told of the outage or its calls just took long.
func TestOutageEndsNobody(t *testing.T) {
	t.Parallel()
	for name, outage := range map[string]func(c *clock, a *node){
		"calls fail": func(c *clock, a *node) {
			a.store.away.Store(true)
			pass(c, presence.ContactGap, a)
			a.store.away.Store(false)
			c.advance(2 * presence.LeaseTime)
		},
		"one call fails": func(c *clock, a *node) {
			pass(c, presence.LeaseTime-presence.ContactGap, a)
			a.store.away.Store(true)
			pass(c, presence.ContactGap/3, a)
			a.store.away.Store(false)
		},
		"calls hang": func(c *clock, _ *node) { c.advance(2 * presence.LeaseTime) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			pool := database.Pool(t)
			c := &clock{}
			a, b := start(t, database.URL, c), start(t, database.URL, c)
			s := subscription(false, "x", "b")
			b.join(t, s)
			pass(c, presence.ContactGap, b, a) // a has seen the latest lease of b
			outage(c, a)
			pass(c, presence.LeaseTime-presence.ContactGap/3, a) // b is not back yet
			pass(c, 2*presence.LeaseTime, a, b)
			if !slices.Equal(events(t, pool, ""), []string{"+" + s.Topic}) {
				t.Errorf("got %q", events(t, pool, ""))
			}
			b.kill() // the proof that the node would have been ended
			pass(c, presence.LeaseTime+presence.ContactGap, a)
			eventually(t, "the end", func() bool { return rowsLeft(t, pool) == 0 })
		})
	}
}

func TestOrderlyStopEndsAll(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	n := start(t, database.URL, &clock{})
	s := subscription(false, "x", "1")
	leave := n.join(t, s)
	n.stop()
	leave()
	if got := events(t, pool, ""); !slices.Equal(got, []string{"+" + s.Topic, "-" + s.Topic}) {
		t.Errorf("got %q", got)
	}
	if value[int](t, pool, "SELECT count(*) FROM mercure.nodes") != 0 {
		t.Error("the node is still known")
	}
	if _, err := n.Join(t.Context(), nil); !errors.Is(err, presence.ErrClosed) {
		t.Errorf("join: %v", err)
	}
}

// Who gives up before the beginning is written leaves nothing behind.
func TestLeaveBeforeTheBeginningIsWritten(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	n := start(t, database.URL, &clock{})
	n.store.away.Store(true)
	ctx, cancel := context.WithCancelCause(t.Context())
	var group errgroup.Group
	for i := range 3 {
		group.Go(func() error {
			if _, err := n.Join(ctx, []protocol.Subscription{subscription(false, "x", fmt.Sprint(i))}); !errors.Is(err, errAway) {
				t.Errorf("join: %v", err)
			}
			return nil
		})
	}
	eventually(t, "the queue", func() bool { return n.Waiting() > 0 })
	cancel(errAway)
	_ = group.Wait()
	n.store.away.Store(false)
	last := subscription(false, "x", "last")
	n.join(t, last)
	eventually(t, "an empty queue", func() bool { return n.Waiting() == 0 })
	if got := events(t, pool, ""); !slices.Equal(got, []string{"+" + last.Topic}) {
		t.Errorf("got %q", got)
	}
}

// Who leaves while the beginning is being written is ended, whether the outcome
// of the write is known or not. Spec: R-2.
func TestLeaveWhileTheBeginningIsWritten(t *testing.T) {
	t.Parallel()
	for name, outcome := range map[string]error{"known": nil, "unknown": errAway} {
		for _, stays := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stays %v", name, stays), func(t *testing.T) {
				t.Parallel()
				database := dbtest.New(t)
				pool := database.Pool(t)
				n := start(t, database.URL, &clock{})
				written, goOn := make(chan struct{}), make(chan struct{})
				after := func() error {
					n.store.afterWrite.Store(nil)
					close(written)
					<-goOn
					return outcome
				}
				n.store.afterWrite.Store(&after)
				s := subscription(false, "x", "1")
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var group errgroup.Group
				group.Go(func() error {
					_, err := n.Join(ctx, []protocol.Subscription{s})
					return err
				})
				<-written
				want := []string{"+" + s.Topic}
				if !stays {
					cancel()
					if err := group.Wait(); !errors.Is(err, context.Canceled) {
						t.Errorf("join: %v", err)
					}
					want = append(want, "-"+s.Topic)
				}
				close(goOn)
				eventually(t, "the events", func() bool { return n.Waiting() == 0 })
				if err := group.Wait(); stays && err != nil {
					t.Errorf("join: %v", err)
				}
				if got := events(t, pool, ""); !slices.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

// A beginning whose outcome is unknown, and that is to be tried again, when its
// subscriber leaves.
func TestLeaveBetweenTwoAttempts(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	n := start(t, database.URL, &clock{})
	after := func() error {
		n.store.away.Store(true) // for what is tried next
		return errAway
	}
	n.store.afterWrite.Store(&after)
	s := subscription(false, "x", "1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group errgroup.Group
	group.Go(func() error {
		_, err := n.Join(ctx, []protocol.Subscription{s})
		return err
	})
	eventually(t, "a second attempt", func() bool { return n.store.refused.Load() > 0 })
	cancel()
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("join: %v", err)
	}
	n.store.afterWrite.Store(nil)
	n.store.away.Store(false)
	eventually(t, "an empty queue", func() bool { return n.Waiting() == 0 })
	if got := events(t, pool, ""); !slices.Equal(got, []string{"+" + s.Topic, "-" + s.Topic}) {
		t.Errorf("got %q", got)
	}
}

// A batch that was believed lost must not come after a later one, and one that
// was written must not be written again.
func TestLateAndRepeatedBatches(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	log := openLog(t, database.URL)
	id := uuid.New()
	if err := log.AddNode(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	s := subscription(false, "x", "1")
	write := func(batch, acknowledged int64, began []protocol.Subscription, numbers, ended []int64) bool {
		t.Helper()
		alive, err := log.WritePresence(t.Context(), id, batch, acknowledged, began, numbers, ended)
		if err != nil {
			t.Fatal(err)
		}
		return alive
	}
	one, numbers := []protocol.Subscription{s}, []int64{1}
	for name, got := range map[string]bool{
		"first":       write(1, 0, one, numbers, nil),
		"again":       write(2, 0, one, numbers, nil),
		"its end":     write(4, 2, nil, nil, numbers),
		"no such end": write(5, 4, nil, nil, []int64{7}),
	} {
		if !got {
			t.Errorf("%s: refused", name)
		}
	}
	if write(3, 2, one, numbers, nil) {
		t.Error("a late batch was written")
	}
	if write(7, 6, one, numbers, nil) {
		t.Error("written although the database has lost an acknowledged batch")
	}
	if got := events(t, pool, ""); !slices.Equal(got, []string{"+" + s.Topic, "-" + s.Topic}) {
		t.Errorf("got %q", got)
	}
}

// After a failover the database may have lost what it had acknowledged.
func TestDatabaseThatForgetsIsToldAgain(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	n := start(t, database.URL, &clock{})
	s := subscription(false, "x", "1")
	n.join(t, s)
	if _, err := pool.Exec(t.Context(), "WITH s AS (DELETE FROM mercure.subscriptions) UPDATE mercure.nodes SET batch = 0"); err != nil {
		t.Fatal(err)
	}
	n.tick()
	eventually(t, "the row", func() bool { return rowsLeft(t, pool) == 1 })
	if _, ids := n.list(t, protocol.SubscriptionFilter{}); !slices.Equal(ids, []string{s.Topic}) {
		t.Errorf("listed %q", ids)
	}
}

func TestJoinsAreBounded(t *testing.T) {
	t.Parallel()
	log := openLog(t, dbtest.New(t).URL)
	r := presence.New(presence.Config{Store: log, Logger: slog.New(slog.DiscardHandler), QueueBytes: 1})
	ctx, cancel := context.WithCancel(t.Context())
	var group errgroup.Group
	group.Go(func() error {
		_, err := r.Join(ctx, []protocol.Subscription{subscription(false, "x", "1")})
		return err
	})
	eventually(t, "the first", func() bool { return r.Waiting() > 0 })
	if _, err := r.Join(t.Context(), []protocol.Subscription{subscription(false, "x", "2")}); !errors.Is(err, presence.ErrOverloaded) {
		t.Errorf("got %v", err)
	}
	bad := subscription(false, "x", "3")
	bad.Topic = "\x00"
	if _, err := r.Join(t.Context(), []protocol.Subscription{bad}); !errors.Is(err, presence.ErrUnstorable) {
		t.Errorf("got %v", err)
	}
	cancel()
	if err := group.Wait(); !errors.Is(err, context.Canceled) || r.Waiting() != 0 {
		t.Errorf("got %v, %d bytes wait", err, r.Waiting())
	}
}

// Those who give up while the database is away are not kept until it is back.
func TestWhoGivesUpIsForgotten(t *testing.T) {
	t.Parallel()
	n := prepare(t, dbtest.New(t).URL, &clock{})
	n.store.away.Store(true)
	n.run()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 1000 {
		if _, err := n.Join(gone, []protocol.Subscription{subscription(false, "x", fmt.Sprint(i))}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	eventually(t, "an empty queue", func() bool { return n.Queued() == 0 })
}

// An outage that nobody has waited out is not held against who comes later.
func TestOutageThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	c := &clock{}
	n := start(t, dbtest.New(t).URL, c)
	n.store.away.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	var group errgroup.Group
	group.Go(func() error {
		_, err := n.Join(ctx, []protocol.Subscription{subscription(false, "x", "1")})
		return err
	})
	eventually(t, "a failure", n.Failing)
	cancel()
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	n.store.away.Store(false)
	eventually(t, "nobody to wait", func() bool { return !n.Failing() })
	c.advance(time.Hour)
	written, goOn := make(chan struct{}), make(chan struct{})
	after := func() error {
		n.store.afterWrite.Store(nil)
		close(written)
		<-goOn
		return nil
	}
	n.store.afterWrite.Store(&after)
	group = errgroup.Group{}
	for i := range 2 {
		if i == 1 {
			<-written
		}
		group.Go(func() error {
			_, err := n.Join(t.Context(), []protocol.Subscription{subscription(false, "x", fmt.Sprint("later", i))})
			return err
		})
	}
	eventually(t, "the second", func() bool { return n.Queued() == 1 })
	close(goOn)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// Hub events are emptied, whichever nodes run; their cursors go on resolving, and
// nobody gets them.
func TestOldEventsAreEmptied(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	c := &clock{}
	nodes := []*node{start(t, database.URL, c), start(t, database.URL, c), start(t, database.URL, c)}
	var old []protocol.Subscription
	for i := range 2500 {
		old = append(old, subscription(false, "x", fmt.Sprint(i)))
	}
	nodes[0].join(t, old[:2000]...)
	for _, sql := range []string{
		"INSERT INTO mercure.updates (position, topics, data, size, created_at) SELECT nextval('mercure.updates_position_seq'), '{a}', 'mine', 1, now() - interval '1 day'",
		"UPDATE mercure.hub_events SET created_at = now() - interval '61 minutes'",
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	fresh := subscription(false, "x", "fresh")
	nodes[1].join(t, fresh)
	emptied := func(want int) func() bool {
		return func() bool {
			return value[int](t, pool, "SELECT count(*) FROM mercure.updates WHERE from_hub AND topics = '{}' AND data = '' AND private AND type IS NULL") == want
		}
	}
	c.advance(2 * time.Minute)
	pass(c, presence.ContactGap, nodes...)
	eventually(t, "the emptying", emptied(2000))
	if value[int](t, pool, "SELECT count(*) FROM mercure.updates WHERE topics <> '{}'") != 2 {
		t.Error("others were emptied")
	}
	if value[int](t, pool, "SELECT count(*) FROM mercure.hub_events") != 1 {
		t.Error("it is not forgotten which were emptied")
	}
	id := protocol.EventID(value[string](t, pool, "SELECT id FROM mercure.updates ORDER BY position LIMIT 1"))
	if position, found, err := nodes[0].store.Find(t.Context(), id); err != nil || !found || position == 0 {
		t.Errorf("the cursor does not resolve: %v", err)
	}
	all := protocol.Position(1 << 40)
	if entries, _, err := nodes[0].store.PageAfter(t.Context(), 0, all, []string{old[0].Topic}); err != nil || len(entries) > 0 {
		t.Errorf("found by its topic: %d, %v", len(entries), err)
	}

	// The node that did it goes; another one takes over. What retention has
	// removed from the log is no obstacle.
	slices.SortFunc(nodes, func(a, b *node) int { return strings.Compare(a.Node().String(), b.Node().String()) })
	nodes[0].stop()
	nodes[1].join(t, old[2000:]...)
	for _, sql := range []string{
		"UPDATE mercure.hub_events SET created_at = now() - interval '61 minutes'",
		"DELETE FROM mercure.updates WHERE position <= (SELECT min(up_to_position) FROM mercure.hub_events)",
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	left := value[int](t, pool, "SELECT count(*) FROM mercure.updates WHERE from_hub")
	c.advance(2 * time.Minute)
	pass(c, presence.ContactGap, nodes[1:]...)
	eventually(t, "the emptying", emptied(left))
	if value[int](t, pool, "SELECT count(*) FROM mercure.hub_events") != 0 {
		t.Error("it is not forgotten which were emptied")
	}
}

// What an operator reads of each trouble: that it has begun, and that it is over,
// once.
func TestTroubleIsLogged(t *testing.T) {
	t.Parallel()
	const (
		fails     = "subscriptions cannot be written; retrying"
		works     = "subscriptions are written again"
		givenUp   = "the other nodes have given this one up"
		reaped    = "the subscriptions of a node that has disappeared were ended"
		notEnded  = "the subscriptions of this node could not be ended; other nodes will do it"
		uncleaned = "cleaning up subscriptions fails; trying again"
	)
	database := dbtest.New(t)
	pool := database.Pool(t)
	c := &clock{}
	lost, other := start(t, database.URL, c), start(t, database.URL, c)
	expect := func(n *node, want map[string]int) {
		t.Helper()
		for _, line := range []string{fails, works, givenUp, reaped, notEnded, uncleaned} {
			if got := n.log.count(line); got != want[line] {
				t.Errorf("%d times %q, want %d", got, line, want[line])
			}
		}
	}
	for i := range 600 { // to be ended in several steps
		lost.join(t, subscription(false, "x", fmt.Sprint(i)))
	}
	pass(c, presence.ContactGap, lost, other)

	lost.store.away.Store(true)
	var group errgroup.Group
	group.Go(func() error {
		_, err := lost.Join(t.Context(), []protocol.Subscription{subscription(false, "x", "waits")})
		return err
	})
	eventually(t, "attempts", func() bool { return lost.store.refused.Load() >= 5 })
	lost.store.away.Store(false)
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	expect(lost, map[string]int{fails: 1, works: 1})

	lost.store.away.Store(true)
	other.store.away.Store(true) // its janitor fails
	pass(c, presence.LeaseTime, lost)
	other.store.away.Store(false)
	other.store.unclean.Store(true)
	pass(c, presence.LeaseTime+presence.ContactGap, lost, other)
	eventually(t, "a failure of the janitor", func() bool { return other.log.count(uncleaned) > 0 })
	pass(c, presence.ContactGap, lost, other)
	other.store.unclean.Store(false)
	pass(c, presence.ContactGap, lost, other)
	eventually(t, "the end", func() bool { return rowsLeft(t, pool) == 0 && other.log.count(reaped) > 0 })
	expect(other, map[string]int{reaped: 1, uncleaned: 1})
	lost.store.away.Store(false)
	lost.tick()
	eventually(t, "its return", func() bool { return rowsLeft(t, pool) == 601 })
	eventually(t, "its word", func() bool { return lost.log.count(givenUp) > 0 })
	expect(lost, map[string]int{fails: 1, works: 1, givenUp: 1})

	lost.store.away.Store(true)
	lost.stop()
	expect(lost, map[string]int{fails: 1, works: 1, givenUp: 1, notEnded: 1})
}

// A list, and the events behind its cursor, are the truth, on every node, while
// subscribers come and go and nodes are killed, cut off and stopped. Spec: R-17,
//
func TestListAndEventsAgreeUnderChurn(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	c := &clock{}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	type snapshot struct {
		cursor protocol.EventID
		ids    []string
	}
	var snapshots []snapshot
	truth := map[string]bool{}
	serial := 0
	nodes := []*node{start(t, database.URL, c), start(t, database.URL, c), start(t, database.URL, c)}
	for range 6 {
		var (
			mu       sync.Mutex
			churning errgroup.Group
			base     = serial
		)
		serial += 1000
		for i, n := range nodes {
			for worker := range 4 {
				pick := rand.New(rand.NewPCG(seed, uint64(serial+10*i+worker)))
				churning.Go(func() error {
					for k := range 20 {
						s := subscription(false, fmt.Sprint(k%3), fmt.Sprint(base+i*100+worker*20+k, "n"))
						leave, err := n.Join(t.Context(), []protocol.Subscription{s})
						if err != nil {
							return err
						}
						if pick.IntN(2) == 0 {
							leave()
							continue
						}
						mu.Lock()
						truth[s.Topic] = true
						mu.Unlock()
						n.whenGone(func() { delete(truth, s.Topic) })
					}
					return nil
				})
			}
		}
		observer := nodes[random.IntN(len(nodes))]
		for range 5 {
			cursor, ids := observer.list(t, protocol.SubscriptionFilter{})
			snapshots = append(snapshots, snapshot{cursor, ids})
		}
		if err := churning.Wait(); err != nil {
			t.Fatal(err)
		}
		victim := random.IntN(len(nodes))
		switch random.IntN(3) {
		case 0:
			nodes[victim].kill()
			nodes[victim].gone()
			nodes[victim] = start(t, database.URL, c)
		case 1: // cut off until it was given up
			nodes[victim].store.away.Store(true)
			pass(c, 2*presence.LeaseTime, nodes...)
			nodes[victim].store.away.Store(false)
		case 2:
			nodes[victim].stop()
			nodes[victim].gone()
			nodes[victim] = start(t, database.URL, c)
		}
		pass(c, presence.ContactGap, nodes...)
		for _, n := range nodes {
			eventually(t, "all nodes", func() bool { return n.Node() != uuid.Nil && n.Waiting() == 0 })
		}
		cursor, ids := observer.list(t, protocol.SubscriptionFilter{})
		snapshots = append(snapshots, snapshot{cursor, ids})
	}
	pass(c, 2*presence.LeaseTime, nodes...)
	want := slices.Sorted(maps.Keys(truth))
	for _, n := range nodes {
		eventually(t, "the truth", func() bool {
			_, ids := n.list(t, protocol.SubscriptionFilter{})
			return slices.Equal(ids, want)
		})
	}
	for i, s := range append(snapshots, snapshot{cursor: protocol.Earliest}) {
		state := map[string]bool{}
		for _, id := range s.ids {
			state[id] = true
		}
		for _, e := range events(t, pool, s.cursor) {
			if e[0] == '+' {
				state[e[1:]] = true
			} else {
				delete(state, e[1:])
			}
		}
		if got := slices.Sorted(maps.Keys(state)); !slices.Equal(got, want) {
			t.Errorf("snapshot %d from %s: %d subscriptions, want %d", i, s.cursor, len(got), len(want))
		}
	}
}
