package torture

import (
	"sync"
	"sync/atomic"
)

// number names an update. Numbers are given in the order of publishing, and are
// what the data of an update begins with.
type number = uint32

// maxUpdates bounds the memory of a run: 32 MB for the ledger, and 8 MB for each
// subscriber that gets everything.
const maxUpdates = 2_000_000

// state is what the publisher of an update was told.
type state uint8

const (
	// pending: no answer yet. At the end of a run it counts as unknown.
	pending state = iota
	// acknowledged: must be there, once.
	acknowledged
	// unknown: may be there, once.
	unknown
	// refused: the hub said that nothing was published, or was not reached.
	refused
	// rolledBack: its transaction, or its savepoint, was.
	rolledBack
)

// entry is what is known about an update. 16 bytes.
type entry struct {
	// begun is the tick before the request or statement was sent, settled the
	// one after its outcome was known; 0: not yet.
	begun, settled uint32
	// first is the first number of the transaction.
	first number
	state state
	// topics is an index of topicSets.
	topics  uint8
	private bool
}

const blockSize = 4096

// ledger remembers every update. Safe for concurrent use.
type ledger struct {
	clock atomic.Uint32

	mu     sync.RWMutex
	blocks []*[blockSize]entry
	count  uint32

	acknowledged atomic.Int64
}

// tick returns the next moment: what ends before something else begins has the
// smaller one.
func (l *ledger) tick() uint32 { return l.clock.Add(1) }

// row is an update before it has a number.
type row struct {
	topics  uint8
	private bool
}

// open gives numbers to the rows of a transaction; false: the ledger is full.
func (l *ledger) open(rows ...row) (first number, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count+uint32(len(rows)) > maxUpdates {
		return 0, false
	}
	return l.addLocked(rows...), true
}

// openMark is open for an update that is needed even if the ledger is full.
func (l *ledger) openMark() number {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addLocked(row{topics: markSet})
}

func (l *ledger) addLocked(rows ...row) (first number) {
	first = l.count
	for _, r := range rows {
		if l.count%blockSize == 0 {
			l.blocks = append(l.blocks, new([blockSize]entry))
		}
		*l.entryLocked(l.count) = entry{first: first, topics: r.topics, private: r.private}
		l.count++
	}
	return first
}

func (l *ledger) entryLocked(n number) *entry { return &l.blocks[n/blockSize][n%blockSize] }

// begin notes that updates are about to be sent.
func (l *ledger) begin(first number, count int) {
	now := l.tick()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range uint32(count) {
		l.entryLocked(first + i).begun = now
	}
}

// settle notes the outcome of those that have none yet.
func (l *ledger) settle(first number, count int, outcome state) {
	now := l.tick()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range uint32(count) {
		e := l.entryLocked(first + i)
		if e.state != pending {
			continue
		}
		e.state, e.settled = outcome, now
		if outcome == acknowledged {
			l.acknowledged.Add(1)
		}
	}
}

// at returns what is known about an update; false: there is none of that number.
func (l *ledger) at(n number) (entry, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if n >= l.count {
		return entry{}, false
	}
	return *l.entryLocked(n), true
}

// size is how many updates there are.
func (l *ledger) size() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return int(l.count)
}
