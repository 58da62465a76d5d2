package torture

import (
	"fmt"
	"math"
)

// kind is a way to break a promise.
type kind int

const (
	lost kind = iota
	duplicated
	reordered
	fromRollback
	fromRefusal
	leaked
	misrouted
	kinds
)

func (k kind) String() string {
	return [kinds]string{
		"lost", "duplicated", "reordered", "from rollbacks", "from refusals", "private leaked", "misrouted",
	}[k]
}

// Violation is one update with which a promise was broken.
type Violation struct {
	Kind   string `json:"kind"`
	Number uint32 `json:"number"`
	// Place says where it should be, or should not.
	Place string `json:"place"`
	// Subscriber is the name of one, of a replay, or "the log".
	Subscriber string `json:"subscriber"`
	// ID and Position are those in the log; empty and 0 if it is not there.
	ID       string `json:"id,omitempty"`
	Position int64  `json:"position,omitempty"`
}

// maxViolations is how many of each kind are kept; all are counted.
const maxViolations = 5

// beginning is where a subscriber begins.
type beginning int

const (
	// afterStart: after the first update of all, by its id.
	afterStart beginning = iota
	// atEarliest: with everything there is.
	atEarliest
	// live: with what comes next.
	live
)

// sequence is what one subscriber got, in order.
type sequence struct {
	name     string
	audience *audience
	numbers  []number
	begins   beginning
	since    uint32 // the tick at which a live one began
}

// verdict is what the checker found.
type verdict struct {
	counts     [kinds]int
	violations []Violation
	// Of the updates with an unknown outcome.
	existing, notExisting int
}

func (v *verdict) add(k kind, n number, subscriber, format string, args ...any) {
	v.counts[k]++
	if v.counts[k] <= maxViolations {
		v.violations = append(v.violations, Violation{
			Kind: k.String(), Number: n, Subscriber: subscriber, Place: fmt.Sprintf(format, args...),
		})
	}
}

func (v *verdict) broken() bool { return v.counts != [kinds]int{} }

// checker compares what was published with the log, and the log with what was
// delivered.
type checker struct {
	ledger *ledger
	order  []number
	start  number
	// end is how many of order every subscriber must have seen.
	end int
	// ordinal is the place in order plus one by number; 0: not in the log.
	ordinal []uint32
	verdict
}

// check does all of it. order is the log; every sequence must reach the first of
// the marks in it.
func check(l *ledger, order []number, start number, marks []number, sequences []sequence) *verdict {
	c := &checker{ledger: l, order: order, end: len(order), start: start, ordinal: make([]uint32, l.size())}
	c.readLog(marks)
	c.checkOutcomes()
	c.checkPrecedence()
	for _, s := range sequences {
		c.checkSequence(s)
	}
	return &c.verdict
}

const theLog = "the log"

func (c *checker) readLog(marks []number) {
	for i, n := range c.order {
		switch {
		case int(n) >= len(c.ordinal):
			c.add(fromRollback, n, theLog, "entry %d: was never published", i+1)
		case c.ordinal[n] != 0:
			c.add(duplicated, n, theLog, "entries %d and %d", c.ordinal[n], i+1)
		default:
			c.ordinal[n] = uint32(i) + 1
		}
	}
	for _, mark := range marks {
		if at := int(c.ordinal[mark]); at > 0 {
			c.end = min(c.end, at)
		}
	}
}

// checkOutcomes compares what publishers were told with what is there.
func (c *checker) checkOutcomes() {
	for n := range number(len(c.ordinal)) {
		e, _ := c.ledger.at(n)
		at := c.ordinal[n]
		switch {
		case e.state == acknowledged && at == 0:
			c.add(lost, n, theLog, "was acknowledged")
		case e.state == rolledBack && at > 0:
			c.add(fromRollback, n, theLog, "entry %d: was rolled back", at)
		case e.state == refused && at > 0:
			c.add(fromRefusal, n, theLog, "entry %d: was answered with \"nothing was published\"", at)
		case (e.state == unknown || e.state == pending) && at > 0:
			c.existing++
		case e.state == unknown || e.state == pending:
			c.notExisting++
		}
	}
}

// checkPrecedence finds updates that the log has before others which had been
// settled when they began, and transactions whose rows changed places. One pass:
// of all entries so far only the one that began last matters.
func (c *checker) checkPrecedence() {
	var (
		latest   uint32
		latestBy number
		// newest is the last number seen of each transaction, plus one.
		newest = make([]number, len(c.ordinal))
	)
	for i, n := range c.order {
		e, ok := c.ledger.at(n)
		if !ok || c.ordinal[n] != uint32(i)+1 {
			continue
		}
		settled := e.settled
		if e.state != acknowledged {
			settled = math.MaxUint32
		}
		if latest > settled {
			c.add(reordered, n, theLog, "entry %d: stands behind %d, which began after it was acknowledged", i+1, latestBy)
		}
		if e.begun > latest {
			latest, latestBy = e.begun, n
		}
		if seen := newest[e.first]; seen > n {
			c.add(reordered, n, theLog, "entry %d: stands behind %d of the same transaction", i+1, seen-1)
		}
		newest[e.first] = max(newest[e.first], n+1)
	}
}

func (c *checker) checkSequence(s sequence) {
	seen := newBitset(len(c.ordinal))
	highest := uint32(0)
	for i, n := range s.numbers {
		e, ok := c.ledger.at(n)
		if !ok {
			c.add(fromRollback, n, s.name, "delivery %d: was never published", i+1)
			continue
		}
		if seen.set(n) {
			c.add(duplicated, n, s.name, "delivery %d: it had been delivered", i+1)
			continue
		}
		switch {
		case !s.audience.routed[e.topics]:
			c.add(misrouted, n, s.name, "delivery %d: no matcher matches %q", i+1, topicSets[e.topics])
		case !s.audience.gets(e):
			c.add(leaked, n, s.name, "delivery %d: private, without a grant for %q", i+1, topicSets[e.topics])
		}
		at := c.ordinal[n]
		switch {
		case at == 0 && e.state == rolledBack:
			c.add(fromRollback, n, s.name, "delivery %d: was rolled back", i+1)
		case at == 0 && e.state == refused:
			c.add(fromRefusal, n, s.name, "delivery %d: was answered with \"nothing was published\"", i+1)
		case at == 0:
			c.add(lost, n, theLog, "was delivered to %s, delivery %d", s.name, i+1)
		case at < highest:
			c.add(reordered, n, s.name, "delivery %d: came after %d, which the log has behind it", i+1, c.order[highest-1])
		}
		highest = max(highest, at)
	}
	c.findMissing(s, seen, c.firstOf(s))
}

// firstOf is the first entry of the log that a subscriber must have.
func (c *checker) firstOf(s sequence) uint32 {
	switch s.begins {
	case atEarliest:
		return 1
	case afterStart:
		return c.ordinal[c.start] + 1
	}
	first := uint32(c.end) + 1
	if len(s.numbers) > 0 && int(s.numbers[0]) < len(c.ordinal) && c.ordinal[s.numbers[0]] > 0 {
		first = c.ordinal[s.numbers[0]]
	}
	for i, n := range c.order[:c.end] {
		if e, ok := c.ledger.at(n); ok && e.begun > s.since && s.audience.gets(e) {
			return min(first, uint32(i)+1)
		}
	}
	return first
}

func (c *checker) findMissing(s sequence, seen bitset, begins uint32) {
	for i, n := range c.order[:c.end] {
		e, ok := c.ledger.at(n)
		if !ok || uint32(i)+1 < begins || c.ordinal[n] != uint32(i)+1 || seen.has(n) || !s.audience.gets(e) {
			continue
		}
		c.add(lost, n, s.name, "entry %d of %d in the log", i+1, c.end)
	}
}

// bitset is a set of numbers.
type bitset []uint64

func newBitset(size int) bitset { return make(bitset, (size+63)/64) }

// set adds a number, and reports whether it was there.
func (b *bitset) set(n number) bool {
	for int(n/64) >= len(*b) {
		*b = append(*b, 0)
	}
	before := (*b)[n/64]
	(*b)[n/64] |= 1 << (n % 64)
	return before == (*b)[n/64]
}

func (b bitset) has(n number) bool { return int(n/64) < len(b) && b[n/64]&(1<<(n%64)) != 0 }
