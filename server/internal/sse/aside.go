package sse

import (
	"context"
	"runtime/debug"
	"time"
)

// setAside gives a client a goroutine of its own until it has nothing left to
// wait for.
func (sh *shard) setAside(ctx context.Context, c *client) {
	sh.schedule(c, time.Time{})
	ctx, c.cancel = context.WithCancel(ctx)
	cancel := c.cancel
	sh.asides.Go(func() {
		defer cancel()
		c.goOn(ctx)
		sh.giveBack(c)
	})
}

// goOn writes what was kept, and goes on with a stream that is not over. It ends
// early, without an error, with ctx.
func (c *client) goOn(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			c.shard.loop.config.Logger.Error("a stream panicked; please report this", "panic", p, "stack", string(debug.Stack()))
			c.reason = Interrupted
		}
	}()
	defer context.AfterFunc(ctx, c.socket.interrupt)()
	defer func() {
		if ctx.Err() != nil { // whatever a write that was interrupted says
			c.reason = ClientGone
		}
	}()
	if err := c.socket.wait(); err != nil {
		c.reason = c.reasonOf(err)
		return
	}
	defer c.socket.hurry()
	for more := c.phase == open; more; {
		c.reason, more = c.advance(ctx)
	}
}
