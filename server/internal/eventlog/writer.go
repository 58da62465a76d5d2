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

// How often the outbox is looked at. A poll of an empty one takes no lock; a
// rung bell costs the inserting transaction a NOTIFY.
const (
	// While rows keep coming, the leader polls this often, from one beginning to
	// the next, so that how long a drain takes does not add to what rows wait.
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
	drainState *string // see migrations/00003_append.sql; nil: sweep
	sweptAt    time.Time
	lastRow    time.Time // when the outbox last held something
	nextDrain  time.Time
	pace       pace
	armed      bool
	bellSilent bool // it will not ring: two-phase commit is enabled
	wasLeader  bool
	failures   int // of drains in a row
	// appendFailed: the last append did, and no row has entered the log since.
	appendFailed bool
	fences       []pgtype.UUID // batches whose outcome was given up
}

// ownBatch is what this node appended. It may be delivered from memory by a
// reader whose cursor is at after; everybody else reads it from the log.
type ownBatch struct {
	after   protocol.Position
	entries []protocol.Entry
	bytes   int64
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
		timer.Reset(time.Until(w.nextDrain))
	}
}

// scheduleDrain says when to look at the outbox again after a look that began at
// a time, unless the bell rings.
func (w *writer) scheduleDrain(began time.Time) {
	wait := fallbackInterval - time.Duration(rand.Int64N(int64(fallbackInterval/5)))
	switch {
	case w.failures > 0:
		wait = backoff(w.failures)
	case !w.leader.Load():
	case w.bellSilent:
		wait = w.pace.pause(2*pollInterval, time.Since(began), !w.lastRow.Before(began))
	case !w.armed:
		wait = w.pace.pause(pollInterval, time.Since(began), !w.lastRow.Before(began))
	}
	w.nextDrain = time.Now().Add(wait)
}

// drain moves what applications committed into the log, and as leader decides
// between polling and sleeping.
func (w *writer) drain(ctx context.Context) {
	defer w.scheduleDrain(time.Now())
	if err := w.prepareDrain(ctx); err != nil {
		w.drainFailed(err)
		return
	}
	for {
		delivered := w.delivered.Load()
		callCtx, cancel := context.WithTimeout(ctx, drainTimeout)
		row, err := w.steady.Drain(callCtx, w.drainState, maxChunkRows)
		cancel()
		if err != nil {
			w.drainFailed(err)
			return
		}
		w.outboxMoved(row.State, row.Moved, row.Refused)
		w.checkHead(row.HeadBefore, delivered)
		if row.HeadAfter > row.HeadBefore {
			wake(w.tailWake)
		}
		if err := w.drained(ctx, row.Moved); err != nil {
			w.drainFailed(err)
			return
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
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
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
	armed, err := w.queries.ArmDoorbell(ctx)
	w.armed, w.bellSilent = armed, !armed
	return err
}

func (w *writer) drainFailed(err error) {
	w.drainState = nil
	w.armed = false
	w.failures++
	w.failed(err)
}

// failed notes that the database does not let the log grow.
func (w *writer) failed(err error) {
	w.health.note(appending, err)
	if readOnly(err) {
		w.pool.Reset()
	}
}

// drained notes that a drain worked. That of an empty outbox writes nothing and
// works on a full disk, too; it ends no outage that an append has met with.
func (w *writer) drained(ctx context.Context, moved int32) error {
	if w.appendFailed && moved == 0 {
		ctx, cancel := context.WithTimeout(ctx, drainTimeout)
		defer cancel()
		if _, err := w.pool.Exec(ctx, trialAppend); err != nil {
			return err
		}
	}
	w.appendFailed = false
	w.failures = 0
	w.health.note(appending, nil)
	return nil
}

// trialAppend appends an update and takes it back, in one call that nobody else
// sees anything of, and that is no error in the server's log.
const trialAppend = `DO $$
BEGIN
	PERFORM mercure.append(NULL, 1, gen_random_uuid(), ARRAY['trial'], ARRAY['{trial}'], ARRAY['trial'], ARRAY[NULL]::bytea[],
		ARRAY[false], ARRAY[''], ARRAY[-1]::bigint[], ARRAY[''], ARRAY[false]);
	RAISE EXCEPTION USING ERRCODE = 'MR002';
EXCEPTION
	WHEN SQLSTATE 'MR002' THEN NULL;
END $$`

// checkHead compares the head of the log, as its lock showed it, with what was
// delivered before: the log cannot end before that unless it is another one.
func (w *writer) checkHead(head, delivered int64) {
	if head < delivered {
		wake(w.backwards)
	}
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
		if poll := time.Now().Add(pollInterval); w.leader.Load() && poll.Before(w.nextDrain) {
			w.nextDrain = poll
		}
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
	hashes, fingerprints := onceParams(batch)
	outcomeUnknown := false
	for failures := 0; ; {
		params.State = w.drainState
		delivered := w.delivered.Load()
		row, err := w.call(ctx, &params, hashes, fingerprints)
		if err == nil {
			w.appendFailed = false
			w.health.note(appending, nil)
			w.outboxMoved(row.State, row.Moved, row.Refused)
			if !row.Repeated {
				w.checkHead(row.HeadBefore, delivered)
			}
			if row.Appended {
				w.batchAppended(&row, batch)
				return
			}
			wake(w.tailWake) // a chunk of the outbox went first; again
			if ctx.Err() != nil {
				break
			}
			continue
		}
		w.drainState = nil
		if blamesRow(err) {
			if outcomeUnknown {
				w.fences = append(w.fences, token)
			}
			w.appendSingly(ctx, batch, err)
			return
		}
		w.appendFailed = true
		w.failed(err)
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

func (w *writer) call(ctx context.Context, params *db.AppendBatchParams, hashes, fingerprints [][]byte) (appendedRow, error) {
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return appendedRow{}, errors.Join(errNoConnection, err)
	}
	defer conn.Release()
	w.writerPID.Store(conn.Conn().PgConn().PID())
	queries := w.prepared(conn)
	if hashes == nil {
		row, err := queries.AppendBatch(ctx, *params)
		return appendedRow{AppendBatchRow: row}, err
	}
	return appendOnce(ctx, queries, params, hashes, fingerprints)
}

// batchAppended hands the batch to the tail and answers its publishers.
func (w *writer) batchAppended(row *appendedRow, batch []*pending) {
	first := protocol.Position(row.FirstPosition)
	appended, errs := row.settle(batch)
	// A batch found by its token comes without the heads it was appended at.
	fromMemory := !row.Repeated && len(appended) > 0 && row.LastPosition-row.FirstPosition+1 == int64(len(appended))
	if fromMemory {
		own := ownBatch{after: protocol.Position(row.HeadDrained), entries: make([]protocol.Entry, len(appended))}
		for i, p := range appended {
			own.bytes += int64(p.size)
			own.entries[i] = protocol.Entry{
				Position: first + protocol.Position(i), Update: p.update, IDReused: !p.generated,
			}
		}
		fromMemory = w.offerOwn(own)
	}
	if !fromMemory {
		wake(w.tailWake)
	}
	for i, p := range batch {
		p.done <- errs[i]
	}
}

// offerOwn hands a batch to the tail; false: the tail lags and will read it.
func (w *writer) offerOwn(batch ownBatch) bool {
	if w.ownBytes.Load() > 0 && w.ownBytes.Load()+batch.bytes > maxOwnBytes {
		return false
	}
	w.ownBytes.Add(batch.bytes)
	select {
	case w.own <- batch:
		return true
	default:
		w.ownBytes.Add(-batch.bytes)
		return false
	}
}

// appendSingly finds out which update of a batch the database refuses, so that
// the others do not suffer. They share what is left of the batch's time.
func (w *writer) appendSingly(ctx context.Context, batch []*pending, reason error) {
	if len(batch) == 1 {
		w.logger.Error("the database rejected an update", "error", reason)
		answer(batch, ErrRejected)
		return
	}
	for _, p := range batch {
		w.appendBatch(ctx, []*pending{p})
	}
}

// fence settles batches whose outcome was given up: they are in the log, or
// never will be.
func (w *writer) fence(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
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
