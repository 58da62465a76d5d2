package eventlog

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

const (
	// sharedFor is short: what retention removes is not to be replayed for long.
	sharedFor      = time.Second
	maxSharedPages = 32
	maxSharedBytes = 8 << 20
)

// sharedPages are pages of history that are being read, and those that were a
// moment ago. When many streams resume at once, one query serves them all: a
// stream whose cursor lies within a page takes what is behind it, and from its
// end on asks for the same pages as the others.
type sharedPages struct {
	mu sync.Mutex
	// generation counts calls of forget.
	generation int
	reading    map[pageStart]chan struct{} // closed when the page has been read, or not
	recent     []sharedPage                // oldest first
	bytes      int64                       // of recent
}

type pageStart struct {
	after  protocol.Position
	topics string // see topicsKey
	// fromStart, if not zero, is where the head was when a reader began at the
	// beginning; see PageFromStart.
	fromStart protocol.Position
}

type sharedPage struct {
	pageStart
	// The page is complete behind complete, and up to covered. One from the
	// beginning of the log begins where retention ended.
	complete, covered protocol.Position
	// horizon as of the page.
	horizon protocol.Position

	entries []protocol.Entry
	// Of those that are kept:
	bytes int64
	read  time.Time
}

// topicsKey is empty for nil, which means all of them.
func topicsKey(topics []string) string {
	var key []byte
	for _, topic := range topics {
		key = strconv.AppendQuote(key, topic)
	}
	return string(key)
}

// get returns a page from memory, or reads it. It waits for another caller who
// reads the same one.
func (s *sharedPages) get(ctx context.Context, start pageStart, upTo protocol.Position, read func() (sharedPage, error)) (sharedPage, error) {
	for {
		page, found, others := s.begin(start, upTo)
		switch {
		case found:
			return page, nil
		case others == nil:
			return s.lead(start, upTo, read)
		}
		select {
		case <-others: // read it, or could not
		case <-ctx.Done():
			return page, ctx.Err()
		}
	}
}

// begin returns a page from memory, or what tells when others have read it. If
// it returns neither, the caller is to lead.
func (s *sharedPages) begin(start pageStart, upTo protocol.Position) (page sharedPage, found bool, others <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if page, found = s.find(start, upTo); found {
		return page, true, nil
	}
	if reading, ok := s.reading[start]; ok {
		return page, false, reading
	}
	if s.reading == nil {
		s.reading = map[pageStart]chan struct{}{}
	}
	s.reading[start] = make(chan struct{})
	return page, false, nil
}

// lead reads a page for all who wait for it.
func (s *sharedPages) lead(start pageStart, upTo protocol.Position, read func() (sharedPage, error)) (sharedPage, error) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.reading[start])
		delete(s.reading, start)
	}()
	return read()
}

// lookup is get for who has waited for a connection meanwhile. The generation is
// for add.
func (s *sharedPages) lookup(start pageStart, upTo protocol.Position) (page sharedPage, found bool, generation int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	page, found = s.find(start, upTo)
	return page, found, s.generation
}

// add keeps a page that was read since lookup returned this generation.
func (s *sharedPages) add(page sharedPage, generation int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if generation != s.generation {
		return
	}
	s.recent = append(s.recent, page)
	s.bytes += page.bytes
	for len(s.recent) > maxSharedPages || s.bytes > maxSharedBytes {
		s.evict()
	}
}

// find returns the part of a page that is behind the start. Called with mu held.
func (s *sharedPages) find(start pageStart, upTo protocol.Position) (page sharedPage, found bool) {
	for len(s.recent) > 0 && time.Since(s.recent[0].read) > sharedFor {
		s.evict()
	}
	for i := range s.recent {
		p := &s.recent[i]
		within := start == p.pageStart || start.topics == p.topics && start.fromStart == 0 && p.fromStart == 0 && start.after >= p.complete
		if !within || start.after >= min(p.covered, upTo) {
			continue
		}
		page = sharedPage{pageStart: start, covered: min(p.covered, upTo), horizon: p.horizon}
		from, to := p.behind(start.after), p.behind(page.covered)
		page.entries = p.entries[from:to:to]
		return page, true
	}
	return page, false
}

// behind is the index of the first entry behind a position.
func (p *sharedPage) behind(position protocol.Position) int {
	at, _ := slices.BinarySearchFunc(p.entries, position, func(e protocol.Entry, position protocol.Position) int {
		if e.Position <= position {
			return -1
		}
		return 1
	})
	return at
}

func (s *sharedPages) evict() {
	s.bytes -= s.recent[0].bytes
	s.recent[0] = sharedPage{} // the array would hold on to it
	s.recent = s.recent[1:]
}

// forget gives up all pages, those being read included: what they say is not true
// any more.
func (s *sharedPages) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	s.recent, s.bytes = nil, 0
}
