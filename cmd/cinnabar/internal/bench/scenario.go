package bench

import (
	"context"
	"errors"
	"slices"
	"time"
)

// scenario is something to measure.
type scenario struct {
	name string
	help string
	// streams and publishers are how many there are unless said otherwise.
	streams, publishers int
	// floor: it makes sense where every update goes to every stream.
	floor bool
	run   func(b *bench, ctx context.Context, t Target, n numbers) ([]*Result, error)
}

// numbers are how many streams and publishers there shall be.
type numbers struct{ streams, publishers int }

// scenarios in the order in which they run.
var scenarios = []scenario{
	{"idle", "memory of streams that hear nothing", 10_000, 0, true, (*bench).idle},
	{"connect", "opening streams", 10_000, 0, true, (*bench).connect},
	{"fanout", "every update to every stream, as many as get through or at --rate", 1_000, 64, true, (*bench).fanout},
	{"topics", "each stream has a topic of its own; half of the updates reach one, half nobody", 10_000, 64, false, (*bench).topics},
	{"patterns", "each stream has a URL pattern of its own; every update has a new topic and reaches one", 10_000, 64, false, (*bench).patterns},
	{"publish", "publishing over HTTP to one stream, by one publisher and by many", 1, 64, false, (*bench).publish},
	{"sql", "publishing with INSERT, from sending it to receipt: busy, and after silence", 1, 8, false, (*bench).sql},
	{"replay", "streams that resume from the beginning, the middle and near the end of --updates updates; with --stored, also with a topic that 100 of those have", 10, 64, false, (*bench).replay},
	{"storm", "streams that resume all at once after a moment away", 10_000, 1, false, (*bench).storm},
}

// Scenario describes one to a person.
type Scenario struct {
	Name, Help string
	// Floor says that the floor can be measured as well.
	Floor bool
}

// Scenarios lists them.
func Scenarios() (list []Scenario) {
	for _, s := range scenarios {
		list = append(list, Scenario{Name: s.name, Help: s.help, Floor: s.floor})
	}
	return list
}

// numbersOf a scenario.
func (b *bench) numbersOf(s scenario) numbers {
	n := numbers{streams: s.streams, publishers: s.publishers}
	if b.Streams > 0 {
		n.streams = b.Streams
	}
	if b.Publishers > 0 {
		n.publishers = b.Publishers
	}
	return n
}

func (b *bench) idle(ctx context.Context, t Target, n numbers) ([]*Result, error) {
	m, err := b.open(ctx, t, b.plan(t, everything, n.streams, 0))
	if err != nil {
		return nil, err
	}
	defer m.close()
	// What opening them left behind is collected meanwhile.
	until := time.Now().Add(b.Duration)
	for time.Now().Before(until) {
		b.progress.Bar(b.Duration-time.Until(until), b.Duration, "streams are idle")
		if err := sleepUntil(ctx, time.Now().Add(min(showPause, time.Until(until)))); err != nil {
			return nil, err
		}
	}
	after, err := usageOf(t.PIDs)
	if err != nil {
		return nil, err
	}
	r, err := m.finish("idle")
	if err != nil {
		return nil, err
	}
	if after.known {
		r.memory = new(float64(after.memory - m.before.memory))
	}
	return []*Result{r}, nil
}

func (b *bench) connect(ctx context.Context, t Target, n numbers) ([]*Result, error) {
	m, err := b.open(ctx, t, b.plan(t, everything, n.streams, 0))
	if err != nil {
		return nil, err
	}
	defer m.close()
	r, err := m.finish("connect")
	if err != nil {
		return nil, err
	}
	r.Connected, r.Operation = int64(n.streams), connect
	r.Seconds = time.Duration(r.tally.Opening.Ended - r.tally.Opening.Began).Seconds()
	return []*Result{r}, nil
}

// ahead is how many updates may be published and not delivered when as many are
// published as get through. Without a bound, streams would only be catching up.
const ahead = 1000

func (b *bench) fanout(ctx context.Context, t Target, n numbers) ([]*Result, error) {
	return b.loaded(ctx, t, n, "fanout", everything, delivery, pace{duration: b.Duration, rate: b.Rate, ahead: ahead})
}

func (b *bench) topics(ctx context.Context, t Target, n numbers) ([]*Result, error) {
	return b.loaded(ctx, t, n, "topics", ownTopic, publish, pace{duration: b.Duration, rate: b.Rate, halfToNobody: true})
}

func (b *bench) patterns(ctx context.Context, t Target, n numbers) ([]*Result, error) {
	return b.loaded(ctx, t, n, "patterns", ownPattern, publish, pace{duration: b.Duration, rate: b.Rate})
}

// loaded opens streams, publishes, and waits for all of it.
func (b *bench) loaded(ctx context.Context, t Target, n numbers, name string, a audience, o operation, how pace) ([]*Result, error) {
	r, err := b.publishing(ctx, t, name, b.plan(t, a, n.streams, n.publishers), n.publishers, how)
	if err != nil {
		return nil, err
	}
	r.Operation = o
	return []*Result{r}, nil
}

func (b *bench) publishing(ctx context.Context, t Target, name string, p plan, publishers int, how pace) (*Result, error) {
	m, err := b.open(ctx, t, p)
	if err != nil {
		return nil, err
	}
	defer m.close()
	if err := m.withLoad(ctx, publishers); err != nil {
		return nil, err
	}
	if err := m.restart(); err != nil {
		return nil, err
	}
	if err := m.publish(ctx, how); err != nil {
		return nil, err
	}
	return m.finish(name)
}

func (b *bench) publish(ctx context.Context, t Target, n numbers) (results []*Result, err error) {
	for _, publishers := range slices.Compact([]int{1, n.publishers}) {
		r, err := b.publishing(ctx, t, "publish", b.plan(t, everything, n.streams, publishers), publishers, pace{duration: b.Duration, rate: b.Rate})
		if err != nil {
			return nil, err
		}
		r.Operation = publish
		results = append(results, r)
	}
	return results, nil
}

const (
	// sqlRate is how many updates a second keep a hub busy.
	sqlRate = 200
	// silence is longer than the half second after which a hub waits for a
	// doorbell; after so many samples one knows.
	silence = 1200 * time.Millisecond
	silent  = 10
)

func (b *bench) sql(ctx context.Context, t Target, n numbers) (results []*Result, err error) {
	if t.DatabaseURL == "" {
		return nil, errors.New("the database of the hub is not known; give it with --database-url")
	}
	rate := b.Rate
	if rate == 0 {
		rate = sqlRate
	}
	for _, one := range []struct {
		name       string
		publishers int
		how        pace
	}{
		{"sql, busy", n.publishers, pace{duration: b.Duration, rate: rate}},
		{"sql, after silence", 1, pace{count: max(min(silent, int64(b.Duration/silence)), 1), rate: 1 / silence.Seconds()}},
	} {
		r, err := b.inserting(ctx, t, one.name, b.plan(t, everything, n.streams, one.publishers), one.publishers, one.how)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

func (b *bench) inserting(ctx context.Context, t Target, name string, p plan, publishers int, how pace) (*Result, error) {
	m, err := b.open(ctx, t, p)
	if err != nil {
		return nil, err
	}
	defer m.close()
	list, err := newSQLPublishers(ctx, t.DatabaseURL, publishers)
	if err != nil {
		return nil, err
	}
	m.load = newLoad(p, list, b.Size)
	// The last update may still be on its way through the hub.
	if err := sleepUntil(ctx, time.Now().Add(silence)); err != nil {
		return nil, err
	}
	if err := m.restart(); err != nil {
		return nil, err
	}
	if err := m.publish(ctx, how); err != nil {
		return nil, err
	}
	r, err := m.finish(name)
	if err != nil {
		return nil, err
	}
	r.Operation = publish
	return r, nil
}
