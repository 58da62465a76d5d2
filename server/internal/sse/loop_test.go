//go:build unix

package sse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// loopFixture is a running Loop, and a log in memory to stream.
type loopFixture struct {
	loop        *Loop
	broadcaster *broadcast.Broadcaster
	listener    net.Listener
	reasons     chan Reason
	position    protocol.Position
	portable    bool // as on systems where newTransport does nothing special

	mu      sync.Mutex
	history []protocol.Entry // that is no longer in the tail
}

func (f *loopFixture) PageAfter(_ context.Context, after, upTo protocol.Position, _ []string) ([]protocol.Entry, protocol.Position, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var page []protocol.Entry
	for _, e := range f.history {
		if e.Position > after && e.Position <= upTo {
			if page = append(page, e); len(page) == 10 {
				return page, e.Position, nil
			}
		}
	}
	return page, upTo, nil
}

func (f *loopFixture) Find(context.Context, protocol.EventID) (protocol.Position, bool, error) {
	return 0, true, nil
}

const headForTests = "HTTP/1.1 200 OK\r\n\r\n"

func newLoopFixture(t *testing.T, config LoopConfig, tailBytes int) *loopFixture {
	t.Helper()
	config.Logger = slog.New(slog.DiscardHandler)
	f := &loopFixture{loop: NewLoop(config), reasons: make(chan Reason, 100_000)}
	f.broadcaster = broadcast.New(broadcast.Config{History: f, TailBytes: tailBytes})
	f.broadcaster.Start(nil, 0)
	var err error
	if f.listener, err = new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.loop.Run(ctx) }() // waited for below
	t.Cleanup(func() {
		_ = f.listener.Close()
		f.broadcaster.End(broadcast.ErrEnded)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		for _, sh := range f.loop.shards {
			if len(sh.deadlines)+len(sh.ready)+len(sh.back) > 0 {
				t.Error("the loop has ended with clients left")
			}
		}
	})
	return f
}

// publish appends updates of a size on the topic "a".
func (f *loopFixture) publish(n, size int) {
	for range n {
		f.position++
		e := protocol.Entry{Position: f.position, Update: &protocol.Update{
			ID: protocol.EventID(fmt.Sprint(f.position)), Topics: []string{"a"}, Data: strings.Repeat("x", size),
		}}
		f.mu.Lock()
		f.history = append(f.history, e)
		f.mu.Unlock()
		f.broadcaster.Deliver([]protocol.Entry{e})
	}
}

// open connects a peer and adds its stream to the loop. wrap may change how it
// is written to.
func (f *loopFixture) open(t *testing.T, cursor protocol.EventID, o Options, wrap func(transport) transport) *net.TCPConn {
	t.Helper()
	peer, err := new(net.Dialer).DialContext(t.Context(), "tcp", f.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	conn, err := f.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	matcher, err := protocol.NewExact("a")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := f.broadcaster.Subscribe(t.Context(), broadcast.Subscription{
		Matchers: protocol.NewMatcherSet([]*protocol.Matcher{matcher}), Cursor: cursor,
	})
	if err != nil {
		t.Fatal(err)
	}
	sock := &socket{timeout: f.loop.config.DispatchTimeout, expires: o.Expires}
	if f.portable {
		sock.transport, err = newTCPTransport(conn.(*net.TCPConn)) //nolint:forcetypeassert // accepted as such
	} else {
		sock, err = newSocket(conn, sock.timeout, sock.expires)
	}
	if err != nil {
		t.Fatal(err)
	}
	if wrap != nil {
		sock.transport = wrap(sock.transport)
	}
	if err := f.loop.add(sock, Hijacked{
		Conn: conn, Head: []byte(headForTests), Stream: stream, Options: o, Done: func(r Reason) { f.reasons <- r },
	}); err != nil {
		t.Fatal(err)
	}
	return peer.(*net.TCPConn) //nolint:forcetypeassert // dialed as such
}

func (f *loopFixture) wantReason(t *testing.T, want Reason) {
	t.Helper()
	if got := <-f.reasons; got != want {
		t.Errorf("ended with %s, want %s", got, want)
	}
}

// wantIDs reads updates from a peer and checks that none is missing, repeated or
// out of order, whatever else comes.
func wantIDs(t *testing.T, peer io.Reader, first, last int) {
	t.Helper()
	lines := newLines(peer)
	for want := first; want <= last; {
		line, err := lines.next()
		if err != nil {
			t.Fatalf("waiting for id %d: %v", want, err)
		}
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			if id != fmt.Sprint(want) {
				t.Fatalf("id %s, want %d", id, want)
			}
			want++
		}
	}
}

type lineReader struct {
	r    io.Reader
	kept []byte
}

func newLines(r io.Reader) *lineReader { return &lineReader{r: r} }

func (l *lineReader) next() (string, error) {
	buffer := make([]byte, 32<<10)
	for {
		if line, rest, ok := bytes.Cut(l.kept, []byte("\n")); ok {
			l.kept = rest
			return string(line), nil
		}
		n, err := l.r.Read(buffer)
		if l.kept = append(l.kept, buffer[:n]...); err != nil {
			return "", err
		}
	}
}

// withEachTransport tests with that of this system, and with that of all.
func withEachTransport(t *testing.T, config LoopConfig, tailBytes int, test func(t *testing.T, f *loopFixture)) {
	t.Helper()
	for _, name := range []string{"bare", "portable"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLoopFixture(t, config, tailBytes)
			f.portable = name == "portable"
			test(t, f)
		})
	}
}

func TestLoopDelivers(t *testing.T) {
	t.Parallel()
	withEachTransport(t, LoopConfig{DispatchTimeout: time.Minute}, 1<<20, func(t *testing.T, f *loopFixture) {
		var peers []*net.TCPConn
		for range 50 {
			peers = append(peers, f.open(t, "", Options{}, nil))
		}
		f.publish(500, 100)
		for _, peer := range peers {
			wantIDs(t, peer, 1, 500)
		}
	})
}

// A replay that memory does not hold is read aside, and handed over to what is
// live.
func TestLoopReplaysHistory(t *testing.T) {
	t.Parallel()
	withEachTransport(t, LoopConfig{DispatchTimeout: time.Minute}, 4<<10, func(t *testing.T, f *loopFixture) {
		f.publish(300, 100)
		var peers []*net.TCPConn
		for range 20 {
			peers = append(peers, f.open(t, "0", Options{}, nil))
		}
		f.publish(300, 100)
		for _, peer := range peers {
			wantIDs(t, peer, 1, 600)
		}
	})
}

// A peer that takes nothing for a while gets everything in the end; others do not
// wait for it.
func TestLoopDoesNotWait(t *testing.T) { // Spec: S-23
	t.Parallel()
	withEachTransport(t, LoopConfig{DispatchTimeout: time.Hour}, 1<<20, func(t *testing.T, f *loopFixture) {
		slow, quick := f.open(t, "", Options{}, nil), f.open(t, "", Options{}, nil)
		done := make(chan struct{})
		go func() {
			defer close(done)
			wantIDs(t, quick, 1, 400)
		}()
		f.publish(400, 50_000)
		<-done
		wantIDs(t, slow, 1, 400)
	})
}

// Spec: S-23. A peer that takes nothing for too long is closed.
func TestLoopClosesStuckPeers(t *testing.T) {
	t.Parallel()
	withEachTransport(t, LoopConfig{DispatchTimeout: 500 * time.Millisecond}, 1<<20, func(t *testing.T, f *loopFixture) {
		f.open(t, "", Options{}, nil)
		f.publish(400, 50_000)
		f.wantReason(t, TooSlow)
	})
}

// Spec: R-2. A socket that is closed is noticed without a write to it.
func TestLoopNoticesPeersThatClose(t *testing.T) {
	t.Parallel()
	withEachTransport(t, LoopConfig{}, 1<<20, func(t *testing.T, f *loopFixture) {
		for _, end := range []func(*net.TCPConn){
			func(c *net.TCPConn) { _ = c.Close() },
			func(c *net.TCPConn) { _ = c.CloseWrite() },
			func(c *net.TCPConn) {
				_ = c.SetLinger(0) // sends a reset
				_ = c.Close()
			},
			func(c *net.TCPConn) {
				_, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) // nobody reads it
				_ = c.Close()
			},
		} {
			peer := f.open(t, "", Options{}, nil)
			wantHead(t, peer)
			end(peer)
			f.wantReason(t, ClientGone)
		}
	})
}

// A peer that closes while it takes nothing is noticed, too.
func TestLoopNoticesStuckPeersThatClose(t *testing.T) {
	t.Parallel()
	withEachTransport(t, LoopConfig{DispatchTimeout: time.Hour}, 1<<20, func(t *testing.T, f *loopFixture) {
		peer := f.open(t, "", Options{}, nil)
		wantHead(t, peer)
		f.publish(400, 50_000)
		_ = peer.CloseWrite()
		f.wantReason(t, ClientGone)
	})
}

func wantHead(t *testing.T, peer net.Conn) {
	t.Helper()
	head := make([]byte, len(headForTests)+len(protocol.Comment))
	if _, err := io.ReadFull(peer, head); err != nil || string(head) != headForTests+protocol.Comment {
		t.Fatalf("%q, %v", head, err)
	}
}

// The end arrives behind everything that was written, and is never a reset, even
// if the peer has sent what nobody reads.
func TestLoopEndsConnectionsCleanly(t *testing.T) { // Spec: S-24
	t.Parallel()
	withEachTransport(t, LoopConfig{DispatchTimeout: time.Minute}, 1<<20, func(t *testing.T, f *loopFixture) {
		peer := f.open(t, "", Options{}, nil)
		if _, err := peer.Write(bytes.Repeat([]byte("x"), 100_000)); err != nil {
			t.Fatal(err)
		}
		f.publish(1, 1_000_000)
		f.publish(1, 10)
		lines := newLines(peer)
		for line := ""; !strings.HasPrefix(line, "data: "); {
			var err error
			if line, err = lines.next(); err != nil {
				t.Fatal(err)
			}
		}
		wantIDs(t, io.MultiReader(bytes.NewReader(lines.kept), peer), 2, 2)
		f.broadcaster.End(broadcast.ErrEnded)
		if _, err := io.ReadAll(peer); err != nil {
			t.Errorf("the end is %v", err)
		}
		f.wantReason(t, Shutdown)
	})
}

// A block that the peer has a part of is finished before the connection ends.
func TestLoopFinishesWhatItBegan(t *testing.T) {
	t.Parallel()
	withEachTransport(t, LoopConfig{DispatchTimeout: time.Minute}, 64<<20, func(t *testing.T, f *loopFixture) {
		peer := f.open(t, "", Options{}, nil)
		wantHead(t, peer)
		f.publish(1, 20_000_000) // more than the kernel takes
		f.broadcaster.End(broadcast.ErrEnded)
		all, err := io.ReadAll(peer)
		if want := len("id: 1\ndata: \n\n") + 20_000_000; err != nil || len(all) != want && len(all) != 0 {
			t.Errorf("%d bytes of %d, %v", len(all), want, err)
		}
	})
}

// recorder notes writes.
type recorder struct {
	transport
	mu     sync.Mutex
	writes []string
}

func (r *recorder) tryWrite(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes = append(r.writes, string(b))
	return r.transport.tryWrite(b)
}

// Spec: W-8, W-9. What waits already is sent together, unless the operator has
// the client that cannot read it; comments are alone.
func TestLoopSharesWrites(t *testing.T) {
	t.Parallel()
	for separate, want := range map[bool]int{false: 3, true: 5} {
		f := newLoopFixture(t, LoopConfig{}, 1<<20)
		f.publish(3, 1)
		r := &recorder{}
		peer := f.open(t, "0", Options{SeparateWrites: separate}, func(inner transport) transport {
			r.transport = inner
			return r
		})
		wantIDs(t, peer, 1, 3)
		r.mu.Lock()
		if len(r.writes) != want || r.writes[0] != headForTests || r.writes[1] != protocol.Comment {
			t.Errorf("separate %v: %q", separate, r.writes)
		}
		r.mu.Unlock()
	}
}

// stingy takes a few bytes at a time, or none.
type stingy struct {
	transport
	calls int
}

func (s *stingy) tryWrite(b []byte) (int, error) {
	s.calls++
	return s.transport.tryWrite(b[:min(len(b), s.calls%3*7)])
}

func TestLoopGoesOnBehindPartialWrites(t *testing.T) {
	t.Parallel()
	f := newLoopFixture(t, LoopConfig{DispatchTimeout: time.Minute}, 1<<20)
	peer := f.open(t, "", Options{Checkpoints: true, InitialCheckpoint: true}, func(inner transport) transport { return &stingy{transport: inner} })
	go f.publish(2000, 30) // the test waits for all of them
	lines := newLines(peer)
	var all []string
	for len(all) < 4+3*2000 {
		line, err := lines.next()
		if err != nil {
			t.Fatal(err)
		}
		if line != ":" {
			all = append(all, line)
		}
	}
	ids := 0
	for i, line := range all {
		if id, ok := strings.CutPrefix(line, "id: "); ok && id != "earliest" {
			ids++
			if id != fmt.Sprint(ids) || all[i+1] != "data: "+strings.Repeat("x", 30) || all[i+2] != "" {
				t.Fatalf("line %d: %q", i, all[i:i+3])
			}
		}
	}
	if ids != 2000 {
		t.Errorf("%d updates", ids)
	}
}

// Deadlines come one by one, each at its time.
func TestLoopDeadlines(t *testing.T) { // Spec: W-7, S-21, S-22
	t.Parallel()
	withEachTransport(t, LoopConfig{}, 1<<20, func(t *testing.T, f *loopFixture) {
		beating := f.open(t, "", Options{Heartbeat: 50 * time.Millisecond, Lifetime: time.Second}, nil)
		began := time.Now()
		all, err := io.ReadAll(beating)
		if beats := strings.Count(string(all), protocol.Comment); err != nil || beats < 5 || beats > 21 {
			t.Errorf("%d heartbeats, %v", beats, err)
		}
		if took := time.Since(began); took < 900*time.Millisecond {
			t.Errorf("it lived %s", took)
		}
		f.wantReason(t, Lifetime)
		expires := time.Now().Add(500 * time.Millisecond)
		expiring := f.open(t, "", Options{Heartbeat: time.Hour, Expires: expires}, nil)
		_, _ = io.ReadAll(expiring)
		if time.Now().Before(expires) {
			t.Error("ended before the token expired")
		}
		f.wantReason(t, TokenExpired)
	})
}

// A loop that has stopped takes nothing, and leaves nothing behind.
func TestLoopStops(t *testing.T) {
	t.Parallel()
	l := NewLoop(LoopConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.Done():
	default:
		t.Error("not done")
	}
	if err := l.add(&socket{}, Hijacked{}); !errors.Is(err, errLoopClosed) {
		t.Errorf("added: %v", err)
	}
}

// fanOut is streams whose peers take everything at once.
type fanOut struct {
	*loopFixture
	streams int
	sink    *sinks
}

func startFanOut(tb testing.TB, streams int) *fanOut {
	tb.Helper()
	f := &loopFixture{loop: NewLoop(LoopConfig{Logger: slog.New(slog.DiscardHandler)}), reasons: make(chan Reason, streams)}
	f.broadcaster = broadcast.New(broadcast.Config{History: f, TailBytes: 1 << 20})
	f.broadcaster.Start(nil, 0)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.loop.Run(ctx) }() // waited for below
	tb.Cleanup(func() {
		f.broadcaster.End(broadcast.ErrEnded)
		cancel()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	matcher, err := protocol.NewExact("a")
	if err != nil {
		tb.Fatal(err)
	}
	sink := newSinks()
	for range streams {
		stream, err := f.broadcaster.Subscribe(tb.Context(), broadcast.Subscription{Matchers: protocol.NewMatcherSet([]*protocol.Matcher{matcher})})
		if err != nil {
			tb.Fatal(err)
		}
		// Each with a heartbeat, which every delivery puts off.
		h := Hijacked{Head: []byte{}, Stream: stream, Options: Options{Heartbeat: time.Hour}, Done: func(Reason) {}}
		if err := f.loop.add(&socket{transport: sink}, h); err != nil {
			tb.Fatal(err)
		}
	}
	sink.await(streams * len(protocol.Comment))
	return &fanOut{f, streams, sink}
}

var fanOutData = strings.Repeat("x", 128)

// deliver returns when an update is written to all.
func (f *fanOut) deliver() {
	f.position++
	e := protocol.Entry{Position: f.position, Update: &protocol.Update{ID: "1", Topics: []string{"a"}, Data: fanOutData}}
	f.sink.reset()
	f.broadcaster.Deliver([]protocol.Entry{e})
	f.sink.await(f.streams * len("id: 1\ndata: \n\n"+fanOutData))
}

// BenchmarkFanOut delivers updates of 128 bytes; an operation is one delivery,
// until it is written.
func BenchmarkFanOut(b *testing.B) {
	f := startFanOut(b, 1000)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += f.streams {
		f.deliver()
	}
	b.StopTimer()
}

// A delivery costs no memory, and the bytes of an update are there once. Not
// parallel, because it counts the allocations of the whole program.
func TestDeliveriesDoNotAllocate(t *testing.T) {
	allocs := map[int]float64{}
	for _, streams := range []int{1, 1000} {
		f := startFanOut(t, streams)
		for range 20 { // until what is kept for the next time is large enough
			f.deliver()
		}
		allocs[streams] = testing.AllocsPerRun(100, f.deliver)
		if f.sink.copies > 0 {
			t.Errorf("%d of %d streams got a copy of their own", f.sink.copies, streams)
		}
	}
	// Which turns come together is up to the scheduler: a list may grow once more.
	if allocs[1000] > allocs[1]+2 {
		t.Errorf("%v allocations for 1,000 streams, %v for one", allocs[1000], allocs[1])
	}
}

// sinks takes everything and counts it.
type sinks struct {
	mu      sync.Mutex
	arrived *sync.Cond
	bytes   int
	// first is what was written first, copies how often it was something else.
	first  *byte
	copies int
}

func newSinks() *sinks {
	s := &sinks{}
	s.arrived = sync.NewCond(&s.mu)
	return s
}

func (s *sinks) tryWrite(b []byte) (int, error) {
	s.mu.Lock()
	s.bytes += len(b)
	switch at := unsafe.SliceData(b); s.first {
	case nil:
		s.first = at
	case at:
	default:
		s.copies++
	}
	s.mu.Unlock()
	s.arrived.Signal()
	return len(b), nil
}

func (s *sinks) reset() {
	s.mu.Lock()
	s.bytes, s.first, s.copies = 0, nil, 0
	s.mu.Unlock()
}

func (s *sinks) await(bytes int) {
	s.mu.Lock()
	for s.bytes < bytes {
		s.arrived.Wait()
	}
	s.mu.Unlock()
}

func (s *sinks) Write(b []byte) (int, error)      { return s.tryWrite(b) }
func (s *sinks) SetWriteDeadline(time.Time) error { return nil }
func (s *sinks) control(func(fd uintptr)) error   { return nil }
func (s *sinks) closeWrite()                      {}
func (s *sinks) close()                           {}
