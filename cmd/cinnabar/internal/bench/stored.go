package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// stored are updates that are in a log before anything is measured. They belong to
// a run of their own.
type stored struct {
	run         string
	count, size int
}

const (
	// storedTopics is how many topics they are spread over.
	storedTopics = 100_000
	// rareUpdates is how many of them have the topic of the run instead, evenly
	// among the others, and are numbered as if one source had published them.
	rareUpdates = 100
	// storedChunk is how many enter the log in one transaction: publishers wait
	// for it.
	storedChunk = 5_000
)

// fill writes them into the log itself, with the hub running or not: hubs append
// under the same lock, which is taken before the snapshot and held until the commit,
// and read what they are notified of. Through the outbox every row is written twice.
//
// A log that no hub uses yet can do without its indexes meanwhile, which is faster.
func (s *stored) fill(ctx context.Context, databaseURL string, unused bool, progress func(done int)) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("connect to the database of the hub: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	build := func() error { return nil }
	if unused {
		if build, err = dropIndexes(ctx, conn); err != nil {
			return fmt.Errorf("drop the indexes of the log: %w", err)
		}
	}
	for first := 1; first <= s.count; first += storedChunk {
		progress(first - 1)
		err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			return s.append(ctx, tx, first, min(first+storedChunk-1, s.count))
		})
		if err != nil {
			return fmt.Errorf("store updates in the log: %w", err)
		}
	}
	progress(s.count)
	if err := build(); err != nil {
		return fmt.Errorf("build the indexes of the log: %w", err)
	}
	// Else it is done while something is measured, or not in time: without statistics
	// of the indexes, queries have other plans.
	if _, err := conn.Exec(ctx, "VACUUM (ANALYZE) mercure.updates"); err != nil {
		return fmt.Errorf("vacuum the log: %w", err)
	}
	return nil
}

// dropIndexes returns what builds them again.
func dropIndexes(ctx context.Context, conn *pgx.Conn) (build func() error, err error) {
	rows, err := conn.Query(ctx, `
		SELECT 'DROP INDEX mercure.' || indexname, indexdef FROM pg_indexes
		WHERE schemaname = 'mercure' AND tablename = 'updates' AND indexname <> 'updates_pkey'`)
	if err != nil {
		return nil, err
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Drop, Create string }])
	if err != nil {
		return nil, err
	}
	rebuild := []string{"SET maintenance_work_mem = '256MB'"}
	for _, index := range indexes {
		if _, err := conn.Exec(ctx, index.Drop); err != nil {
			return nil, err
		}
		rebuild = append(rebuild, index.Create)
	}
	return func() error {
		for _, command := range rebuild {
			if _, err := conn.Exec(ctx, command); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// append is one chunk.
func (s *stored) append(ctx context.Context, tx pgx.Tx, first, last int) error {
	if _, err := tx.Exec(ctx, "LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE"); err != nil {
		return err
	}
	// What appendPayload writes, but sent at no time.
	_, err := tx.Exec(ctx, `
		WITH given AS (
			SELECT i, i % @every = 0 AND i / @every <= @rare AS rare
			FROM generate_series(@first::bigint, @last) AS i
		), made AS (
			SELECT
				i, mercure.new_id() AS id,
				CASE WHEN rare THEN @topic ELSE format('https://bench.example/%s/topics/%s', @run::text, i % @topics) END AS topic,
				rpad(CASE WHEN rare THEN format('%s.0.%s.0.', @run, i / @every) ELSE '' END, @size, 'x') AS data
			FROM given
		)
		INSERT INTO mercure.updates (position, id, topics, data, size)
		SELECT nextval('mercure.updates_position_seq'), id, ARRAY[topic], data, octet_length(id || topic || data)
		FROM made
		ORDER BY i`,
		pgx.NamedArgs{
			"first": first, "last": last, "every": s.count / rareUpdates, "rare": rareUpdates, "topics": storedTopics, "size": s.size,
			"run": s.run, "topic": topicOfAll(s.run),
		})
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "SELECT pg_notify('mercure_updates', '')")
	return err
}

// measurement that published what has the topic of the run.
func (s *stored) measurement(b *bench, t Target) *measurement {
	p := b.plan(t, everything, 0, 1)
	p.Run = s.run
	m := &measurement{bench: b, target: t, plan: p, began: time.Now(), streams: several{}, load: newLoad(p, nil, s.size)}
	m.load.totals[0] = rareUpdates
	return m
}
