package torture

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// setStart publishes the first update of all.
func (r *run) setStart(ctx context.Context) error {
	marks, err := r.mark(ctx, func(number) {})
	if err != nil {
		return err
	}
	r.start = marks[len(marks)-1]
	r.startID, _, err = r.inLog(ctx, r.start)
	return err
}

// mark publishes updates that every subscriber gets, until one is acknowledged.
// It returns all of them; announce is called before each.
func (r *run) mark(ctx context.Context, announce func(number)) (marks []number, err error) {
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	p := newHTTPPublisher(r, -1)
	defer p.client.CloseIdleConnections()
	for p.at = 0; ; p.at++ {
		n := r.ledger.openMark()
		announce(n)
		request := p.request(n)
		r.ledger.begin(n, 1)
		outcome := p.post(ctx, request, answerTimeout)
		r.ledger.settle(n, 1, outcome)
		marks = append(marks, n)
		if outcome == acknowledged {
			return marks, nil
		}
		if !sleep(ctx, afterFailure) {
			return nil, fmt.Errorf("nothing could be published for %s", settlePatience)
		}
	}
}

// connect opens a connection for one question.
func (r *run) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	return pgx.Connect(ctx, r.database.url)
}

// prepareDatabase makes the table in which transactions leave that they were
// committed, and spoils the schema if that was asked for.
func (r *run) prepareDatabase(ctx context.Context) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, "CREATE TABLE torture_transactions (first bigint PRIMARY KEY); "+r.config.Sabotage)
	return err
}

// inLog returns id and position of an update; empty and 0 if it is not there.
func (r *run) inLog(ctx context.Context, n number) (id string, position int64, err error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = conn.Close(ctx) }()
	err = conn.QueryRow(ctx, "SELECT id, position FROM mercure.updates WHERE starts_with(data, $1) ORDER BY position LIMIT 1",
		strconv.FormatUint(uint64(n), 10)+" ").Scan(&id, &position)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return id, position, err
}

// awaitEmptyOutbox waits until the nodes have moved everything into the log.
func (r *run) awaitEmptyOutbox(ctx context.Context) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for waited := r.elapsed(); ; {
		var waiting, rejected int
		err := conn.QueryRow(ctx, "SELECT (SELECT count(*) FROM mercure.outbox), (SELECT count(*) FROM mercure.rejected)").Scan(&waiting, &rejected)
		if err != nil {
			return err
		}
		if waiting == 0 {
			if rejected > 0 {
				r.problem("mercure.rejected has %d rows", rejected)
			}
			return nil
		}
		if r.elapsed()-waited > settlePatience {
			r.problem("mercure.outbox still has %d rows %s after the last publish", waiting, settlePatience)
			return nil
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// check reads the log, replays it on every node, and compares.
func (r *run) check(ctx context.Context, marks []number) (*Report, error) {
	replays := r.replay(ctx, marks[len(marks)-1])
	order, err := r.readLog(ctx)
	if err != nil {
		return nil, err
	}
	var sequences []sequence
	for _, s := range append(r.subscribers, replays...) {
		sequences = append(sequences, s.sequence())
	}
	v := check(r.ledger, order, r.start, marks, sequences)
	for i := range v.violations {
		found := &v.violations[i]
		if found.ID, found.Position, err = r.inLog(ctx, found.Number); err != nil {
			return nil, err
		}
	}
	report := &Report{
		Seed: r.config.Seed, Nodes: len(r.nodes), Duration: r.config.Duration,
		Acknowledged: r.ledger.acknowledged.Load(), Delivered: r.delivered.Load(),
		Recoveries: r.recoveries.summary(), Command: r.command(),
	}
	report.take(v)
	return report, ctx.Err()
}

// replay reads everything from the beginning, on every node at once.
func (r *run) replay(ctx context.Context, last number) []*subscriber {
	ctx, cancel := context.WithTimeout(ctx, settlePatience+r.config.Duration)
	defer cancel()
	var (
		group sync.WaitGroup
		list  []*subscriber
	)
	for i := range r.nodes {
		s := newSubscriber(r, fmt.Sprintf("replay on node %d", i), audiences[0], atEarliest, 600+i)
		s.pinned = i
		s.until.Store(int64(last))
		list = append(list, s)
		group.Go(func() { s.follow(ctx) })
	}
	group.Wait()
	return list
}

// readLog returns the numbers in the order of the log.
func (r *run) readLog(ctx context.Context) ([]number, error) {
	conn, err := r.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, "SELECT split_part(left(data, 20), ' ', 1)::bigint FROM mercure.updates ORDER BY position")
	if err != nil {
		return nil, err
	}
	var (
		order []number
		n     int64
	)
	_, err = pgx.ForEachRow(rows, []any{&n}, func() error {
		order = append(order, number(n))
		return nil
	})
	return order, err
}

// command is what runs the same plan again.
func (r *run) command() string {
	names := make([]string, 0, len(r.config.Faults))
	for _, f := range r.config.Faults {
		names = append(names, string(f))
	}
	faults := strings.Join(names, ",")
	if faults == "" {
		faults = "none"
	}
	command := fmt.Sprintf("cinnabar torture --seed %d --nodes %d --duration %s --publishers %d --subscribers %d --faults %s",
		r.config.Seed, r.config.Nodes, r.config.Duration, r.config.Publishers, r.config.Subscribers, faults)
	if r.database.private == nil {
		command += ` --database-url "$DATABASE_URL"`
	}
	return command
}
