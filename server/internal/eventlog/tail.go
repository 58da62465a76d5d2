package eventlog

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// tail is the state of the goroutine that reads on. Owned by it.
type tail struct {
	*Log
	sink     Sink
	cursor   protocol.Position
	failures int
}

// runTail ends with ctx. It starts the sink as soon as the log can be read.
func (l *Log) runTail(ctx context.Context, sink Sink) error {
	t := &tail{Log: l, sink: sink}
	for {
		recent, head, err := l.recent(ctx)
		if err == nil {
			t.advance(head)
			sink.Start(recent, head)
			l.partStarted()
			break
		}
		t.failed(ctx, err)
		if !sleep(ctx, backoff(t.failures)) {
			return ctx.Err()
		}
	}
	timer := time.NewTimer(t.untilNextLook())
	defer timer.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case batch := <-l.own:
			err = t.takeOwn(ctx, batch)
		case <-l.tailWake:
			err = t.read(ctx)
		case <-timer.C:
			err = t.look(ctx)
		}
		if err != nil {
			t.failed(ctx, err)
		} else {
			t.failures = 0
		}
		timer.Reset(t.untilNextLook())
	}
}

func (t *tail) advance(to protocol.Position) {
	t.cursor = to
	t.delivered.Store(int64(to))
}

func (t *tail) failed(ctx context.Context, err error) {
	t.failures++
	if ctx.Err() == nil {
		t.logger.Debug("reading the log failed; retrying", "error", err)
	}
}

func (t *tail) untilNextLook() time.Duration {
	if t.failures > 0 {
		return backoff(t.failures)
	}
	return fallbackInterval + time.Duration(rand.Int64N(int64(fallbackInterval)))
}

// takeOwn delivers this node's own batch from memory when nothing lies between
// it and the cursor.
func (t *tail) takeOwn(ctx context.Context, batch ownBatch) error {
	last := batch.entries[len(batch.entries)-1].Position
	switch {
	case last <= t.cursor:
		return nil
	case batch.after == t.cursor:
		t.sink.Deliver(batch.entries)
		t.advance(last)
		return nil
	}
	return t.read(ctx)
}

// read delivers everything behind the cursor.
func (t *tail) read(ctx context.Context) error {
	for {
		callCtx, cancel := context.WithTimeout(ctx, readTimeout)
		page, err := t.readPage(callCtx, t.cursor, endOfLog, nil)
		cancel()
		if err != nil {
			return err
		}
		if page.horizon > t.cursor {
			return t.restart(ctx, "retention removed updates this node had not read")
		}
		if len(page.entries) > 0 {
			t.sink.Deliver(page.entries)
			t.advance(page.entries[len(page.entries)-1].Position)
		}
		if !page.full {
			return nil
		}
	}
}

// look is the fallback when no notification came. It also notices a log that
// went backwards, as after a failover to a standby that lagged.
func (t *tail) look(ctx context.Context) error {
	callCtx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	head, err := t.queries.Head(callCtx)
	if err != nil {
		return err
	}
	switch position := protocol.Position(head.Position); {
	case !head.Writable:
		return nil // a standby may lag; the writer reports it
	case position < t.cursor:
		return t.restart(ctx, "the log went backwards; was the database failed over to a standby that lagged?")
	case position > t.cursor:
		return t.read(ctx)
	}
	return nil
}

func (t *tail) restart(ctx context.Context, reason string) error {
	recent, head, err := t.recent(ctx)
	if err != nil {
		return err
	}
	t.logger.Error("updates were lost to this node; its streams end and resume by their ids", "reason", reason, "cursor", t.cursor, "head", head)
	t.advance(head)
	t.sink.Restart(recent, head)
	return nil
}
