package presence_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

func heapAlloc() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// A list is never in memory as a whole, and has everybody once who is there all
// the time, whoever else comes and goes. It measures the memory of the process,
// and has it for itself. Spec: R-17.
func TestLongListInChurn(t *testing.T) { //nolint:paralleltest // see above
	const (
		rows     = 100_000
		maxBytes = 8 << 20 // of some 50 MB: a page or two, and the churn
	)
	database := dbtest.New(t)
	pool := database.Pool(t)
	n := start(t, database.URL, &clock{})
	// Those of two more nodes, in front of and behind this one.
	for _, id := range []uuid.UUID{{}, uuid.Max} {
		if _, err := pool.Exec(t.Context(), `INSERT INTO mercure.subscriptions (node, number, selector, topic, collection, document)
			SELECT $1::uuid, i, false, $1::uuid::text || i, '/c', format('{"id":"%s%s","active":true,"payload":"%s"}', $1::uuid::text, i, repeat('x', 400))
			FROM generate_series(1, $2) AS i`, id, rows/2); err != nil {
			t.Fatal(err)
		}
	}
	over := make(chan struct{})
	var churn errgroup.Group
	for worker := range 4 {
		churn.Go(func() error {
			for i := 0; ; i++ {
				select {
				case <-over:
					return nil
				default:
				}
				leave, err := n.Join(t.Context(), []protocol.Subscription{subscription(false, "x", fmt.Sprint(worker, "-", i))})
				if err != nil {
					return err
				}
				leave()
			}
		})
	}
	before := heapAlloc()
	peak, listed, staying := before, 0, 0
	var last string
	err := n.List(t.Context(), protocol.SubscriptionFilter{}, func(protocol.EventID) error { return nil }, func(document string) error {
		if listed++; listed%10_000 == 0 {
			peak = max(peak, heapAlloc())
		}
		if document == last {
			t.Errorf("listed twice: %s", document)
		}
		if last = document; strings.Contains(document, `"payload":"xxx`) {
			staying++
		}
		return nil
	})
	close(over)
	if err := churn.Wait(); err != nil {
		t.Fatal(err)
	}
	if err != nil || staying != rows {
		t.Errorf("%d subscriptions of %d, %v", staying, rows, err)
	}
	t.Logf("%d listed, %d events meanwhile, %d KiB", listed, len(events(t, pool, "")), (peak-before)>>10)
	if peak-before > maxBytes {
		t.Errorf("%d bytes at a time", peak-before)
	}
}
