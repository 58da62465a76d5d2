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

// Stream is one subscriber's way through the log. One goroutine at a time may
// call Poll.
type Stream struct {
	// Constant after Subscribe.
	broadcaster *Broadcaster
	matchers    *protocol.MatcherSet
	topics      []string // nil if anything but exact topics may match
	receiver    Receiver
	first       protocol.EventID
	wake        chan struct{}

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
}

// PrecedingID is the value of the response field for a request with a cursor:
// the id of the event before the first one this stream sends (H-4).
func (s *Stream) PrecedingID() protocol.EventID { return s.first }

// Wake is sent to when Poll may have something. Capacity one.
func (s *Stream) Wake() <-chan struct{} { return s.wake }

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

func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
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

// Poll returns the blocks that are to be sent next, in order; more says that
// others may wait already, without a wake-up. A stream that is behind reads
// history here, bounded by ctx.
//
// ErrEnded, ErrRevoked and ErrInterrupted, and a History error that wraps ErrInterrupted,
// are final. After any other error Poll may be called again: nothing is lost.
func (s *Stream) Poll(ctx context.Context) (blocks [][]byte, more bool, err error) {
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return nil, false, s.ended
	}
	if len(s.pending) > 0 {
		entries := s.pending
		s.pending, s.pendingBytes = nil, 0
		last := entries[len(entries)-1]
		s.passed, s.sent = last.id, last.position
		more = !s.live
		s.mu.Unlock()
		blocks = make([][]byte, len(entries))
		for i, e := range entries {
			blocks[i] = e.block
		}
		return blocks, more, nil
	}
	live, cursor := s.live, s.cursor
	s.mu.Unlock()
	if live {
		return nil, false, nil
	}
	return s.catchUp(ctx, cursor)
}

// catchUp reads on from the cursor by one chunk, or makes the stream live if it
// has reached the head. The caller comes back for more: in between it may see
// to its heartbeat, or end.
func (s *Stream) catchUp(ctx context.Context, cursor protocol.Position) (blocks [][]byte, more bool, err error) {
	if s.goLive(cursor) {
		return nil, true, nil
	}
	entries, covered, err := s.read(ctx, cursor)
	if err != nil {
		return nil, true, err
	}
	// Outside the lock, which deliveries to other streams wait for.
	var sent protocol.Position
	for _, e := range entries {
		if s.wants(e) {
			blocks = append(blocks, e.encoded())
			sent = e.position
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return nil, false, s.ended // the log may have been restarted meanwhile
	}
	if len(entries) > 0 {
		s.passed = entries[len(entries)-1].id
	}
	s.sent = max(s.sent, sent)
	s.cursor = covered
	return blocks, true, nil
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

func (s *Stream) read(ctx context.Context, cursor protocol.Position) ([]*entry, protocol.Position, error) {
	b := s.broadcaster
	b.mu.Lock()
	entries, covered, ok := b.tail.after(cursor, chunkUpdates, chunkBytes)
	upTo := b.tail.head
	b.mu.Unlock()
	if ok {
		return entries, covered, nil
	}
	page, covered, err := b.config.History.PageAfter(ctx, cursor, upTo, s.topics)
	if err != nil {
		return nil, cursor, err
	}
	entries = make([]*entry, len(page))
	for i, e := range page {
		entries[i] = unencodedEntry(e)
	}
	return entries, covered, nil
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
