package presence_test

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// BenchmarkBurst is 10,000 subscribers that come at once, with one subscription
// each, until the last one is announced.
func BenchmarkBurst(b *testing.B) {
	const joins = 10_000
	for b.Loop() {
		b.StopTimer()
		n := start(b, dbtest.New(b).URL, &clock{})
		b.StartTimer()
		var group errgroup.Group
		for i := range joins {
			group.Go(func() error {
				_, err := n.Join(b.Context(), []protocol.Subscription{subscription(false, "x", fmt.Sprint(i))})
				return err
			})
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		n.stop()
		b.StartTimer()
	}
	b.ReportMetric(joins*float64(b.N)/b.Elapsed().Seconds(), "joins/s")
}

func BenchmarkList(b *testing.B) {
	for _, rows := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			n := start(b, dbtest.New(b).URL, &clock{})
			for from := 0; from < rows; from += 1000 {
				list := make([]protocol.Subscription, 1000)
				for i := range list {
					list[i] = subscription(false, "x", fmt.Sprint(from+i))
				}
				n.join(b, list...)
			}
			for name, filter := range map[string]protocol.SubscriptionFilter{
				"all": {}, "collection": {Collection: subscription(false, "x", "").Collection},
			} {
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						got := 0
						err := n.List(b.Context(), filter, func(protocol.EventID) error { return nil }, func(string) error {
							got++
							return nil
						})
						if err != nil || got != rows {
							b.Fatalf("%d rows, %v", got, err)
						}
					}
				})
			}
		})
	}
}
