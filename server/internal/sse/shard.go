package sse

import (
	"container/heap"
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
)

// client is a session of a Loop. Its shard has it, but for what is atomic, and
// while it is aside.
type client struct {
	session
	socket *socket
	shard  *shard
	head   []byte // of the response, until it was sent
	done   func(Reason)

	queued atomic.Bool // it waits for its turn
	gone   atomic.Bool // the peer has closed

	phase  phase
	reason Reason             // why the stream is over, if it was found out aside
	cancel context.CancelFunc // of what is done aside; nil: nothing is
	watch  watchID
	// scheduled is when the client gets a turn, if at is its place among the
	// deadlines of the shard.
	scheduled time.Time
	at        int
}

type phase uint8

const (
	open      phase = iota // the stream goes on
	over                   // what was begun is still to be written
	lingering              // our side is closed, the peer's is not
	closed
)

// wake gives the client a turn soon. It may be called with any locks held.
func (c *client) wake() {
	if !c.queued.Swap(true) {
		c.shard.push(c)
	}
}

// peerGone is called by the watcher.
func (c *client) peerGone() {
	c.gone.Store(true)
	c.wake()
}

// shard is one goroutine and the clients it writes to.
type shard struct {
	loop  *Loop
	watch *watcher

	mu    sync.Mutex
	ready []*client // in order: theirs is the next turn
	back  []*client // were aside
	wake  chan struct{}

	// Owned by run.
	deadlines deadlines
	blocks    [][]byte
	asides    sync.WaitGroup
}

func newShard(l *Loop) *shard { return &shard{loop: l, wake: make(chan struct{}, 1)} }

func (sh *shard) push(c *client) {
	sh.mu.Lock()
	sh.ready = append(sh.ready, c)
	first := len(sh.ready) == 1
	sh.mu.Unlock()
	if first {
		sh.signal()
	}
}

// giveBack returns a client that was aside.
func (sh *shard) giveBack(c *client) {
	sh.mu.Lock()
	sh.back = append(sh.back, c)
	sh.mu.Unlock()
	sh.signal()
}

func (sh *shard) signal() {
	select {
	case sh.wake <- struct{}{}:
	default:
	}
}

// run ends with ctx, and waits for what it has started.
func (sh *shard) run(ctx context.Context) {
	defer sh.asides.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var ready, back []*client
	for {
		sh.mu.Lock()
		ready, sh.ready = sh.ready, ready[:0]
		back, sh.back = sh.back, back[:0]
		sh.mu.Unlock()
		for _, c := range back {
			c.cancel = nil
			sh.turn(ctx, c)
		}
		for _, c := range ready {
			c.queued.Store(false) // before the turn: what comes during it asks for another
			sh.turn(ctx, c)
		}
		clear(ready)
		clear(back)
		sh.expire(ctx)
		if len(ready)+len(back) > 0 {
			continue
		}
		var due <-chan time.Time
		if len(sh.deadlines) > 0 {
			timer.Reset(time.Until(sh.deadlines[0].scheduled))
			due = timer.C
		}
		select {
		case <-sh.wake:
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// expire gives a turn to clients whose time has come.
func (sh *shard) expire(ctx context.Context) {
	for len(sh.deadlines) > 0 {
		c := sh.deadlines[0]
		if time.Now().Before(c.scheduled) {
			return
		}
		heap.Pop(&sh.deadlines)
		sh.turn(ctx, c)
	}
}

// turn does for a client what can be done without waiting.
func (sh *shard) turn(ctx context.Context, c *client) {
	if c.cancel != nil {
		if c.gone.Load() {
			c.cancel()
		}
		return // there is another turn when it is back
	}
	switch c.phase {
	case open:
		reason, wait := c.reason, false
		if reason == "" {
			reason, wait = sh.step(ctx, c)
		}
		switch {
		case reason != "":
			sh.finish(ctx, c, reason)
		case wait:
			sh.setAside(ctx, c)
		default:
			sh.schedule(c, c.nextDue())
		}
	case over:
		sh.end(c)
	case lingering:
		if c.gone.Load() || passed(c.scheduled, time.Now()) {
			sh.close(c)
		}
	case closed:
	}
}

// step sends what comes next; wait: only a goroutine that may wait can go on.
func (sh *shard) step(ctx context.Context, c *client) (reason Reason, wait bool) {
	defer func() {
		if p := recover(); p != nil {
			sh.loop.config.Logger.Error("a stream panicked; please report this", "panic", p, "stack", string(debug.Stack()))
			reason = Interrupted
		}
	}()
	if c.gone.Load() {
		return ClientGone, false
	}
	if c.head != nil {
		if reason := sh.start(c); reason != "" {
			return reason, false
		}
	}
	now := time.Now()
	if reason := c.due(now); reason != "" {
		return reason, false
	}
	if c.socket.full() {
		return "", true
	}
	if now.Before(c.retryAt) {
		return "", false
	}
	c.retryAt = time.Time{}
	blocks, state, err := c.stream.Next(sh.blocks[:0])
	if err != nil {
		return c.troubled(ctx, err), false
	}
	if len(blocks) > 0 {
		c.unsent = blocks
		if err := c.send(); err != nil {
			return c.reasonOf(err), false
		}
		if len(c.unsent) > 0 { // the buffer is everybody's
			c.unsent = append([][]byte(nil), c.unsent...)
		}
		clear(blocks)
	}
	sh.blocks = blocks[:0]
	switch {
	case c.socket.full() || state == broadcast.NeedHistory:
		return "", true
	case state == broadcast.More:
		c.wake()
	}
	return "", false
}

// start sends what comes before the first update.
func (sh *shard) start(c *client) Reason {
	if err := sh.watch.add(c); err != nil {
		sh.loop.config.Logger.Warn("a connection cannot be watched", "error", err)
		return Interrupted
	}
	head := c.head
	c.head = nil
	err := c.write(head)
	if err == nil {
		err = c.begin()
	}
	if err != nil {
		return c.reasonOf(err)
	}
	return ""
}

// schedule gives a client a turn at a time; zero: none.
func (sh *shard) schedule(c *client, at time.Time) {
	// A client that is sent something has its heartbeat put off each time: it
	// keeps its place, and finds out at its turn.
	if c.at != notScheduled && !at.IsZero() && !at.Before(c.scheduled) {
		return
	}
	if c.at != notScheduled {
		heap.Remove(&sh.deadlines, c.at)
	}
	if !at.IsZero() {
		c.scheduled = at
		heap.Push(&sh.deadlines, c)
	}
}

// finish ends a stream. Its connection follows when what was begun is written.
func (sh *shard) finish(ctx context.Context, c *client, reason Reason) {
	c.stream.Close()
	c.done(reason)
	c.phase, c.unsent, c.done = over, nil, nil
	if c.socket.full() && reason != ClientGone && reason != TooSlow {
		sh.setAside(ctx, c)
		return
	}
	sh.end(c)
}

// end closes our side, and leaves the peer some time to close its own: a
// connection that is closed with input unread is reset, and the peer may lose
// what it has not read.
func (sh *shard) end(c *client) {
	c.phase = lingering
	c.socket.closeWrite()
	if c.gone.Load() {
		sh.close(c)
		return
	}
	sh.schedule(c, time.Time{})
	sh.schedule(c, time.Now().Add(lingerTime))
}

func (sh *shard) close(c *client) {
	c.phase = closed
	sh.schedule(c, time.Time{})
	sh.watch.remove(c)
	c.socket.close()
	sh.loop.closed()
}

// notScheduled is the place of a client that has none.
const notScheduled = -1

// deadlines is a heap: the next one is the first.
type deadlines []*client

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].scheduled.Before(d[j].scheduled) }

func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].at, d[j].at = i, j
}

// Push implements heap.Interface.
func (d *deadlines) Push(x any) {
	c := x.(*client) //nolint:forcetypeassert // nothing else is pushed
	c.at = len(*d)
	*d = append(*d, c)
}

// Pop implements heap.Interface.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	c := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	c.at = notScheduled
	return c
}
