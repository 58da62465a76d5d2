// Package presence keeps the subscriptions of all nodes: who is subscribed, and
// the events that tell of it.
//
// Promises:
//   - A subscription and the event of its beginning are in the database
//     together, or neither is; the same for its end. A reader of the list who
//     then reads the log from the list's cursor ends with the truth.
//   - Every beginning has one end, whatever becomes of the node: when it stops,
//     it writes the ends itself; when it is killed or cut off, the others do.
//   - Nobody is ended because the database was away: a node is judged after 15 s
//     of unbroken contact with the database, and by a counter, not by a clock.
//   - Memory is bounded: what waits to be written in bytes, the rest by the
//     number of connected subscribers.
//
// Who does what: the writer (writer.go) is the one goroutine that writes what
// has begun and ended here; whatever comes while a write is in flight is its
// next batch. The watch (watch.go) renews the lease of this node and observes
// those of the others. The janitor (watch.go) ends nodes that were given up, and
// empties events that are old.
package presence

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Store is the database. See eventlog.Log, which implements it.
type Store interface {
	AddNode(ctx context.Context, node uuid.UUID) error
	RenewNode(ctx context.Context, node uuid.UUID) (batch int64, alive bool, err error)
	Nodes(ctx context.Context) (leases map[uuid.UUID]int64, dead []uuid.UUID, err error)
	WritePresence(ctx context.Context, node uuid.UUID, batch, acknowledged int64,
		began []protocol.Subscription, numbers, ended []int64) (alive bool, err error)
	EndNode(ctx context.Context, node uuid.UUID, observed *int64) (more bool, err error)
	EmptyHubEvents(ctx context.Context, olderThan time.Duration) (more bool, err error)
	ListSubscriptions(ctx context.Context, filter protocol.SubscriptionFilter,
		begin func(cursor protocol.EventID) error, each func(document string) error) error
}

// Config says what a Registry may use.
type Config struct {
	Store  Store
	Logger *slog.Logger
	// QueueBytes bounds what waits to be written; zero means 64 MiB. Joins
	// beyond it fail with ErrOverloaded.
	QueueBytes int
}

var (
	// ErrClosed: the hub is shutting down.
	ErrClosed = errors.New("the hub is shutting down")
	// ErrOverloaded: more waits to be written than may wait.
	ErrOverloaded = errors.New("too many subscriptions are waiting for the database")
	// ErrUnavailable: the database could not be reached in time.
	ErrUnavailable = errors.New("the database is not available for subscriptions")
	// ErrUnstorable: a subscription is not text.
	ErrUnstorable = errors.New("a subscription contains U+0000 or is not UTF-8")
)

// joinTimeout is how long a subscriber waits to be announced.
const joinTimeout = 10 * time.Second

// Registry is the subscriptions of this process, and its share in keeping those
// of all. Safe for concurrent use. Run it once.
type Registry struct {
	store      Store
	logger     *slog.Logger
	queueBytes int

	// For tests; constant once Run was called.
	now    func() time.Time
	ticks  <-chan time.Time // nil: every renewInterval
	killed bool             // end as a killed process does

	wake  chan struct{}  // to the writer, capacity one
	dying chan []verdict // to the janitor: nodes to end, capacity one
	empty chan struct{}  // to the janitor: empty old events, capacity one

	mu           sync.Mutex
	closed       bool
	node         uuid.UUID // zero: this node has no name at present
	formerNode   uuid.UUID // what it was called when it was given up, until that is ended
	acknowledged int64     // its last batch that was written for certain
	failedSince  time.Time // zero: the last write worked
	lastNumber   int64
	members      map[*member]struct{} // all that have joined and not left
	queue        []*member            // in order: to be announced
	leaving      []*member            // in order: to be ended
	queuedBytes  int                  // of both
}

// member is one subscriber. Guarded by Registry.mu.
type member struct {
	subscriptions []protocol.Subscription // nil once it is gone without a trace
	size          int
	first         int64 // number of the first subscription; the others follow
	state         state
	tried         bool // some batch had it, of which no more is known
	left          bool // while it is being written
	// done gets the outcome once, for the one who waits; it has room for it.
	done chan error
}

type state int

const (
	queued state = iota
	writing
	announced
	ending // queued or being written to be ended
	gone
)

// memberOverhead stands for what a member costs besides its text.
const memberOverhead = 256

// New returns a Registry that writes once it runs.
func New(config Config) *Registry {
	if config.QueueBytes == 0 {
		config.QueueBytes = 64 << 20
	}
	return &Registry{
		store: config.Store, logger: config.Logger, queueBytes: config.QueueBytes,
		now:     time.Now,
		wake:    make(chan struct{}, 1),
		dying:   make(chan []verdict, 1),
		empty:   make(chan struct{}, 1),
		members: map[*member]struct{}{},
	}
}

// Run keeps the registry going until ctx ends, then ends every subscription of
// this node, and returns when its goroutines have. If the database is away at
// that time, the other nodes do it.
func (r *Registry) Run(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.runWriter(groupCtx) })
	group.Go(func() error { return r.runWatch(groupCtx) })
	group.Go(func() error { return r.runJanitor(groupCtx) })
	err := group.Wait()
	node := r.close()
	if node != uuid.Nil && !r.killed {
		r.leaveCluster(context.WithoutCancel(ctx), node)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// close refuses whoever comes or waits.
func (r *Registry) close() (node uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for m := range r.members {
		m.answer(ErrClosed)
		m.state = gone
	}
	clear(r.members)
	r.queue, r.leaving, r.queuedBytes = nil, nil, 0
	if r.node == uuid.Nil {
		return r.formerNode
	}
	return r.node
}

// Join announces the subscriptions of one subscriber. It returns when the events
// of their beginning are in the log, after ten seconds at most, or an error:
// then nothing is announced, or its end will be. leave announces their end; it
// never blocks and may be called more than once.
//
// Errors: ErrClosed, ErrOverloaded, ErrUnavailable, ErrUnstorable, or the cause
// of ctx.
//
// Spec.
func (r *Registry) Join(ctx context.Context, subscriptions []protocol.Subscription) (leave func(), err error) {
	m := &member{subscriptions: subscriptions, size: memberOverhead, done: make(chan error, 1)}
	for i := range subscriptions {
		s := &subscriptions[i]
		for _, text := range [...]string{s.Topic, s.Collection, s.Document} {
			if strings.IndexByte(text, 0) >= 0 || !utf8.ValidString(text) {
				return nil, ErrUnstorable // it would be refused with the whole batch
			}
			m.size += len(text)
		}
	}
	if err := r.push(m); err != nil {
		return nil, err
	}
	patience := time.NewTimer(joinTimeout)
	defer patience.Stop()
	select {
	case err = <-m.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-patience.C:
		err = ErrUnavailable
	}
	if err != nil {
		r.leave(m)
		return nil, err
	}
	return func() { r.leave(m) }, nil
}

// List reads the subscriptions of all nodes. It calls begin with the id of the
// newest update in the log, protocol.Earliest if there is none, and then each
// for every document. What begins or ends meanwhile may be in the list or not;
// its event comes behind that id.
//
// Spec.
func (r *Registry) List(
	ctx context.Context, filter protocol.SubscriptionFilter,
	begin func(cursor protocol.EventID) error, each func(document string) error,
) error {
	return r.store.ListSubscriptions(ctx, filter, begin, each)
}

func (r *Registry) push(m *member) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return ErrClosed
	case r.queuedBytes > 0 && !r.failedSince.IsZero() && r.now().Sub(r.failedSince) > joinTimeout:
		return ErrUnavailable // somebody else finds out whether it is so still
	case r.queuedBytes > 0 && r.queuedBytes+m.size > r.queueBytes:
		return ErrOverloaded
	}
	m.first = r.lastNumber + 1
	r.lastNumber += int64(len(m.subscriptions))
	r.members[m] = struct{}{}
	r.enqueue(m)
	return nil
}

// enqueue is called with mu held.
func (r *Registry) enqueue(m *member) {
	m.state = queued
	r.queue = append(r.queue, m)
	r.queuedBytes += m.size
	wake(r.wake)
}

func (r *Registry) leave(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	delete(r.members, m)
	switch m.state {
	case queued:
		r.queuedBytes -= m.size
		if m.tried {
			r.end(m)
			return
		}
		m.state = gone // the writer passes over it
		m.subscriptions = nil
	case writing:
		m.left = true
	case announced:
		r.end(m)
	case ending, gone:
	}
}

// end is called with mu held.
func (r *Registry) end(m *member) {
	m.state = ending
	r.leaving = append(r.leaving, m)
	r.queuedBytes += m.size
	wake(r.wake)
}

func (m *member) answer(err error) {
	select {
	case m.done <- err:
	default: // it was answered before, under another name of this node
	}
}

// wake sends to a channel of capacity one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
