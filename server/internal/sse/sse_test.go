package sse_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
	"github.com/cinnabar-hub/cinnabar/server/internal/sse"
)

// conn records writes with the time they came at. Used by one goroutine at a
// time, which synctest.Wait tells from the test's.
type conn struct {
	began  time.Time
	writes []string
	err    error
	took   time.Duration // by each write
}

func (c *conn) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	c.writes = append(c.writes, fmt.Sprintf("%s %q", time.Since(c.began), p))
	if c.took > 0 {
		<-time.After(c.took)
	}
	return len(p), nil
}

func (c *conn) Flush() error { return c.err }

// slowHistory never reaches its end and has nothing that matches.
type slowHistory struct{}

func (slowHistory) PageAfter(ctx context.Context, after, _ protocol.Position, _ []string) ([]protocol.Entry, protocol.Position, error) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
		return nil, after, ctx.Err()
	}
	return []protocol.Entry{{Position: after + 1, Update: &protocol.Update{ID: "x", Topics: []string{"other"}}}}, after + 1, nil
}

func (slowHistory) Find(context.Context, protocol.EventID) (protocol.Position, bool, error) {
	return 1, true, nil
}

// serve runs a stream on the topic "a" until it ends, publishing on the way.
func serve(t *testing.T, c *conn, o sse.Options, sub broadcast.Subscription, meanwhile func(publish func(ids ...int))) sse.Reason {
	t.Helper()
	return serveFrom(t, slowHistory{}, c, o, sub, meanwhile)
}

func serveFrom(
	t *testing.T, history broadcast.History, c *conn, o sse.Options, sub broadcast.Subscription, meanwhile func(publish func(ids ...int)),
) sse.Reason {
	t.Helper()
	b := broadcast.New(broadcast.Config{History: history, TailBytes: 1 << 10})
	b.Start(nil, 1<<40)
	position := protocol.Position(1 << 40)
	publish := func(ids ...int) {
		var entries []protocol.Entry
		for _, id := range ids {
			position++
			entries = append(entries, protocol.Entry{Position: position, Update: &protocol.Update{
				ID: protocol.EventID(fmt.Sprint("id", id)), Topics: []string{"a"}, Data: fmt.Sprint(id),
			}})
		}
		b.Deliver(entries)
	}
	matcher, err := protocol.NewExact("a")
	if err != nil {
		t.Fatal(err)
	}
	sub.Matchers = protocol.NewMatcherSet([]*protocol.Matcher{matcher})
	stream, err := b.Subscribe(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	c.began = time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan sse.Reason, 1)
	go func() { done <- sse.Serve(ctx, c, stream, o) }() // ends by itself, or with ctx
	if meanwhile != nil {
		meanwhile(publish)
	}
	select {
	case reason := <-done:
		return reason
	case <-time.After(time.Hour):
		cancel()
		return <-done
	}
}

func TestHeartbeat(t *testing.T) { // Spec: W-7, W-8
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &conn{}
		reason := serve(t, c, sse.Options{Heartbeat: 40 * time.Second, Lifetime: 0, Expires: time.Now().Add(100 * time.Second)}, broadcast.Subscription{},
			func(publish func(...int)) {
				<-time.After(10 * time.Second)
				publish(1)
			})
		want := []string{`0s ":\n"`, `10s "id: id1\ndata: 1\n\n"`, `50s ":\n"`, `1m30s ":\n"`}
		if reason != sse.TokenExpired || !slices.Equal(c.writes, want) {
			t.Errorf("%s after %q, want %q", reason, c.writes, want)
		}
	})
}

func TestWaitingBlocksShareAWrite(t *testing.T) { // Spec: W-9
	t.Parallel()
	for separate, want := range map[bool]int{false: 1, true: 3} {
		synctest.Test(t, func(t *testing.T) {
			c := &conn{}
			serve(t, c, sse.Options{SeparateWrites: separate, Lifetime: time.Minute}, broadcast.Subscription{},
				func(publish func(...int)) {
					synctest.Wait()
					publish(1, 2, 3)
				})
			blocks := c.writes[1:]
			if len(blocks) != want || strings.Count(strings.Join(blocks, ""), "data: ") != 3 {
				t.Errorf("separate = %v: %q", separate, c.writes)
			}
		})
	}
}

func TestHowStreamsEnd(t *testing.T) {
	t.Parallel()
	behind := broadcast.Subscription{Cursor: "somewhere long ago"}
	for name, test := range map[string]struct {
		options sse.Options
		sub     broadcast.Subscription
		err     error
		want    sse.Reason
		within  time.Duration
	}{
		"lifetime":                     {sse.Options{Lifetime: 10 * time.Second}, broadcast.Subscription{}, nil, sse.Lifetime, 10 * time.Second},
		"lifetime, catching up":        {sse.Options{Lifetime: 10 * time.Second}, behind, nil, sse.Lifetime, 11 * time.Second},
		"token":                        {sse.Options{Expires: time.Now().Add(time.Hour)}, broadcast.Subscription{}, nil, sse.TokenExpired, 0},
		"the peer closed":              {sse.Options{}, broadcast.Subscription{}, os.ErrClosed, sse.ClientGone, 0},
		"the peer takes nothing":       {sse.Options{}, broadcast.Subscription{}, os.ErrDeadlineExceeded, sse.TooSlow, 0},
		"nothing, until the test ends": {sse.Options{}, broadcast.Subscription{}, nil, sse.ClientGone, time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			if name == "token" {
				test.options.Expires = time.Now().Add(5 * time.Second)
				test.within = 5 * time.Second
			}
			c := &conn{err: test.err}
			began := time.Now()
			if got := serve(t, c, test.options, test.sub, nil); got != test.want || time.Since(began) > test.within {
				t.Errorf("%s: ended with %s after %s, want %s within %s", name, got, time.Since(began), test.want, test.within)
			}
		})
	}
}

// A replay that finds nothing for a long time keeps its connection alive and
// ends when its token does.
func TestLongReplayBeatsAndExpires(t *testing.T) { // Spec: S-21
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &conn{}
		began := time.Now()
		reason := serve(t, c, sse.Options{Heartbeat: 10 * time.Second, Expires: began.Add(35 * time.Second)}, broadcast.Subscription{Cursor: "old"}, nil)
		if reason != sse.TokenExpired || time.Since(began) > 36*time.Second || len(c.writes) != 4 {
			t.Errorf("%s after %s and %q", reason, time.Since(began), c.writes)
		}
	})
}

// An update that waits while the peer takes the last write does not outlive the
// token.
func TestNothingIsSentAfterTheTokenHasExpired(t *testing.T) { // Spec: S-21
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &conn{took: 10 * time.Second}
		reason := serve(t, c, sse.Options{Expires: time.Now().Add(5 * time.Second)}, broadcast.Subscription{}, func(publish func(...int)) {
			<-time.After(time.Second)
			publish(1)
		})
		if want := []string{`0s ":\n"`}; reason != sse.TokenExpired || !slices.Equal(c.writes, want) {
			t.Errorf("%s after %q, want %q", reason, c.writes, want)
		}
	})
}

// brokenHistory cannot be read for a while.
type brokenHistory struct{ until time.Time }

func (h brokenHistory) PageAfter(_ context.Context, after, upTo protocol.Position, _ []string) ([]protocol.Entry, protocol.Position, error) {
	if time.Now().Before(h.until) {
		return nil, after, errors.New("away")
	}
	return []protocol.Entry{{Position: upTo, Update: &protocol.Update{ID: "old", Topics: []string{"a"}, Data: "old"}}}, upTo, nil
}

func (brokenHistory) Find(context.Context, protocol.EventID) (protocol.Position, bool, error) {
	return 1, true, nil
}

// A stream that is behind when the log goes away stays open, beats, and goes on
// from where it was.
func TestStreamsThatAreBehindOutliveAnOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &conn{}
		history := brokenHistory{until: time.Now().Add(24500 * time.Millisecond)}
		reason := serveFrom(t, history, c, sse.Options{Heartbeat: 10 * time.Second, Expires: time.Now().Add(30 * time.Second)},
			broadcast.Subscription{Cursor: "somewhere"}, nil)
		want := []string{`0s ":\n"`, `10s ":\n"`, `20s ":\n"`, `25s "id: old\ndata: old\n\n"`}
		if reason != sse.TokenExpired || !slices.Equal(c.writes, want) {
			t.Errorf("%s after %q, want %q", reason, c.writes, want)
		}
	})
}

// hungHistory does not answer.
type hungHistory struct{ brokenHistory }

func (hungHistory) PageAfter(ctx context.Context, after, _ protocol.Position, _ []string) ([]protocol.Entry, protocol.Position, error) {
	<-ctx.Done()
	return nil, after, ctx.Err()
}

// A history that hangs keeps a stream neither from beating nor from ending.
func TestHistoryThatHangs(t *testing.T) { // Spec: S-21
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &conn{}
		began := time.Now()
		reason := serveFrom(t, hungHistory{}, c, sse.Options{Heartbeat: 15 * time.Second, Expires: began.Add(time.Minute)},
			broadcast.Subscription{Cursor: "somewhere"}, nil)
		if took := time.Since(began); reason != sse.TokenExpired || took > 70*time.Second || len(c.writes) < 3 {
			t.Errorf("%s after %s and %q", reason, took, c.writes)
		}
	})
}

// Spec: S-28. While the log is away a stream could not come back.
func TestLifetimeIsSuspendedWhileTheLogIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		away := func() bool { return time.Since(began) < time.Minute }
		reason := serve(t, &conn{}, sse.Options{Lifetime: 10 * time.Second, Away: away}, broadcast.Subscription{}, nil)
		if took := time.Since(began); reason != sse.Lifetime || took < time.Minute || took > 62*time.Second {
			t.Errorf("%s after %s", reason, took)
		}
	})
}

// Spec: S-27. The place a stream starts from comes before everything else.
func TestGapEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &conn{}
		serve(t, c, sse.Options{Gap: sse.Gap{Event: "gap", Requested: `a"<b`}, Checkpoints: true, Lifetime: time.Minute}, broadcast.Subscription{},
			func(publish func(...int)) {
				<-time.After(time.Second)
				publish(1)
			})
		want := []string{
			`0s ":\n"`,
			`0s "event: gap\nid: earliest\ndata: {\"requested\":\"a\\\"\\u003cb\",\"actual\":\"earliest\"}\n\n"`,
			`1s "id: id1\ndata: 1\n\n"`,
		}
		if !slices.Equal(c.writes, want) {
			t.Errorf("got %q, want %q", c.writes, want)
		}
	})
}

// The warning comes half a minute before the end, or when half of what remains
// is over; it moves no cursor and delays nothing. Spec: S-21
func TestExpiryEvent(t *testing.T) {
	t.Parallel()
	for remaining, want := range map[time.Duration]time.Duration{
		10 * time.Minute: 9*time.Minute + 30*time.Second,
		time.Minute:      30 * time.Second,
		40 * time.Second: 20 * time.Second,
		2 * time.Second:  time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			c := &conn{}
			began := time.Now()
			expires := began.Add(remaining)
			reason := serve(t, c, sse.Options{Expires: expires, ExpiryEvent: "bye"}, broadcast.Subscription{}, nil)
			writes := []string{
				`0s ":\n"`,
				fmt.Sprintf("%s %q", want, "event: bye\ndata: {\"expires\":\""+expires.UTC().Format(time.RFC3339)+"\"}\n\n"),
			}
			if reason != sse.TokenExpired || time.Since(began) != remaining || !slices.Equal(c.writes, writes) {
				t.Errorf("%s after %s and %q, want %q", reason, time.Since(began), c.writes, writes)
			}
		})
	}
}

func TestCheckpoints(t *testing.T) { // Spec: S-26
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &conn{}
		serve(t, c, sse.Options{Checkpoints: true, InitialCheckpoint: true, Heartbeat: 40 * time.Second, Lifetime: time.Minute}, broadcast.Subscription{}, nil)
		want := []string{`0s ":\n"`, `0s "id: earliest\n\n"`, `40s ":\n"`}
		if !slices.Equal(c.writes, want) {
			t.Errorf("got %q, want %q", c.writes, want)
		}
	})
}
