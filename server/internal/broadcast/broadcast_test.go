package broadcast_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// modelLog is the whole log in memory: what the broadcaster is compared to,
// and the history it reads.
type modelLog struct {
	mu      sync.Mutex
	entries []protocol.Entry
	reads   int
	err     error
	// meanwhile is called once by a read, before it returns.
	meanwhile func()
}

func (l *modelLog) interrupt() {
	l.mu.Lock()
	meanwhile := l.meanwhile
	l.meanwhile = nil
	l.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
}

func (l *modelLog) add(u protocol.Update) protocol.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := protocol.Entry{Position: protocol.Position(2*len(l.entries) + 1), Update: &u} // gaps are normal
	e.IDReused = slices.ContainsFunc(l.entries, func(old protocol.Entry) bool { return old.Update.ID == u.ID })
	l.entries = append(l.entries, e)
	return e
}

func (l *modelLog) PageAfter(_ context.Context, after, upTo protocol.Position, topics []string) ([]protocol.Entry, protocol.Position, error) {
	defer l.interrupt()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if l.err != nil {
		return nil, after, l.err
	}
	var page []protocol.Entry
	for _, e := range l.entries {
		if e.Position > after && e.Position <= upTo &&
			(topics == nil || slices.ContainsFunc(e.Update.Topics, func(t string) bool { return slices.Contains(topics, t) })) {
			if page = append(page, e); len(page) == 3 {
				return page, e.Position, nil
			}
		}
	}
	return page, upTo, nil
}

func (l *modelLog) Find(_ context.Context, id protocol.EventID) (protocol.Position, bool, error) {
	defer l.interrupt()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	for _, e := range l.entries {
		if e.Update.ID == id {
			return e.Position, true, l.err
		}
	}
	return 0, false, l.err
}

func (l *modelLog) readCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reads
}

type fixture struct {
	*broadcast.Broadcaster
	log *modelLog
}

func start(tailBytes, pendingBytes int) fixture {
	log := &modelLog{}
	b := broadcast.New(broadcast.Config{History: log, TailBytes: tailBytes, PendingBytes: pendingBytes})
	b.Start(nil, 0)
	return fixture{b, log}
}

func (f fixture) publish(u protocol.Update) {
	f.Deliver([]protocol.Entry{f.log.add(u)})
}

func matchers(t rapid.TB, values ...string) *protocol.MatcherSet {
	hub, err := protocol.ParseHubURL("https://hub.example.com/.well-known/mercure")
	if err != nil {
		t.Fatal(err)
	}
	var list []*protocol.Matcher
	for _, value := range values {
		var m *protocol.Matcher
		switch kind, rest, _ := strings.Cut(value, " "); kind {
		case "pattern":
			m, err = protocol.NewURLPattern(rest, hub)
		case "selector":
			m, err = protocol.NewSelector(rest)
		default:
			m, err = protocol.NewExact(value)
		}
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		list = append(list, m)
	}
	return protocol.NewMatcherSet(list)
}

func (f fixture) subscribe(t rapid.TB, sub broadcast.Subscription) *broadcast.Stream {
	s, err := f.Subscribe(context.Background(), sub)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// drain polls until nothing waits, and returns the data of what came.
func drain(t rapid.TB, s *broadcast.Stream) (data []string) {
	for range 100_000 {
		blocks, more, err := s.Poll(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, dataOf(blocks)...)
		if !more {
			return data
		}
	}
	t.Fatal("the stream never reached the head")
	return nil
}

func dataOf(blocks [][]byte) (data []string) {
	for _, block := range blocks {
		for line := range strings.Lines(string(block)) {
			if value, ok := strings.CutPrefix(line, "data: "); ok {
				data = append(data, strings.TrimSuffix(value, "\n"))
			}
		}
	}
	return data
}

func update(id int, topics ...string) protocol.Update {
	return protocol.Update{ID: protocol.EventID(fmt.Sprint("id", id)), Topics: topics, Data: fmt.Sprint(id)}
}

// Whatever the interleaving of publishing, reading, and resuming, a stream gets
// exactly what the log holds for it behind its cursor, in order.
//
// Spec: H-2, H-8.
func TestStreamsGetExactlyWhatTheyMiss(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		// From a tail of a few updates to one of all, likewise for what waits.
		f := start(rapid.SampledFrom([]int{0, 1000, 3000, 1 << 20}).Draw(t, "tail"), rapid.SampledFrom([]int{1, 60, 200, 1 << 16}).Draw(t, "pending"))
		routes := matchers(t, rapid.SampledFrom([][]string{{"a"}, {"*"}, {"a", "b"}, {"pattern /:x"}, {"selector {x}"}}).Draw(t, "matchers")...)
		topics := rapid.SampledFrom([]string{"a", "b", "c"})
		published := 0
		publish := func() {
			published++
			f.publish(update(published, topics.Draw(t, "topic")))
		}
		for range rapid.IntRange(0, 20).Draw(t, "before") {
			publish()
		}
		since := rapid.IntRange(0, published).Draw(t, "cursor")
		cursor := protocol.Earliest
		if since > 0 {
			cursor = protocol.EventID(fmt.Sprint("id", since))
		}
		stream := f.subscribe(t, broadcast.Subscription{Matchers: routes, Cursor: cursor})
		var got []string
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(*rapid.T) { publish() },
			"burst": func(t *rapid.T) {
				for range rapid.IntRange(2, 30).Draw(t, "n") {
					publish()
				}
			},
			"poll": func(t *rapid.T) {
				blocks, _, err := stream.Poll(context.Background(), nil)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, dataOf(blocks)...)
			},
			"reconnect after the last id received": func(t *rapid.T) {
				if len(got) == 0 {
					return
				}
				stream.Close()
				stream = f.subscribe(t, broadcast.Subscription{Matchers: routes, Cursor: protocol.EventID("id" + got[len(got)-1])})
			},
			// Also of a stream that is behind, or has something waiting.
			"reconnect after a checkpoint": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "drain") {
					got = append(got, drain(t, stream)...)
				}
				id, _ := stream.Checkpoint(true)
				stream.Close()
				stream = f.subscribe(t, broadcast.Subscription{Matchers: routes, Cursor: id})
			},
		})
		got = append(got, drain(t, stream)...)
		stream.Close()
		var want []string
		for _, e := range f.log.entries[since:] {
			if routes.MatchAny(protocol.NewTopics(e.Update.Topics)) {
				want = append(want, e.Update.Data)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// The index finds the streams that asking every matcher would.
func TestIndexAgreesWithAskingEveryone(t *testing.T) {
	t.Parallel()
	values := []string{
		"*", "https://example.com/a/1", "https://example.com/b", "chat", "https://example.com/{x}",
		"pattern https://example.com/a/:id", "pattern https://example.com/:kind/:id", "pattern *://*/a/*",
		"pattern /a/:id", "pattern https://example.com/a{/:x}?", "pattern https://*.example.com/*", "pattern urn\\:uuid\\:*",
		"selector https://example.com/a/{id}", "selector https://example.com/{+path}", "selector {x}", "selector chat", "selector *",
		"selector https://example.com{/x*}",
	}
	topics := []string{
		"https://example.com/a/1", "https://example.com/a", "https://example.com/b", "https://eu.example.com/a/1", "chat",
		"https://hub.example.com/a/2", "/a/2", "urn:uuid:1", "https://EXAMPLE.com/a/1", "https://example.com/{x}", "http://[",
	}
	rapid.Check(t, func(t *rapid.T) {
		f := start(1<<20, 1<<16)
		type subscriber struct {
			stream *broadcast.Stream
			routes *protocol.MatcherSet
		}
		var subscribers []subscriber
		for range rapid.IntRange(1, 12).Draw(t, "subscribers") {
			routes := matchers(t, rapid.SliceOfNDistinct(rapid.SampledFrom(values), 1, 4, rapid.ID).Draw(t, "matchers")...)
			subscribers = append(subscribers, subscriber{f.subscribe(t, broadcast.Subscription{Matchers: routes}), routes})
		}
		for id := range rapid.IntRange(1, 10).Draw(t, "steps") {
			if len(subscribers) > 1 && rapid.Bool().Draw(t, "leave") {
				at := rapid.IntRange(0, len(subscribers)-1).Draw(t, "who")
				subscribers[at].stream.Close()
				subscribers = slices.Delete(subscribers, at, at+1)
			}
			u := update(id, rapid.SliceOfN(rapid.SampledFrom(topics), 1, 3).Draw(t, "topics")...)
			f.publish(u)
			for i, s := range subscribers {
				want := 0
				if s.routes.MatchAny(protocol.NewTopics(u.Topics)) {
					want = 1
				}
				if got := drain(t, s.stream); len(got) != want {
					t.Fatalf("subscriber %d got %d blocks of %v, want %d", i, len(got), u.Topics, want)
				}
			}
		}
		for _, s := range subscribers {
			s.stream.Close()
		}
		if f.Streams() != 0 {
			t.Fatalf("%d streams left", f.Streams())
		}
	})
}

// grants lets through topics it names.
type grants struct{ topic string }

func (g *grants) MayReceive(topics []*protocol.Topic) bool {
	return slices.ContainsFunc(topics, func(t *protocol.Topic) bool { return t.Raw() == g.topic })
}

// Spec: section 9, U-1, U-2, U-3, U-5; live and replayed.
func TestPrivateUpdatesNeedAGrant(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		receiver broadcast.Receiver
		want     []string
	}{
		"no token":                    {nil, []string{"1"}},
		"granted by the other topic":  {&grants{"granted"}, []string{"1", "2"}},
		"granted by the routed topic": {&grants{"routed"}, []string{"1", "2", "3"}},
		"granted something else":      {&grants{"else"}, []string{"1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(0, 1<<16)
			live := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "routed"), Receiver: test.receiver})
			defer live.Close()
			f.publish(update(1, "routed", "public"))
			private := update(2, "routed", "granted")
			private.Private = true
			f.publish(private)
			private = update(3, "routed")
			private.Private = true
			f.publish(private)
			private = update(4, "granted")
			private.Private = true
			f.publish(private)
			if got := drain(t, live); !slices.Equal(got, test.want) {
				t.Errorf("live: got %v, want %v", got, test.want)
			}
			replay := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "routed"), Receiver: test.receiver, Cursor: protocol.Earliest})
			defer replay.Close()
			if got := drain(t, replay); !slices.Equal(got, test.want) {
				t.Errorf("replayed: got %v, want %v", got, test.want)
			}
		})
	}
}

// After the log went backwards positions repeat; an old verdict must not.
func TestGrantsAreJudgedAnewAfterARestart(t *testing.T) {
	t.Parallel()
	f := start(1<<20, 1<<16)
	receiver := &grants{"mine"}
	old := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "*"), Receiver: receiver})
	defer old.Close()
	mine, theirs := update(1, "mine"), update(2, "theirs")
	mine.Private, theirs.Private = true, true
	f.Deliver([]protocol.Entry{{Position: 5, Update: &mine}})
	f.Restart(nil, 4)
	if _, _, err := old.Poll(t.Context(), nil); !errors.Is(err, broadcast.ErrInterrupted) {
		t.Errorf("a stream survived the restart: %v", err)
	}
	fresh := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "*"), Receiver: receiver})
	defer fresh.Close()
	f.Deliver([]protocol.Entry{{Position: 5, Update: &theirs}})
	if got := drain(t, fresh); len(got) != 0 {
		t.Errorf("got %v, which is somebody else's", got)
	}
}

// A position that was found before the log went backwards means nothing after.
func TestRestartWhileACursorIsResolved(t *testing.T) {
	t.Parallel()
	f := start(0, 1<<16)
	for i := 1; i <= 10; i++ {
		f.publish(update(i, "a"))
	}
	f.log.meanwhile = func() {
		f.log.mu.Lock()
		f.log.entries = f.log.entries[:5] // id10 is gone
		f.log.mu.Unlock()
		f.Restart(nil, f.log.entries[4].Position)
	}
	s := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a"), Cursor: "id10"})
	defer s.Close()
	f.publish(update(11, "a"))
	if got := drain(t, s); len(got) != 6 || s.PrecedingID() != protocol.Earliest {
		t.Errorf("got %v after %s, want everything retained", got, s.PrecedingID())
	}
}

func TestRestartWhileHistoryIsRead(t *testing.T) {
	t.Parallel()
	f := start(0, 1<<16)
	for i := 1; i <= 10; i++ {
		f.publish(update(i, "a"))
	}
	s := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a"), Cursor: protocol.Earliest})
	defer s.Close()
	f.log.meanwhile = func() { f.Restart(nil, 1) }
	if blocks, _, err := s.Poll(t.Context(), nil); !errors.Is(err, broadcast.ErrInterrupted) || len(blocks) > 0 {
		t.Errorf("got %v, %v; what was read belongs to another log", dataOf(blocks), err)
	}
}

func TestCursors(t *testing.T) { // Spec: H-4, H-5, H-10
	t.Parallel()
	for name, test := range map[string]struct {
		cursor    protocol.EventID
		live      bool
		preceding protocol.EventID
		want      []string
	}{
		"none":                   {"", false, "earliest", nil},
		"found":                  {"id2", false, "id2", []string{"3", "again"}},
		"the newest":             {"id3", false, "id3", []string{"again"}},
		"found several times":    {"id1", false, "id1", []string{"2", "3", "again"}},
		"unknown":                {"nope", false, "earliest", []string{"1", "2", "3", "again"}},
		"unknown, live":          {"nope", true, "earliest", nil},
		"earliest":               {"earliest", false, "earliest", []string{"1", "2", "3", "again"}},
		"earliest, and \"live\"": {"earliest", true, "earliest", []string{"1", "2", "3", "again"}},
	} {
		for _, tail := range []int{0, 700, 1 << 20} {
			t.Run(fmt.Sprintf("%s, tail of %d bytes", name, tail), func(t *testing.T) {
				t.Parallel()
				f := start(tail, 1<<16)
				for i := 1; i <= 3; i++ {
					f.publish(update(i, "a"))
				}
				again := update(1, "a")
				again.Data = "again"
				f.publish(again)
				s := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a"), Cursor: test.cursor, LiveIfUnknown: test.live})
				defer s.Close()
				if s.PrecedingID() != test.preceding {
					t.Errorf("the response field is %q, want %q", s.PrecedingID(), test.preceding)
				}
				if got := drain(t, s); !slices.Equal(got, test.want) {
					t.Errorf("got %v, want %v", got, test.want)
				}
			})
		}
	}
}

func TestResumeWithinTheTailReadsNoHistory(t *testing.T) {
	t.Parallel()
	f := start(1<<20, 1<<16)
	for i := 1; i <= 100; i++ {
		f.publish(update(i, "a"))
	}
	for range 50 {
		s := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a"), Cursor: "id40"})
		if got := drain(t, s); len(got) != 60 {
			t.Errorf("got %d updates, want 60", len(got))
		}
		s.Close()
	}
	if n := f.log.readCount(); n != 0 {
		t.Errorf("history was read %d times", n)
	}
}

// A cursor another node gave out may be ahead of what this one has read.
func TestCursorAheadOfTheNode(t *testing.T) {
	t.Parallel()
	f := start(1<<20, 1<<16)
	f.publish(update(1, "a"))
	second, third := f.log.add(update(2, "a")), f.log.add(update(3, "a"))
	s := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a"), Cursor: "id2"})
	defer s.Close()
	f.Deliver([]protocol.Entry{second, third})
	if got := drain(t, s); !slices.Equal(got, []string{"3"}) {
		t.Errorf("got %v, want only what follows the cursor", got)
	}
}

// What waits for a stream is bounded, and nobody else notices.
func TestSlowStreamIsBoundedAndCatchesUp(t *testing.T) {
	t.Parallel()
	f := start(10_000, 1000)
	slow := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a")})
	defer slow.Close()
	fast := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a")})
	defer fast.Close()
	var want []string
	for i := 1; i <= 1000; i++ {
		f.publish(update(i, "a"))
		want = append(want, fmt.Sprint(i))
		if got := drain(t, fast); len(got) != 1 {
			t.Fatalf("the fast stream got %v", got)
		}
	}
	blocks, more, err := slow.Poll(t.Context(), nil)
	if err != nil || !more {
		t.Fatalf("poll: more = %v, %v", more, err)
	}
	size := 0
	for _, b := range blocks {
		size += len(b)
	}
	if size > 1000 {
		t.Errorf("%d bytes waited, more than the bound", size)
	}
	if got := append(dataOf(blocks), drain(t, slow)...); !slices.Equal(got, want) {
		t.Errorf("got %d updates, want %d in order", len(got), len(want))
	}
}

// History that cannot be read now is asked for again; nothing is skipped.
func TestHistoryFailsForAWhile(t *testing.T) {
	t.Parallel()
	f := start(0, 1<<16)
	for i := 1; i <= 10; i++ {
		f.publish(update(i, "a"))
	}
	s := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a"), Cursor: protocol.Earliest})
	defer s.Close()
	away := errors.New("away")
	f.log.err = away
	for range 3 {
		if _, _, err := s.Poll(t.Context(), nil); !errors.Is(err, away) {
			t.Fatalf("poll: %v", err)
		}
	}
	f.log.err = nil
	if got := drain(t, s); len(got) != 10 {
		t.Errorf("got %v", got)
	}
}

func TestCheckpoints(t *testing.T) { // Spec: S-26
	t.Parallel()
	f := start(700, 1<<16)
	s := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a")})
	defer s.Close()
	if id, ok := s.Checkpoint(true); !ok || id != protocol.Earliest {
		t.Errorf("on an empty log: %q, %v; want earliest, which resumes with everything", id, ok)
	}
	f.publish(update(1, "b"))
	if _, ok := s.Checkpoint(false); ok {
		t.Error("a checkpoint although the client could resume from memory")
	}
	for i := 2; i < 20; i++ {
		f.publish(update(i, "b"))
	}
	if id, ok := s.Checkpoint(false); !ok || id != "id19" {
		t.Errorf("got %q, %v; want id19, since the tail no longer reaches back", id, ok)
	}
	if _, ok := s.Checkpoint(false); ok {
		t.Error("a second checkpoint for the same")
	}
	// An id must not run ahead of an update that still waits.
	f.publish(update(20, "a"))
	f.publish(update(21, "b"))
	if id, _ := s.Checkpoint(true); id == "id20" || id == "id21" {
		t.Errorf("the checkpoint %q skips an update that was not sent", id)
	}
}

func TestEndEndsEveryStream(t *testing.T) {
	t.Parallel()
	f := start(1<<20, 1<<16)
	s := f.subscribe(t, broadcast.Subscription{Matchers: matchers(t, "a")})
	defer s.Close()
	f.End(broadcast.ErrEnded)
	select {
	case <-s.Wake():
	case <-time.After(10 * time.Second):
		t.Fatal("the stream was not woken")
	}
	if _, _, err := s.Poll(t.Context(), nil); !errors.Is(err, broadcast.ErrEnded) {
		t.Errorf("poll: %v", err)
	}
	if _, err := f.Subscribe(t.Context(), broadcast.Subscription{Matchers: matchers(t, "a")}); !errors.Is(err, broadcast.ErrEnded) {
		t.Errorf("subscribe: %v", err)
	}
}
