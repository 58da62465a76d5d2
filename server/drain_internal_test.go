package server

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Spec: S-22.
func TestDrainIsEven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const (
			streams = 1000
			timeout = 10 * time.Second
		)
		b := broadcast.New(broadcast.Config{})
		b.Start(nil, 0)
		matcher, err := protocol.NewExact("a")
		if err != nil {
			t.Fatal(err)
		}
		var (
			group sync.WaitGroup
			mu    sync.Mutex
			ended = map[int]int{} // by second
		)
		began := time.Now()
		for range streams {
			stream, err := b.Subscribe(context.Background(), broadcast.Subscription{Matchers: protocol.NewMatcherSet([]*protocol.Matcher{matcher})})
			if err != nil {
				t.Fatal(err)
			}
			group.Go(func() {
				defer stream.Close()
				<-stream.Wake()
				mu.Lock()
				defer mu.Unlock()
				ended[int(time.Since(began).Seconds())]++
			})
		}
		drain(b, timeout)
		group.Wait()
		if took := time.Since(began); took > timeout {
			t.Errorf("it took %s", took)
		}
		for second := range int(timeout.Seconds()) {
			if n := ended[second]; n < streams/20 || n > streams/5 {
				t.Errorf("%d streams ended in second %d: %v", n, second, ended)
			}
		}
	})
}
