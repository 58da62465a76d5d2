package torture

import (
	"math"
	"slices"
	"sync"
	"time"
)

// recoveries measures how long it takes from a disturbance until a subscriber
// of an affected node receives something that was published since. Safe for
// concurrent use.
type recoveries struct {
	mu      sync.Mutex
	waiting []*recovery
	samples map[Fault][]sample
}

// recovery is what one node has to recover from.
type recovery struct {
	fault  Fault
	node   int
	tick   uint32 // what was published later counts
	began  time.Time
	lifted time.Time // zero: not yet
	// mixed: another disturbance came meanwhile, so that nothing can be said
	// about either.
	mixed bool
}

// sample is one recovery, since the disturbance began and since it was lifted.
type sample struct{ sinceBegin, sinceEnd time.Duration }

// begin notes that nodes are about to be disturbed.
func (r *recoveries) begin(f Fault, nodes ...int) []*recovery {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*recovery
	for _, node := range nodes {
		w := &recovery{fault: f, node: node, tick: math.MaxUint32, began: time.Now()}
		for _, other := range r.waiting {
			if other.node == node {
				other.mixed, w.mixed = true, true
			}
		}
		list = append(list, w)
	}
	r.waiting = append(r.waiting, list...)
	return list
}

// arm notes that they are; tick is now. What was delivered before proves nothing.
func (r *recoveries) arm(list []*recovery, tick uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range list {
		w.tick = tick
	}
}

// lift notes that a disturbance is over.
func (r *recoveries) lift(list []*recovery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range list {
		w.lifted = time.Now()
	}
}

// delivered notes that a node delivered an update whose publishing began at a
// tick.
func (r *recoveries) delivered(node int, begun uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting) == 0 {
		return
	}
	now := time.Now()
	r.waiting = slices.DeleteFunc(r.waiting, func(w *recovery) bool {
		if w.node != node || begun <= w.tick {
			return false
		}
		if w.mixed {
			return true
		}
		s := sample{sinceBegin: now.Sub(w.began)}
		if !w.lifted.IsZero() {
			s.sinceEnd = now.Sub(w.lifted)
		}
		if r.samples == nil {
			r.samples = map[Fault][]sample{}
		}
		r.samples[w.fault] = append(r.samples[w.fault], s)
		return true
	})
}

// Recovery says how long one kind of disturbance was felt.
type Recovery struct {
	Fault Fault `json:"fault"`
	Count int   `json:"count"`
	// From the beginning of the disturbance to the next delivery.
	Median time.Duration `json:"medianNanoseconds"`
	Max    time.Duration `json:"maxNanoseconds"`
	// From its end; 0 if deliveries had resumed before.
	MedianAfterEnd time.Duration `json:"medianAfterEndNanoseconds"`
	MaxAfterEnd    time.Duration `json:"maxAfterEndNanoseconds"`
	// Never is how many nodes had not recovered when the run ended.
	Never int `json:"never"`
}

func (r *recoveries) summary() []Recovery {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Recovery
	for _, f := range Faults {
		s := Recovery{Fault: f, Count: len(r.samples[f])}
		for _, w := range r.waiting {
			if w.fault == f {
				s.Never++
			}
		}
		if s.Count+s.Never == 0 {
			continue
		}
		s.Median, s.Max = medianAndMax(r.samples[f], func(s sample) time.Duration { return s.sinceBegin })
		s.MedianAfterEnd, s.MaxAfterEnd = medianAndMax(r.samples[f], func(s sample) time.Duration { return s.sinceEnd })
		list = append(list, s)
	}
	return list
}

func medianAndMax(samples []sample, value func(sample) time.Duration) (median, most time.Duration) {
	if len(samples) == 0 {
		return 0, 0
	}
	var values []time.Duration
	for _, s := range samples {
		values = append(values, value(s))
	}
	slices.Sort(values)
	return values[(len(values)-1)/2], values[len(values)-1]
}
