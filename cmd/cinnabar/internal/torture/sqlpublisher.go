package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// statementTimeout bounds every statement of ours. Only a server that is
	// gone takes that long.
	statementTimeout = 15 * time.Second
	// resolveTimeout bounds finding out what became of a commit.
	resolveTimeout = 30 * time.Second
)

// sqlPublisher publishes from transactions, one after the other.
type sqlPublisher struct {
	*run
	random *rand.Rand
	conn   *pgx.Conn // nil: to be opened
}

func newSQLPublisher(r *run, index int) *sqlPublisher {
	return &sqlPublisher{run: r, random: r.random(200 + index)}
}

// publish goes on until stop is closed, the ledger is full, or ctx ends.
func (p *sqlPublisher) publish(ctx context.Context, stop <-chan struct{}) error {
	defer p.disconnect(ctx)
	for !isClosed(stop) && ctx.Err() == nil {
		if !p.connect(ctx) {
			sleepUntil(stop, afterFailure)
			continue
		}
		t := newTransaction(p.random, p.database.twoPhase)
		first, ok := p.ledger.open(t.rows...)
		if !ok {
			return nil
		}
		outcome := p.execute(ctx, stop, t, first)
		for _, s := range t.statements {
			if s.undone {
				p.ledger.settle(first+number(s.from), s.count, rolledBack)
			}
		}
		p.ledger.settle(first, len(t.rows), outcome)
		sleepUntil(stop, time.Duration(p.random.Int64N(int64(30*time.Millisecond))))
	}
	return nil
}

// connect makes sure that there is a connection, if it can.
func (p *sqlPublisher) connect(ctx context.Context) bool {
	if p.conn != nil && !p.conn.IsClosed() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.database.url)
	if err != nil {
		return false
	}
	p.conn = conn
	return true
}

func (p *sqlPublisher) disconnect(ctx context.Context) {
	if p.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = p.conn.Close(ctx)
}

// exec runs one statement.
func (p *sqlPublisher) exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return p.conn.Exec(ctx, sql, args...)
}

// ending is how a transaction ends.
type ending int

const (
	commit ending = iota
	rollback
	prepareCommit
	prepareRollback
	// autocommit: there is no transaction but the statement's own.
	autocommit
)

// way is how a statement publishes.
type way int

const (
	intoOutbox way = iota
	intoUpdates
	byFunction
	byCopy
	ways
)

// statement publishes some rows of a transaction, all of the same topics.
type statement struct {
	way         way
	from, count int
	pause       time.Duration // after it
	// undone: it is within a savepoint that is rolled back.
	undone bool
}

// transaction is one to execute.
type transaction struct {
	begin      string
	statements []statement
	rows       []row
	ending     ending
}

// newTransaction makes up one of the kinds that applications have.
func newTransaction(random *rand.Rand, twoPhase bool) transaction {
	t := transaction{begin: "BEGIN"}
	switch r := random.IntN(100); {
	case r < 25:
		t.ending = autocommit
	case r < 40:
		t.ending = rollback
	case r < 55 && twoPhase:
		t.ending = prepareCommit
	case r < 62 && twoPhase:
		t.ending = prepareRollback
	}
	switch random.IntN(6) {
	case 0:
		t.begin = "BEGIN ISOLATION LEVEL SERIALIZABLE"
	case 1:
		t.begin = "BEGIN ISOLATION LEVEL REPEATABLE READ"
	}
	statements := 1
	if t.ending != autocommit {
		statements += random.IntN(5)
	}
	for range statements {
		t.add(random)
	}
	if random.IntN(60) == 0 { // a long one
		t.statements[statements-1].pause = time.Duration(1+random.IntN(4000)) * time.Millisecond
	}
	return t
}

func (t *transaction) add(random *rand.Rand) {
	s := statement{way: way(random.IntN(int(ways))), from: len(t.rows), count: 1}
	if s.way != byFunction && random.IntN(3) == 0 {
		s.count += random.IntN(10)
	}
	s.undone = t.ending != autocommit && random.IntN(8) == 0
	if random.IntN(3) == 0 {
		s.pause = time.Duration(random.IntN(60)) * time.Millisecond
	}
	r := randomRow(random)
	for range s.count {
		t.rows = append(t.rows, r)
	}
	t.statements = append(t.statements, s)
}

// execute runs a transaction and returns what became of it.
func (p *sqlPublisher) execute(ctx context.Context, stop <-chan struct{}, t transaction, first number) state {
	if t.ending == autocommit && t.statements[0].way == byFunction {
		return p.publishOnce(ctx, stop, t.rows[0], first)
	}
	if t.ending == autocommit {
		return p.outcomeOfStatement(p.insert(ctx, t.statements[0], t.rows, first))
	}
	if _, err := p.exec(ctx, t.begin); err != nil {
		return rolledBack
	}
	for _, s := range t.statements {
		if err := p.runStatement(ctx, s, t.rows, first); err != nil {
			p.abandon(ctx)
			return rolledBack
		}
		if s.pause > 0 {
			sleepUntil(stop, s.pause)
		}
	}
	if t.ending == rollback {
		p.abandon(ctx)
		return rolledBack
	}
	return p.finish(ctx, t.ending, first)
}

// publishOnce calls mercure.publish with a key, and again as long as it is not
// known whether that was committed.
func (p *sqlPublisher) publishOnce(ctx context.Context, stop <-chan struct{}, r row, first number) state {
	data, key := payload(first, randomSize(p.random)), strconv.FormatUint(uint64(first), 10)
	p.ledger.begin(first, 1)
	for outcome := rolledBack; ; {
		_, err := p.exec(ctx, "SELECT mercure.publish($1::text[], $2, $3, idempotency_key => $4)", topicSets[r.topics], data, r.private, key)
		switch p.outcomeOfStatement(err) {
		case acknowledged:
			return acknowledged
		case unknown:
			outcome = unknown
		}
		if outcome == rolledBack || !p.reconnect(ctx, stop) {
			return outcome
		}
	}
}

// reconnect waits for a connection; false: it is time to stop.
func (p *sqlPublisher) reconnect(ctx context.Context, stop <-chan struct{}) bool {
	for !isClosed(stop) && ctx.Err() == nil {
		sleepUntil(stop, afterFailure)
		if p.connect(ctx) {
			return true
		}
	}
	return false
}

// runStatement runs a statement, within a savepoint if it is to be undone.
func (p *sqlPublisher) runStatement(ctx context.Context, s statement, rows []row, first number) error {
	if !s.undone {
		return p.insert(ctx, s, rows, first)
	}
	_, err := p.exec(ctx, "SAVEPOINT s")
	if err == nil {
		err = p.insert(ctx, s, rows, first)
	}
	if err == nil {
		_, err = p.exec(ctx, "ROLLBACK TO SAVEPOINT s")
	}
	return err
}

func (p *sqlPublisher) insert(ctx context.Context, s statement, rows []row, first number) error {
	topics, private := topicSets[rows[s.from].topics], rows[s.from].private
	first += number(s.from)
	data := make([]string, s.count)
	for i := range data {
		data[i] = payload(first+number(i), randomSize(p.random))
	}
	p.ledger.begin(first, s.count)
	const columns = " (topics, data, private) SELECT $1, d, $3 FROM unnest($2::text[]) WITH ORDINALITY AS t (d, i) ORDER BY i"
	var err error
	switch s.way {
	case byFunction:
		_, err = p.exec(ctx, "SELECT mercure.publish($1::text[], $2, $3)", topics, data[0], private)
	case intoUpdates:
		_, err = p.exec(ctx, "INSERT INTO mercure.updates"+columns, topics, data, private)
	case byCopy:
		err = p.copyIn(ctx, topics, data, private)
	default:
		_, err = p.exec(ctx, "INSERT INTO mercure.outbox"+columns, topics, data, private)
	}
	return err
}

func (p *sqlPublisher) copyIn(ctx context.Context, topics, data []string, private bool) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	_, err := p.conn.CopyFrom(ctx, pgx.Identifier{"mercure", "outbox"}, []string{"topics", "data", "private"},
		pgx.CopyFromSlice(len(data), func(i int) ([]any, error) { return []any{topics, data[i], private}, nil }))
	return err
}

// outcomeOfStatement is that of one without a transaction around it.
func (p *sqlPublisher) outcomeOfStatement(err error) state {
	switch {
	case err == nil:
		return acknowledged
	case wasRefused(err) || pgconn.SafeToRetry(err):
		return rolledBack
	}
	return unknown
}

// wasRefused says that the server is alive and has rolled back.
func wasRefused(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.SeverityUnlocalized == "ERROR"
}

// abandon rolls back, by whatever means.
func (p *sqlPublisher) abandon(ctx context.Context) {
	if _, err := p.exec(ctx, "ROLLBACK"); err != nil {
		p.disconnect(ctx) // which rolls back as well
	}
}

// finish ends a transaction that is to be committed, or prepared first. When
// the connection breaks meanwhile, it asks the server what became of it.
func (p *sqlPublisher) finish(ctx context.Context, e ending, first number) state {
	if _, err := p.exec(ctx, "INSERT INTO torture_transactions (first) VALUES ($1)", int64(first)); err != nil {
		p.abandon(ctx)
		return rolledBack
	}
	statement, gid := "COMMIT", ""
	if e != commit {
		gid = fmt.Sprintf("%s_%d", p.database.name, first)
		statement = "PREPARE TRANSACTION " + quote(gid)
	}
	tag, err := p.exec(ctx, statement)
	switch {
	case err == nil && tag.String() == "COMMIT":
		return acknowledged
	case wasRefused(err) || err == nil && e == commit:
		p.abandon(ctx)
		return rolledBack
	}
	// After an error of PREPARE nobody is to commit it.
	return p.resolve(ctx, first, gid, err == nil && e == prepareCommit)
}

// resolve finds out what became of a transaction, and ends one that is
// prepared. It asks until there is an answer.
func (p *sqlPublisher) resolve(ctx context.Context, first number, gid string, commit bool) state {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	for {
		if p.connect(ctx) {
			if outcome, known := p.ask(ctx, first, gid, commit); known {
				return outcome
			}
		}
		if !sleep(ctx, afterFailure/2) {
			return unknown
		}
	}
}

// ask goes by the row that every transaction leaves in a table of ours.
// pg_xact_status would not do: after a crash another transaction may have got
// the number of one that had not reached the disk.
func (p *sqlPublisher) ask(ctx context.Context, first number, gid string, commit bool) (outcome state, known bool) {
	if gid != "" {
		verb := "ROLLBACK"
		if commit {
			verb = "COMMIT"
		}
		// It fails if there is none of that name, any more or yet.
		_, err := p.exec(ctx, verb+" PREPARED "+quote(gid))
		if err != nil && !wasRefused(err) {
			return unknown, false
		}
	}
	// It waits for one that is in progress, but not for one that has been
	// prepared meanwhile. What it inserts itself tells that there is none.
	if _, err := p.exec(ctx, "SET lock_timeout = '1s'"); err != nil {
		return unknown, false
	}
	tag, err := p.exec(ctx, "INSERT INTO torture_transactions (first) VALUES ($1) ON CONFLICT DO NOTHING", int64(first))
	if err != nil {
		return unknown, false
	}
	if _, err := p.exec(ctx, "RESET lock_timeout"); err != nil {
		p.disconnect(ctx)
	}
	if tag.RowsAffected() > 0 {
		return rolledBack, true
	}
	return acknowledged, true
}
