package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

var errAway = errors.New("away")

// An outage is one line when it begins and one when it is over, however many
// parts notice and however long it lasts.
func TestAnOutageIsLoggedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := health{logger: slog.New(slog.NewTextHandler(&log, nil))}
		for range 3600 {
			h.note(appending, errAway)
			h.note(reading, errAway)
			time.Sleep(time.Second) //nolint:forbidigo // no real time passes
		}
		if h.Err() == nil || h.awayFor(reading) != time.Hour {
			t.Errorf("%v, away for %s", h.Err(), h.awayFor(reading))
		}
		h.note(reading, nil)
		if h.Err() == nil || h.awayFor(reading) != 0 {
			t.Errorf("one part works: %v, away for %s", h.Err(), h.awayFor(reading))
		}
		h.note(appending, nil)
		h.note(appending, nil)
		if h.Err() != nil {
			t.Errorf("everything works: %v", h.Err())
		}
		if lines := strings.Count(log.String(), "\n"); lines != 2 || !strings.Contains(log.String(), "away=1h0m0s") {
			t.Errorf("logged:\n%s", log.String())
		}
	})
}

// What comes and goes does not fill the log, and its state is known in the end.
func TestATroubleThatComesAndGoesIsLoggedSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := health{logger: slog.New(slog.NewTextHandler(&log, nil))}
		for range 3600 {
			h.note(appending, errAway)
			time.Sleep(500 * time.Millisecond) //nolint:forbidigo // no real time passes
			h.note(appending, nil)
			time.Sleep(500 * time.Millisecond) //nolint:forbidigo // no real time passes
		}
		if lines := strings.Count(log.String(), "\n"); lines > 2*360 {
			t.Errorf("%d lines in an hour", lines)
		}
		log.Reset()
		for range 20 {
			h.note(appending, errAway)
			time.Sleep(time.Second) //nolint:forbidigo // no real time passes
		}
		if lines := strings.Count(log.String(), "\n"); lines != 1 {
			t.Errorf("an outage after that is logged as %q", log.String())
		}
	})
}

// What the server says decides whether an update is refused for good.
//
// Spec: P-16.
func TestOnlyDataIsBlamedOnTheUpdate(t *testing.T) {
	t.Parallel()
	for code, blamed := range map[string]bool{
		"22021": true, // invalid byte sequence
		"23514": true, // check violation
		"54000": true, // program limit exceeded
		"53100": false, "53200": false, "53300": false, "53400": false,
		"57014": false, "57P01": false, "57P02": false, "57P03": false,
		"25006": false, "40001": false, "40P01": false, "55P03": false,
		"58030": false, "58P01": false, "28P01": false, "3D000": false,
		"08006": false, "42501": false, "XX000": false, "XX001": false, "": false,
	} {
		err := fmt.Errorf("append: %w", &pgconn.PgError{Code: code, SeverityUnlocalized: "ERROR"})
		if blamesRow(err) != blamed {
			t.Errorf("%q: blamed on the update is %v", code, !blamed)
		}
		if readOnly(err) != (code == "25006") {
			t.Errorf("%q: read-only is %v", code, readOnly(err))
		}
	}
	if blamesRow(errAway) || blamesRow(errNoConnection) || readOnly(errAway) {
		t.Error("an error that is not the server's is blamed on the update")
	}
}

// A publisher is answered after ten seconds, wherever its update is by then.
func TestPublishersWaitTenSecondsAtMost(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		claimedAfter, hangsUpAfter time.Duration
		away                       time.Duration // the outage has lasted
		want                       error
		took                       time.Duration
	}{
		"an outage has just begun":          {away: 9 * time.Second, want: ErrUnavailable, took: 10 * time.Second},
		"an outage goes on":                 {away: 11 * time.Second, want: ErrUnavailable, took: 0},
		"never begun":                       {want: ErrUnavailable, took: 10 * time.Second},
		"begun late":                        {claimedAfter: 9 * time.Second, want: ErrOutcomeUnknown, took: 10 * time.Second},
		"begun, and the publisher hangs up": {claimedAfter: time.Second, hangsUpAfter: 2 * time.Second, want: ErrOutcomeUnknown, took: 10 * time.Second},
		"never begun, and it hangs up":      {hangsUpAfter: 2 * time.Second, want: errAway, took: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := &Log{}
				l.queue.maxBytes, l.queue.wake = 1<<20, make(chan struct{}, 1)
				if test.away > 0 {
					l.health.failed[appending] = failure{errAway, time.Now().Add(-test.away)}
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if test.hangsUpAfter > 0 {
					time.AfterFunc(test.hangsUpAfter, func() { cancel(errAway) })
				}
				if test.claimedAfter > 0 {
					time.AfterFunc(test.claimedAfter, func() { l.queue.take() })
				}
				began := time.Now()
				_, err := l.Append(ctx, &protocol.Update{Topics: []string{"a"}})
				if took := time.Since(began); !errors.Is(err, test.want) || took != test.took {
					t.Errorf("%v after %s; want %v after %s", err, took, test.want, test.took)
				}
			})
		})
	}
}

// What does not fit into the queue is refused at once and leaves nothing behind.
func TestTheQueueIsBounded(t *testing.T) {
	t.Parallel()
	q := queue{maxBytes: 1000, wake: make(chan struct{}, 1)}
	accepted := 0
	for range 100 {
		switch err := q.push(&pending{size: 300, done: make(chan error, 1)}); {
		case err == nil:
			accepted++
		case !errors.Is(err, ErrOverloaded):
			t.Fatal(err)
		}
	}
	if accepted != 3 || len(q.items) != 3 || q.bytes != 900 {
		t.Errorf("%d accepted, %d wait with %d bytes", accepted, len(q.items), q.bytes)
	}
	if batch := q.take(); len(batch) != 3 || q.bytes != 0 {
		t.Errorf("took %d, and %d bytes are left", len(batch), q.bytes)
	}
	// One that is larger than everything is accepted when nothing waits.
	if err := q.push(&pending{size: 2000, done: make(chan error, 1)}); err != nil {
		t.Error(err)
	}
}
