package presence

import (
	"time"

	"github.com/google/uuid"
)

// SetClock gives a registry that does not run yet a clock and ticks of a test.
func (r *Registry) SetClock(now func() time.Time, ticks <-chan time.Time) {
	r.now, r.ticks = now, ticks
}

// KillAtEnd makes Run end as a killed process does.
func (r *Registry) KillAtEnd() { r.killed = true }

// Node is the present name; zero: none.
func (r *Registry) Node() uuid.UUID {
	node, _ := r.identity()
	return node
}

// Waiting is how many bytes wait to be written.
func (r *Registry) Waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queuedBytes
}

// Queued is how many the queue has, those included who have left it.
func (r *Registry) Queued() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue)
}

// Failing says whether the last write has failed, as far as anybody waits.
func (r *Registry) Failing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.failedSince.IsZero()
}

const (
	LeaseTime  = leaseTime
	ContactGap = contactGap
)
