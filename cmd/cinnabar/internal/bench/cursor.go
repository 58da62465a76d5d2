package bench

import "slices"

// cursor checks what one stream receives. Each source numbers its updates from
// 1; a stream that resumes starts from the numbers that came before.
type cursor struct {
	// last is the greatest number seen, for each source.
	last []uint32
	// gaps is what was passed over.
	gaps []gap
	// order tells one order of updates from another.
	order uint64

	duplicated, reordered, misrouted int64
	// untracked were lost when there were too many gaps to remember.
	untracked int64
}

// gap is a range of numbers of a source.
type gap struct {
	slot     int
	from, to uint32
}

func (g gap) size() int64 { return int64(g.to-g.from) + 1 }

// maxGaps bounds the memory of a stream. A hub that leaves more of them has
// been found out anyway.
const maxGaps = 1000

func newCursor(slots int, bases []uint32) cursor {
	c := cursor{last: make([]uint32, slots)}
	copy(c.last, bases)
	return c
}

// take reports whether the update is new.
func (c *cursor) take(slot int, seq uint32) bool {
	if slot < 0 || slot >= len(c.last) {
		c.misrouted++
		return false
	}
	last := c.last[slot]
	switch {
	case seq > last+1:
		c.skip(gap{slot: slot, from: last + 1, to: seq - 1})
		c.last[slot] = seq
	case seq == last+1:
		c.last[slot] = seq
	case !c.fill(slot, seq):
		c.duplicated++
		return false
	default:
		c.reordered++
	}
	const prime = 1099511628211 // that of FNV-1a
	c.order = (c.order ^ (uint64(slot)<<32 | uint64(seq))) * prime
	return true
}

func (c *cursor) skip(g gap) {
	if len(c.gaps) == maxGaps {
		c.untracked += g.size()
		return
	}
	c.gaps = append(c.gaps, g)
}

// fill takes a number out of the gaps; false: it is in none.
func (c *cursor) fill(slot int, seq uint32) bool {
	i := slices.IndexFunc(c.gaps, func(g gap) bool { return g.slot == slot && g.from <= seq && seq <= g.to })
	if i < 0 {
		return false
	}
	g := c.gaps[i]
	c.gaps = slices.Delete(c.gaps, i, i+1)
	if g.from < seq {
		c.skip(gap{slot: slot, from: g.from, to: seq - 1})
	}
	if seq < g.to {
		c.skip(gap{slot: slot, from: seq + 1, to: g.to})
	}
	return true
}

// lost counts what is missing once a number of updates were published by each
// source. Whether the uncertain ones were is not known.
func (c *cursor) lost(totals []uint32, uncertain []update) int64 {
	for slot, total := range totals {
		if last := c.last[slot]; last < total {
			c.skip(gap{slot: slot, from: last + 1, to: total})
			c.last[slot] = total
		}
	}
	lost := c.untracked
	for _, g := range c.gaps {
		lost += g.size()
		for _, u := range uncertain {
			if u.Slot == g.slot && g.from <= u.Seq && u.Seq <= g.to {
				lost--
			}
		}
	}
	return lost
}

// update is one of a source.
type update struct {
	Slot int
	Seq  uint32
}
