package sse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
)

// Loop runs sessions on connections of its own: those taken from an HTTP server
// before the first byte of the answer. A stream that is silent costs no
// goroutine and no buffer.
//
// Each stream belongs to one shard (shard.go), a goroutine that writes to its
// streams without ever waiting for one. A stream that would make it wait, because
// its peer takes no more or because it must read history, gets a goroutine of its
// own for as long as that lasts (aside.go). One watcher notices peers that close
// (watcher_linux.go, watcher_other.go).
type Loop struct {
	config LoopConfig
	shards []*shard
	next   atomic.Uint64

	mu      sync.Mutex
	streams int  // that were added and whose connections are not closed yet
	closing bool // take no more
	empty   chan struct{}

	done chan struct{}
}

// LoopConfig says how a Loop treats its connections.
type LoopConfig struct {
	// DispatchTimeout is how long a peer may take nothing; zero: for ever.
	DispatchTimeout time.Duration
	Logger          *slog.Logger
}

// Hijacked is a stream on a connection that was taken from its HTTP server.
type Hijacked struct {
	// Conn is closed by the Loop. See Suits.
	Conn net.Conn
	// Head is the head of the response. It says that the connection ends with the
	// body.
	Head    []byte
	Stream  *broadcast.Stream
	Options Options
	// Done is called once, when the stream is over; it must not block.
	Done func(Reason)
}

// NewLoop returns a Loop that serves once it runs.
func NewLoop(config LoopConfig) *Loop {
	l := &Loop{config: config, empty: make(chan struct{}), done: make(chan struct{})}
	for range runtime.GOMAXPROCS(0) {
		l.shards = append(l.shards, newShard(l))
	}
	return l
}

// lingerTime is how long the peer has to close its side after ours.
const lingerTime = time.Second

// Run serves until ctx ends. Then it takes no more streams, waits for those that
// are there, which somebody else ends, and returns when all connections are
// closed and its goroutines have ended.
func (l *Loop) Run(ctx context.Context) error {
	defer close(l.done)
	watch, err := newWatcher()
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var workers sync.WaitGroup
	workers.Go(watch.run)
	for _, sh := range l.shards {
		sh.watch = watch
		workers.Go(func() { sh.run(work) })
	}
	<-ctx.Done()
	l.close()
	<-l.empty
	stop()
	watch.stop()
	workers.Wait()
	return nil
}

// Done is closed when Run has returned.
func (l *Loop) Done() <-chan struct{} { return l.done }

// errLoopClosed: the hub stops.
var errLoopClosed = errors.New("the hub is shutting down")

// Add takes a stream and its connection over. After an error the connection is
// closed, and the stream is still the caller's.
func (l *Loop) Add(h Hijacked) error {
	sock, err := newSocket(h.Conn, l.config.DispatchTimeout, h.Options.Expires)
	if err != nil {
		_ = h.Conn.Close()
		return fmt.Errorf("take over a connection: %w", err)
	}
	if err := l.add(sock, h); err != nil {
		sock.close()
		return err
	}
	return nil
}

func (l *Loop) add(sock *socket, h Hijacked) error {
	l.mu.Lock()
	if l.closing {
		l.mu.Unlock()
		return errLoopClosed
	}
	l.streams++
	l.mu.Unlock()
	sh := l.shards[l.next.Add(1)%uint64(len(l.shards))]
	c := &client{session: newSession(sock, h.Stream, &h.Options), socket: sock, shard: sh, head: h.Head, done: h.Done, at: notScheduled}
	h.Stream.Notify(c.wake)
	return nil
}

func (l *Loop) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closing {
		l.closing = true
		if l.streams == 0 {
			close(l.empty)
		}
	}
}

func (l *Loop) closed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams--; l.streams == 0 && l.closing {
		close(l.empty)
	}
}
