package broadcast_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// subscriber is a client that resumes after the last id it got.
type subscriber struct {
	fixture
	stream  *broadcast.Stream
	lastID  protocol.EventID
	got     []string // since start
	start   int      // how many updates of the log lie before
	matches func(topic string) bool
}

var errHistory = errors.New("history cannot be read now")

// resume subscribes, as often as it takes.
func (s *subscriber) resume(t *rapid.T) {
	if s.stream != nil {
		s.stream.Close()
	}
	for {
		stream, err := s.Subscribe(context.Background(), broadcast.Subscription{Matchers: matchers(t, "a"), Cursor: s.lastID})
		if errors.Is(err, errHistory) {
			s.log.err = nil
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		s.stream = stream
		break
	}
	// A cursor that the log does not know any more means everything.
	s.got, s.start = nil, 0
	for i, e := range s.log.entries {
		if e.Update.ID == s.lastID {
			s.start = i + 1
			break
		}
	}
}

// poll looks for what comes next; false: nothing does.
func (s *subscriber) poll(t *rapid.T) (more bool) {
	blocks, more, err := s.stream.Poll(context.Background(), nil)
	switch {
	case errors.Is(err, errHistory):
		return false
	case errors.Is(err, broadcast.ErrInterrupted):
		s.check(t, false)
		s.resume(t)
		return true
	case err != nil:
		t.Fatal(err)
	}
	for _, data := range dataOf(blocks) {
		s.got = append(s.got, data)
		number, _, _ := strings.Cut(data, " ")
		s.lastID = protocol.EventID("id" + number)
	}
	return more
}

// check compares what came since the last resume with the log: all of it, or
// its beginning.
func (s *subscriber) check(t *rapid.T, all bool) {
	var want []string
	for _, e := range s.log.entries[min(s.start, len(s.log.entries)):] {
		if s.matches(e.Update.Topics[0]) {
			want = append(want, e.Update.Data)
		}
	}
	if !all {
		want = want[:min(len(want), len(s.got))]
	}
	if !slices.Equal(s.got, want) {
		t.Fatalf("since %d: got %v, want %v", s.start, s.got, want)
	}
}

// Whatever befalls the log while a stream is behind, live, or in between: its
// history fails for a while, the tail moves on, a failover cuts the log short and
// it goes on with other updates at the same positions. The stream gets what the
// log holds, or ends and its client resumes by id.
//
// Spec: H-2, H-8.
func TestStreamsOutliveTroubleOfTheLog(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := start(rapid.SampledFrom([]int{0, 1000, 3000, 1 << 20}).Draw(t, "tail"), rapid.SampledFrom([]int{1, 60, 200, 1 << 16}).Draw(t, "pending"))
		published := 0
		publish := func(t *rapid.T) {
			published++
			f.publish(update(published, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "topic")))
		}
		for range rapid.IntRange(0, 20).Draw(t, "before") {
			publish(t)
		}
		s := &subscriber{fixture: f, lastID: protocol.Earliest, matches: func(topic string) bool { return topic == "a" }}
		s.resume(t)
		defer func() { s.stream.Close() }()
		restart := func(t *rapid.T, keep int) {
			s.check(t, false) // against the log as it was
			f.log.entries = f.log.entries[:keep]
			recent := f.log.entries[keep-min(keep, rapid.IntRange(0, 5).Draw(t, "recent")):]
			head := protocol.Position(0)
			if keep > 0 {
				head = f.log.entries[keep-1].Position
			}
			f.Restart(recent, head)
		}
		t.Repeat(map[string]func(*rapid.T){
			"publish": publish,
			"burst": func(t *rapid.T) {
				for range rapid.IntRange(2, 30).Draw(t, "n") {
					publish(t)
				}
			},
			"poll":                func(t *rapid.T) { s.poll(t) },
			"history fails":       func(*rapid.T) { f.log.err = errHistory },
			"history works again": func(*rapid.T) { f.log.err = nil },
			"reconnect":           func(t *rapid.T) { s.resume(t) },
			"the log goes backwards": func(t *rapid.T) {
				restart(t, rapid.IntRange(0, len(f.log.entries)).Draw(t, "keep"))
				// What came is a matter of the log that is gone.
				s.pollInterrupted(t)
			},
			"restart while history is read": func(t *rapid.T) {
				f.log.err = nil
				f.log.meanwhile = func() {
					f.log.mu.Lock()
					entries := slices.Clone(f.log.entries)
					f.log.mu.Unlock()
					head := protocol.Position(0)
					if len(entries) > 0 {
						head = entries[len(entries)-1].Position
					}
					f.Restart(nil, head)
				}
				s.poll(t)
				f.log.meanwhile = nil
			},
		})
		f.log.err = nil
		for range 100_000 {
			if !s.poll(t) {
				s.check(t, true)
				return
			}
		}
		t.Fatal("the stream never reached the head")
	})
}

// pollInterrupted polls a stream that a restart has ended.
func (s *subscriber) pollInterrupted(t *rapid.T) {
	if blocks, _, err := s.stream.Poll(context.Background(), nil); !errors.Is(err, broadcast.ErrInterrupted) || len(blocks) > 0 {
		t.Fatalf("after a restart: %v, %v", dataOf(blocks), err)
	}
	s.resume(t)
}

// A stream that is slow keeps what it was given in memory, so that is bounded
// whatever the size of the updates and of the tail.
func TestWhatIsHandedOutIsBounded(t *testing.T) {
	t.Parallel()
	const size, bound = 50_000, 256<<10 + 60_000
	f := start(64<<20, 1<<16)
	for i := 1; i <= 200; i++ {
		u := update(i, "a")
		u.Data = fmt.Sprint(i, " ", strings.Repeat("x", size))
		f.publish(u)
	}
	s := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a"), Cursor: "id1"})
	defer s.Close()
	updates := 0
	for more := true; more; {
		var blocks [][]byte
		var err error
		if blocks, more, err = s.Poll(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		bytes := 0
		for _, b := range blocks {
			bytes += len(b)
		}
		if updates += len(blocks); bytes > bound {
			t.Fatalf("%d bytes at once", bytes)
		}
	}
	if updates != 199 {
		t.Errorf("%d updates, want 199", updates)
	}
}
