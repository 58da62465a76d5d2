package eventlog

import "time"

const (
	// The pause after a drain is this many times what it took longer than the
	// quickest ones do.
	pausesPerDelay = 4
	minPollPause   = time.Millisecond
	maxPollPause   = 50 * time.Millisecond
	// forgetQuickest is after how many drains the quickest one counts no more, about.
	forgetQuickest = 1000
)

// pace says how long to pause between drains while rows keep coming. Drains that
// take longer than usual tell that processors are saturated: then applications get
// the time, and what waits longer is moved together, which costs less a row. A
// disk or a standby that is slow makes all of them slow, and no pause longer.
//
// With eight clients of pgbench on two cores (docs/postgresql.md has the commands),
// applications that publish get 0.55 of the throughput they have without, instead
// of 0.47 with pauses of 5 to 10 ms.
type pace struct{ quickest time.Duration }

// pause is from the end of a drain, which found rows or not, to the beginning of
// the next.
func (p *pace) pause(interval, took time.Duration, rows bool) time.Duration {
	pause := max(interval-took, minPollPause)
	if !rows {
		return pause
	}
	if p.quickest == 0 || took < p.quickest {
		p.quickest = took
	}
	delay := took - p.quickest
	p.quickest += delay / forgetQuickest
	return max(pause, min(pausesPerDelay*delay, maxPollPause))
}
