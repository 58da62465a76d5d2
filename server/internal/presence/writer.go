package presence

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Limits of one batch, for what begins and for what ends, each: how long the
// append lock may be held. Publishers get their turn between two batches, and
// with ten times the rows they would wait ten times as long in a storm, which
// would be over little sooner. A subscriber is never split.
const (
	maxBatchRows  = 100
	maxBatchBytes = 4 << 20
)

const (
	// failuresBeforeWarning: one broken connection is no news.
	failuresBeforeWarning = 3
	// stopTimeout bounds what a node that stops tries before it leaves its
	// subscriptions to the others.
	stopTimeout = 5 * time.Second
	// stopAttempts is how often it tries.
	stopAttempts = 3
)

// writer is the state of the goroutine that writes. Owned by it.
type writer struct {
	*Registry
	batch    int64     // number of the last one that was tried
	next     uuid.UUID // the coming name of this node
	failures int       // in a row
	warned   bool
}

// errGivenUp: the others have given this node up, or the database has lost what
// it had written. It goes on under another name.
var errGivenUp = errors.New("this node was given up by the others")

// runWriter ends with ctx, which also ends the call that is in flight: what
// becomes of that is settled when the node is ended.
func (r *Registry) runWriter(ctx context.Context) error {
	w := &writer{Registry: r}
	wake(r.wake) // take a name
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		}
		for more := true; more; {
			var err error
			if more, err = w.write(ctx); err == nil {
				continue
			}
			w.failed(err)
			if !sleep(ctx, backoff(w.failures)) {
				return ctx.Err()
			}
		}
	}
}

// write writes one batch; more: call again.
func (w *writer) write(ctx context.Context) (more bool, err error) {
	node, acknowledged := w.identity()
	if node == uuid.Nil {
		if err := w.takeName(ctx); err != nil {
			return true, err
		}
		node, acknowledged = w.identity()
	}
	b := w.take()
	if len(b.began)+len(b.ended) == 0 {
		w.nothingWaits()
		return false, nil
	}
	w.batch++
	subscriptions, numbers := b.rows()
	alive, err := w.store.WritePresence(ctx, node, w.batch, acknowledged, subscriptions, numbers, b.endedNumbers())
	if err != nil {
		w.putBack(node, b)
		return true, err
	}
	if !alive {
		w.giveUp(node)
		w.putBack(node, b)
		return true, errGivenUp
	}
	w.worked()
	return w.written(node, w.batch, b), nil
}

// takeName makes this node one that has nothing written yet, and queues all of
// its subscribers. First the former one is ended to the last: an end after the
// new beginning would be taken for the truth.
func (w *writer) takeName(ctx context.Context) error {
	if w.next == uuid.Nil {
		w.next = uuid.New()
	}
	for more := w.former() != uuid.Nil; more; {
		var err error
		if more, err = w.store.EndNode(ctx, w.former(), nil); err != nil {
			return err
		}
	}
	if err := w.store.AddNode(ctx, w.next); err != nil {
		return err
	}
	w.batch = 0
	w.mu.Lock()
	again := w.formerNode != uuid.Nil
	w.node, w.formerNode, w.acknowledged = w.next, uuid.Nil, 0
	w.mu.Unlock()
	w.next = uuid.Nil
	if again {
		w.logger.Warn("the other nodes have given this one up, or the database has lost what it had written; its subscriptions are announced again")
	}
	w.worked()
	return nil
}

// failed logs that writing has begun to fail, once.
func (w *writer) failed(err error) {
	w.mu.Lock()
	if w.failedSince.IsZero() {
		w.failedSince = w.now()
	}
	// As long as this node has no name, nobody takes from the queue those who
	// have left it.
	w.queue = slices.DeleteFunc(w.queue, func(m *member) bool { return m.state != queued })
	w.mu.Unlock()
	w.failures++
	if w.failures >= failuresBeforeWarning && !w.warned {
		w.warned = true
		w.logger.Warn("subscriptions cannot be written; retrying", "error", err)
	}
}

// nothingWaits lets those who come next find out whether writing fails still.
func (w *writer) nothingWaits() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failedSince = time.Time{}
}

// worked logs that writing works again, if it was logged that it did not.
func (w *writer) worked() {
	w.mu.Lock()
	w.failedSince = time.Time{}
	w.mu.Unlock()
	if w.warned {
		w.logger.Info("subscriptions are written again")
	}
	w.failures, w.warned = 0, false
}

// identity is the name of this node; zero if it needs one.
func (r *Registry) identity() (node uuid.UUID, acknowledged int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.node, r.acknowledged
}

// giveUp makes the writer take another name, unless it has already.
func (r *Registry) giveUp(node uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.node != node || node == uuid.Nil {
		return
	}
	r.node, r.formerNode = uuid.Nil, node
	for _, m := range r.leaving {
		m.state = gone // ended with the node
		r.queuedBytes -= m.size
	}
	r.leaving = nil
	for m := range r.members {
		if m.state == announced {
			r.enqueue(m)
		}
		m.tried = false
	}
	wake(r.wake)
}

func (r *Registry) former() uuid.UUID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.formerNode
}

// batch is what is written in one transaction.
type batch struct{ began, ended []*member }

func (b *batch) rows() (subscriptions []protocol.Subscription, numbers []int64) {
	for _, m := range b.began {
		subscriptions = append(subscriptions, m.subscriptions...)
		numbers = m.appendNumbers(numbers)
	}
	return subscriptions, numbers
}

func (b *batch) endedNumbers() (numbers []int64) {
	for _, m := range b.ended {
		numbers = m.appendNumbers(numbers)
	}
	return numbers
}

func (m *member) appendNumbers(numbers []int64) []int64 {
	for i := range m.subscriptions {
		numbers = append(numbers, m.first+int64(i))
	}
	return numbers
}

// take returns what is to be written next, within the limits of a batch. Those
// who wait for it do not wait behind others who leave.
func (r *Registry) take() batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b batch
	b.began, r.queue = take(r.queue, queued)
	b.ended, r.leaving = take(r.leaving, ending)
	for _, m := range b.began {
		m.state = writing
	}
	return b
}

// take splits a list, passing over members that are not in the state any more.
func take(list []*member, wanted state) (batch, rest []*member) {
	rows, bytes := 0, 0
	for i, m := range list {
		if m.state != wanted {
			continue
		}
		rows += len(m.subscriptions)
		bytes += m.size
		if len(batch) > 0 && (rows > maxBatchRows || bytes > maxBatchBytes) {
			return batch, list[i:]
		}
		batch = append(batch, m)
		list[i] = nil
	}
	return batch, nil
}

// written notes that a batch is in the database; more: something waits.
func (r *Registry) written(node uuid.UUID, number int64, b batch) (more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.node != node {
		r.putBackLocked(node, b) // and ended with the node since
		return true
	}
	r.acknowledged = number
	for _, m := range b.ended {
		m.state = gone
		r.queuedBytes -= m.size
	}
	for _, m := range b.began {
		r.queuedBytes -= m.size
		m.state = announced
		if m.left {
			r.end(m)
		}
		m.answer(nil)
	}
	return len(r.queue)+len(r.leaving) > 0
}

// putBack notes that a batch may be in the database or not. It is first in the
// next one; who has left meanwhile is ended, in case it is.
func (r *Registry) putBack(node uuid.UUID, b batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putBackLocked(node, b)
}

func (r *Registry) putBackLocked(node uuid.UUID, b batch) {
	sameNode := r.node == node // else what the batch has written ends with the node
	var again, ended []*member
	for _, m := range b.ended {
		if sameNode {
			ended = append(ended, m)
			continue
		}
		m.state = gone
		r.queuedBytes -= m.size
	}
	for _, m := range b.began {
		m.tried = sameNode
		switch {
		case !m.left:
			m.state = queued
			again = append(again, m)
		case sameNode:
			m.state = ending
			ended = append(ended, m)
		default:
			m.state = gone
			r.queuedBytes -= m.size
		}
	}
	r.queue = append(again, r.queue...)
	r.leaving = append(ended, r.leaving...)
}

// leaveCluster ends the subscriptions of this node, which stops.
func (r *Registry) leaveCluster(ctx context.Context, node uuid.UUID) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for failures := 0; ; {
		more, err := r.store.EndNode(ctx, node, nil)
		if err == nil && !more {
			return
		}
		if err == nil {
			continue
		}
		if failures++; failures == stopAttempts || !sleep(ctx, backoff(failures)) {
			r.logger.Warn("the subscriptions of this node could not be ended; other nodes will do it", "error", err)
			return
		}
	}
}

// backoff grows from 50 ms to 2 s, with jitter so that nodes do not return
// together.
func backoff(failures int) time.Duration {
	d := min(50*time.Millisecond<<min(max(failures-1, 0), 6), 2*time.Second)
	return d/2 + time.Duration(rand.Int64N(int64(d)))
}

// sleep waits; false: ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
