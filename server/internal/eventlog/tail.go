package eventlog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// tail is the state of the goroutine that reads on. Owned by it.
type tail struct {
	*Log
	sink     Sink
	cursor   protocol.Position
	cursorID protocol.EventID // of the update at cursor; empty while the log is
	failures int
	// redactions is the last that was heeded; redactedAhead are those of updates
	// that were not delivered yet.
	redactions    int64
	redactedAhead map[protocol.Position]struct{}
}

// runTail ends with ctx. It starts the sink as soon as the log can be read.
func (l *Log) runTail(ctx context.Context, sink Sink) error {
	t := &tail{Log: l, sink: sink}
	for {
		recent, head, err := t.begin(ctx)
		if err == nil {
			t.advance(protocol.Position(head.Position), protocol.EventID(head.ID))
			sink.Start(recent, t.cursor)
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
			l.ownBytes.Add(-batch.bytes)
			err = t.takeOwn(ctx, batch)
		case <-l.tailWake:
			err = t.read(ctx)
		case <-l.backwards:
			err = t.look(ctx)
		case <-l.redacted:
			err = t.look(ctx)
		case <-timer.C:
			err = t.look(ctx)
			timer.Reset(t.untilNextLook())
		}
		if err != nil {
			t.failed(ctx, err)
			timer.Reset(t.untilNextLook())
			continue
		}
		t.failures = 0
		l.health.note(reading, nil)
	}
}

// begin reads the end of the log, and first what was redacted so far: what is
// redacted from then on is heeded.
func (t *tail) begin(ctx context.Context) ([]protocol.Entry, db.HeadRow, error) {
	callCtx, cancel := context.WithTimeout(ctx, readTimeout)
	redactions, err := t.queries.LastRedaction(callCtx)
	cancel()
	if err != nil {
		return nil, db.HeadRow{}, fmt.Errorf("read the last redaction: %w", err)
	}
	t.redactions = redactions
	return t.recent(ctx)
}

func (t *tail) advance(to protocol.Position, id protocol.EventID) {
	t.cursor, t.cursorID = to, id
	t.delivered.Store(int64(to))
}

func (t *tail) deliver(entries []protocol.Entry) {
	t.sink.Deliver(t.withoutRedacted(entries))
	last := entries[len(entries)-1]
	t.advance(last.Position, last.Update.ID)
}

func (t *tail) failed(ctx context.Context, err error) {
	t.failures++
	if ctx.Err() == nil {
		t.health.note(reading, err)
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
	select {
	case <-t.backwards: // first: positions may mean something else by now
		if err := t.look(ctx); err != nil {
			return err
		}
	default:
	}
	last := batch.entries[len(batch.entries)-1].Position
	switch {
	case last <= t.cursor:
		return nil
	case batch.after == t.cursor:
		t.deliver(batch.entries)
		return nil
	}
	return t.read(ctx)
}

// read delivers everything behind the cursor.
func (t *tail) read(ctx context.Context) error {
	for {
		callCtx, cancel := context.WithTimeout(ctx, readTimeout)
		page, err := t.readPage(callCtx, readRange{after: t.cursor, upTo: endOfLog, afterID: t.cursorID, maxBytes: maxPageBytes})
		cancel()
		if err != nil {
			return err
		}
		if len(page.entries) == 0 {
			return nil
		}
		if !t.continues(page.horizon, page.cursorPresent) {
			return t.restart(ctx)
		}
		t.deliver(page.entries)
		if !page.full {
			return nil
		}
	}
}

// continues says whether what follows the cursor is all that followed it.
func (t *tail) continues(horizon protocol.Position, cursorPresent bool) bool {
	if horizon == t.cursor {
		return true // the log begins right behind it
	}
	return horizon < t.cursor && (cursorPresent || t.cursorID == "")
}

// look reads when no notification came, and makes sure that the log still
// continues where this node had read to.
func (t *tail) look(ctx context.Context) error {
	callCtx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	state, err := t.queries.CursorState(callCtx, int64(t.cursor), string(t.cursorID))
	if err != nil {
		return err
	}
	if !state.Writable {
		return nil // a standby may lag; the writer reports it
	}
	if !t.continues(protocol.Position(state.Horizon), state.Present) {
		return t.restart(ctx)
	}
	if state.Policies != t.policies.Load().fingerprint {
		wake(t.policiesChanged)
	}
	switch {
	case state.Redactions > t.redactions:
		if err := t.redact(callCtx); err != nil {
			return err
		}
	case state.Redactions < t.redactions: // they were lost in a failover, with what followed
		t.redactions = state.Redactions
	}
	return t.read(ctx)
}

// restart goes on at the head. The update at the cursor is gone: retention
// overtook this node, or the log went backwards, as after a failover to a
// standby that lagged.
func (t *tail) restart(ctx context.Context) error {
	recent, head, err := t.recent(ctx)
	if err != nil {
		return err
	}
	t.logger.Error("the log does not continue where this node had read to, after a failover to a standby that lagged, or because retention overtook it; streams end and resume by their ids",
		"cursor", t.cursor, "head", head.Position)
	t.advance(protocol.Position(head.Position), protocol.EventID(head.ID))
	t.pages.forget()
	t.sink.Restart(recent, t.cursor)
	return nil
}
