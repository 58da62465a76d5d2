package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxUncertain bounds how many publishes may fail before there is no point in
// going on.
const maxUncertain = 1000

// load publishes updates of a run with many publishers at once. What one source
// publishes is published by one publisher, in order.
type load struct {
	run      string
	audience audience
	size     int

	publishers []publisher
	// lastID of each publisher.
	lastID []string
	// totals is how many each source has published: a publisher for everybody,
	// or a stream that has topics of its own.
	totals []uint32

	mu        sync.Mutex
	uncertain []update
	failure   error // the last reason for one of them
	answers   histogram

	accepted atomic.Int64
}

// newLoad is for the streams of a plan.
func newLoad(p plan, publishers []publisher, size int) *load {
	sources := p.Sources
	if p.Audience != everything {
		sources = p.Streams
	}
	return &load{
		run: p.Run, audience: p.Audience, size: size,
		publishers: publishers, lastID: make([]string, len(publishers)), totals: make([]uint32, sources),
	}
}

// pace says when to publish, and when to stop.
type pace struct {
	// count is how many updates; 0: until the duration is over.
	count    int64
	duration time.Duration
	// rate is how many a second; 0: as many as are accepted.
	rate float64
	// ahead is how many may be published and not delivered, by the given
	// function; 0: any number.
	ahead     int64
	delivered func() int64
	// halfToNobody: every other update goes to a topic that no stream has.
	halfToNobody bool
}

// publish returns when the last publish has been answered.
func (l *load) publish(ctx context.Context, how pace) error {
	began := time.Now()
	before := l.accepted.Load()
	var turns atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for i, p := range l.publishers {
		if i < len(l.totals) {
			group.Go(func() error { return l.publishFrom(ctx, i, p, how, began, before, &turns) })
		}
	}
	return group.Wait()
}

// publishFrom is what one publisher does.
func (l *load) publishFrom(ctx context.Context, i int, p publisher, how pace, began time.Time, before int64, turns *atomic.Int64) error {
	source := i
	for ctx.Err() == nil {
		turn := turns.Add(1) - 1
		if how.count > 0 && turn >= how.count || how.count == 0 && time.Since(began) >= how.duration {
			return nil
		}
		due, err := how.wait(ctx, began, turn, l.accepted.Load()-before)
		if err != nil || how.count == 0 && due.Sub(began) >= how.duration {
			return err
		}
		if how.halfToNobody && turn%2 == 1 {
			err = l.toNobody(ctx, p, turn)
		} else {
			err = l.toSource(ctx, i, p, source, due)
			source = l.nextSource(i, source)
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// nextSource is the one after it of those that belong to a publisher.
func (l *load) nextSource(publisher, source int) int {
	if l.audience == everything {
		return source
	}
	if source += len(l.publishers); source < len(l.totals) {
		return source
	}
	return publisher
}

// wait returns when the update is due: what waits behind others of a rate is
// late, and counts as such.
func (p pace) wait(ctx context.Context, began time.Time, turn, accepted int64) (time.Time, error) {
	if p.rate > 0 {
		due := began.Add(time.Duration(float64(turn) / p.rate * float64(time.Second)))
		if p.count == 0 && due.Sub(began) >= p.duration {
			return due, nil // there is no such turn, and no reason to wait for it
		}
		return due, sleepUntil(ctx, due)
	}
	for p.ahead > 0 && accepted-p.delivered() > p.ahead {
		if err := sleepUntil(ctx, time.Now().Add(time.Millisecond)); err != nil {
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}

func sleepUntil(ctx context.Context, at time.Time) error {
	wait := time.Until(at)
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *load) toSource(ctx context.Context, index int, p publisher, source int, due time.Time) error {
	l.totals[source]++
	m := mark{source: uint32(source), seq: l.totals[source], sent: due.UnixNano()}
	return l.send(ctx, index, p, topicOf(l.audience, l.run, source, m.seq), m)
}

func (l *load) toNobody(ctx context.Context, p publisher, turn int64) error {
	topic := fmt.Sprintf("https://bench.example/%s/nobody/%d", l.run, turn)
	m := mark{source: uint32(len(l.totals)), seq: uint32(turn), sent: time.Now().UnixNano()}
	return l.send(ctx, -1, p, topic, m)
}

// send notes what became of a publish. Only an error that will not go away is
// returned.
func (l *load) send(ctx context.Context, index int, p publisher, topic string, m mark) error {
	began := time.Now()
	id, err := p.publish(ctx, topic, appendPayload(nil, l.run, m, l.size))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.accepted.Add(1)
		l.answers.add(time.Since(began))
		if index >= 0 {
			l.lastID[index] = id
		}
		return nil
	}
	refused, ok := errors.AsType[*refusal](err)
	if !ok || !refused.temporary || ctx.Err() != nil {
		return err
	}
	l.failure = err
	if l.uncertain = append(l.uncertain, update{Slot: int(m.source), Seq: m.seq}); len(l.uncertain) > maxUncertain {
		return fmt.Errorf("more than %d publishes have failed: %w", maxUncertain, err)
	}
	return nil
}

func (l *load) published() published {
	l.mu.Lock()
	defer l.mu.Unlock()
	return published{Totals: l.totals, Uncertain: l.uncertain}
}
