package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// presenceStep is a fault, or the end of one.
type presenceStep struct {
	at   time.Duration
	what string
	do   func(t *testing.T)
}

// presenceRest is left between two faults of one node, so that it renews its
// lease in between.
const presenceRest = 6 * time.Second

// plan deals faults at random. Each node has one at a time, and so has
// PostgreSQL.
func (c *presenceCluster) plan(duration time.Duration, faults string) (steps []presenceStep) {
	random := c.random(1)
	all := []string{"kill", "term", "freeze", "freeze long", "cut", "cut long", "hang", "hang long", "terminate", "restart", "outage", "crash"}
	if faults != "" {
		all = strings.Split(faults, ",")
	}
	var deck []string
	busy := make([]time.Duration, presenceNodes+1) // the last one is PostgreSQL
	for at := time.Second; at < duration; at += time.Second + time.Duration(random.Int64N(int64(3*time.Second))) {
		if len(deck) == 0 {
			deck = slices.Clone(all)
			random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		name, long := strings.CutSuffix(deck[0], " long")
		deck = deck[1:]
		length := time.Duration(random.Int64N(int64(5 * time.Second)))
		if long || name == "outage" {
			length = 17*time.Second + time.Duration(random.Int64N(int64(8*time.Second)))
		}
		target := random.IntN(presenceNodes)
		if name == "restart" || name == "outage" || name == "crash" {
			target = presenceNodes
		}
		if name == "terminate" {
			steps = append(steps, presenceStep{at, name, func(t *testing.T) { _ = terminate(t.Context(), c.server.DB) }}) // it may be away
			continue
		}
		at = max(at, busy[target])
		if at+length > duration {
			continue
		}
		busy[target] = at + length + presenceRest
		steps = append(steps, c.fault(name, target, at, length)...)
	}
	slices.SortStableFunc(steps, func(a, b presenceStep) int { return cmp.Compare(a.at, b.at) })
	return steps
}

// fault is one with its end.
func (c *presenceCluster) fault(name string, target int, at, length time.Duration) []presenceStep {
	var lift func()
	begin := presenceStep{at: at, what: fmt.Sprintf("%s %d for %s", name, target, length.Round(time.Millisecond))}
	end := presenceStep{at: at + length, what: fmt.Sprintf("%s %d is over", name, target), do: func(*testing.T) { lift() }}
	if target == presenceNodes {
		begin.do = func(t *testing.T) {
			stop := c.server.Shutdown
			if name == "crash" {
				stop = c.server.Crash
			}
			if err := stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
		end.do = func(t *testing.T) {
			if err := c.server.Restart(t.Context()); err != nil {
				t.Error(err)
			}
		}
		return []presenceStep{begin, end}
	}
	n := c.nodes[target]
	begin.do = func(t *testing.T) {
		switch name {
		case "kill":
			lift = n.kill()
		case "term":
			lift = n.term()
		case "freeze":
			lift = n.freeze(length)
		case "cut":
			lift = n.cut(length, false)
		case "hang":
			lift = n.cut(length, true)
		default:
			t.Fatalf("there is no fault %q", name)
		}
	}
	return []presenceStep{begin, end}
}
