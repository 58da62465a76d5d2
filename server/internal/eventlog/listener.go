package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cinnabar-hub/cinnabar/migrations"
)

// Channels of NOTIFY.
const (
	updatesChannel  = "mercure_updates" // the log has grown
	redactedChannel = "mercure_redactions"
	doorbellChannel = "mercure_doorbell" // the outbox is no longer empty
	probePrefix     = "mercure_probe_"   // + node: that the others are heard
)

// leaderLock is the advisory lock of the node that polls the outbox. Stealing
// it costs latency only: every node drains on its slow tick.
const leaderLockKey = `hashtextextended('mercure.leader', 0)`

// hubPathLockKey is held, shared, by every hub; see mercure.set_hub_path.
const hubPathLockKey = `hashtextextended('mercure.hub_path', 0)`

const (
	// idleCheck is how often an idle listener tries to become leader, and
	// every node checks that it hears notifications.
	idleCheck = 5 * time.Second
	// probeTimeout is how long a probe may take to come back.
	probeTimeout = 5 * time.Second
	// deafBeforeNotice is longer than the writer takes to find out that the
	// server is down.
	deafBeforeNotice = 3 * time.Second
)

// errDeaf ends a LISTEN session that does not hear what the pool sends.
var errDeaf = errors.New("notifications do not arrive; does MERCURE_DATABASE_LISTEN_URL lead straight to the server DATABASE_URL leads to?")

// runListener holds the LISTEN connection, and connects again when it breaks.
// It ends with ctx.
func (l *Log) runListener(ctx context.Context) error {
	for failures := 0; ; {
		sessionCtx, cancel := context.WithCancelCause(ctx)
		l.dropSession.Store(&cancel)
		began := time.Now()
		err := l.listen(sessionCtx)
		cause := context.Cause(sessionCtx)
		cancel(nil)
		l.inSession.Store(false)
		l.listening.Store(false)
		l.leader.Store(false)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if cause != nil {
			err = cause
		}
		if moved := new(migrations.HubPathError); errors.As(err, &moved) {
			return err
		}
		if time.Since(began) > time.Minute {
			failures = 0
		}
		failures++
		l.noteDeaf(err)
		if !sleep(ctx, backoff(failures)) {
			return ctx.Err()
		}
	}
}

// noteDeaf logs that notifications are not heard, once, unless a new connection
// is all it takes or the whole database is away, which is logged already.
func (l *Log) noteDeaf(err error) {
	now := time.Now()
	if l.deafSince.IsZero() {
		l.deafSince = now
	}
	deaf := errors.Is(err, errDeaf)
	if deaf {
		l.listenerUp() // late updates are better than none
	}
	if (deaf || now.Sub(l.deafSince) > deafBeforeNotice) && l.health.Err() == nil && l.deaf.begin(now) {
		l.logger.Warn("notifications are not heard; connecting again, updates are late until then", "error", err)
	}
}

// listen is one session: it returns when the connection breaks or ctx ends.
func (l *Log) listen(ctx context.Context) error {
	config, err := pgx.ParseConfig(l.config.ListenURL)
	if err != nil {
		return fmt.Errorf("the address for LISTEN %w", errUnreadableURL)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe // as the pool
	setDefault(config.RuntimeParams, "application_name", "cinnabar listener")
	l.primaries.fence(&config.Config)
	l.passwords.listener.apply(&config.Config)
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
	for _, channel := range []string{updatesChannel, doorbellChannel, redactedChannel, probePrefix + l.node} {
		if err := execute(ctx, conn, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
			return fmt.Errorf("listen to %s: %w", channel, err)
		}
	}
	announced, err := l.announce(ctx, conn)
	if err != nil {
		return err
	}
	l.inSession.Store(true)
	wake(l.probe)
	wake(l.tailWake) // what was notified before LISTEN went unheard
	wake(l.bell)
	for {
		if err := l.lead(ctx, conn); err != nil {
			return err
		}
		if !announced {
			if announced, err = l.announce(ctx, conn); err != nil {
				return err
			}
		}
		waitCtx, cancel := context.WithTimeout(ctx, idleCheck)
		err = waitForNotification(waitCtx, conn)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !pgconn.Timeout(err):
			return err
		}
	}
}

// execute gives a statement of the LISTEN session its own deadline: a connection
// that is dead without an error would keep it for a quarter of an hour.
func execute(ctx context.Context, conn *pgx.Conn, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := conn.Exec(ctx, sql)
	return err
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

// announce keeps others from moving the reserved namespace away from this hub,
// and checks that nobody has. The lock belongs to the session, is shared by all
// hubs, and is not waited for: where somebody holds it alone, the path cannot be
// changed either.
func (l *Log) announce(ctx context.Context, conn *pgx.Conn) (announced bool, err error) {
	if l.config.HubPath == "" {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock_shared("+hubPathLockKey+")").Scan(&announced); err != nil {
		return false, fmt.Errorf("announce the path of the hub: %w", err)
	}
	if !announced {
		return false, nil
	}
	return true, migrations.CheckHubPath(ctx, conn, l.config.HubPath)
}

func (l *Log) heard(n *pgconn.Notification) {
	switch n.Channel {
	case updatesChannel:
		// The writer hands its own batches to the tail itself.
		if n.PID != l.writerPID.Load() {
			wake(l.tailWake)
		}
	case redactedChannel:
		wake(l.redacted)
	case doorbellChannel:
		if l.leader.Load() {
			wake(l.bell)
		}
	default:
		l.heardProbe()
		select {
		case l.probeHeard <- n.Payload:
		default:
		}
	}
}

// heardProbe: only what came back proves that the session hears the server that
// the pool writes to.
func (l *Log) heardProbe() {
	if l.listening.Swap(true) {
		return
	}
	l.deafSince = time.Time{}
	if l.deaf.end() {
		l.logger.Info("notifications are heard again")
	}
	l.listenerUp()
}

// runProbe sends a notification through the pool every few seconds and ends
// the LISTEN session that does not hear it: a connection can be dead without
// an error, or lead to another server. It ends with ctx.
func (l *Log) runProbe(ctx context.Context) error {
	ticker := time.NewTicker(idleCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		case <-l.probe:
		}
		session := l.dropSession.Load()
		if !l.inSession.Load() {
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
		if err == nil && !l.hears(ctx, nonce) && ctx.Err() == nil {
			(*session)(errDeaf) // nothing, if another has begun since
		}
	}
}

// hears waits for a nonce. It does not for a session that has begun since, which
// gets a probe of its own.
func (l *Log) hears(ctx context.Context, nonce string) bool {
	deadline := time.NewTimer(probeTimeout)
	defer deadline.Stop()
	for {
		select {
		case heard := <-l.probeHeard:
			if heard == nonce {
				return true
			}
		case <-l.probe:
			wake(l.probe)
			return true
		case <-deadline.C:
			return false
		case <-ctx.Done():
			return true
		}
	}
}
