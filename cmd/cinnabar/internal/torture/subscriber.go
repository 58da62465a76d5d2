package torture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// heartbeat is what the nodes send, and silence how long a subscriber waits
	// for it before it goes elsewhere.
	heartbeat = 2 * time.Second
	silence   = 4 * heartbeat
	// openTimeout is how long a node may take to open a stream.
	openTimeout = 5 * time.Second
	// reconnectPause is at most what a subscriber waits before it comes back.
	reconnectPause = 200 * time.Millisecond
)

// earliest asks for everything there is.
const earliest = "earliest"

// subscriber keeps a stream open, across drops and faults.
type subscriber struct {
	*run
	name     string
	audience *audience
	random   *rand.Rand
	// pinned is the index of the only node it goes to; -1: to any.
	pinned int
	// dropEvery is after about how many deliveries it drops its stream; 0: never.
	dropEvery   int
	checkpoints bool
	// until is a mark after which it ends by itself; noMark: none yet.
	until atomic.Int64
	// onDelivery, if not nil, is called for every delivery.
	onDelivery func(entry)

	// stalledUntil is when it reads on, in nanoseconds since the run began.
	stalledUntil atomic.Int64
	// opened is closed when the first stream was opened.
	opened   chan struct{}
	openOnce sync.Once

	// Owned by follow.
	at          int
	lastEventID string
	begins      beginning
	since       uint32 // the tick at which a live one began
	numbers     []number
	seen        bitset
	lastAt      time.Duration // of the last delivery, since the run began
	longest     time.Duration
}

const noMark = -1

func newSubscriber(r *run, name string, a *audience, b beginning, seed int) *subscriber {
	s := &subscriber{
		run: r, name: name, audience: a, random: r.random(1000 + seed), pinned: -1,
		opened: make(chan struct{}), begins: b, at: seed,
	}
	switch b {
	case atEarliest:
		s.lastEventID = earliest
	case afterStart:
		s.lastEventID = r.startID
	}
	s.until.Store(noMark)
	return s
}

var (
	errDropped = errors.New("dropped on purpose")
	errDone    = errors.New("the mark was seen")
)

// follow reads until it has seen the mark or ctx ends.
func (s *subscriber) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.stream(ctx)
		if errors.Is(err, errDone) {
			return
		}
		if errors.Is(err, errCorrupt) {
			s.problem("%s received %v", s.name, err)
		}
		s.at++
		if !sleep(ctx, time.Duration(s.random.Int64N(int64(reconnectPause)))) {
			return
		}
	}
}

func (s *subscriber) node() *node {
	if s.pinned >= 0 {
		return s.nodes[s.pinned]
	}
	return s.nodes[s.at%len(s.nodes)]
}

// stream opens one stream and reads it to its end.
func (s *subscriber) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(openTimeout, cancel)
	defer watchdog.Stop()
	// A transport of its own: what a connection buffers belongs to the stream.
	transport := &http.Transport{DisableKeepAlives: true, DialContext: dialSmall}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(s.request(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return s.refused(response)
	}
	in := bufio.NewReaderSize(response.Body, 4096)
	if _, err := in.Peek(1); err != nil {
		return err
	}
	if err := s.begin(response.Header); err != nil {
		return err
	}
	alive := func() { watchdog.Reset(silence) }
	return s.read(ctx, &reader{in: in, lastEventID: s.lastEventID, alive: alive}, watchdog)
}

// dialSmall keeps little in the kernel, so that a reader that stalls is felt.
func dialSmall(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		// Not less: below the packet size of the loopback, which is 64 KiB, every
		// packet waits for a timer.
		_ = tcp.SetReadBuffer(256 << 10)
	}
	return conn, err
}

func (s *subscriber) request(ctx context.Context) *http.Request {
	query := maps.Clone(s.audience.query)
	if s.checkpoints {
		query.Set("cursor_checkpoints", "on")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.node().URL()+"?"+query.Encode(), http.NoBody)
	if err != nil {
		panic(err) // a URL that the hub logged, with a query of ours
	}
	request.Header.Set("Accept", "text/event-stream")
	request.Header.Set("Cache-Control", "no-cache")
	if token := s.tokens.of(s.audience.credential); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if s.lastEventID != "" {
		request.Header.Set("Last-Event-ID", s.lastEventID)
	}
	return request
}

func (s *subscriber) refused(response *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1024))
	if response.StatusCode != http.StatusServiceUnavailable {
		s.problem("%s was answered %s: %s", s.name, response.Status, body)
	}
	return errors.New(response.Status)
}

// begin notes that a stream has opened. From now on a live one misses nothing.
// Nothing has been removed from the log, so the hub must know every cursor.
func (s *subscriber) begin(header http.Header) error {
	if s.begins == live && s.lastEventID == "" {
		s.since = s.ledger.tick()
	}
	if cursor := header.Get("Mercure-Last-Event-ID"); s.lastEventID != "" && cursor != s.lastEventID {
		s.problem("%s wanted to resume after %s and was told %q", s.name, s.lastEventID, cursor)
		return errors.New("the cursor is not known")
	}
	s.openOnce.Do(func() { close(s.opened) })
	return nil
}

func (s *subscriber) read(ctx context.Context, in *reader, watchdog *time.Timer) error {
	drop := 0
	if s.dropEvery > 0 {
		drop = 1 + s.random.IntN(2*s.dropEvery)
	}
	for i := 1; ; i++ {
		watchdog.Reset(silence)
		b, err := in.next()
		if err != nil {
			return err
		}
		s.lastEventID = in.lastEventID
		if b.event {
			s.take(b.n)
			if s.until.Load() == int64(b.n) {
				return errDone
			}
		}
		if i == drop {
			return errDropped
		}
		watchdog.Stop()
		if !s.stall(ctx) {
			return ctx.Err()
		}
	}
}

// stall waits as long as a disturbance wants it to.
func (s *subscriber) stall(ctx context.Context) bool {
	left := time.Duration(s.stalledUntil.Load()) - s.elapsed()
	return left <= 0 || sleep(ctx, left)
}

// take notes a delivery, and says at once what is wrong with it for sure.
func (s *subscriber) take(n number) {
	if len(s.numbers) >= 2*maxUpdates {
		return // it has been reported often enough
	}
	s.numbers = append(s.numbers, n)
	s.delivered.Add(1)
	s.longest = max(s.longest, s.silentSince(s.lastAt))
	s.lastAt = s.elapsed()
	e, known := s.ledger.at(n)
	switch {
	case !known:
		s.early(n, s.name, "was never published")
		return
	case s.seen.set(n):
		s.early(n, s.name, "was delivered twice")
	case !s.audience.gets(e):
		s.early(n, s.name, "was not for this subscriber")
	case e.state == rolledBack || e.state == refused:
		s.early(n, s.name, "was rolled back or refused")
	}
	if s.onDelivery != nil {
		s.onDelivery(e)
	}
}

func (s *subscriber) sequence() sequence {
	return sequence{name: s.name, audience: s.audience, numbers: s.numbers, begins: s.begins, since: s.since}
}

// newSubscribers are those of a run: kinds of audience, ways to begin and
// habits in turn.
func newSubscribers(r *run, count int) []*subscriber {
	var list []*subscriber
	for i := range count {
		a := audiences[i%len(audiences)]
		begin := []beginning{afterStart, atEarliest, afterStart, live, afterStart}[i%5]
		s := newSubscriber(r, fmt.Sprintf("subscriber %d (%s)", i, a.name), a, begin, i)
		s.checkpoints = i%2 == 0 || begin == live
		s.dropEvery = []int{0, 50, 300, 1000}[i%4]
		list = append(list, s)
	}
	return list
}

// newProbes are subscribers that stay with one node each and never drop.
func newProbes(r *run) []*subscriber {
	var list []*subscriber
	for i := range r.nodes {
		s := newSubscriber(r, fmt.Sprintf("probe of node %d", i), audiences[0], afterStart, 500+i)
		s.pinned, s.checkpoints = i, true
		s.onDelivery = func(e entry) { r.recoveries.delivered(i, e.begun) }
		list = append(list, s)
	}
	return list
}
