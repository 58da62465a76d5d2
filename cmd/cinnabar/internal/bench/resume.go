package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// nearHead is how many updates come after the last cursor of a replay, and are
// missed in a storm.
const nearHead = 100

// replay publishes updates and has streams resume at three places; and where there
// are stored ones, from the beginning with a topic that few of them have.
func (b *bench) replay(ctx context.Context, t Target, n numbers) (results []*Result, err error) {
	updates := int64(max(b.Updates, 3*nearHead))
	// The measurement that publishes has no streams.
	history := &measurement{bench: b, target: t, plan: b.plan(t, everything, 0, n.publishers), began: time.Now(), streams: several{}}
	defer history.close()
	if err := history.withLoad(ctx, n.publishers); err != nil {
		return nil, err
	}
	places := []place{{name: "earliest", id: "earliest"}}
	for _, part := range []struct {
		name  string
		count int64
	}{{"middle", updates / 2}, {"near head", updates - updates/2 - nearHead}} {
		p, err := history.publishUpTo(ctx, part.count)
		if err != nil {
			return nil, err
		}
		p.name = part.name
		places = append(places, p)
	}
	if _, err := history.publishUpTo(ctx, nearHead); err != nil {
		return nil, err
	}
	for _, p := range places {
		r, err := history.resume(ctx, "replay, "+p.name, p, n.streams)
		if err != nil {
			return nil, err
		}
		r.Operation = delivery
		results = append(results, r)
	}
	if b.stored == nil {
		return results, nil
	}
	r, err := b.stored.measurement(b, t).resume(ctx, oneTopic, places[0], n.streams)
	if err != nil {
		return nil, err
	}
	r.Operation = delivery
	return append(results, r), nil
}

// oneTopic is the name of replay with a topic that few updates have.
const oneTopic = "replay, one topic"

// place is where streams resume.
type place struct {
	name  string
	id    string
	bases []uint32
}

// publishUpTo publishes, the last one after all others have been accepted: all
// of them come before it, and all later ones behind it.
func (m *measurement) publishUpTo(ctx context.Context, count int64) (place, error) {
	err := m.shown(ctx, func() error { return m.load.publish(ctx, pace{count: count - 1}) })
	if err != nil {
		return place{}, err
	}
	if err := m.load.toSource(ctx, 0, m.load.publishers[0], 0, time.Now()); err != nil {
		return place{}, err
	}
	if len(m.load.uncertain) > 0 {
		return place{}, fmt.Errorf("what to resume after is not known: %w", m.load.failure)
	}
	return place{id: m.load.lastID[0], bases: slices.Clone(m.load.totals)}, nil
}

// resume opens streams at a place of a run, and waits for the rest of it.
func (m *measurement) resume(ctx context.Context, name string, at place, streams int) (*Result, error) {
	p := m.plan
	p.Streams, p.LastEventID, p.Bases = streams, at.id, at.bases
	again, err := m.open(ctx, m.target, p)
	if err != nil {
		return nil, err
	}
	// The load is not closed here: it belongs to the measurement that made it.
	defer func() { _ = again.streams.close() }()
	again.load = m.load
	if err := again.shown(ctx, func() error { return again.awaitDelivery(ctx) }); err != nil {
		return nil, err
	}
	r, err := again.finish(name)
	if err != nil {
		return nil, err
	}
	r.Published, r.Publishers = 0, 0
	r.answers = histogram{}
	r.tally.Latency = &histogram{} // they were sent long ago
	return r, nil
}

// storm has streams hear something, lose their connections, miss something, and
// come back all at once.
func (b *bench) storm(ctx context.Context, t Target, n numbers) ([]*Result, error) {
	m, err := b.open(ctx, t, b.plan(t, everything, n.streams, n.publishers))
	if err != nil {
		return nil, err
	}
	defer m.close()
	if err := m.withLoad(ctx, n.publishers); err != nil {
		return nil, err
	}
	at, err := m.publishUpTo(ctx, nearHead)
	if err != nil {
		return nil, err
	}
	if err := m.shown(ctx, func() error { return m.awaitDelivery(ctx) }); err != nil {
		return nil, err
	}
	before, err := m.finish("storm")
	if err != nil {
		return nil, err
	}
	if _, err := m.publishUpTo(ctx, nearHead); err != nil {
		return nil, err
	}
	began, err := transactions(ctx, t.DatabaseURL)
	if err != nil {
		return nil, err
	}
	r, err := m.resume(ctx, "storm", at, n.streams)
	if err != nil {
		return nil, err
	}
	r.Problems = append(before.Problems, r.Problems...)
	r.Connected, r.Operation = int64(n.streams), connect
	ended, err := transactions(ctx, t.DatabaseURL)
	if err != nil {
		return nil, err
	}
	if t.DatabaseURL != "" {
		r.Transactions = new(ended - began)
	}
	return []*Result{r}, nil
}

// statisticsPause is how long PostgreSQL may keep statistics to itself.
const statisticsPause = 1200 * time.Millisecond

// transactions counts those of a database so far; 0 if it is not known.
func transactions(ctx context.Context, databaseURL string) (n int64, err error) {
	if databaseURL == "" {
		return 0, nil
	}
	if err := sleepUntil(ctx, time.Now().Add(statisticsPause)); err != nil {
		return 0, err
	}
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return 0, fmt.Errorf("connect to the database of the hub: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	err = conn.QueryRow(ctx, "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()").Scan(&n)
	return n, err
}
