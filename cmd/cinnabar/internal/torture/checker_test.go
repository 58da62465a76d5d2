package torture

import (
	"slices"
	"strings"
	"testing"
)

// world is a run that kept every promise, to be spoilt.
type world struct {
	ledger    *ledger
	order     []number
	mark      number
	sequences []sequence
}

const (
	worldTransaction = 10 // first of three rows, all committed
	worldRolledBack  = 13
	worldRefused     = 14
	worldUnknown     = 15
	worldPrivate     = 16
)

// newWorld publishes a start, nine updates one after the other, a transaction,
// one of each outcome, a private update, and a mark.
func newWorld() *world {
	w := &world{ledger: &ledger{}}
	publish := func(outcome state, rows ...row) {
		first, _ := w.ledger.open(rows...)
		w.ledger.begin(first, len(rows))
		w.ledger.settle(first, len(rows), outcome)
		for i := range rows {
			if outcome == acknowledged {
				w.order = append(w.order, first+number(i))
			}
		}
	}
	public := row{topics: 0}
	publish(acknowledged, row{topics: markSet})
	for range 9 {
		publish(acknowledged, public)
	}
	publish(acknowledged, public, public, public)
	publish(rolledBack, public)
	publish(refused, public)
	publish(unknown, public)
	publish(acknowledged, row{topics: 0, private: true})
	w.mark = number(w.ledger.size())
	publish(acknowledged, row{topics: markSet})
	for i, a := range audiences {
		s := sequence{name: a.name, audience: a, begins: []beginning{afterStart, atEarliest}[i%2]}
		for _, n := range w.order {
			e, _ := w.ledger.at(n)
			if a.gets(e) && (n > 0 || s.begins == atEarliest) {
				s.numbers = append(s.numbers, n)
			}
		}
		w.sequences = append(w.sequences, s)
	}
	return w
}

func (w *world) check() *verdict {
	return check(w.ledger, w.order, 0, []number{w.mark}, w.sequences)
}

func remove(list []number, n number) []number {
	return slices.DeleteFunc(slices.Clone(list), func(x number) bool { return x == n })
}

func swap(list []number, a, b number) []number {
	list = slices.Clone(list)
	i, j := slices.Index(list, a), slices.Index(list, b)
	list[i], list[j] = list[j], list[i]
	return list
}

func before(list []number, at, n number) []number {
	return slices.Insert(slices.Clone(list), slices.Index(list, at), n)
}

func TestCheckerIsContentWithAKeptPromise(t *testing.T) {
	t.Parallel()
	v := newWorld().check()
	if v.broken() || len(v.violations) > 0 {
		t.Errorf("got %v, %+v", v.counts, v.violations)
	}
	if v.existing != 0 || v.notExisting != 1 {
		t.Errorf("unknown outcomes: %d there, %d not", v.existing, v.notExisting)
	}
}

func TestCheckerFinds(t *testing.T) {
	t.Parallel()
	everything, anonymously, books := 0, 1, 5
	for _, test := range []struct {
		name  string
		spoil func(*world)
		want  map[kind]int
		place string // part of the first violation
	}{
		{
			"a skipped update",
			func(w *world) { w.sequences[everything].numbers = remove(w.sequences[everything].numbers, 5) },
			map[kind]int{lost: 1},
			"entry 6 of 15",
		},
		{
			"nothing delivered from some point on",
			func(w *world) { w.sequences[everything].numbers = w.sequences[everything].numbers[:6] },
			map[kind]int{lost: 8},
			"entry 8 of 15",
		},
		{
			"a duplicate",
			func(w *world) { w.sequences[anonymously].numbers = before(w.sequences[anonymously].numbers, 8, 5) },
			map[kind]int{duplicated: 1},
			"delivery 9",
		},
		{
			"a changed order",
			func(w *world) { w.sequences[everything].numbers = swap(w.sequences[everything].numbers, 4, 5) },
			map[kind]int{reordered: 1},
			"came after 5",
		},
		{
			"a delivery from a rollback",
			func(w *world) {
				w.sequences[everything].numbers = before(w.sequences[everything].numbers, 16, worldRolledBack)
			},
			map[kind]int{fromRollback: 1},
			"was rolled back",
		},
		{
			"a delivery of what was refused",
			func(w *world) {
				w.sequences[everything].numbers = before(w.sequences[everything].numbers, 16, worldRefused)
			},
			map[kind]int{fromRefusal: 1},
			"nothing was published",
		},
		{
			"a delivery that the log does not have",
			func(w *world) {
				w.sequences[everything].numbers = before(w.sequences[everything].numbers, 16, worldUnknown)
			},
			map[kind]int{lost: 1},
			"was delivered to everything",
		},
		{
			"a number that nobody gave",
			func(w *world) { w.sequences[everything].numbers = before(w.sequences[everything].numbers, 16, 999) },
			map[kind]int{fromRollback: 1},
			"never published",
		},
		{
			"a leak",
			func(w *world) {
				w.sequences[anonymously].numbers = before(w.sequences[anonymously].numbers, w.mark, worldPrivate)
			},
			map[kind]int{leaked: 1},
			"without a grant",
		},
		{
			"an update nobody asked for",
			func(w *world) { w.sequences[books].numbers = before(w.sequences[books].numbers, w.mark, 5) },
			map[kind]int{misrouted: 1},
			"no matcher matches",
		},
		{
			"an acknowledged update that is not in the log",
			func(w *world) {
				w.order = remove(w.order, 5)
				for i := range w.sequences {
					w.sequences[i].numbers = remove(w.sequences[i].numbers, 5)
				}
			},
			map[kind]int{lost: 1},
			"was acknowledged",
		},
		{
			"a row of a rollback in the log, which nobody was sent",
			func(w *world) {
				w.order = before(w.order, w.mark, worldRolledBack)
				w.sequences = nil
			},
			map[kind]int{fromRollback: 1},
			"was rolled back",
		},
		{
			"an update that is in the log twice",
			func(w *world) { w.order = before(w.order, 8, 5) },
			map[kind]int{duplicated: 1},
			"entries 6 and 9",
		},
		{
			"a later publish before an earlier one",
			func(w *world) {
				w.order = swap(w.order, 4, 5)
				w.sequences = nil
			},
			map[kind]int{reordered: 1},
			"which began after it was acknowledged",
		},
		{
			"a transaction whose rows changed places",
			func(w *world) {
				w.order = swap(w.order, worldTransaction, worldTransaction+1)
				w.sequences = nil
			},
			map[kind]int{reordered: 1},
			"of the same transaction",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			test.spoil(w)
			v := w.check()
			for k := range kinds {
				if v.counts[k] != test.want[k] {
					t.Errorf("%d %s, want %d", v.counts[k], k, test.want[k])
				}
			}
			if len(v.violations) == 0 || !strings.Contains(v.violations[0].Place, test.place) {
				t.Errorf("got %+v, want %q", v.violations, test.place)
			}
		})
	}
}

// An unknown outcome may be there, once.
func TestCheckerAndUnknownOutcomes(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.order = before(w.order, w.mark, worldUnknown)
	w.sequences = nil
	if v := w.check(); v.broken() || v.existing != 1 || v.notExisting != 0 {
		t.Errorf("got %v, %d there, %d not", v.counts, v.existing, v.notExisting)
	}
	w.order = before(w.order, w.mark, worldUnknown)
	if v := w.check(); v.counts[duplicated] != 1 {
		t.Errorf("there twice: %v", v.counts)
	}
}

// Who joins live must have everything that was published from then on.
func TestCheckerAndLiveSubscribers(t *testing.T) {
	t.Parallel()
	w := newWorld()
	seventh, _ := w.ledger.at(7)
	s := sequence{name: "live", audience: audiences[0], begins: live, since: seventh.begun - 1, numbers: w.order[7:]}
	w.sequences = []sequence{s}
	if v := w.check(); v.broken() {
		t.Errorf("got %+v", v.violations)
	}
	w.sequences[0].numbers = w.order[8:]
	if v := w.check(); v.counts[lost] != 1 {
		t.Errorf("the first one is missing: %v", v.counts)
	}
	w.sequences[0].numbers = remove(w.order[5:], 6)
	if v := w.check(); v.counts[lost] != 1 {
		t.Errorf("one is missing that came before it had to: %v", v.counts)
	}
}

// The memory of a run is what the package says.
func TestLedgerIsBounded(t *testing.T) {
	t.Parallel()
	l := &ledger{}
	rows := make([]row, 1000)
	for range maxUpdates / len(rows) {
		if _, ok := l.open(rows...); !ok {
			t.Fatal("full too early")
		}
	}
	if _, ok := l.open(row{}); ok {
		t.Error("one more was taken")
	}
	if n := l.openMark(); n != maxUpdates {
		t.Errorf("the mark has number %d", n)
	}
}
