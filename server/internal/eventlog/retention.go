package eventlog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/cinnabar-hub/cinnabar/db"
)

// Retention says what the log keeps of what no policy governs; zero is no limit.
// The rules are in migrations/00011_retention.sql. Every node of a cluster needs
// the same.
type Retention struct {
	MaxAge     time.Duration
	MaxUpdates int64
	MaxBytes   int64
	// Interval is how often updates are removed; zero means 10 s.
	Interval time.Duration
	// MinAge keeps what is younger, whatever the limits say; zero means 60 s, so
	// that a node that lags finds what it has not delivered.
	MinAge time.Duration
}

const (
	defaultRetentionInterval = 10 * time.Second
	defaultMinAge            = time.Minute
	// maxRemovedRows bounds how long one transaction of retention takes.
	maxRemovedRows = 2000
	// failuresBeforeNotice: a connection that breaks is no news.
	failuresBeforeNotice = 3
)

func (r *Retention) setDefaults() {
	if r.Interval == 0 {
		r.Interval = defaultRetentionInterval
	}
	if r.MinAge == 0 {
		r.MinAge = defaultMinAge
	}
}

func (r *Retention) unlimited() bool {
	return r.MaxAge == 0 && r.MaxUpdates == 0 && r.MaxBytes == 0
}

// retention is the state of the goroutine that removes updates. Owned by it.
type retention struct {
	*Log
	failures int // of sweeps in a row
}

// runRetention ends with ctx. Every node knows the policies; the leader applies
// them. Should there be two for a moment, they take turns.
func (l *Log) runRetention(ctx context.Context) error {
	r := &retention{Log: l}
	for failures := 1; ; failures++ {
		err := l.loadPolicies(ctx)
		if err == nil {
			break
		}
		if !sleep(ctx, backoff(failures)) {
			return ctx.Err()
		}
	}
	l.partStarted()
	timer := time.NewTimer(r.untilNextSweep())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.policiesChanged: // again at the next look, if it fails
			r.note(ctx, l.loadPolicies(ctx))
		case <-timer.C:
		}
		if l.leader.Load() {
			r.note(ctx, r.sweep(ctx))
		}
		timer.Reset(r.untilNextSweep())
	}
}

func (r *retention) untilNextSweep() time.Duration {
	interval := r.config.Retention.Interval
	return interval - time.Duration(rand.Int64N(int64(interval/5)+1))
}

// note logs that the work goes on failing, once, unless the whole database is away,
// which is logged already. What was not done is done by a later sweep.
func (r *retention) note(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err == nil:
		r.failures = 0
	case r.health.Err() == nil:
		if r.failures++; r.failures == failuresBeforeNotice {
			r.logger.Warn("removing old updates fails; trying again", "error", err)
		}
	}
}

// sweep removes what is not to be kept, in steps.
func (r *retention) sweep(ctx context.Context) error {
	if err := r.classify(ctx, endOfLog); err != nil {
		return err
	}
	if len(r.policies.Load().policies) > 0 {
		if err := r.inSteps(ctx, r.applyPolicies); err != nil {
			return err
		}
	}
	if r.config.Retention.unlimited() {
		return nil
	}
	return r.inSteps(ctx, r.retain)
}

// inSteps pauses after each step for three times as long as it took: publishers
// need the processor and the disk, too.
func (r *retention) inSteps(ctx context.Context, step func(context.Context) (more bool, err error)) error {
	for {
		began := time.Now()
		callCtx, cancel := context.WithTimeout(ctx, drainTimeout)
		more, err := step(callCtx)
		cancel()
		if err != nil || !more {
			return err
		}
		if !sleep(ctx, 3*time.Since(began)) {
			return ctx.Err()
		}
	}
}

func (r *retention) applyPolicies(ctx context.Context) (more bool, err error) {
	row, err := r.queries.ApplyPolicies(ctx, interval(r.config.Retention.MinAge), maxRemovedRows)
	if err != nil {
		return false, fmt.Errorf("apply the policies: %w", err)
	}
	return row.More, nil
}

func (r *retention) retain(ctx context.Context) (more bool, err error) {
	limits := &r.config.Retention
	params := db.RetainParams{MinAge: interval(limits.MinAge), MaxRows: maxRemovedRows}
	if limits.MaxAge > 0 {
		params.MaxAge = interval(limits.MaxAge)
	} else {
		params.MaxAge = pgtype.Interval{}
	}
	if limits.MaxUpdates > 0 {
		params.MaxUpdates = &limits.MaxUpdates
	}
	if limits.MaxBytes > 0 {
		params.MaxBytes = &limits.MaxBytes
	}
	row, err := r.queries.Retain(ctx, params)
	if err != nil {
		return false, fmt.Errorf("remove the oldest updates: %w", err)
	}
	return row.More, nil
}

// Compacts says whether who begins at the beginning gets something else than who
// resumes from somewhere: what policies keep, and of some topics only what is
// current.
func (l *Log) Compacts() bool { return len(l.policies.Load().policies) > 0 }
