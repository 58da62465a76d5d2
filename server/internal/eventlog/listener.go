package eventlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Channels of NOTIFY.
const (
	updatesChannel  = "mercure_updates"  // the log has grown
	doorbellChannel = "mercure_doorbell" // the outbox is no longer empty
	probePrefix     = "mercure_probe_"   // + node: that the others are heard
)

// leaderLock is the advisory lock of the node that polls the outbox. Stealing
// it costs latency only: every node drains on its slow tick.
const leaderLockKey = `hashtextextended('mercure.leader', 0)`

const (
	// idleCheck is how often an idle listener tries to become leader, and
	// every node checks that it hears notifications.
	idleCheck = 5 * time.Second
	// probeTimeout is how long a probe may take to come back.
	probeTimeout = 5 * time.Second
)

// errDeaf ends a LISTEN session that does not hear what the pool sends.
var errDeaf = errors.New("notifications do not arrive; does MERCURE_DATABASE_LISTEN_URL lead straight to the server DATABASE_URL leads to?")

// runListener holds the LISTEN connection, and connects again when it breaks.
// It ends with ctx.
func (l *Log) runListener(ctx context.Context) error {
	started := sync.OnceFunc(l.partStarted)
	for failures := 0; ; {
		sessionCtx, cancel := context.WithCancelCause(ctx)
		l.dropSession.Store(&cancel)
		began := time.Now()
		err := l.listen(sessionCtx, func() {
			if failures > 0 {
				l.logger.Info("notifications are heard again")
			}
			started()
		})
		cause := context.Cause(sessionCtx)
		cancel(nil)
		l.listening.Store(false)
		l.leader.Store(false)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if cause != nil {
			err = cause
		}
		if time.Since(began) > time.Minute {
			failures = 0
		}
		if failures == 0 {
			l.logger.Warn("notifications are not heard; connecting again, updates are late until then", "error", err)
		}
		failures++
		if !sleep(ctx, backoff(failures)) {
			return ctx.Err()
		}
	}
}

// listen is one session: it returns when the connection breaks or ctx ends.
// It calls listening when it has begun.
func (l *Log) listen(ctx context.Context, listening func()) error {
	config, err := pgx.ParseConfig(l.config.ListenURL)
	if err != nil {
		return fmt.Errorf("the address for LISTEN %w", errUnreadableURL)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	setDefault(config.RuntimeParams, "application_name", "cinnabar listener")
	config.OnNotification = func(_ *pgconn.PgConn, n *pgconn.Notification) { l.heard(n) }
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closeCtx) // broken or ending anyway
	}()
	for _, channel := range []string{updatesChannel, doorbellChannel, probePrefix + l.node} {
		if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return fmt.Errorf("listen to %s: %w", channel, err)
		}
	}
	l.listening.Store(true)
	listening()
	wake(l.tailWake) // what was notified before LISTEN went unheard
	wake(l.bell)
	for {
		if err := l.lead(ctx, conn); err != nil {
			return err
		}
		waitCtx, cancel := context.WithTimeout(ctx, idleCheck)
		err := waitForNotification(waitCtx, conn)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !pgconn.Timeout(err):
			return err
		}
	}
}

// waitForNotification lets OnNotification handle whatever arrives until ctx
// ends or the connection breaks, and returns which.
func waitForNotification(ctx context.Context, conn *pgx.Conn) error {
	for {
		if err := conn.PgConn().WaitForNotification(ctx); err != nil {
			return err
		}
	}
}

// lead tries to become the node that polls the outbox. The lock belongs to the
// session: it ends with the connection, however that ends.
func (l *Log) lead(ctx context.Context, conn *pgx.Conn) error {
	if l.leader.Load() {
		return nil
	}
	callCtx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var leading bool
	if err := conn.QueryRow(callCtx, "SELECT pg_try_advisory_lock("+leaderLockKey+")").Scan(&leading); err != nil {
		return fmt.Errorf("ask for leadership: %w", err)
	}
	if leading {
		l.leader.Store(true)
		wake(l.bell)
	}
	return nil
}

func (l *Log) heard(n *pgconn.Notification) {
	switch n.Channel {
	case updatesChannel:
		// The writer hands its own batches to the tail itself.
		if n.PID != l.writerPID.Load() {
			wake(l.tailWake)
		}
	case doorbellChannel:
		if l.leader.Load() {
			wake(l.bell)
		}
	default:
		select {
		case l.probeHeard <- n.Payload:
		default:
		}
	}
}

// runProbe sends a notification through the pool every few seconds and ends
// the LISTEN session that does not hear it: a connection can be dead without
// an error, or lead to another server. It ends with ctx.
func (l *Log) runProbe(ctx context.Context) error {
	for sleep(ctx, idleCheck) {
		if !l.listening.Load() {
			continue
		}
		select { // forget an answer that came too late
		case <-l.probeHeard:
		default:
		}
		nonce := uuid.NewString()
		callCtx, cancel := context.WithTimeout(ctx, probeTimeout)
		_, err := l.pool.Exec(callCtx, "SELECT pg_notify($1, $2)", probePrefix+l.node, nonce)
		cancel()
		if err == nil && !l.hears(ctx, nonce) && l.listening.Load() && ctx.Err() == nil {
			(*l.dropSession.Load())(errDeaf)
		}
	}
	return ctx.Err()
}

func (l *Log) hears(ctx context.Context, nonce string) bool {
	deadline := time.NewTimer(probeTimeout)
	defer deadline.Stop()
	for {
		select {
		case heard := <-l.probeHeard:
			if heard == nonce {
				return true
			}
		case <-deadline.C:
			return false
		case <-ctx.Done():
			return true
		}
	}
}
