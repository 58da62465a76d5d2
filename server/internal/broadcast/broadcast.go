// Package broadcast hands updates to the streams of one process.
//
// Promises:
//   - Every stream gets the updates it may see in the order of the log, each
//     once, without a gap, from its cursor on.
//   - A stream that does not keep up costs nobody else anything and loses
//     nothing: what waits for it is bounded in bytes, and beyond that it reads
//     on from memory or from the log at its own pace.
//   - An update costs what its receivers cost, not what there are streams:
//     receivers are looked up (index.go).
//
// A stream is a cursor and its matchers (stream.go). It is live while what
// waits for it fits into its pending list; else it is behind and reads the
// warm tail (tail.go), or pages of history, until it has reached the head and
// is live again. A first connection with a cursor, a resume, and a slow reader
// are the same thing. Both sides speak of positions, so the hand-over has
// neither gap nor duplicate.
//
// Private updates are judged for each stream when they are delivered, live or
// replayed alike (U-5).
package broadcast

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// History is the part of the log that is no longer in memory.
type History interface {
	// PageAfter returns updates behind a position, in order, and the position
	// up to which the page is complete, at most upTo. Only updates with one of
	// the topics; nil means all.
	PageAfter(ctx context.Context, after, upTo protocol.Position, topics []string) ([]protocol.Entry, protocol.Position, error)
	// Find returns the earliest position of an event id.
	Find(ctx context.Context, id protocol.EventID) (protocol.Position, bool, error)
}

// Beginning is history as who begins at the beginning gets it, if that differs
// from what the log still has.
type Beginning interface {
	Compacts() bool
	// PageFromStart is PageAfter for a stream that began at position zero when the
	// head was at upTo. kept is zero at first, then what the last call returned.
	PageFromStart(ctx context.Context, after, upTo, kept protocol.Position, topics []string) (entries []protocol.Entry, covered, nowKept protocol.Position, err error)
}

// Receiver says which private updates a subscriber may get. Streams with equal
// rights should share one: it is asked once for each update and Receiver. The
// dynamic type must be comparable.
type Receiver interface {
	MayReceive(topics []*protocol.Topic) bool
}

// Config says what a Broadcaster may use.
type Config struct {
	History History
	// Beginning may be nil.
	Beginning Beginning
	// TailBytes bounds the warm tail.
	TailBytes int
	// PendingBytes bounds what waits for one stream before it counts as
	// behind; zero means 64 KiB.
	PendingBytes int
	// MaxUnanchored bounds the distinct matchers that cannot be found by the
	// beginning of a topic and so are asked about every update; zero: no limit.
	MaxUnanchored int
}

var (
	// ErrNotStarted: the log has not been read yet.
	ErrNotStarted = errors.New("the log has not been read yet")
	// ErrEnded: the Broadcaster was closed.
	ErrEnded = errors.New("the hub is shutting down")
	// ErrTooManyPatterns: see Config.MaxUnanchored.
	ErrTooManyPatterns = errors.New("there are as many patterns without a literal host as there may be")
	// ErrRevoked: what let the subscriber in no longer counts.
	ErrRevoked = errors.New("the key that verified the token was removed")
	// ErrInterrupted: the order between what a stream got and what comes next
	// is not known. The client resumes by id.
	ErrInterrupted = errors.New("the log was interrupted")
)

// entry is an update in memory. Those that are delivered live are encoded once,
// for everybody, and immutable.
type entry struct {
	position protocol.Position
	id       protocol.EventID
	topics   []*protocol.Topic
	private  bool
	reused   bool
	block    []byte
	size     int // what it costs in the tail
	// update, until it is encoded: of a page of history, which one stream reads,
	// most may not be for it.
	update *protocol.Update
}

// entryOverhead is what an entry costs in the tail besides its text: itself,
// its place in the tail and in the map of ids.
const entryOverhead = 256

func unencodedEntry(e protocol.Entry) *entry {
	return &entry{
		position: e.Position, id: e.Update.ID, topics: protocol.NewTopics(e.Update.Topics),
		private: e.Update.Private, reused: e.IDReused, update: e.Update,
	}
}

func (e *entry) encoded() []byte {
	if e.update != nil {
		e.block, e.update = protocol.AppendBlock(nil, e.update), nil
	}
	return e.block
}

func newEntry(e protocol.Entry) *entry {
	made := unencodedEntry(e)
	made.size = entryOverhead + len(made.encoded())
	for _, topic := range e.Update.Topics {
		made.size += len(topic)
	}
	return made
}

// Broadcaster fans updates out to streams. It is the Sink of the log.
type Broadcaster struct {
	config Config

	// mu guards everything below, is never held across I/O, and is taken
	// before a Stream's mu.
	mu      sync.Mutex
	started bool
	ended   bool
	// generation counts restarts: a position of one means nothing in another.
	generation int
	tail       tail
	index      index
	streams    map[*Stream]struct{}
	rights     map[Receiver]*rights
}

// rights is a Receiver shared by streams, with its latest verdict. Guarded by
// Broadcaster.mu.
type rights struct {
	receiver Receiver
	streams  int
	position protocol.Position
	granted  bool
}

func (r *rights) mayReceive(e *entry) bool {
	if r == nil {
		return false
	}
	if r.position != e.position {
		r.position, r.granted = e.position, r.receiver.MayReceive(e.topics)
	}
	return r.granted
}

// New returns a Broadcaster that waits for Start.
func New(config Config) *Broadcaster {
	if config.PendingBytes == 0 {
		config.PendingBytes = 64 << 10
	}
	return &Broadcaster{
		config:  config,
		tail:    newTail(config.TailBytes),
		index:   newIndex(),
		streams: map[*Stream]struct{}{},
		rights:  map[Receiver]*rights{},
	}
}

// Start takes the newest updates and the position they end at.
func (b *Broadcaster) Start(recent []protocol.Entry, head protocol.Position) {
	entries := encode(recent)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tail.reset(entries, head)
	b.started = true
}

// Restart ends every stream, since none can be continued, and goes on behind
// head.
func (b *Broadcaster) Restart(recent []protocol.Entry, head protocol.Position) {
	entries := encode(recent)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tail.reset(entries, head)
	b.generation++
	// Positions may repeat after the log went backwards.
	for _, r := range b.rights {
		r.position = 0
	}
	for s := range b.streams {
		s.end(ErrInterrupted)
	}
}

// Deliver hands the next updates to the streams that match and may see them.
func (b *Broadcaster) Deliver(entries []protocol.Entry) {
	for _, e := range encode(entries) {
		// Once for each update, so that subscribing waits for one at most.
		b.mu.Lock()
		b.tail.push(e)
		b.index.receivers(e, func(s *Stream) {
			if !e.private || s.rights.mayReceive(e) {
				s.enqueue(e)
			}
		})
		b.mu.Unlock()
	}
}

func encode(entries []protocol.Entry) []*entry {
	encoded := make([]*entry, len(entries))
	for i, e := range entries {
		encoded[i] = newEntry(e)
	}
	return encoded
}

// Redact forgets the contents of updates. What is already on its way to a stream
// stays on it.
func (b *Broadcaster) Redact(positions []protocol.Position) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, position := range positions {
		b.tail.redact(position)
	}
}

// End ends every stream with the given reason and refuses new ones.
func (b *Broadcaster) End(reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	for s := range b.streams {
		s.end(reason)
	}
}

// EndSome ends up to n streams, any, and returns how many are left that have
// not been ended.
func (b *Broadcaster) EndSome(n int, reason error) (left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.streams { // iteration starts anywhere
		switch {
		case s.hasEnded():
		case n > 0:
			n--
			s.end(reason)
		default:
			left++
		}
	}
	return left
}

// EndStreams ends the streams of the receivers that revoked picks, and returns
// how many these are. It is asked once for each receiver.
func (b *Broadcaster) EndStreams(revoked func(Receiver) bool, reason error) (ended int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	gone := map[*rights]bool{}
	for receiver, r := range b.rights {
		if revoked(receiver) {
			gone[r] = true
		}
	}
	if len(gone) == 0 {
		return 0
	}
	for s := range b.streams {
		if gone[s.rights] {
			s.end(reason)
			ended++
		}
	}
	return ended
}

// Streams is the number of streams.
func (b *Broadcaster) Streams() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.streams)
}

// Subscription is what a subscriber asks for and may have.
type Subscription struct {
	Matchers *protocol.MatcherSet
	// Receiver is nil for subscribers without any grant.
	Receiver Receiver
	// Cursor is the id to resume after. Empty: from now on.
	Cursor protocol.EventID
	// LiveIfUnknown starts a stream whose cursor is not in the log at the
	// present, instead of at the earliest update retained.
	LiveIfUnknown bool
}

// Subscribe registers a stream. From its return on, every matching update
// behind the cursor reaches it. The caller must Close it.
//
// Errors: ErrNotStarted, ErrEnded, ErrTooManyPatterns, what History returns, or
// that of ctx.
func (b *Broadcaster) Subscribe(ctx context.Context, sub Subscription) (*Stream, error) {
	s := &Stream{
		broadcaster: b,
		matchers:    sub.Matchers,
		receiver:    sub.Receiver,
		first:       protocol.Earliest,
	}
	if topics, only := sub.Matchers.ExactTopics(); only {
		s.topics = topics
	}
	for {
		generation := b.currentGeneration()
		live := sub.Cursor == ""
		if !live {
			position, found, err := b.find(ctx, sub.Cursor)
			if err != nil {
				return nil, err
			}
			if found {
				s.cursor, s.first = position, sub.Cursor
			} else {
				s.cursor, s.first = 0, protocol.Earliest
				live = sub.LiveIfUnknown && sub.Cursor != protocol.Earliest
			}
		}
		again, err := b.register(s, live, generation)
		if err != nil {
			return nil, err
		}
		if !again {
			return s, nil
		}
	}
}

func (b *Broadcaster) currentGeneration() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.generation
}

// register adds a stream whose cursor was found in a generation; again if that
// has passed.
func (b *Broadcaster) register(s *Stream, live bool, generation int) (again bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended:
		return false, ErrEnded
	case !b.started:
		return false, ErrNotStarted
	case b.generation != generation:
		return true, nil
	case b.config.MaxUnanchored > 0:
		if more := b.index.newUnanchored(s.matchers); more > 0 && b.index.unanchored+more > b.config.MaxUnanchored {
			return false, ErrTooManyPatterns
		}
	}
	switch {
	case live:
		s.cursor = b.tail.head
	case s.cursor == 0 && b.config.Beginning != nil && b.config.Beginning.Compacts():
		s.beginning = b.tail.head
	}
	// A cursor may even be ahead: another node appended what this one has not
	// read yet. enqueue skips what lies before it.
	s.live = s.cursor >= b.tail.head
	s.passed, s.sent = s.first, s.cursor
	if s.live {
		s.passed = b.tail.headID
	}
	b.streams[s] = struct{}{}
	b.index.add(s)
	if s.receiver != nil {
		r := b.rights[s.receiver]
		if r == nil {
			r = &rights{receiver: s.receiver}
			b.rights[s.receiver] = r
		}
		r.streams++
		s.rights = r
	}
	return false, nil
}

// find returns the earliest position of an id, from memory if it is known
// there that no earlier one exists.
func (b *Broadcaster) find(ctx context.Context, id protocol.EventID) (protocol.Position, bool, error) {
	if id == protocol.Earliest {
		return 0, false, nil
	}
	b.mu.Lock()
	position, found := b.tail.find(id)
	b.mu.Unlock()
	if found {
		return position, true, nil
	}
	position, found, err := b.config.History.Find(ctx, id)
	if err != nil {
		return 0, false, fmt.Errorf("resolve the cursor: %w", err)
	}
	return position, found, nil
}

func (b *Broadcaster) remove(s *Stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.streams[s]; !ok {
		return
	}
	delete(b.streams, s)
	b.index.remove(s)
	if s.rights != nil {
		if s.rights.streams--; s.rights.streams == 0 {
			delete(b.rights, s.receiver)
		}
	}
}
