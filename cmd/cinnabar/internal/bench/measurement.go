package bench

import (
	"context"
	"fmt"
	"time"
)

// measurement is streams of a hub, and the load on it.
type measurement struct {
	*bench
	target  Target
	plan    plan
	streams streams
	load    *load

	began  time.Time
	before usage
}

// plan is that of a scenario that does without more.
func (b *bench) plan(t Target, a audience, streams, publishers int) plan {
	return plan{
		URLs: t.URLs, Token: t.SubscribeToken, Run: newRun(), Dialect: t.Dialect, Audience: a,
		Streams: streams, Sources: publishers, Connecting: b.Connecting, Portable: b.Portable,
	}
}

// open opens the streams of a plan.
func (b *bench) open(ctx context.Context, t Target, p plan) (*measurement, error) {
	processes := b.Processes
	if processes == 0 {
		var err error
		if processes, err = processesFor(p.Streams); err != nil {
			return nil, err
		}
	}
	m := &measurement{bench: b, target: t, plan: p, began: time.Now()}
	var err error
	if m.before, err = usageOf(t.PIDs); err != nil {
		return nil, err
	}
	m.streams, err = openStreams(ctx, p, b.Program, processes)
	return m, err
}

// withLoad adds publishers over HTTP.
func (m *measurement) withLoad(ctx context.Context, publishers int) error {
	targets, err := resolve(ctx, m.target.URLs)
	if err != nil {
		return err
	}
	var list []publisher
	for i := range publishers {
		list = append(list, newHTTPPublisher(targets[i%len(targets)], m.target.PublishToken, i))
	}
	m.load = newLoad(m.plan, list, m.Size)
	return nil
}

func (m *measurement) close() {
	if m.load != nil {
		closeAll(m.load.publishers)
	}
	_ = m.streams.close()
}

// restart measures from now on.
func (m *measurement) restart() (err error) {
	m.began = time.Now()
	m.before, err = usageOf(m.target.PIDs)
	return err
}

// publish publishes, and waits until all is delivered.
func (m *measurement) publish(ctx context.Context, how pace) error {
	how.delivered = func() int64 { return m.streams.state().Delivered / max(m.copies(), 1) }
	return m.shown(ctx, func() error {
		if err := m.load.publish(ctx, how); err != nil {
			return err
		}
		return m.awaitDelivery(ctx)
	})
}

// copies is how many streams get an update.
func (m *measurement) copies() int64 {
	if m.plan.Audience == everything {
		return int64(m.plan.Streams)
	}
	return 1
}

// expected is how many deliveries there must be.
func (m *measurement) expected() (n int64) {
	for i, total := range m.load.totals {
		n += int64(total)
		if i < len(m.plan.Bases) {
			n -= int64(m.plan.Bases[i])
		}
	}
	return (n - int64(len(m.load.uncertain))) * m.copies()
}

// awaitDelivery waits until everything has been delivered, or nothing has for a
// while.
func (m *measurement) awaitDelivery(ctx context.Context) error {
	expected, last, since := m.expected(), int64(-1), time.Now()
	for {
		now := m.streams.state()
		if now.Delivered != last {
			last, since = now.Delivered, time.Now()
		}
		// What may have been published despite an answer may still come.
		done := now.Delivered >= expected && (len(m.load.uncertain) == 0 || time.Since(since) > time.Second)
		if done || now.Failed || time.Since(since) > m.patience {
			return ctx.Err()
		}
		if err := sleepUntil(ctx, time.Now().Add(2*time.Millisecond)); err != nil {
			return err
		}
	}
}

// showPause is between two changes of the progress line.
const showPause = 200 * time.Millisecond

// shown does something and shows how it gets on.
func (m *measurement) shown(ctx context.Context, do func() error) error {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		for sleepUntil(ctx, time.Now().Add(showPause)) == nil {
			m.progress.Bar(time.Since(m.began), m.Duration, fmt.Sprintf("%s  %d accepted, %d delivered",
				time.Since(m.began).Round(time.Second), m.load.accepted.Load(), m.streams.state().Delivered))
		}
	}()
	err := do()
	stop()
	<-ended
	return err
}

// finish ends the streams and says how it was. The operation is what is counted
// and what the processor time is divided by.
func (m *measurement) finish(name string) (*Result, error) {
	after, err := usageOf(m.target.PIDs)
	if err != nil {
		return nil, err
	}
	until := time.Now()
	r := &Result{Scenario: name, Streams: m.plan.Streams}
	var expected published
	if m.load != nil {
		expected = m.load.published()
		r.Publishers = len(m.load.publishers)
		r.Published = m.load.accepted.Load()
		r.Refused = int64(len(expected.Uncertain))
		r.answers.merge(&m.load.answers)
		if m.load.failure != nil {
			r.Problems = append(r.Problems, fmt.Sprintf("%d publishes failed, the last one because: %v", r.Refused, m.load.failure))
		}
	}
	if r.tally, err = m.streams.finish(expected); err != nil {
		return nil, err
	}
	r.Delivered = r.tally.Delivered
	if last := time.Unix(0, r.tally.LastDelivered); last.After(m.began) && last.Before(until) {
		until = last // waiting for what never came does not count
	}
	r.Seconds = until.Sub(m.began).Seconds()
	r.cpu, r.cpuKnown = after.cpu-m.before.cpu, after.known
	r.Problems = append(r.Problems, r.tally.violations()...)
	return r, nil
}
