package broadcast

import (
	"cmp"
	"slices"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// tail keeps the newest updates in memory, bounded in bytes, so that streams
// that are a little behind and clients that reconnect cost the database
// nothing. Guarded by Broadcaster.mu.
type tail struct {
	maxBytes int
	bytes    int
	entries  []*entry // in order of position
	// floor is the position behind which nothing is missing.
	floor  protocol.Position
	head   protocol.Position
	headID protocol.EventID
	// ids holds the updates here whose id no older update in the log has.
	ids map[protocol.EventID]protocol.Position
}

func newTail(maxBytes int) tail {
	return tail{maxBytes: maxBytes, headID: protocol.Earliest, ids: map[protocol.EventID]protocol.Position{}}
}

func (t *tail) reset(entries []*entry, head protocol.Position) {
	*t = newTail(t.maxBytes)
	t.floor, t.head = head, head
	if len(entries) > 0 {
		t.floor = entries[0].position - 1
	}
	for _, e := range entries {
		t.push(e)
	}
}

func (t *tail) push(e *entry) {
	t.entries = append(t.entries, e)
	t.bytes += e.size
	t.head, t.headID = e.position, e.id
	if !e.reused {
		t.ids[e.id] = e.position
	}
	evicted := 0
	for t.bytes > t.maxBytes && evicted < len(t.entries) {
		old := t.entries[evicted]
		evicted++
		t.bytes -= old.size
		t.floor = old.position
		if t.ids[old.id] == old.position {
			delete(t.ids, old.id)
		}
	}
	// The array behind the slice is given up when append grows it; until then
	// it must not hold on to what was evicted.
	clear(t.entries[:evicted])
	t.entries = t.entries[evicted:]
}

// redact replaces an update by one that nobody gets; it still is a cursor.
func (t *tail) redact(position protocol.Position) {
	i, found := slices.BinarySearchFunc(t.entries, position, func(e *entry, p protocol.Position) int {
		return cmp.Compare(e.position, p)
	})
	if !found {
		return
	}
	old := t.entries[i]
	empty := &entry{position: old.position, id: old.id, private: old.private, reused: old.reused, size: entryOverhead}
	t.bytes += empty.size - old.size
	t.entries[i] = empty
}

func (t *tail) find(id protocol.EventID) (protocol.Position, bool) {
	position, ok := t.ids[id]
	return position, ok
}

// after returns the next updates behind a position, limited in number and, but
// for the last one, in bytes, and the position up to which that is everything.
// False: the tail does not reach back that far.
func (t *tail) after(position protocol.Position, limit, maxBytes int) ([]*entry, protocol.Position, bool) {
	if position < t.floor {
		return nil, position, false
	}
	from, _ := slices.BinarySearchFunc(t.entries, position+1, func(e *entry, p protocol.Position) int {
		return int(min(max(e.position-p, -1), 1))
	})
	rest := t.entries[from:]
	n := 0
	for bytes := 0; n < min(len(rest), limit) && bytes < maxBytes; n++ {
		bytes += rest[n].size
	}
	if n == len(rest) {
		return slices.Clone(rest), max(t.head, position), true
	}
	return slices.Clone(rest[:n]), rest[n-1].position, true
}
