package server_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// TestOneOrder publishes from everywhere at once and checks promise 1: every
// reader, live or replaying, on every node, sees the same sequence, nothing
// lost, nothing twice, nothing from a rollback, and the rows of a transaction
// in their order (H-8, H-9).
//
// To see it fail, give positions out at insert, as an identity column would:
//
//	CINNABAR_SABOTAGE=positions-at-insert go test ./server -run TestOneOrder
func TestOneOrder(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	if os.Getenv("CINNABAR_SABOTAGE") == "positions-at-insert" {
		sabotage(t, pool)
	}
	// A tail of some hundred updates: readers that resume are served from it
	// or from the table, as it comes.
	small := func(c *server.Config) { c.TailBytes = 100 << 10 }
	nodes := []*servertest.Hub{servertest.Start(t, database, small), servertest.Start(t, database, small)}

	readers, stopReaders := errgroup.WithContext(t.Context())
	logs := make([]*seen, 0, 8)
	for i := range 8 {
		s := &seen{nodes: nodes, at: i, dropEvery: 0}
		if i >= 2 {
			s.dropEvery = 50 * i // drops and resumes on the other node
		}
		s.open(t)
		logs = append(logs, s)
		readers.Go(func() error { return s.run(stopReaders) })
	}

	expected := publishFromEverywhere(t, nodes, pool)
	last := nodes[0].Publish(t, url.Values{"topic": {"https://example.com/end"}, "data": {"end"}})
	if err := readers.Wait(); err != nil {
		t.Fatal(err)
	}

	want := logged(t, pool)
	if want[len(want)-1] != "end" {
		t.Errorf("the log ends with %q (id %s was published last)", want[len(want)-1], last)
	}
	checkContents(t, want[:len(want)-1], expected)
	for i, s := range logs {
		if !slices.Equal(s.data, want) {
			t.Errorf("reader %d (drops every %d): %s", i, s.dropEvery, difference(s.data, want))
		}
	}
	for i, node := range nodes {
		replay := &seen{nodes: []*servertest.Hub{node}, lastEventID: "earliest"}
		replay.open(t)
		if err := replay.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(replay.data, want) {
			t.Errorf("replay on node %d: %s", i, difference(replay.data, want))
		}
	}
}

// seen is one subscriber and what it has got.
type seen struct {
	nodes       []*servertest.Hub
	at          int
	dropEvery   int
	lastEventID string
	stream      *servertest.Stream
	data        []string
}

func (s *seen) open(t testing.TB) {
	t.Helper()
	var err error
	if s.stream, err = s.connect(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (s *seen) connect(ctx context.Context) (*servertest.Stream, error) {
	return s.nodes[s.at%len(s.nodes)].TrySubscribe(ctx, servertest.Request{
		Query: url.Values{"topic": {"*"}}, LastEventID: s.lastEventID,
	})
}

// run reads until the end marker.
func (s *seen) run(ctx context.Context) error {
	defer func() { s.stream.Close() }()
	for {
		patience, cancel := context.WithTimeout(ctx, servertest.Deadline)
		event, err := s.stream.TryNext(patience)
		cancel()
		if err != nil {
			return fmt.Errorf("reader at %d after %d updates: %w", s.at, len(s.data), err)
		}
		s.lastEventID = event.ID
		s.data = append(s.data, event.Data)
		if event.Data == "end" {
			return nil
		}
		if s.dropEvery > 0 && len(s.data)%s.dropEvery == 0 {
			s.stream.Close()
			s.at++
			if s.stream, err = s.connect(ctx); err != nil {
				return err
			}
		}
	}
}

// publishFromEverywhere returns what must be in the log: data by publisher, in
// the order each published.
func publishFromEverywhere(t *testing.T, nodes []*servertest.Hub, pool *pgxpool.Pool) map[string][]string {
	var (
		mu       sync.Mutex
		expected = map[string][]string{}
		group    errgroup.Group
	)
	token := servertest.PublisherToken(t)
	const rounds = 60
	for i := range 4 {
		name := "http" + strconv.Itoa(i)
		group.Go(func() error {
			for n := range 5 * rounds {
				data := name + ":" + strconv.Itoa(n)
				status, body, err := nodes[i%2].TryPost(t.Context(), token, url.Values{"topic": {"https://example.com/" + name}, "data": {data}}.Encode())
				if err != nil || status != 200 {
					return fmt.Errorf("publish %s: %d %s %w", data, status, body, err)
				}
				mu.Lock()
				expected[name] = append(expected[name], data)
				mu.Unlock()
			}
			return nil
		})
	}
	for i := range 6 {
		name := "sql" + strconv.Itoa(i)
		group.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for n := range rounds {
				rollback := random.IntN(5) == 0
				rows := 1 + random.IntN(5)
				published, err := transaction(t.Context(), pool, name, n, rows, time.Duration(random.IntN(60))*time.Millisecond, rollback)
				if err != nil {
					return err
				}
				mu.Lock()
				expected[name] = append(expected[name], published...)
				mu.Unlock()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return expected
}

var errRollback = errors.New("rolled back on purpose")

// transaction inserts rows, holds the transaction open, and commits or not.
func transaction(ctx context.Context, pool *pgxpool.Pool, name string, n, rows int, hold time.Duration, rollback bool) ([]string, error) {
	var published []string
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		for row := range rows {
			data := fmt.Sprintf("%s:%d.%d", name, n, row)
			if _, err := tx.Exec(ctx, "INSERT INTO mercure.outbox (topics, data) VALUES ($1, $2)", []string{"https://example.com/" + name}, data); err != nil {
				return err
			}
			published = append(published, data)
			// The database waits, not the test: what is tested is a transaction
			// that stays open while others commit.
			if _, err := tx.Exec(ctx, "SELECT pg_sleep($1)", (hold / time.Duration(rows)).Seconds()); err != nil {
				return err
			}
		}
		if rollback {
			return errRollback
		}
		return nil
	})
	if errors.Is(err, errRollback) {
		return nil, nil
	}
	return published, err
}

func logged(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), "SELECT data FROM mercure.updates ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	data, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// checkContents compares the log with what was published, publisher by
// publisher.
func checkContents(t *testing.T, log []string, expected map[string][]string) {
	t.Helper()
	got := map[string][]string{}
	for _, data := range log {
		name, _, _ := strings.Cut(data, ":")
		got[name] = append(got[name], data)
	}
	for name, want := range expected {
		if !slices.Equal(got[name], want) {
			t.Errorf("%s in the log: %s", name, difference(got[name], want))
		}
	}
	if len(got) != len(expected) {
		t.Errorf("%d publishers in the log, want %d", len(got), len(expected))
	}
}

func difference(got, want []string) string {
	count := map[string]int{}
	for _, w := range want {
		count[w]++
	}
	for _, g := range got {
		count[g]--
	}
	lost, surplus := 0, 0
	for _, n := range count {
		lost += max(n, 0)
		surplus += max(-n, 0)
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Sprintf("%d updates, want %d: %d lost, %d twice or never committed, order differs from the %dth on", len(got), len(want), lost, surplus, at)
}

// sabotage makes rows enter the log at their position when they are inserted.
func sabotage(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	_, err := pool.Exec(t.Context(), `
		CREATE FUNCTION at_insert() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO mercure.updates (position, id, topics, data, size)
			VALUES (nextval('mercure.updates_position_seq'), NEW.id, NEW.topics, NEW.data, 1);
			RETURN NULL;
		END $$;
		CREATE TRIGGER at_insert BEFORE INSERT ON mercure.outbox FOR EACH ROW EXECUTE FUNCTION at_insert();`)
	if err != nil {
		t.Fatal(err)
	}
}
