package presence_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// ignore is a sink.
type ignore struct{}

func (ignore) Start([]protocol.Entry, protocol.Position)   {}
func (ignore) Deliver([]protocol.Entry)                    {}
func (ignore) Restart([]protocol.Entry, protocol.Position) {}
func (ignore) Redact([]protocol.Position)                  {}

// BenchmarkPublishInStorm is 64 publishers of another node, in a second without
// subscribers and then while 10,000 come and go at once.
func BenchmarkPublishInStorm(b *testing.B) {
	const publishers, joins = 64, 10_000
	phases := map[string]*latencies{"calm": {}, "storm": {}}
	for b.Loop() {
		database := dbtest.New(b)
		n := start(b, database.URL, &clock{})
		log := openLog(b, database.URL)
		ctx, cancel := context.WithCancel(b.Context())
		var running errgroup.Group
		running.Go(func() error { return log.Run(ctx, ignore{}) })
		<-log.Started()
		// Once before it counts, so that connections and plans are there.
		if err := storm(b, n, joins); err != nil {
			b.Fatal(err)
		}
		for _, name := range []string{"calm", "storm"} {
			over := make(chan struct{})
			if name == "calm" {
				time.AfterFunc(time.Second, func() { close(over) })
			} else {
				running.Go(func() error {
					defer close(over)
					return storm(b, n, joins)
				})
			}
			phases[name].measure(b, log, publishers, over)
		}
		cancel()
		if err := running.Wait(); err != nil {
			b.Fatal(err)
		}
		n.stop()
	}
	for name, l := range phases {
		slices.Sort(l.all)
		b.ReportMetric(float64(len(l.all))/l.elapsed.Seconds(), name+"-publishes/s")
		b.ReportMetric(float64(l.all[len(l.all)/2].Microseconds())/1000, name+"-p50-ms")
		b.ReportMetric(float64(l.all[len(l.all)*99/100].Microseconds())/1000, name+"-p99-ms")
		b.ReportMetric(l.elapsed.Seconds()/float64(b.N), name+"-s")
	}
}

// storm is many who join, and when the last one has, leave.
func storm(b *testing.B, n *node, joins int) error {
	var group errgroup.Group
	leaves := make([]func(), joins)
	for i := range joins {
		group.Go(func() (err error) {
			leaves[i], err = n.Join(b.Context(), []protocol.Subscription{subscription(false, "x", fmt.Sprint(i))})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, leave := range leaves {
		leave()
	}
	eventually(b, "the ends", func() bool { return n.Waiting() == 0 })
	return nil
}

type latencies struct {
	all     []time.Duration
	elapsed time.Duration
}

// measure publishes until over is closed.
func (l *latencies) measure(b *testing.B, log *eventlog.Log, publishers int, over <-chan struct{}) {
	b.Helper()
	var (
		mu    sync.Mutex
		group errgroup.Group
	)
	data := strings.Repeat("x", 128)
	begun := time.Now()
	for range publishers {
		group.Go(func() error {
			var own []time.Duration
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				l.all = append(l.all, own...)
			}()
			for {
				select {
				case <-over:
					return nil
				default:
				}
				at := time.Now()
				if _, err := log.Append(b.Context(), &protocol.Update{Topics: []string{"https://example.com/a"}, Data: data}); err != nil {
					return err
				}
				own = append(own, time.Since(at))
			}
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	l.elapsed += time.Since(begun)
}
