package torture

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Fault is a kind of disturbance.
type Fault string

// The disturbances. Those of a link are of the connections between one node
// and PostgreSQL.
const (
	Kill      Fault = "kill"      // SIGKILL a node, start it again
	Term      Fault = "term"      // SIGTERM a node, start it again
	Stop      Fault = "stop"      // SIGSTOP and SIGCONT a node
	Cut       Fault = "cut"       // reset the connections of a link
	BlackHole Fault = "blackhole" // a link carries nothing, then goes on
	HalfOpen  Fault = "halfopen"  // a link is reset, accepts, and never answers
	Slow      Fault = "slow"      // a link carries little
	Terminate Fault = "terminate" // pg_terminate_backend, of hubs and publishers alike
	Crash     Fault = "crash"     // PostgreSQL crashes and recovers
	Backend   Fault = "backend"   // SIGKILL a backend, after which PostgreSQL recovers by itself
	Restart   Fault = "restart"   // PostgreSQL is restarted in order
	Stall     Fault = "stall"     // a subscriber stops reading
	Flood     Fault = "flood"     // large updates while a subscriber does not read
)

// Faults are all of them.
var Faults = []Fault{Kill, Term, Stop, Cut, BlackHole, HalfOpen, Slow, Terminate, Crash, Backend, Restart, Stall, Flood}

// ofServer says that a fault needs a PostgreSQL of our own.
func (f Fault) ofServer() bool { return f == Crash || f == Backend || f == Restart }

// ParseFaults reads a list such as "kill,cut", "all" or "none".
func ParseFaults(list string) ([]Fault, error) {
	switch list {
	case "all", "":
		return slices.Clone(Faults), nil
	case "none":
		return nil, nil
	}
	var faults []Fault
	for name := range strings.SplitSeq(list, ",") {
		f := Fault(strings.TrimSpace(name))
		if !slices.Contains(Faults, f) {
			var known []string
			for _, k := range Faults {
				known = append(known, string(k))
			}
			return nil, fmt.Errorf("%q is none of all, none, %s", name, strings.Join(known, ", "))
		}
		if !slices.Contains(faults, f) {
			faults = append(faults, f)
		}
	}
	return faults, nil
}

// disturbance is one step of a plan.
type disturbance struct {
	at     time.Duration // since publishing began
	fault  Fault
	length time.Duration // until it is lifted; 0 for those that are over at once
	// target is a node, or for stall and flood a subscriber; any number.
	target int
	// amount is how many backends, or large updates, or kB a second.
	amount int
}

func (d disturbance) String() string {
	text := string(d.fault)
	switch d.fault {
	case Terminate:
		return fmt.Sprintf("%s %d backends", text, d.amount)
	case Backend:
		return "kill a backend"
	case Crash, Restart:
		text += " PostgreSQL"
	case Stall, Flood:
		text += fmt.Sprintf(" subscriber %d", d.target)
	default:
		text += fmt.Sprintf(" node %d", d.target)
	}
	if d.length > 0 {
		text += " for " + d.length.Round(time.Millisecond).String()
	}
	return text
}

const (
	// calm is left at the beginning, and meanInterval between two disturbances
	// on average. Closer together, nothing recovers in between and most of
	// them disturb nothing.
	calm         = 500 * time.Millisecond
	meanInterval = 1200 * time.Millisecond
	// nodeRest and serverRest are left to what was disturbed until it is again.
	// Disturbed for ever, nothing could be said about how it recovers.
	nodeRest   = 500 * time.Millisecond
	serverRest = 4 * time.Second
)

// newPlan makes the plan of a run. Kinds are dealt like cards, so that each
// comes before any comes again. A node is not disturbed twice at a time.
func newPlan(seed uint64, duration time.Duration, faults []Fault, nodes, subscribers int) []disturbance {
	if len(faults) == 0 {
		return nil
	}
	random := rand.New(rand.NewPCG(seed, 1))
	var (
		plan []disturbance
		deck []Fault
		busy = make([]time.Duration, nodes)
		all  time.Duration // until when PostgreSQL is disturbed
	)
	for at := calm; ; at += meanInterval/2 + time.Duration(random.Int64N(int64(meanInterval))) {
		if len(deck) == 0 {
			deck = slices.Clone(faults)
			random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		d := newDisturbance(random, deck[0])
		deck = deck[1:]
		switch {
		case d.fault.ofServer():
			at = max(at, all)
			all = at + d.length + serverRest
		case d.fault == Stall || d.fault == Flood:
			d.target = random.IntN(subscribers)
		case d.fault != Terminate:
			d.target = random.IntN(nodes)
			at = max(at, busy[d.target])
			busy[d.target] = at + d.length + nodeRest
		}
		if d.at = at; at+d.length > duration {
			return plan
		}
		plan = append(plan, d)
	}
}

func newDisturbance(random *rand.Rand, f Fault) disturbance {
	between := func(low, high time.Duration) time.Duration {
		return low + time.Duration(random.Int64N(int64(high-low)))
	}
	d := disturbance{fault: f}
	switch f {
	case Kill, Term:
		d.length = between(0, 2*time.Second) // until it is started again
	case Stop, BlackHole, HalfOpen:
		d.length = between(200*time.Millisecond, 4*time.Second)
	case Slow:
		d.length, d.amount = between(time.Second, 4*time.Second), 16+random.IntN(500)
	case Crash, Restart:
		d.length = between(0, 2*time.Second)
	case Stall:
		d.length = between(time.Second, 6*time.Second)
	case Flood:
		d.length, d.amount = between(2*time.Second, 5*time.Second), 5+random.IntN(20)
	case Terminate:
		d.amount = 1 + random.IntN(5)
	case Cut, Backend:
	}
	return d
}
