package eventlog

import (
	"sync"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// pending is one update on its way into the log.
type pending struct {
	update    *protocol.Update
	generated bool // the id is ours and new
	size      int
	key       *keyHashes // nil: none
	// answer is the id for the publisher, if another one than the update's.
	// Written before done is sent to.
	answer protocol.EventID
	// done gets the result once, and has room for it.
	done chan error
	// claimed by the writer, or by a publisher that gave up; guarded by the
	// queue's lock.
	claimed bool
}

// queue holds what was published since the writer took its last batch. It is
// bounded in bytes; what does not fit is refused.
type queue struct {
	maxBytes int
	wake     chan struct{}

	mu     sync.Mutex
	items  []*pending
	bytes  int
	closed bool
}

func (q *queue) push(p *pending) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed
	}
	if q.bytes+p.size > q.maxBytes && q.bytes > 0 {
		return ErrOverloaded
	}
	q.items = append(q.items, p)
	q.bytes += p.size
	wake(q.wake)
	return nil
}

// take returns the next batch, within the limits of one.
func (q *queue) take() []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := make([]*pending, 0, min(len(q.items), maxBatchRows))
	bytes, taken := 0, 0
	for _, p := range q.items {
		if len(batch) == maxBatchRows || (len(batch) > 0 && bytes+p.size > maxBatchBytes) {
			break
		}
		taken++
		q.bytes -= p.size
		if p.claimed {
			continue
		}
		p.claimed = true
		bytes += p.size
		batch = append(batch, p)
	}
	clear(q.items[:taken])
	q.items = q.items[taken:]
	if len(q.items) > 0 {
		wake(q.wake)
	} else {
		q.items = nil
	}
	return batch
}

// withdraw takes back what the writer has not begun with. False: it has.
func (q *queue) withdraw(p *pending) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.claimed {
		return false
	}
	p.claimed = true
	return true
}

// close refuses further updates and fails those nobody will append.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, p := range q.items {
		if !p.claimed {
			p.claimed = true
			p.done <- ErrClosed
		}
	}
	q.items, q.bytes = nil, 0
}
