package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
)

// A long run:
//
//	go test ./cmd/cinnabar -run TestPresenceUnderAnyFault -timeout 1h -v -presence.duration 10m -presence.seed 7
var (
	presenceSeed     = flag.Uint64("presence.seed", 1, "of the tests of presence on a cluster")
	presenceDuration = flag.Duration("presence.duration", 25*time.Second, "how long to disturb a cluster with presence at random")
	presenceFaults   = flag.String("presence.faults", "", "faults of that run, such as kill,term; empty: all")
)

const (
	presenceNodes   = 3
	presenceClients = 24
	// endsWithin is when a killed node's subscriptions must have ended.
	endsWithin = 30 * time.Second
	// often and seldom are pauses between two lists.
	often, seldom = 150 * time.Millisecond, 5 * time.Second
)

// presenceCluster is three hubs on one database, clients that come and go, and
// observers.
type presenceCluster struct {
	seed   uint64
	key    server.SigningKey
	server *dbtest.Server
	nodes  []*presenceNode
	serial atomic.Uint64

	observers []*observer
	// churn is closed when clients shall stay as they are.
	churn     chan struct{}
	endChurn  func()
	leave     func() // ends all clients and observers, and waits
	stopNodes func()

	mu          sync.Mutex
	left        time.Time // when all clients were told to end
	connections []*connection
	lists       []listed
	problems    []string
}

func (c *presenceCluster) random(stream int) *rand.Rand {
	return rand.New(rand.NewPCG(c.seed, uint64(stream)))
}

// problem notes what must not be.
func (c *presenceCluster) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.problems) < 20 {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

// startPresence starts everything.
func startPresence(t *testing.T) *presenceCluster {
	t.Helper()
	t.Logf("seed %d", *presenceSeed)
	key, err := server.ParseSigningKey(presenceSecret, "HS256")
	if err != nil {
		t.Fatal(err)
	}
	c := &presenceCluster{seed: *presenceSeed, key: key, server: dbtest.NewServer(t), churn: make(chan struct{})}
	c.endChurn = sync.OnceFunc(func() { close(c.churn) })
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	c.stopNodes = func() {
		stop()
		running.Wait()
	}
	t.Cleanup(c.stopNodes)
	for i := range presenceNodes {
		n := &presenceNode{index: i, home: t.TempDir(), proxy: dbtest.NewProxy(t, c.server.DB)}
		n.environ = []string{
			"DATABASE_URL=" + n.proxy.DB.URL, "MERCURE_ADDR=127.0.0.1:0", "MERCURE_PUBLIC_URL=" + presenceIssuer + hubPath,
			"MERCURE_TRUSTED_ISSUERS=" + presenceIssuer, "MERCURE_COMPAT=on", "MERCURE_SUBSCRIPTIONS=on",
			"MERCURE_PUBLISHER_JWT_KEY=" + presenceSecret, "MERCURE_SUBSCRIBER_JWT_KEY=" + presenceSecret,
			"MERCURE_HEARTBEAT=" + presenceBeat.String(), "MERCURE_WRITE_TIMEOUT=0s", "MERCURE_DRAIN_TIMEOUT=1s",
			"MERCURE_TAIL_BYTES=64KiB", // resume from the table as well
		}
		c.nodes = append(c.nodes, n)
		running.Go(func() { n.run(ctx, c.problem) })
	}
	t.Cleanup(func() { // before the clean-up of the nodes, and of what is between them and the database
		for _, n := range c.nodes {
			n.proxy.Set(dbtest.Fault{})
		}
		stop()
	})
	eventually(t, "every node serves", func() bool {
		return !slices.ContainsFunc(c.nodes, func(n *presenceNode) bool { return n.current() == nil })
	})
	return c
}

// enter lets clients and observers in, and asks for lists every now and then.
func (c *presenceCluster) enter(t *testing.T, polls time.Duration) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var here sync.WaitGroup
	c.leave = sync.OnceFunc(func() {
		c.mu.Lock()
		c.left = time.Now()
		c.mu.Unlock()
		stop()
		here.Wait()
	})
	t.Cleanup(c.leave)
	for i := range presenceClients {
		here.Go(func() { c.client(ctx, i, c.churn) })
	}
	for node := -1; node < presenceNodes; node++ {
		for _, selectors := range []bool{false, true} {
			o := &observer{presenceCluster: c, selectors: selectors, node: node, name: fmt.Sprintf("the observer of node %d (selectors: %t)", node, selectors)}
			o.random = c.random(2000 + len(c.observers))
			c.observers = append(c.observers, o)
			here.Go(func() { o.follow(ctx, c.churn) })
			if node >= 0 {
				here.Go(func() { c.poll(ctx, node, selectors, polls) })
			}
		}
	}
	eventually(t, "some connections", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.connections) > 2*presenceClients
	})
}

// truth is what clients hold open; known: they know their names.
func (c *presenceCluster) truth(selectors bool) (all shown, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all = shown{}
	for _, conn := range c.connections {
		held, known := conn.held()
		if !known {
			return nil, false
		}
		for _, s := range held {
			if s.selector == selectors {
				all[s] = true
			}
		}
	}
	return all, true
}

// views are the truth as everybody sees it, by name; ok: all could be asked.
func (c *presenceCluster) views(ctx context.Context, selectors bool) (views map[string]shown, ok bool) {
	views = map[string]shown{}
	for _, o := range c.observers {
		if o.selectors == selectors {
			views[o.name] = o.sees()
		}
	}
	for _, n := range c.nodes {
		_, list, err := c.list(ctx, n.current(), selectors)
		if err != nil {
			return nil, false
		}
		views["the API of "+n.String()] = list
	}
	return views, true
}

// converge waits until everybody on every node sees exactly the truth.
func (c *presenceCluster) converge(t *testing.T) {
	t.Helper()
	c.endChurn()
	began := time.Now()
	differs := ""
	agree := func() bool {
		count := 0
		for _, selectors := range []bool{false, true} {
			truth, known := c.truth(selectors)
			if !known {
				differs = "a client has not heard of itself"
				return false
			}
			views, ok := c.views(t.Context(), selectors)
			if !ok {
				differs = "a node does not answer"
				return false
			}
			for name, seen := range views {
				if !maps.Equal(truth, seen) {
					differs = name + " (-truth +seen):\n" + cmp.Diff(truth, seen, cmp.AllowUnexported(subscriptionSeen{}))
					return false
				}
			}
			count += len(truth)
		}
		if rows := queryValue[int](t, c.server.DB, "SELECT count(*) FROM mercure.subscriptions"); rows != count {
			differs = fmt.Sprintf("%d rows of %d subscriptions", rows, count)
			return false
		}
		t.Logf("%d subscriptions agreed on %s after the churn ended", count, time.Since(began).Round(time.Millisecond))
		return count > 0
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !agree() {
		if time.Since(began) > patience {
			t.Errorf("no convergence: %s", differs)
			break
		}
		<-ticker.C
	}
}

// finish ends everything, and compares with the log.
func (c *presenceCluster) finish(t *testing.T) (delays []time.Duration) {
	t.Helper()
	c.converge(t)
	c.leave()
	eventually(t, "everybody's end", func() bool {
		return queryValue[int](t, c.server.DB, "SELECT count(*) FROM mercure.subscriptions") == 0
	})
	c.stopNodes()
	if left := queryValue[int](t, c.server.DB, "SELECT count(*) FROM mercure.nodes"); left > 0 {
		t.Errorf("%d nodes are left", left)
	}
	history := readHistory(t, c.server.DB)
	c.mu.Lock()
	defer c.mu.Unlock()
	history.checkSequence(t)
	history.checkLists(t, c.lists)
	history.checkFalseEnds(t, c.connections, c.left)
	for _, p := range c.problems {
		t.Error(p)
	}
	delays = history.delaysAfterKills(c.connections)
	slices.Sort(delays)
	t.Logf("%d events, %d connections, %d lists", len(history.entries), len(c.connections), len(c.lists))
	if n := len(delays); n > 0 {
		t.Logf("%d ends after kills: after %s at the median, %s at most", n, delays[n/2].Round(time.Millisecond), delays[n-1].Round(time.Millisecond))
	}
	if t.Failed() {
		for _, n := range c.nodes {
			t.Logf("%s:\n%s", n, n.current().log)
		}
	}
	return delays
}

// members are the nodes that the database knows.
func (c *presenceCluster) members(t *testing.T) (ids []string) {
	t.Helper()
	return queryValue[[]string](t, c.server.DB, "SELECT coalesce(array_agg(id::text), '{}') FROM mercure.nodes")
}

// One node is killed and comes back under another name, one is stopped and one
// cut off, both until they have been given up. Whatever happens, all who follow
// the recipe agree with the clients in the end. Spec,
//
func TestPresenceConverges(t *testing.T) {
	t.Parallel()
	c := startPresence(t)
	c.enter(t, often)
	order := c.random(0).Perm(presenceNodes)
	killed, stopped, cut := c.nodes[order[0]], c.nodes[order[1]], c.nodes[order[2]]

	reconnect := cut.cut(0, false) // shorter than a lease
	if err := terminate(t.Context(), c.server.DB); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	reconnect()
	eventually(t, "three nodes", func() bool { return len(c.members(t)) == presenceNodes })

	before := c.members(t)
	resume := stopped.freeze(tooLong)
	reconnect = cut.cut(tooLong, c.seed%2 == 0)
	killed.kill()()
	eventually(t, "the end of those that were given up", func() bool {
		return queryValue[int](t, c.server.DB, "SELECT count(*) FROM mercure.nodes WHERE id::text = ANY ($1)", before) == 0
	})
	resume()
	reconnect()
	eventually(t, "three nodes", func() bool { return len(c.members(t)) == presenceNodes })
	stopped.current().log.await(t, "have given this one up")
	cut.current().log.await(t, "have given this one up")
	restart := killed.term()
	<-killed.current().exited
	restart()

	delays := c.finish(t)
	if len(delays) == 0 || delays[len(delays)-1] > endsWithin {
		t.Errorf("delays of ends after a kill: %v", delays)
	}
}

// Both other nodes end a node that was killed, at once and in several steps:
// each end is written once. Spec: R-2.
func TestPresenceOfKilledNode(t *testing.T) {
	t.Parallel()
	c := startPresence(t)
	c.enter(t, seldom)
	victim := c.nodes[c.random(0).IntN(presenceNodes)]
	crowd := c.crowd(t, victim.current())
	node := queryValue[string](t, c.server.DB, "SELECT min(node::text) FROM mercure.subscriptions WHERE topic = $1", crowd[0].topic)
	release := victim.kill()
	eventually(t, "its end", func() bool {
		return queryValue[int](t, c.server.DB, "SELECT count(*) FROM mercure.nodes WHERE id::text = $1", node) == 0
	})
	release()
	delays := c.finish(t)
	if n := len(delays); n < len(crowd) || delays[n-1] > endsWithin {
		t.Errorf("%d ends after the kill, of %d", n, len(crowd))
	}
}

// crowd opens streams with more subscriptions than are ended in one step, which
// stay for as long as the node does.
func (c *presenceCluster) crowd(t *testing.T, l *life) (all []subscriptionSeen) {
	t.Helper()
	const streams, each = 14, 98
	ctx, stop := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	t.Cleanup(func() {
		stop()
		reading.Wait()
	})
	var list []*connection
	for range streams {
		w := wish{matchers: true, silence: patient}
		for i := range each {
			w.more = append(w.more, fmt.Sprintf("match=https://e.example/crowd/%d", i))
		}
		conn, in, err := c.open(ctx, l, w)
		if err != nil {
			t.Fatal(err)
		}
		reading.Go(func() {
			conn.read(in, func(e event) {
				if s, active, err := parseSubscription(e.data); err == nil {
					conn.hear(s, active)
				}
			})
		})
		list = append(list, conn)
	}
	for _, conn := range list {
		eventually(t, "a stream of the crowd", func() bool {
			held, known := conn.held()
			if known {
				all = append(all, held...)
			}
			return known
		})
	}
	return all
}

// While PostgreSQL is away for longer than a lease, clients come and go. Nobody
// who stays is ended, though one node is back before the others, and everybody
// who goes is. Spec: R-2.
func TestPresenceOutlivesTheDatabase(t *testing.T) {
	t.Parallel()
	c := startPresence(t)
	c.enter(t, often)
	eventually(t, "a look at every lease", func() bool {
		return queryValue[bool](t, c.server.DB, "SELECT count(*) = $1 AND min(lease) >= 2 FROM mercure.nodes", presenceNodes)
	})
	if err := c.server.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	var reconnect []func()
	for _, n := range c.nodes[1:] {
		reconnect = append(reconnect, n.cut(0, false))
	}
	pause(t.Context(), 18*time.Second) // longer than a lease is watched
	if err := c.server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	const leases = "SELECT sum(lease)::bigint FROM mercure.nodes"
	before := queryValue[int64](t, c.server.DB, leases)
	eventually(t, "another look by the first node", func() bool { return queryValue[int64](t, c.server.DB, leases) > before })
	for _, lift := range reconnect {
		lift()
	}
	c.finish(t)
}

// TestPresenceUnderAnyFault takes as long as it is told to.
func TestPresenceUnderAnyFault(t *testing.T) {
	t.Parallel()
	c := startPresence(t)
	c.enter(t, often)
	began := time.Now()
	for _, step := range c.plan(*presenceDuration, *presenceFaults) {
		if !pause(t.Context(), step.at-time.Since(began)) {
			return
		}
		t.Logf("%6.1fs  %s", step.at.Seconds(), step.what)
		step.do(t)
	}
	c.finish(t)
}

// eventually polls what has no signal.
func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for timeout := time.After(patience); !ready(); {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("waited too long for %s", what)
		}
	}
}
