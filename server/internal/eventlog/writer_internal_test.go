package eventlog

import (
	"testing"
	"time"
)

// Rows wait for a fixed time, not for the drain before as well, unless drains
// take most of the time; and never much longer than one takes.
func TestPollPause(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, test := range []struct{ interval, took, want time.Duration }{
		{5 * ms, 0, 5 * ms},
		{5 * ms, 1 * ms, 4 * ms},
		{5 * ms, 3 * ms, 3 * ms},
		{5 * ms, 8 * ms, 8 * ms},
		{5 * ms, time.Second, maxPollPause},
		{10 * ms, 2 * ms, 8 * ms},
	} {
		if got := pollPause(test.interval, test.took); got != test.want {
			t.Errorf("every %s, after %s: pause %s, want %s", test.interval, test.took, got, test.want)
		}
	}
}
