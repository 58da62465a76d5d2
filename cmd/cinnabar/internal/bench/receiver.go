package bench

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// receiver holds the streams of a plan, in this process.
type receiver struct {
	plan    *plan
	streams []*stream
	sinks   []*sink
	began   time.Time

	stop   context.CancelFunc
	group  *errgroup.Group
	failed chan struct{} // closed when a worker has failed
	fail   func()
}

// openReceiver opens all streams. The caller has to call finish, or close.
func openReceiver(ctx context.Context, p plan) (*receiver, error) {
	if err := checkDescriptors(p.Streams); err != nil {
		return nil, err
	}
	targets, err := resolve(ctx, p.URLs)
	if err != nil {
		return nil, err
	}
	r := &receiver{plan: &p, began: time.Now(), failed: make(chan struct{})}
	r.fail = sync.OnceFunc(func() { close(r.failed) })
	for i := range p.Streams {
		r.streams = append(r.streams, newStream(&p, p.First+i))
	}
	ctx, r.stop = context.WithCancel(ctx)
	r.group = &errgroup.Group{}
	r.start(ctx, targets)
	if err := r.await(ctx); err != nil {
		_ = r.close()
		return nil, err
	}
	return r, nil
}

// start divides the streams among a few workers.
func (r *receiver) start(ctx context.Context, targets []*target) {
	secure := slices.ContainsFunc(targets, func(t *target) bool { return t.tls != nil })
	if !canPoll || secure || r.plan.Portable {
		to := &sink{}
		r.sinks = append(r.sinks, to)
		r.work(func() error { return (&portable{plan: r.plan, targets: targets, to: to}).run(ctx, r.streams) })
		return
	}
	workers := min(runtime.GOMAXPROCS(0), len(r.streams), r.plan.Connecting)
	p := *r.plan
	p.Connecting = max(p.Connecting/workers, 1)
	for w := range workers {
		to := &sink{}
		r.sinks = append(r.sinks, to)
		share := r.streams[len(r.streams)*w/workers : len(r.streams)*(w+1)/workers]
		r.work(func() error { return poll(ctx, &p, targets, share, to) })
	}
}

func (r *receiver) work(f func() error) {
	r.group.Go(func() error {
		err := f()
		if err != nil {
			r.fail()
		}
		return err
	})
}

// await waits until all are open.
func (r *receiver) await(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for r.opened() < int64(len(r.streams)) {
		select {
		case <-tick.C:
		case <-r.failed:
			return r.close()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (r *receiver) opened() (n int64) {
	for _, s := range r.sinks {
		n += s.opened.Load()
	}
	return n
}

// state is what can be told of streams at any time.
type state struct {
	Delivered, Ended int64
	// Failed: nothing more will come.
	Failed bool `json:",omitempty"`
}

func (r *receiver) state() (now state) {
	for _, s := range r.sinks {
		now.Delivered += s.delivered.Load()
		now.Ended += s.ended.Load()
	}
	select {
	case <-r.failed:
		now.Failed = true
	default:
	}
	return now
}

// opening is how the streams were opened.
type opening struct {
	// Began and Ended are in nanoseconds of the wall clock.
	Began, Ended int64
	Latency      *histogram
}

// close ends the streams.
func (r *receiver) close() error {
	r.stop()
	return r.group.Wait()
}

// published is what streams must have got when they end.
type published struct {
	// Totals is how many each source has published, also before the streams
	// were opened: of all streams, or one for each stream.
	Totals []uint32
	// Uncertain may or may not have been.
	Uncertain []update
}

// tally is what streams got.
type tally struct {
	Opening opening
	Latency *histogram
	// LastDelivered is when, in nanoseconds of the wall clock.
	LastDelivered int64
	Delivered     int64

	Lost, Duplicated, Reordered, Misrouted, Ended int64
	// Orders are those in which streams that hear the same heard it.
	Orders []uint64
}

func newTally() *tally {
	return &tally{Opening: opening{Latency: &histogram{}}, Latency: &histogram{}}
}

// finish ends the streams and says what they got.
func (r *receiver) finish(expected published) (*tally, error) {
	now := r.state()
	if err := r.close(); err != nil {
		return nil, err
	}
	t := newTally()
	t.Ended, t.Delivered = now.Ended, now.Delivered
	t.Opening.Began = r.began.UnixNano()
	for _, s := range r.sinks {
		t.Opening.Latency.merge(&s.opening)
		t.Opening.Ended = max(t.Opening.Ended, s.lastOpened.Load())
		t.Latency.merge(&s.latency)
		t.LastDelivered = max(t.LastDelivered, s.lastDelivered.Load())
	}
	for _, s := range r.streams {
		r.judge(t, s, expected)
	}
	return t, nil
}

func (r *receiver) judge(t *tally, s *stream, expected published) {
	totals, uncertain := expected.Totals, expected.Uncertain
	if r.plan.Audience == everything {
		if !slices.Contains(t.Orders, s.cursor.order) && len(t.Orders) < maxOrders {
			t.Orders = append(t.Orders, s.cursor.order)
		}
	} else {
		if len(totals) > 0 {
			totals = totals[s.index : s.index+1]
		}
		uncertain = nil
		for _, u := range expected.Uncertain {
			if u.Slot == s.index {
				uncertain = append(uncertain, update{Seq: u.Seq})
			}
		}
	}
	t.Lost += s.cursor.lost(totals, uncertain)
	t.Duplicated += s.cursor.duplicated
	t.Reordered += s.cursor.reordered
	t.Misrouted += s.cursor.misrouted
}

// maxOrders is how many orders are told apart.
const maxOrders = 100

func (t *tally) add(other *tally) {
	if t.Opening.Began == 0 || other.Opening.Began < t.Opening.Began {
		t.Opening.Began = other.Opening.Began
	}
	t.Opening.Ended = max(t.Opening.Ended, other.Opening.Ended)
	t.Opening.Latency.merge(other.Opening.Latency)
	t.Latency.merge(other.Latency)
	t.LastDelivered = max(t.LastDelivered, other.LastDelivered)
	t.Delivered += other.Delivered
	t.Lost += other.Lost
	t.Duplicated += other.Duplicated
	t.Reordered += other.Reordered
	t.Misrouted += other.Misrouted
	t.Ended += other.Ended
	for _, order := range other.Orders {
		if !slices.Contains(t.Orders, order) && len(t.Orders) < maxOrders {
			t.Orders = append(t.Orders, order)
		}
	}
}

func (t *tally) violations() (list []string) {
	for _, kind := range []struct {
		count int64
		what  string
	}{
		{t.Lost, "lost"},
		{t.Duplicated, "delivered twice"},
		{t.Reordered, "out of the order of their publisher"},
		{t.Misrouted, "delivered to a stream that did not ask for them"},
	} {
		if kind.count > 0 {
			list = append(list, fmt.Sprintf("%d updates %s", kind.count, kind.what))
		}
	}
	if t.Ended > 0 {
		list = append(list, fmt.Sprintf("%d streams ended by the hub", t.Ended))
	}
	if len(t.Orders) > 1 && t.Lost == 0 {
		list = append(list, fmt.Sprintf("%d different orders of the same updates", len(t.Orders)))
	}
	return list
}
