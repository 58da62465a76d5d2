// Package eventlog is the log of the hub: the append-only table
// mercure.updates in PostgreSQL. It is the only package that talks to the
// database.
//
// Promises:
//   - One order. Every reader on every node, live or replaying, sees the same
//     sequence. Positions are given under a lock that is held until COMMIT, so
//     nothing ever appears behind a reader's cursor.
//   - Append returns after its update is durable. What it reports as failed is
//     not in the log, except under ErrOutcomeUnknown, where it is there once or
//     not at all.
//   - Rows that applications commit to mercure.outbox enter the log in the
//     order of their insertion, without any lock or wait in the application's
//     transaction.
//   - A notification is only a hint. Readers read what lies behind their
//     cursor; when every notification is lost they do so once a second.
//
// Who does what: the writer (writer.go) is the one goroutine that appends, and
// moves the outbox into the log; whatever is published while one of its
// commits is in flight is its next batch. The listener (listener.go) holds the
// LISTEN connection. The tail (tail.go) is the one goroutine that reads on from
// the cursor and hands updates to the Sink, in order. Retention (retention.go)
// removes what is not to be kept.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/migrations"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Sink receives the log as it grows. Its methods are called by one goroutine
// and must not wait for a subscriber.
type Sink interface {
	// Start is called once, before anything else, with the newest updates, in
	// order, and the position they end at.
	Start(recent []protocol.Entry, head protocol.Position)
	// Deliver hands over the next updates, in order and without a gap.
	Deliver(entries []protocol.Entry)
	// Restart says that the order from the last update to the next one is not
	// known any more: retention overtook this node, or the log went backwards
	// when the database failed over. The log goes on after head.
	Restart(recent []protocol.Entry, head protocol.Position)
	// Redact says that the contents of updates are gone, and must not be kept.
	Redact(positions []protocol.Position)
}

// Config says where the log is and what it may use.
type Config struct {
	// DatabaseURL is used by a pool of connections; a transaction pooler may
	// stand in between.
	DatabaseURL string
	// ListenURL leads straight to the server; empty means DatabaseURL.
	ListenURL string
	// HubPath is the path whose namespace the database must reserve; empty: not
	// checked.
	HubPath string
	// Hub is what relative URL patterns of policies are resolved against; nil
	// means localhost.
	Hub *protocol.HubURL
	// Retention says what is kept.
	Retention Retention
	// MaxConnections bounds the pool; zero means 12. Readers of history never
	// take the last five: three may wait for the append lock at a time, and a
	// node that cannot renew its lease meanwhile would be given up.
	MaxConnections int32
	// QueueBytes bounds what waits for a commit; zero means 64 MiB. Appends
	// beyond it fail with ErrOverloaded.
	QueueBytes int
	// RecentBytes is how much of the end of the log Sink.Start gets.
	RecentBytes int64
	Logger      *slog.Logger
}

// Limits of one batch and one page. A page is what one round trip may bring
// into memory; a chunk is how long an outbox full of rows may hold the lock.
const (
	maxBatchRows  = 1000
	maxBatchBytes = 8 << 20
	maxPageRows   = 1000
	maxPageBytes  = 1 << 20
	// maxStreamPageBytes is the same for pages that a subscriber reads. There is
	// one in memory for each that is slow.
	maxStreamPageBytes = 256 << 10
	maxChunkRows       = 5000
	// maxTopicSpan is how many positions a page by topics may look through.
	maxTopicSpan = 250_000
	// maxOwnBytes bounds what waits to be delivered from memory.
	maxOwnBytes  = 64 << 20
	maxForgotten = 10_000
	// maxFinds is how many connections may look for cursors.
	maxFinds   = 2
	maxIDBytes = 4096
)

// Deadlines. Each is for the worst case of a server that is alive: a batch
// behind a full chunk of the outbox takes a fraction of a second.
const (
	// appendTimeout is how long a publisher waits at most for an answer.
	appendTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	// findTimeout is what a client waits for its cursor to be found, the wait
	// for a connection included.
	findTimeout  = 5 * time.Second
	drainTimeout = 15 * time.Second
)

// Log is a handle on the log of one database. Safe for concurrent use.
type Log struct {
	config  Config
	logger  *slog.Logger
	pool    *pgxpool.Pool
	queries *db.Queries
	named   bool        // statements may have names
	steady  *db.Queries // see prepared
	node    string      // random, names this process's channel

	primaries *timelines
	passwords passwords

	health  health
	reads   chan struct{} // counts readers of pages, see Config.MaxConnections
	pages   sharedPages
	lookups lookups

	policies atomic.Pointer[policySet]

	queue queue

	// Wake-ups have capacity one, are sent without blocking, and never closed.
	bell      chan struct{} // to the writer: an application rang
	tailWake  chan struct{} // to the tail: the log may have grown
	backwards chan struct{} // to the tail: the log ends before what was delivered
	redacted  chan struct{} // to the tail: updates were redacted
	// to retention: the policies are not those that were read
	policiesChanged chan struct{}
	own             chan ownBatch // to the tail: what this node appended, from memory
	ownBytes        atomic.Int64  // in own

	leader      atomic.Bool
	inSession   atomic.Bool  // LISTEN was sent
	listening   atomic.Bool  // and what the pool notifies is heard
	deaf        notice       // of the listener's goroutine, as is
	deafSince   time.Time    // when a session broke, and zero once one hears
	listenerUp  func()       // the part of Started that is the listener's
	delivered   atomic.Int64 // position the sink has got
	started     chan struct{}
	starting    atomic.Int32 // parts that Started waits for
	writerPID   atomic.Uint32
	probe       chan struct{} // to the probe: a session has begun
	probeHeard  chan string   // the nonces that came back through LISTEN
	dropSession atomic.Pointer[context.CancelCauseFunc]
}

// Open connects to the database and checks that its schema fits. It waits for
// nothing: an unreachable database is an error.
func Open(ctx context.Context, config Config) (*Log, error) {
	if config.ListenURL == "" {
		config.ListenURL = config.DatabaseURL
	}
	if config.MaxConnections == 0 {
		config.MaxConnections = 12
	}
	if config.QueueBytes == 0 {
		config.QueueBytes = 64 << 20
	}
	config.Retention.setDefaults()
	if config.Hub == nil {
		hub, err := protocol.ParseHubURL("http://localhost/.well-known/mercure")
		if err != nil {
			return nil, err
		}
		config.Hub = hub
	}
	poolConfig, err := pgxpool.ParseConfig(config.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("the address of the database %w", errUnreadableURL)
	}
	poolConfig.MaxConns = config.MaxConnections
	poolConfig.MinConns = 1
	if poolConfig.ConnConfig.ConnectTimeout == 0 {
		poolConfig.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	// Unnamed statements survive a transaction pooler, and are planned for
	// their arguments each time: a generic plan for PageAfterByTopics would
	// scan the log for a rare topic. See prepared for the exceptions.
	poolConfig.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	setDefault(poolConfig.ConnConfig.RuntimeParams, "application_name", "cinnabar")
	primaries := new(timelines)
	primaries.fence(&poolConfig.ConnConfig.Config)
	l := &Log{
		config:          config,
		logger:          config.Logger,
		primaries:       primaries,
		node:            uuid.NewString(),
		reads:           make(chan struct{}, max(1, config.MaxConnections-5-maxLookups)),
		lookups:         lookups{slots: make(chan struct{}, maxLookups)},
		bell:            make(chan struct{}, 1),
		tailWake:        make(chan struct{}, 1),
		backwards:       make(chan struct{}, 1),
		redacted:        make(chan struct{}, 1),
		policiesChanged: make(chan struct{}, 1),
		own:             make(chan ownBatch, 64),
		started:         make(chan struct{}),
		probe:           make(chan struct{}, 1),
		probeHeard:      make(chan string, 1),
	}
	poolConfig.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
		l.passwords.pool.apply(&c.Config)
		return nil
	}
	if l.pool, err = pgxpool.NewWithConfig(ctx, poolConfig); err != nil {
		return nil, fmt.Errorf("open the connection pool: %w", err)
	}
	l.named = config.ListenURL == config.DatabaseURL && poolConfig.ConnConfig.StatementCacheCapacity > 0
	l.queries, l.steady = db.New(l.pool), l.prepared(l.pool)
	l.listenerUp = sync.OnceFunc(l.partStarted)
	l.starting.Store(3)
	l.policies.Store(new(policySet))
	l.health.logger = config.Logger
	l.queue.maxBytes = config.QueueBytes
	l.queue.wake = make(chan struct{}, 1)
	if err := l.check(ctx); err != nil {
		l.pool.Close()
		return nil, err
	}
	return l, nil
}

func (l *Log) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := l.pool.Ping(ctx); err != nil {
		return fmt.Errorf("connect to PostgreSQL at %s: %w", Address(l.config.DatabaseURL), err)
	}
	if l.config.ListenURL != l.config.DatabaseURL {
		conn, err := pgx.Connect(ctx, l.config.ListenURL)
		if err != nil {
			return fmt.Errorf("connect for LISTEN to PostgreSQL at %s: %w", Address(l.config.ListenURL), err)
		}
		same, err := l.sameDatabase(ctx, conn)
		if err = errors.Join(err, conn.Close(ctx)); err != nil {
			return fmt.Errorf("check the connection for LISTEN: %w", err)
		}
		if !same {
			return errors.New("MERCURE_DATABASE_LISTEN_URL and DATABASE_URL lead to different databases; they must lead to the same one")
		}
	}
	if err := migrations.Check(ctx, l.pool); err != nil || l.config.HubPath == "" {
		return err
	}
	return migrations.CheckHubPath(ctx, l.pool, l.config.HubPath)
}

// sameDatabase compares where a connection leads with where the pool does.
func (l *Log) sameDatabase(ctx context.Context, conn *pgx.Conn) (bool, error) {
	const query = "SELECT current_database(), pg_postmaster_start_time()"
	var (
		names  [2]string
		starts [2]time.Time
	)
	err := errors.Join(
		l.pool.QueryRow(ctx, query).Scan(&names[0], &starts[0]),
		conn.QueryRow(ctx, query).Scan(&names[1], &starts[1]),
	)
	return names[0] == names[1] && starts[0].Equal(starts[1]), err
}

// Run keeps the log going until ctx ends, and returns when all of its
// goroutines have. Failures of the database are not errors of Run: it tries
// again until they pass. A *migrations.HubPathError is one: somebody has moved
// the reserved namespace while this hub was away. Appends that were accepted are finished first.
func (l *Log) Run(ctx context.Context, sink Sink) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.runTail(ctx, sink) })
	group.Go(func() error { return l.runListener(ctx) })
	group.Go(func() error { return l.runProbe(ctx) })
	group.Go(func() error { return l.runWriter(ctx) })
	group.Go(func() error { return l.runHousekeeping(ctx) })
	group.Go(func() error { return l.runRetention(ctx) })
	err := group.Wait()
	l.queue.close()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// Close gives the connections back. Call it after Run returned and the last
// reader is done.
func (l *Log) Close() { l.pool.Close() }

// Started is closed when the sink has been started and notifications are heard,
// or were found not to be, which Ready tells.
func (l *Log) Started() <-chan struct{} { return l.started }

// partStarted is called once by each part that Started waits for.
func (l *Log) partStarted() {
	if l.starting.Add(-1) == 0 {
		close(l.started)
	}
}

// Ready returns nil if updates can be appended and are heard of without delay,
// else ErrStarting, ErrUnavailable or ErrNotListening.
func (l *Log) Ready() error {
	select {
	case <-l.started:
	default:
		return ErrStarting
	}
	if err := l.health.Err(); err != nil {
		return errors.Join(ErrUnavailable, err)
	}
	if !l.listening.Load() {
		return ErrNotListening
	}
	return nil
}

// runHousekeeping forgets the tokens of batches nobody waits for, the keys of
// publishes that are too old to be repeated, and refused rows nobody dealt with.
func (l *Log) runHousekeeping(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		l.forgetOld(ctx)
	}
}

func (l *Log) forgetOld(ctx context.Context) {
	l.forget(ctx, "batch tokens", func(ctx context.Context) (int64, error) {
		return l.queries.ForgetBatches(ctx, interval(time.Hour), maxForgotten)
	})
	l.forget(ctx, "idempotency keys", func(ctx context.Context) (int64, error) {
		return l.queries.ForgetPublishKeys(ctx, maxForgotten)
	})
	refused := l.forget(ctx, "refused updates", func(ctx context.Context) (int64, error) {
		return l.queries.ForgetRejected(ctx, maxForgotten)
	})
	if refused > 0 {
		l.logger.Warn("updates that the log had refused were forgotten: nobody has taken them out of the table mercure.rejected", "count", refused)
	}
}

// forget deletes old rows, maxForgotten at a time, and returns how many.
func (l *Log) forget(ctx context.Context, what string, some func(context.Context) (int64, error)) (total int64) {
	for forgotten := int64(maxForgotten); forgotten == maxForgotten; {
		callCtx, cancel := context.WithTimeout(ctx, drainTimeout)
		var err error
		forgotten, err = some(callCtx)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				l.logger.Warn("old rows could not be deleted; trying again later", "of", what, "error", err)
			}
			return total
		}
		total += forgotten
	}
	return total
}

var errUnreadableURL = errors.New("is not a PostgreSQL connection string such as postgres://app@localhost/app; special characters in the password must be percent-encoded")

// CheckURL returns what is wrong with a connection string, without connecting.
func CheckURL(databaseURL string) error {
	if _, err := pgx.ParseConfig(databaseURL); err != nil {
		return errUnreadableURL // pgx's own error may repeat the password
	}
	return nil
}

// Address is the part of a connection string that may be shown: never its
// password.
func Address(databaseURL string) string {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return "(unreadable address)"
	}
	return (&url.URL{Host: fmt.Sprintf("%s:%d", config.Host, config.Port), Path: config.Database}).String()[2:]
}

func setDefault(params map[string]string, name, value string) {
	if _, ok := params[name]; !ok {
		params[name] = value
	}
}

// wake sends to a channel of capacity one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
