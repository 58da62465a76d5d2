package eventlog

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// maxLookup is how many ids are looked up together, and maxLookups how many
// lookups there are at a time. They do not queue behind pages: a client waits for
// its stream to be opened.
const (
	maxLookup  = 1000
	maxLookups = 2
)

// lookups are the cursors that are being looked for: whoever comes while others
// are is part of the next query.
type lookups struct {
	slots chan struct{}

	mu   sync.Mutex
	next *lookup // nil unless somebody waits for a slot
}

// lookup is one query.
type lookup struct {
	ids map[string]struct{} // guarded by lookups.mu
	// Written before done is closed.
	positions map[string]protocol.Position
	err       error
	done      chan struct{}
}

// Find returns the position of the earliest update in the log with this id
// (H-4), false if there is none.
func (l *Log) Find(ctx context.Context, id protocol.EventID) (protocol.Position, bool, error) {
	if strings.IndexByte(string(id), 0) >= 0 || len(id) > maxIDBytes {
		return 0, false, nil // there are no such ids, and text cannot hold NUL
	}
	lookup, first := l.lookups.join(string(id))
	if first {
		l.lookUp(ctx, lookup)
	}
	select {
	case <-lookup.done:
	case <-ctx.Done():
		return 0, false, ctx.Err()
	}
	position, found := lookup.positions[string(id)]
	return position, found, lookup.err
}

// join returns the lookup that an id is part of. Who is the first must make it.
func (s *lookups) join(id string) (_ *lookup, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil || len(s.next.ids) >= maxLookup {
		s.next = &lookup{ids: map[string]struct{}{}, done: make(chan struct{})}
		first = true
	}
	s.next.ids[id] = struct{}{}
	return s.next, first
}

// begin closes a lookup to those who come later.
func (s *lookups) begin(made *lookup) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == made {
		s.next = nil
	}
	return slices.Collect(maps.Keys(made.ids))
}

// lookUp makes a lookup. The others wait for it, too, so it does not end with the
// request that it is made by, but after findTimeout at the latest.
func (l *Log) lookUp(ctx context.Context, made *lookup) {
	defer close(made.done)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), findTimeout)
	defer cancel()
	select {
	case l.lookups.slots <- struct{}{}:
		defer func() { <-l.lookups.slots }()
	case <-ctx.Done():
	}
	rows, err := l.queries.FirstPositionsOfIDs(ctx, l.lookups.begin(made))
	if err != nil {
		made.err = fmt.Errorf("look up event ids: %w", err)
		return
	}
	made.positions = make(map[string]protocol.Position, len(rows))
	for _, row := range rows {
		made.positions[row.ID] = protocol.Position(row.Position)
	}
}
