package eventlog

import (
	"log/slog"
	"sync"
	"time"
)

// part is something that needs the database.
type part int

const (
	appending part = iota
	reading
	parts
)

func (p part) String() string { return [...]string{"appending", "reading"}[p] }

// health remembers which parts work. An outage is logged once when it begins,
// with the part that noticed, and once when every part works again.
type health struct {
	logger *slog.Logger

	mu     sync.Mutex
	failed [parts]failure
	began  time.Time // of the outage; zero: there is none
	outage notice
}

// failure is the latest error of a part that does not work, and since when.
type failure struct {
	err   error
	since time.Time
}

// note records the outcome of a call.
func (h *health) note(p part, err error) {
	now := time.Now()
	h.mu.Lock()
	switch f := &h.failed[p]; {
	case err == nil:
		*f = failure{}
	case f.err == nil:
		*f = failure{err, now}
	default:
		f.err = err
	}
	all := h.failed == [parts]failure{}
	if h.began.IsZero() && !all {
		h.began = now
	}
	began := h.began
	var begins, ends bool
	if all {
		h.began = time.Time{}
		ends = h.outage.end()
	} else if err != nil {
		begins = h.outage.begin(now)
	}
	h.mu.Unlock()
	switch {
	case begins:
		h.logger.Error("the database is not available; retrying", "for", p, "error", err)
	case ends:
		h.logger.Info("the database is available again", "away", now.Sub(began).Round(time.Millisecond))
	}
}

// Err is nil while everything works.
func (h *health) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.failed {
		if f.err != nil {
			return f.err
		}
	}
	return nil
}

// awayFor is how long a part has not worked.
func (h *health) awayFor(p part) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed[p].err == nil {
		return 0
	}
	return time.Since(h.failed[p].since)
}

// noticeInterval keeps what comes and goes from filling the log: a trouble is
// not logged anew before this much has passed since it was last.
const noticeInterval = 10 * time.Second

// notice decides what is logged of a trouble: its beginning and its end, once
// each. The zero value is ready.
type notice struct {
	logged bool
	at     time.Time
}

// begin says whether to log that the trouble has begun, or is still there.
func (n *notice) begin(now time.Time) bool {
	if n.logged || !n.at.IsZero() && now.Sub(n.at) < noticeInterval {
		return false
	}
	n.logged, n.at = true, now
	return true
}

// end says whether to log that the trouble is over: if its beginning was.
func (n *notice) end() bool {
	was := n.logged
	n.logged = false
	return was
}
