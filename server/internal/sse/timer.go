package sse

import "time"

// timer is a timer that may be off: its channel is nil then.
type timer struct {
	t *time.Timer
	c <-chan time.Time
}

func newTimer(d time.Duration) *timer {
	if d <= 0 {
		return &timer{}
	}
	t := time.NewTimer(d)
	return &timer{t: t, c: t.C}
}

func (t *timer) reset(d time.Duration) {
	if t.t != nil {
		t.t.Reset(d)
	}
}

func (t *timer) stop() {
	if t.t != nil {
		t.t.Stop()
	}
}
