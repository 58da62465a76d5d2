package server_test

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// BenchmarkConnectBurst is 9,000 subscribers that connect at once, until the
// last one has the first byte of its stream, with and without subscriptions
// being announced.
func BenchmarkConnectBurst(b *testing.B) {
	const streams = 9000
	for _, on := range []bool{false, true} {
		b.Run(fmt.Sprintf("subscriptions=%v", on), func(b *testing.B) {
			statements := 0
			for b.Loop() {
				b.StopTimer()
				proxy := dbtest.NewProxy(b, dbtest.New(b))
				hub := servertest.Start(b, proxy.DB, func(c *server.Config) { c.Subscriptions = server.Switch(on) })
				proxy.Count("write_presence")
				readers := make([]rawStream, streams)
				b.StartTimer()
				var group errgroup.Group
				for i := range readers {
					group.Go(func() (err error) {
						readers[i], err = openRawStream(b.Context(), hub)
						return err
					})
				}
				if err := group.Wait(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				statements += proxy.Count("write_presence")
				for _, reader := range readers {
					_ = reader.conn.Close()
				}
				hub.Stop()
				if err := hub.Wait(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(streams*float64(b.N)/b.Elapsed().Seconds(), "connects/s")
			b.ReportMetric(float64(statements)/float64(b.N), "statements")
		})
	}
}
