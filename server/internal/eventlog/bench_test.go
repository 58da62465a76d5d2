package eventlog_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// BenchmarkAppend has 64 callers append updates of 128 bytes. The database runs
// without fsync, as all test databases do.
func BenchmarkAppend(b *testing.B) {
	l := open(b, dbtest.New(b).URL)
	data := strings.Repeat("x", 128)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var work sync.WaitGroup
	for range 64 {
		work.Go(func() { // ends after b.N updates
			for left.Add(-1) >= 0 {
				if _, err := l.Append(b.Context(), &protocol.Update{Topics: []string{"https://example.com/a"}, Data: data}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	work.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
