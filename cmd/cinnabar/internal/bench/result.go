package bench

import "time"

// operation is what processor time is divided by.
type operation string

const (
	delivery operation = "delivery"
	publish  operation = "publish"
	connect  operation = "connect"
)

// Result is that of one scenario with one target, over all rounds.
type Result struct {
	Scenario string `json:"scenario"`
	Target   string `json:"target"`

	Streams    int `json:"streams"`
	Publishers int `json:"publishers,omitempty"`

	Seconds   float64 `json:"seconds"`
	Published int64   `json:"published,omitempty"`
	Refused   int64   `json:"refused,omitempty"`
	Delivered int64   `json:"delivered,omitempty"`
	Connected int64   `json:"connected,omitempty"`

	PublishesPerSecond  float64 `json:"publishesPerSecond,omitempty"`
	DeliveriesPerSecond float64 `json:"deliveriesPerSecond,omitempty"`
	ConnectsPerSecond   float64 `json:"connectsPerSecond,omitempty"`

	// Receipt is from publishing to receipt, Answer from publishing to its
	// answer, Opening from connecting to the head of the response.
	Receipt *Latency `json:"receipt,omitempty"`
	Answer  *Latency `json:"answer,omitempty"`
	Opening *Latency `json:"opening,omitempty"`

	// Operation is what CPUMicroseconds are for.
	Operation       operation `json:"operation,omitempty"`
	CPUMicroseconds *float64  `json:"cpuMicroseconds,omitempty"`
	// BytesPerStream are resident memory.
	BytesPerStream *float64 `json:"bytesPerStream,omitempty"`
	// Transactions of the database meanwhile.
	Transactions *int64 `json:"transactions,omitempty"`

	Lost       int64 `json:"lost"`
	Duplicated int64 `json:"duplicated"`
	Reordered  int64 `json:"reordered"`
	Misrouted  int64 `json:"misrouted"`
	// Problems are these, and what else should not have happened.
	Problems []string `json:"problems,omitempty"`

	rounds   int
	cpu      time.Duration
	cpuKnown bool
	memory   *float64 // of all rounds
	answers  histogram
	tally    *tally
}

// Latency is how long something took.
type Latency struct {
	Count int64         `json:"count"`
	P50   time.Duration `json:"p50Nanoseconds"`
	P90   time.Duration `json:"p90Nanoseconds"`
	P99   time.Duration `json:"p99Nanoseconds"`
	P999  time.Duration `json:"p999Nanoseconds"`
	Max   time.Duration `json:"maxNanoseconds"`
}

func newLatency(h *histogram) *Latency {
	if h.count == 0 {
		return nil
	}
	return &Latency{
		Count: h.count, P50: h.quantile(0.5), P90: h.quantile(0.9), P99: h.quantile(0.99), P999: h.quantile(0.999),
		Max: time.Duration(h.max),
	}
}

// add takes another round in.
func (r *Result) add(other *Result) {
	r.rounds++
	r.Seconds += other.Seconds
	r.Published += other.Published
	r.Refused += other.Refused
	r.Delivered += other.Delivered
	r.Connected += other.Connected
	r.cpu += other.cpu
	r.cpuKnown = r.cpuKnown && other.cpuKnown
	r.answers.merge(&other.answers)
	r.tally.add(other.tally)
	r.Problems = append(r.Problems, other.Problems...)
	if r.memory != nil && other.memory != nil {
		*r.memory += *other.memory
	}
	if r.Transactions != nil && other.Transactions != nil {
		*r.Transactions += *other.Transactions
	}
}

// duration is that of a round.
func (r *Result) duration() time.Duration {
	return time.Duration(r.Seconds / float64(r.rounds) * float64(time.Second))
}

// derive computes what follows from the counts.
func (r *Result) derive() {
	perSecond := func(n int64) float64 { return float64(n) / max(r.Seconds, 1e-9) }
	r.PublishesPerSecond = perSecond(r.Published)
	r.DeliveriesPerSecond = perSecond(r.Delivered)
	r.ConnectsPerSecond = perSecond(r.Connected)
	r.Receipt, r.Answer = newLatency(r.tally.Latency), newLatency(&r.answers)
	if r.Connected > 0 {
		r.Opening = newLatency(r.tally.Opening.Latency)
	}
	r.Lost, r.Duplicated, r.Reordered, r.Misrouted = r.tally.Lost, r.tally.Duplicated, r.tally.Reordered, r.tally.Misrouted
	if r.memory != nil {
		r.BytesPerStream = new(*r.memory / float64(r.rounds) / float64(max(r.Streams, 1)))
	}
	count := map[operation]int64{delivery: r.Delivered, publish: r.Published, connect: r.Connected}[r.Operation]
	if r.cpuKnown && count > 0 {
		r.CPUMicroseconds = new(float64(r.cpu.Microseconds()) / float64(count))
	}
}
