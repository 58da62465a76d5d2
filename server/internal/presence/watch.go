package presence

import (
	"context"
	"time"

	"github.com/google/uuid"
)

const (
	renewInterval = 2500 * time.Millisecond
	// leaseTime is how long a lease must be seen to stand still. A node that
	// lives renews it six times in that time.
	leaseTime = 15 * time.Second
	// contactGap is the longest time between two looks that counts as unbroken
	// contact: after an outage the others, too, must come back first.
	contactGap = 3 * renewInterval
	// Events of subscriptions are for those who follow them, not for history:
	// streams that are renewed for ever would fill it.
	eventsKept    = time.Hour
	emptyInterval = time.Minute
)

// verdict is a node to be ended; observed is the lease it stood still at, nil if
// it was given up already.
type verdict struct {
	node     uuid.UUID
	observed *int64
}

// watch is the state of the goroutine that renews and observes leases. Owned by
// it.
type watch struct {
	*Registry
	seen     map[uuid.UUID]lease
	lastSeen time.Time // the last look that worked
	emptied  time.Time // when the janitor was last sent
}

// lease is where a counter was first seen, and when at the latest that was.
type lease struct {
	counter int64
	since   time.Time
}

// runWatch ends with ctx.
func (r *Registry) runWatch(ctx context.Context) error {
	w := &watch{Registry: r}
	ticks := r.ticks
	if ticks == nil {
		ticker := time.NewTicker(renewInterval)
		defer ticker.Stop()
		ticks = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks:
			w.tick(ctx)
		}
	}
}

// tick renews the lease of this node, and looks at those of the others. The
// writer reports outages: without writing, nobody is harmed by one.
func (w *watch) tick(ctx context.Context) {
	begun := w.now()
	node, acknowledged := w.identity()
	if node != uuid.Nil {
		batch, alive, err := w.store.RenewNode(ctx, node)
		if err != nil {
			w.seen = nil
			return
		}
		if !alive || batch < acknowledged {
			w.giveUp(node)
		}
	}
	leases, dead, err := w.store.Nodes(ctx)
	if err != nil {
		w.seen = nil
		return
	}
	verdicts := w.judge(begun, w.now(), leases, node)
	for _, id := range dead {
		verdicts = append(verdicts, verdict{node: id})
	}
	if len(verdicts) > 0 {
		select {
		case w.dying <- verdicts:
		default: // the janitor is busy; the next look finds them again
		}
	}
	if begun.Sub(w.emptied) >= emptyInterval && first(leases, node) {
		w.emptied = begun
		wake(w.empty)
	}
}

// judge returns the nodes whose leases have stood still for too long, by a look
// that was begun and answered at these times.
func (w *watch) judge(begun, answered time.Time, leases map[uuid.UUID]int64, self uuid.UUID) (verdicts []verdict) {
	if answered.Sub(w.lastSeen) > contactGap {
		w.seen = nil
	}
	w.lastSeen = answered
	now := make(map[uuid.UUID]lease, len(leases))
	for id, counter := range leases {
		if id == self {
			continue
		}
		before, known := w.seen[id]
		if !known || before.counter != counter {
			now[id] = lease{counter, answered}
			continue
		}
		now[id] = before
		if begun.Sub(before.since) >= leaseTime {
			verdicts = append(verdicts, verdict{id, &before.counter})
		}
	}
	w.seen = now
	return verdicts
}

// first says whether a node is the one of them that does what one must do.
func first(leases map[uuid.UUID]int64, node uuid.UUID) bool {
	if node == uuid.Nil {
		return false
	}
	for id := range leases {
		if id.String() < node.String() {
			return false
		}
	}
	return true
}

// janitor is the state of the goroutine that does what no subscriber waits for.
// Owned by it.
type janitor struct {
	*Registry
	failing bool
}

// runJanitor ends with ctx.
func (r *Registry) runJanitor(ctx context.Context) error {
	j := &janitor{Registry: r}
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case verdicts := <-r.dying:
			err = j.reap(ctx, verdicts)
		case <-r.empty:
			err = j.emptyEvents(ctx)
		}
		if ctx.Err() == nil {
			j.note(err)
		}
	}
}

// note logs that the work has begun to fail, once. What was not done is found
// again by a later look.
func (j *janitor) note(err error) {
	if err != nil && !j.failing {
		j.logger.Warn("cleaning up subscriptions fails; trying again", "error", err)
	}
	j.failing = err != nil
}

// reap ends nodes in steps, between which others append.
//
// Spec: R-2.
func (j *janitor) reap(ctx context.Context, verdicts []verdict) error {
	for _, v := range verdicts {
		ended := false
		for more := true; more; ended = ended || more {
			var err error
			if more, err = j.store.EndNode(ctx, v.node, v.observed); err != nil {
				return err
			}
		}
		if ended {
			j.logger.Info("the subscriptions of a node that has disappeared were ended", "node", v.node)
		}
	}
	return nil
}

// emptyEvents empties some, so that nodes need not wait to be ended until all
// are.
func (j *janitor) emptyEvents(ctx context.Context) error {
	more, err := j.store.EmptyHubEvents(ctx, eventsKept)
	if more {
		wake(j.empty)
	}
	return err
}
