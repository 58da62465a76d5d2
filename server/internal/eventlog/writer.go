package eventlog

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// How often the outbox is looked at. Measured: a poll costs 0.1 ms of the
// server's time; a rung bell costs the inserting transaction a NOTIFY.
const (
	// While rows keep coming, the leader polls.
	pollInterval = 5 * time.Millisecond
	// After this long without a row it arms the doorbell and sleeps.
	silenceBeforeSleep = 500 * time.Millisecond
	// A sleeping leader, and every other node, looks this often regardless: a
	// bell or a leader may have been lost.
	fallbackInterval = time.Second
	// Every so often the whole outbox is swept instead of what is new by
	// snapshot, for rows restored from a dump.
	sweepInterval = 30 * time.Second
)

// writer is the state of the goroutine that appends and drains. Owned by it.
type writer struct {
	*Log
	drainState  *string // see migrations/00003_append.sql; nil: sweep
	sweptAt     time.Time
	lastRow     time.Time // when the outbox last held something
	armed       bool
	bellUsable  bool
	bellChecked bool
	wasLeader   bool
	failures    int           // of drains in a row
	fences      []pgtype.UUID // batches whose outcome was given up
}

// ownBatch is what this node appended. It may be delivered from memory by a
// reader whose cursor is at after; everybody else reads it from the log.
type ownBatch struct {
	after   protocol.Position
	entries []protocol.Entry
}

// runWriter ends with ctx, after it has appended what was accepted by then.
func (l *Log) runWriter(ctx context.Context) error {
	w := &writer{Log: l}
	// The database is not asked on ctx: a stop must not break a batch in half.
	calls := context.WithoutCancel(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			w.appendQueued(calls)
			return ctx.Err()
		case <-l.queue.wake:
			w.appendQueued(calls)
		case <-l.bell:
			w.armed = false
			w.lastRow = time.Now()
			w.drain(calls)
		case <-timer.C:
			w.drain(calls)
		}
		timer.Reset(w.untilNextDrain())
	}
}

func (w *writer) untilNextDrain() time.Duration {
	if w.failures > 0 {
		return backoff(w.failures)
	}
	if w.leader.Load() {
		switch {
		case w.bellChecked && !w.bellUsable:
			return 2 * pollInterval
		case !w.armed:
			return pollInterval
		}
	}
	return fallbackInterval - time.Duration(rand.Int64N(int64(fallbackInterval/5)))
}

// drain moves what applications committed into the log, and as leader decides
// between polling and sleeping.
func (w *writer) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := w.prepareDrain(ctx); err != nil {
		w.drainFailed(err)
		return
	}
	for {
		row, err := w.queries.Drain(ctx, w.drainState, maxChunkRows)
		if err != nil {
			w.drainFailed(err)
			return
		}
		w.failures = 0
		w.health.note(nil)
		w.outboxMoved(row.State, row.Moved, row.Refused)
		if row.HeadAfter > row.HeadBefore {
			wake(w.tailWake)
		}
		// Between two chunks of a long queue publishers get their turn; their
		// appends go on moving it.
		if !row.More || len(w.queue.wake) > 0 {
			break
		}
	}
	w.fence(ctx)
}

// prepareDrain arms the doorbell when silence lasted: armed first and drained
// once more, nothing that was committed before is overlooked.
func (w *writer) prepareDrain(ctx context.Context) error {
	now := time.Now()
	if now.Sub(w.sweptAt) > sweepInterval {
		w.sweptAt = now
		w.drainState = nil
	}
	leader := w.leader.Load()
	if leader != w.wasLeader {
		w.wasLeader = leader
		w.armed = false
		w.lastRow = now
	}
	if !leader || w.armed || now.Sub(w.lastRow) < silenceBeforeSleep {
		return nil
	}
	if !w.bellChecked {
		usable, err := w.queries.DoorbellUsable(ctx)
		if err != nil {
			return err
		}
		w.bellUsable, w.bellChecked = usable, true
	}
	if !w.bellUsable {
		return nil
	}
	if err := w.queries.ArmDoorbell(ctx); err != nil {
		return err
	}
	w.armed = true
	return nil
}

func (w *writer) drainFailed(err error) {
	w.drainState = nil
	w.armed = false
	w.failures++
	w.health.note(err)
}

// outboxMoved keeps the state for the next drain.
func (w *writer) outboxMoved(state string, moved, refused int32) {
	w.drainState = &state
	if state == "" {
		w.drainState = nil
	}
	if moved+refused > 0 {
		w.lastRow = time.Now()
		// The bell may still be armed in the database and ring once more;
		// that costs one notification.
		w.armed = false
	}
	if refused > 0 {
		w.logger.Error("updates inserted by SQL were refused by the log; see the table mercure.rejected", "count", refused)
	}
}

// appendQueued appends batches until nothing waits.
func (w *writer) appendQueued(ctx context.Context) {
	for {
		batch := w.queue.take()
		if len(batch) == 0 {
			return
		}
		w.appendBatch(ctx, batch)
	}
}

// appendBatch appends a batch as a whole and answers every publisher in it. A
// call whose outcome is unknown is repeated with the same token, which tells
// whether the batch is there or puts it there.
func (w *writer) appendBatch(ctx context.Context, batch []*pending) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	token := pgtype.UUID{Bytes: uuid.New(), Valid: true}
	params := batchParams(batch, token)
	outcomeUnknown := false
	for failures := 0; ; {
		params.State = w.drainState
		row, err := w.call(ctx, params)
		if err == nil {
			w.health.note(nil)
			w.outboxMoved(row.State, row.Moved, row.Refused)
			if row.Appended {
				w.batchAppended(row, batch)
				return
			}
			wake(w.tailWake) // a chunk of the outbox went first; again
			if ctx.Err() != nil {
				answer(batch, ErrUnavailable)
				return
			}
			continue
		}
		w.drainState = nil
		if blamesRow(err) {
			w.appendSingly(ctx, batch, err)
			return
		}
		w.health.note(err)
		if !rolledBack(err) && !pgconn.SafeToRetry(err) && !errors.Is(err, errNoConnection) {
			outcomeUnknown = true
		}
		failures++
		if !sleep(ctx, backoff(failures)) {
			break
		}
	}
	wake(w.tailWake)
	if outcomeUnknown {
		w.fences = append(w.fences, token)
		answer(batch, ErrOutcomeUnknown)
		return
	}
	answer(batch, ErrUnavailable)
}

// errNoConnection: nothing was sent.
var errNoConnection = errors.New("no connection")

func (w *writer) call(ctx context.Context, params db.AppendBatchParams) (db.AppendBatchRow, error) {
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return db.AppendBatchRow{}, errors.Join(errNoConnection, err)
	}
	defer conn.Release()
	w.writerPID.Store(conn.Conn().PgConn().PID())
	return db.New(conn).AppendBatch(ctx, params)
}

// batchAppended hands the batch to the tail and answers its publishers.
func (w *writer) batchAppended(row db.AppendBatchRow, batch []*pending) {
	first := protocol.Position(row.FirstPosition)
	// A batch found by its token comes without the heads it was appended at.
	fromMemory := !row.Repeated && row.LastPosition-row.FirstPosition+1 == int64(len(batch))
	if fromMemory {
		own := ownBatch{after: protocol.Position(row.HeadDrained), entries: make([]protocol.Entry, len(batch))}
		for i, p := range batch {
			own.entries[i] = protocol.Entry{
				Position: first + protocol.Position(i), Update: p.update, IDReused: !p.generated,
			}
		}
		select {
		case w.own <- own:
		default:
			fromMemory = false // the tail lags and will read it
		}
	}
	if !fromMemory {
		wake(w.tailWake)
	}
	answer(batch, nil)
}

// appendSingly finds out which update of a batch the database refuses, so that
// the others do not suffer.
func (w *writer) appendSingly(ctx context.Context, batch []*pending, reason error) {
	if len(batch) == 1 {
		w.logger.Error("the database rejected an update", "error", reason)
		answer(batch, ErrRejected)
		return
	}
	for _, p := range batch {
		w.appendBatch(context.WithoutCancel(ctx), []*pending{p})
	}
}

// fence settles batches whose outcome was given up: they are in the log, or
// never will be.
func (w *writer) fence(ctx context.Context) {
	for len(w.fences) > 0 {
		if _, err := w.queries.FenceBatch(ctx, w.fences[0]); err != nil {
			w.drainFailed(err)
			return
		}
		w.fences = w.fences[1:]
	}
}

func answer(batch []*pending, err error) {
	for _, p := range batch {
		p.done <- err
	}
}

// backoff grows from 50 ms to 2 s, with jitter so that nodes do not return
// together.
func backoff(failures int) time.Duration {
	d := 50 * time.Millisecond << min(failures-1, 6)
	d = min(d, 2*time.Second)
	return d/2 + time.Duration(rand.Int64N(int64(d)))
}

// sleep waits; false: ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
