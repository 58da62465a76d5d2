package broadcast

import (
	"slices"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// index finds the streams whose matchers match an update without asking each:
// exact topics through a map; patterns once for each distinct one, and only
// those whose literal prefix the topic has. Guarded by Broadcaster.mu.
type index struct {
	all      memberSet            // the wildcard
	exact    map[string]*distinct // by topic
	patterns map[protocol.MatcherKey]*distinct
	spaces   map[protocol.IndexSpace]*prefixes
	// unanchored is how many of the patterns are.
	unanchored int
}

// distinct is a matcher and the streams that have an interchangeable one.
type distinct struct {
	matcher *protocol.Matcher
	members memberSet
}

// prefixes holds the patterns of one index space by their literal prefix.
type prefixes struct {
	sample   *protocol.Matcher // any of them: their index keys are equal
	byPrefix map[string][]*distinct
	// lengths that occur, ascending, with the number of patterns of each: a
	// topic is looked up once for each length, not for each pattern.
	lengths []int
	counts  map[int]int
}

// member is one matcher of one stream, at a place in a set.
type member struct {
	stream  *Stream
	matcher *protocol.Matcher
	at      int
}

// memberSet is a slice, because it is walked for every update that matches;
// removal swaps with the last one.
type memberSet []*member

func (set *memberSet) add(m *member) {
	m.at = len(*set)
	*set = append(*set, m)
}

func (set *memberSet) remove(m *member) {
	last := len(*set) - 1
	moved := (*set)[last]
	(*set)[m.at] = moved
	moved.at = m.at
	(*set)[last] = nil
	*set = (*set)[:last]
}

func newIndex() index {
	return index{
		exact:    map[string]*distinct{},
		patterns: map[protocol.MatcherKey]*distinct{},
		spaces:   map[protocol.IndexSpace]*prefixes{},
	}
}

func (x *index) add(s *Stream) {
	for _, matcher := range s.matchers.Matchers() {
		m := &member{stream: s, matcher: matcher}
		s.members = append(s.members, m)
		switch {
		case matcher.Wildcard():
			x.all.add(m)
		case matcher.Kind() == protocol.Exact:
			d := x.exact[matcher.Value()]
			if d == nil {
				d = &distinct{matcher: matcher}
				x.exact[matcher.Value()] = d
			}
			d.members.add(m)
		default:
			d := x.patterns[matcher.Key()]
			if d == nil {
				d = &distinct{matcher: matcher}
				x.patterns[matcher.Key()] = d
				x.addPattern(d)
			}
			d.members.add(m)
		}
	}
}

func (x *index) remove(s *Stream) {
	for _, m := range s.members {
		switch {
		case m.matcher.Wildcard():
			x.all.remove(m)
		case m.matcher.Kind() == protocol.Exact:
			d := x.exact[m.matcher.Value()]
			if d.members.remove(m); len(d.members) == 0 {
				delete(x.exact, m.matcher.Value())
			}
		default:
			d := x.patterns[m.matcher.Key()]
			if d.members.remove(m); len(d.members) == 0 {
				delete(x.patterns, m.matcher.Key())
				x.removePattern(d)
			}
		}
	}
	s.members = nil
}

// newUnanchored counts those of a stream's matchers that no other stream has.
func (x *index) newUnanchored(matchers *protocol.MatcherSet) (n int) {
	for _, matcher := range matchers.Matchers() {
		if matcher.Unanchored() && x.patterns[matcher.Key()] == nil {
			n++
		}
	}
	return n
}

func (x *index) addPattern(d *distinct) {
	if d.matcher.Unanchored() {
		x.unanchored++
	}
	space := d.matcher.IndexSpace()
	p := x.spaces[space]
	if p == nil {
		p = &prefixes{sample: d.matcher, byPrefix: map[string][]*distinct{}, counts: map[int]int{}}
		x.spaces[space] = p
	}
	prefix := d.matcher.IndexPrefix()
	p.byPrefix[prefix] = append(p.byPrefix[prefix], d)
	if p.counts[len(prefix)]++; p.counts[len(prefix)] == 1 {
		at, _ := slices.BinarySearch(p.lengths, len(prefix))
		p.lengths = slices.Insert(p.lengths, at, len(prefix))
	}
}

func (x *index) removePattern(d *distinct) {
	if d.matcher.Unanchored() {
		x.unanchored--
	}
	space, prefix := d.matcher.IndexSpace(), d.matcher.IndexPrefix()
	p := x.spaces[space]
	same := p.byPrefix[prefix]
	same = slices.Delete(same, slices.Index(same, d), slices.Index(same, d)+1)
	if p.byPrefix[prefix] = same; len(same) == 0 {
		delete(p.byPrefix, prefix)
	}
	if p.counts[len(prefix)]--; p.counts[len(prefix)] == 0 {
		delete(p.counts, len(prefix))
		at, _ := slices.BinarySearch(p.lengths, len(prefix))
		p.lengths = slices.Delete(p.lengths, at, at+1)
	}
	if len(p.lengths) == 0 {
		delete(x.spaces, space)
	}
}

// receivers calls visit once for each stream with a matcher that matches a
// topic of the update.
func (x *index) receivers(e *entry, visit func(*Stream)) {
	x.visit(x.all, e, visit)
	for _, topic := range e.topics {
		if d := x.exact[topic.Raw()]; d != nil {
			x.visit(d.members, e, visit)
		}
		for _, p := range x.spaces {
			key, ok := p.sample.IndexKey(topic)
			if !ok {
				continue
			}
			for _, length := range p.lengths {
				if length > len(key) {
					break
				}
				for _, d := range p.byPrefix[key[:length]] {
					if d.matcher.Match(topic) {
						x.visit(d.members, e, visit)
					}
				}
			}
		}
	}
}

func (x *index) visit(set memberSet, e *entry, visit func(*Stream)) {
	for _, m := range set {
		if m.stream.seen != e.position {
			m.stream.seen = e.position
			visit(m.stream)
		}
	}
}
