package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/hubproc"
	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/terminal"
)

// Config says what to run.
type Config struct {
	// DatabaseURL is the address of a server; empty: a private one.
	DatabaseURL string
	Nodes       int
	Duration    time.Duration
	Seed        uint64
	// Publishers over HTTP and from SQL together.
	Publishers, Subscribers int
	Faults                  []Fault
	// Program is what a node runs, with the argument serve; Environ is where
	// its environment comes from.
	Program string
	Environ []string
	// Sabotage is run in the database before anything is published, to see the
	// checks fail. For tests.
	Sabotage string
	// Log is where to say what is going on. Terminal: it can rewrite a line.
	Log      io.Writer
	Terminal bool
}

const (
	// settlePatience is how long to wait for what should be the case once every
	// disturbance has been lifted.
	settlePatience = time.Minute
	// catchUpPatience is how long all may go without a delivery before those
	// that have not seen the end are given up.
	catchUpPatience = 20 * time.Second
	// maxProblems is how many are kept.
	maxProblems = 20
)

// run is one run.
type run struct {
	config     Config
	progress   *terminal.Progress
	dir        string
	database   *database
	nodes      []*node
	tokens     *tokens
	ledger     *ledger
	recoveries *recoveries
	began      time.Time
	// start is the first update of all, and its id.
	start   number
	startID string
	// subscribers begin with those that are numbered; probes come after.
	subscribers []*subscriber
	delivered   atomic.Int64
	serverTurn  sync.Mutex

	// publishingSince is when publishers began, in nanoseconds since the run
	// did; 0: they have not yet.
	publishingSince atomic.Int64
	// publishingUntil is when they ended.
	publishingUntil atomic.Int64

	mu       sync.Mutex
	problems []string
	// told is how many violations have been told before the checks.
	told int
}

// Run does what the config says. The error is for what keeps it from being
// done; what is found is in the report.
func Run(ctx context.Context, config Config) (report *Report, err error) {
	r := &run{
		config: config, progress: terminal.NewProgress(config.Log, config.Terminal),
		ledger: &ledger{}, recoveries: &recoveries{}, began: time.Now(),
	}
	if r.tokens, err = newTokens(config.Duration + time.Hour); err != nil {
		return nil, err
	}
	if r.dir, err = os.MkdirTemp("", "cinnabar-torture-"); err != nil {
		return nil, err
	}
	defer func() { err = r.leave(ctx, report, err) }()
	if r.database, err = openDatabase(ctx, config.DatabaseURL, r.random(0).IntN(2) == 0, r.progress.Note); err != nil {
		return nil, err
	}
	defer func() {
		keep := ""
		if report != nil && !report.Passed() {
			keep = r.dir
		}
		err = errors.Join(err, r.database.close(context.WithoutCancel(ctx), keep))
	}()
	defer r.progress.End()
	if r.database.twoPhase {
		r.progress.Note("with prepared transactions; the doorbell of the outbox is off")
	}
	return r.withNodes(ctx)
}

// leave removes the logs if nobody needs them, and says where they are if
// somebody does.
func (r *run) leave(ctx context.Context, report *Report, err error) error {
	switch {
	case ctx.Err() != nil:
		return errors.Join(errors.New("interrupted before anything was decided"), os.RemoveAll(r.dir))
	case err != nil:
		return fmt.Errorf("%w; the logs are in %s", err, r.dir)
	case report.Passed():
		return os.RemoveAll(r.dir)
	}
	report.Dir = r.dir
	return nil
}

// random is one of the sources of chance of the run.
func (r *run) random(stream int) *rand.Rand {
	return rand.New(rand.NewPCG(r.config.Seed, uint64(stream)))
}

func (r *run) elapsed() time.Duration { return time.Since(r.began) }

// silentSince is how long something lasted that began after the start of the
// run, as far as there were publishers.
func (r *run) silentSince(began time.Duration) time.Duration {
	since, until := time.Duration(r.publishingSince.Load()), time.Duration(r.publishingUntil.Load())
	if since == 0 {
		return 0
	}
	if until == 0 {
		until = r.elapsed()
	}
	return until - max(began, since)
}

func (r *run) publishingFor() time.Duration {
	return r.elapsed() - time.Duration(r.publishingSince.Load())
}

// problem notes what should not have happened and no update shows.
func (r *run) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.mu.Lock()
	keep := len(r.problems) < maxProblems && !slices.Contains(r.problems, text)
	if keep {
		r.problems = append(r.problems, text)
	}
	r.mu.Unlock()
	if keep {
		r.progress.Note("PROBLEM: %s", text)
	}
}

// early says at once what the checks at the end will count.
func (r *run) early(n number, subscriber, what string) {
	r.mu.Lock()
	r.told++
	tell := r.told <= maxViolations
	r.mu.Unlock()
	if tell {
		r.progress.Note("VIOLATION: update %d %s, %s", n, what, subscriber)
	}
}

// environ is the environment of a node: ours without any setting of a hub, and
// with those of the run. Limits are tight, so that they are met.
func (r *run) environ(databaseURL string) []string {
	return append(hubproc.WithoutSettings(r.config.Environ),
		"DATABASE_URL="+databaseURL,
		"MERCURE_ADDR=127.0.0.1:0",
		"MERCURE_PUBLIC_URL="+publicURL,
		"MERCURE_TRUSTED_ISSUERS="+origin,
		"MERCURE_COMPAT=on",
		"MERCURE_PUBLISHER_JWT_KEY="+r.tokens.publisherKey,
		"MERCURE_SUBSCRIBER_JWT_KEY="+r.tokens.subscriberKey,
		"MERCURE_ANONYMOUS=on",
		"MERCURE_HEARTBEAT="+heartbeat.String(),
		"MERCURE_WRITE_TIMEOUT=15s",
		"MERCURE_DISPATCH_TIMEOUT=2s",
		"MERCURE_DRAIN_TIMEOUT=2s",
		// Some hundred updates: who resumes is served from memory or from the
		// table, as it comes.
		"MERCURE_TAIL_BYTES=256KiB",
		"MERCURE_LOG_FORMAT=json",
	)
}

// withNodes starts the nodes and stops them in the end.
func (r *run) withNodes(ctx context.Context) (*Report, error) {
	if err := r.makeNodes(ctx); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	var group errgroup.Group
	for _, n := range r.nodes {
		group.Go(func() error { return n.run(running) })
	}
	report, err := r.withSubscribers(ctx)
	for _, n := range r.nodes {
		n.proxy.set(proxyMode{}) // nothing may keep them from stopping
	}
	stop()
	err = errors.Join(err, group.Wait())
	for _, n := range r.nodes {
		n.proxy.close()
	}
	if report != nil {
		report.Problems = r.problems // with those of the end
	}
	return report, err
}

func (r *run) makeNodes(ctx context.Context) error {
	config, err := pgx.ParseConfig(r.database.url)
	if err != nil {
		return errors.New("--database-url is not a PostgreSQL connection string such as postgres://app@localhost/app")
	}
	network, address := "tcp", fmt.Sprintf("%s:%d", config.Host, config.Port)
	if strings.HasPrefix(config.Host, "/") {
		network, address = "unix", filepath.Join(config.Host, fmt.Sprintf(".s.PGSQL.%d", config.Port))
	}
	for i := range r.config.Nodes {
		p, err := newProxy(ctx, network, address)
		if err != nil {
			return err
		}
		databaseURL, err := throughProxy(r.database.url, p.port())
		if err != nil {
			return err
		}
		r.nodes = append(r.nodes, newNode(i, r.config.Program, r.environ(databaseURL), r.dir, p, r.problem))
	}
	return nil
}

// withSubscribers waits for the nodes, lets everybody follow them, and checks
// what they got.
func (r *run) withSubscribers(ctx context.Context) (*Report, error) {
	if err := r.awaitNodes(ctx, startTimeout); err != nil {
		return nil, err
	}
	if err := r.prepareDatabase(ctx); err != nil {
		return nil, err
	}
	if err := r.setStart(ctx); err != nil {
		return nil, err
	}
	probes := newProbes(r)
	r.subscribers = append(newSubscribers(r, r.config.Subscribers), probes...)
	following, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	ended := make(chan struct{})
	for _, s := range r.subscribers {
		group.Go(func() { s.follow(following) })
	}
	go func() { // ends with the subscribers
		group.Wait()
		close(ended)
	}()
	defer func() { <-ended }()
	defer stop()
	for _, s := range r.subscribers {
		select {
		case <-s.opened:
		case <-time.After(startTimeout):
			return nil, fmt.Errorf("%s could not open a stream within %s", s.name, startTimeout)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}

	plan := r.plan()
	r.torture(ctx, plan)
	r.progress.Note("%6.1fs  every disturbance is lifted; waiting for everybody to catch up", r.config.Duration.Seconds())
	marks, err := r.settle(ctx, ended)
	if err != nil {
		return nil, err
	}
	stop()
	<-ended
	report, err := r.check(ctx, marks)
	if err != nil {
		return nil, err
	}
	report.Disturbances = len(plan)
	for _, p := range probes {
		report.LongestSilence = max(report.LongestSilence, p.longest)
	}
	return report, ctx.Err()
}

func (r *run) plan() []disturbance {
	faults := r.config.Faults
	if r.database.private == nil { // another's server is not ours to stop
		faults = slices.DeleteFunc(slices.Clone(faults), Fault.ofServer)
	}
	return newPlan(r.config.Seed, r.config.Duration, faults, len(r.nodes), r.config.Subscribers)
}

// torture publishes for as long as was asked for, and disturbs meanwhile.
func (r *run) torture(ctx context.Context, plan []disturbance) {
	stop := make(chan struct{})
	var group sync.WaitGroup
	r.publishingSince.Store(int64(r.elapsed()))
	for i := range r.config.Publishers {
		group.Go(func() {
			if i%2 == 0 {
				_ = newHTTPPublisher(r, i).publish(ctx, stop)
			} else {
				_ = newSQLPublisher(r, i).publish(ctx, stop)
			}
		})
	}
	group.Go(func() { r.carryOut(ctx, plan) })
	group.Go(func() { r.show(ctx, stop) })
	sleep(ctx, r.config.Duration)
	close(stop)
	group.Wait()
	r.publishingUntil.Store(int64(r.elapsed()))
}

// show keeps the last line of a terminal up to date.
func (r *run) show(ctx context.Context, stop <-chan struct{}) {
	for !isClosed(stop) && ctx.Err() == nil {
		r.progress.Bar(r.publishingFor(), r.config.Duration, fmt.Sprintf("%s  %d acknowledged, %d delivered",
			r.publishingFor().Round(time.Second), r.ledger.acknowledged.Load(), r.delivered.Load()))
		sleepUntil(stop, 200*time.Millisecond)
	}
}

// settle waits until nothing is on its way, sets a mark, and waits until
// everybody has seen it or nobody gets anywhere. It returns the marks it tried
// to set; the last one was acknowledged.
func (r *run) settle(ctx context.Context, ended <-chan struct{}) ([]number, error) {
	if err := r.database.rollbackPrepared(ctx); err != nil {
		return nil, err
	}
	if err := r.awaitNodes(ctx, settlePatience); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r.problem("%v", err)
	}
	if err := r.awaitEmptyOutbox(ctx); err != nil {
		return nil, err
	}
	marks, err := r.mark(ctx, func(n number) {
		for _, s := range r.subscribers {
			s.until.Store(int64(n))
		}
	})
	if err != nil {
		return nil, err
	}
	return marks, r.awaitEnd(ctx, ended)
}

// awaitEnd waits for the subscribers for as long as any of them gets anywhere.
func (r *run) awaitEnd(ctx context.Context, ended <-chan struct{}) error {
	before := int64(-1)
	for quiet := time.Duration(0); quiet < catchUpPatience; quiet += time.Second {
		if now := r.delivered.Load(); now != before {
			before, quiet = now, 0
		}
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	r.problem("some subscribers did not get to the end within %s of the last delivery", catchUpPatience)
	return nil
}

// awaitNodes waits until every node says that it is ready.
func (r *run) awaitNodes(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: openTimeout}
	for _, n := range r.nodes {
		select {
		case <-n.serving:
		case <-ctx.Done():
			return fmt.Errorf("node %d did not start within %s; %s", n.index, patience, hubproc.LastLine(n.logPath))
		}
		for !hubproc.Ready(ctx, client, n.root()) {
			if !sleep(ctx, 50*time.Millisecond) {
				return fmt.Errorf("node %d was not ready within %s; %s", n.index, patience, hubproc.LastLine(n.logPath))
			}
		}
	}
	return nil
}
