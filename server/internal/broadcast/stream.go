package broadcast

import (
	"context"
	"sync"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// A chunk is what a stream that is behind takes from the warm tail in one go. The
// lock is held while its pointers are copied, and a stream that is slow keeps it
// in memory when the tail has long moved on.
const (
	chunkUpdates = 256
	chunkBytes   = 256 << 10
)

// keptPending is how many places for what waits a stream keeps when nothing
// does.
const keptPending = 8

// Stream is one subscriber's way through the log. One goroutine at a time may
// call Next and Poll.
type Stream struct {
	// Constant after Subscribe.
	broadcaster *Broadcaster
	matchers    *protocol.MatcherSet
	topics      []string // nil if anything but exact topics may match
	receiver    Receiver
	first       protocol.EventID

	// beginning is where the head was when a stream began at the beginning, if
	// that is to be read as Config.Beginning has it; else zero. Set by Subscribe.
	beginning protocol.Position
	kept      protocol.Position // Poll's

	// Guarded by Broadcaster.mu.
	rights  *rights
	members []*member         // its places in the index
	seen    protocol.Position // the last update it was found for

	// mu is taken after Broadcaster.mu.
	mu           sync.Mutex
	pending      []*entry
	pendingBytes int
	live         bool
	// cursor: while behind, everything up to here has been passed, and Poll
	// reads on from it; while live, updates up to here are skipped.
	cursor protocol.Position
	passed protocol.EventID  // id of the newest update passed, as far as noted
	sent   protocol.Position // the client knows an id from here or later
	ended  error
	notify func()        // nil: nobody has asked to be told
	wake   chan struct{} // nil: see Wake
}

// PrecedingID is the value of the response field for a request with a cursor:
// the id of the event before the first one this stream sends (H-4).
func (s *Stream) PrecedingID() protocol.EventID { return s.first }

// Wake is sent to when Next or Poll may have something that they did not have
// when Wake was first called. Capacity one.
func (s *Stream) Wake() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake == nil {
		wake := make(chan struct{}, 1)
		s.wake = wake
		s.notify = func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
		if s.ended != nil {
			s.notify()
		}
	}
	return s.wake
}

// Notify has notify called when Next or Poll may have something, and once now.
// It is called with locks held: it must return at once, and not call the Stream.
// Use either this or Wake.
func (s *Stream) Notify(notify func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify = notify
	s.notify()
}

// enqueue adds an update to what waits. Called with Broadcaster.mu held.
func (s *Stream) enqueue(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live || e.position <= s.cursor || s.ended != nil {
		return // Poll will come by it, or has
	}
	if s.pendingBytes > 0 && s.pendingBytes+len(e.block) > s.broadcaster.config.PendingBytes {
		// What waits is still sent; from behind it on, Poll reads.
		s.live = false
		s.cursor = s.pending[len(s.pending)-1].position
		return
	}
	s.pending = append(s.pending, e)
	s.pendingBytes += len(e.block)
	s.signal()
}

// signal is called with mu held.
func (s *Stream) signal() {
	if s.notify != nil {
		s.notify()
	}
}

func (s *Stream) end(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = reason
		s.signal()
	}
}

func (s *Stream) hasEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended != nil
}

// State is what a Stream has besides the blocks it returned.
type State int

// The states.
const (
	Idle        State = iota // nothing: wait to be told
	More                     // others may wait already, without a wake-up
	NeedHistory              // what comes next must be read from the log: see Poll
)

// Next returns the blocks that are to be sent next, in order, appended to
// buffer. It never waits: what is not in memory, Poll reads.
//
// ErrEnded, ErrRevoked and ErrInterrupted are final.
func (s *Stream) Next(buffer [][]byte) (blocks [][]byte, state State, err error) {
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return buffer, Idle, s.ended
	}
	if len(s.pending) > 0 {
		for _, e := range s.pending {
			buffer = append(buffer, e.block)
		}
		last := s.pending[len(s.pending)-1]
		s.passed, s.sent = last.id, last.position
		clear(s.pending)
		if s.pending, s.pendingBytes = s.pending[:0], 0; cap(s.pending) > keptPending {
			s.pending = nil
		}
		if !s.live {
			state = More
		}
		s.mu.Unlock()
		return buffer, state, nil
	}
	live, cursor := s.live, s.cursor
	s.mu.Unlock()
	if live || s.goLive(cursor) {
		return buffer, Idle, nil
	}
	if cursor < s.beginning {
		return buffer, NeedHistory, nil
	}
	b := s.broadcaster
	b.mu.Lock()
	entries, covered, ok := b.tail.after(cursor, chunkUpdates, chunkBytes)
	b.mu.Unlock()
	if !ok {
		return buffer, NeedHistory, nil
	}
	blocks, err = s.pass(buffer, entries, covered)
	return blocks, More, err
}

// Poll is Next, but reads history, bounded by ctx, if that is what comes next:
// one page of it. The caller comes back for more; in between it may see to its
// heartbeat, or end.
//
// A History error that wraps ErrInterrupted is final, too. After any other error
// Poll may be called again: nothing is lost.
func (s *Stream) Poll(ctx context.Context, buffer [][]byte) (blocks [][]byte, more bool, err error) {
	blocks, state, err := s.Next(buffer)
	if err != nil || state != NeedHistory {
		return blocks, state == More, err
	}
	s.mu.Lock()
	cursor := s.cursor
	s.mu.Unlock()
	page, covered, err := s.page(ctx, cursor)
	if err != nil {
		return buffer, true, err
	}
	entries := make([]*entry, len(page))
	for i, e := range page {
		entries[i] = unencodedEntry(e)
	}
	blocks, err = s.pass(buffer, entries, covered)
	return blocks, true, err
}

// page reads what comes next from the log.
func (s *Stream) page(ctx context.Context, cursor protocol.Position) (page []protocol.Entry, covered protocol.Position, err error) {
	b := s.broadcaster
	if cursor < s.beginning {
		page, covered, s.kept, err = b.config.Beginning.PageFromStart(ctx, cursor, s.beginning, s.kept, s.topics)
		return page, covered, err
	}
	b.mu.Lock()
	upTo := b.tail.head
	b.mu.Unlock()
	return b.config.History.PageAfter(ctx, cursor, upTo, s.topics)
}

// pass appends the blocks of the entries that the stream gets, and moves its
// cursor to where they end.
func (s *Stream) pass(buffer [][]byte, entries []*entry, covered protocol.Position) ([][]byte, error) {
	// Outside the lock, which deliveries to other streams wait for.
	before := len(buffer)
	var sent protocol.Position
	for _, e := range entries {
		if s.wants(e) {
			buffer = append(buffer, e.encoded())
			sent = e.position
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return buffer[:before], s.ended // the log may have been restarted meanwhile
	}
	if len(entries) > 0 {
		s.passed = entries[len(entries)-1].id
	}
	s.sent = max(s.sent, sent)
	s.cursor = covered
	return buffer, nil
}

func (s *Stream) wants(e *entry) bool {
	if !s.matchers.MatchAny(e.topics) {
		return false
	}
	return !e.private || s.receiver != nil && s.receiver.MayReceive(e.topics)
}

// goLive makes a stream live that has nothing left to read. Nothing can be
// delivered in between: delivery holds the same lock.
func (s *Stream) goLive(cursor protocol.Position) bool {
	b := s.broadcaster
	b.mu.Lock()
	defer b.mu.Unlock()
	if cursor < b.tail.head {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = true
	s.passed = b.tail.headID
	return true
}

// Checkpoint returns the id of the newest update the stream has passed, sent or
// not (S-26). Without force, only if a client that knows no newer id than the
// last one it was sent would have to resume from outside the warm tail.
func (s *Stream) Checkpoint(force bool) (id protocol.EventID, ok bool) {
	b := s.broadcaster
	b.mu.Lock()
	defer b.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !force && s.sent >= b.tail.floor {
		return "", false
	}
	if s.live && len(s.pending) == 0 {
		s.passed = b.tail.headID
	}
	s.sent = b.tail.head
	return s.passed, true
}

// Close takes the stream out. It may be called more than once.
func (s *Stream) Close() { s.broadcaster.remove(s) }
