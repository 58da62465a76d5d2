package eventlog

import (
	"testing"
	"time"
)

const ms = time.Millisecond

// Rows wait for a fixed time, and not for the drain before as well.
func TestPace(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name                 string
		usual                time.Duration
		interval, took, want time.Duration
	}{
		{"as usual", 1 * ms, 5 * ms, 1 * ms, 4 * ms},
		{"a slow disk", 3 * ms, 5 * ms, 3 * ms, 2 * ms},
		{"a standby far away", 30 * ms, 5 * ms, 30 * ms, minPollPause},
		{"no bell", 2 * ms, 10 * ms, 2 * ms, 8 * ms},
		{"processors are busy", 1 * ms, 5 * ms, 6 * ms, 20 * ms},
		{"nothing works", 1 * ms, 5 * ms, time.Second, maxPollPause},
	} {
		var p pace
		p.pause(test.interval, test.usual, true)
		if got := p.pause(test.interval, test.took, true); got != test.want {
			t.Errorf("%s: pause %s, want %s", test.name, got, test.want)
		}
	}
}

// What was usual once is forgotten, and empty drains say nothing.
func TestPaceFollows(t *testing.T) {
	t.Parallel()
	var p pace
	p.pause(5*ms, ms/10, false)
	p.pause(5*ms, 1*ms, true)
	if got := p.pause(5*ms, 3*ms, true); got != 8*ms {
		t.Errorf("at first: pause %s", got)
	}
	for range 10 * forgetQuickest {
		p.pause(5*ms, 3*ms, true)
	}
	if got := p.pause(5*ms, 3*ms, true); got > 3*ms {
		t.Errorf("in the end: pause %s", got)
	}
}
