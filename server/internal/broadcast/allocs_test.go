package broadcast_test

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// delivery delivers updates to streams that are live and take each at once.
type delivery struct {
	fixture
	streams  []*broadcast.Stream
	position protocol.Position
	buffer   [][]byte
}

func startDelivery(tb testing.TB, receivers int) *delivery {
	tb.Helper()
	d := &delivery{fixture: start(64<<10, 0), buffer: make([][]byte, 0, 8)}
	for range receivers {
		s, err := d.Subscribe(tb.Context(), broadcast.Subscription{Matchers: matchers(tb, "https://example.com/a")})
		if err != nil {
			tb.Fatal(err)
		}
		d.streams = append(d.streams, s)
	}
	return d
}

var deliveredUpdate = protocol.Update{ID: "1", Topics: []string{"https://example.com/a"}, Data: strings.Repeat("x", 128)}

func (d *delivery) deliver(tb testing.TB) {
	d.position++
	d.Deliver([]protocol.Entry{{Position: d.position, Update: &deliveredUpdate}})
	for _, s := range d.streams {
		if blocks, state, err := s.Next(d.buffer[:0]); len(blocks) != 1 || state != broadcast.Idle || err != nil {
			tb.Fatalf("%d blocks, state %d, %v", len(blocks), state, err)
		}
	}
}

// Not parallel, because it counts the allocations of the whole program.
func TestDeliverDoesNotAllocateForReceivers(t *testing.T) {
	allocs := map[int]float64{}
	for _, receivers := range []int{1, 1000} {
		d := startDelivery(t, receivers)
		for range 500 { // until the tail is full
			d.deliver(t)
		}
		allocs[receivers] = testing.AllocsPerRun(100, func() { d.deliver(t) })
	}
	if allocs[1] != allocs[1000] || allocs[1] > 20 {
		t.Errorf("%v allocations for 1,000 receivers, %v for one", allocs[1000], allocs[1])
	}
}

// An update is encoded once, for streams that are live and for those that read
// the warm tail.
func TestUpdatesAreEncodedOnce(t *testing.T) {
	t.Parallel()
	f := start(1<<20, 0)
	sub := broadcast.Subscription{Matchers: matchers(t, "a")}
	streams := []*broadcast.Stream{f.subscribe(t, sub), f.subscribe(t, sub)}
	f.publish(update(1, "a"))
	sub.Cursor = protocol.Earliest
	streams = append(streams, f.subscribe(t, sub), f.subscribe(t, sub))
	seen := map[*byte]int{}
	for _, s := range streams {
		blocks, _, err := s.Next(nil)
		if err != nil || len(blocks) != 1 {
			t.Fatalf("%d blocks, %v", len(blocks), err)
		}
		seen[unsafe.SliceData(blocks[0])]++
	}
	if len(seen) != 1 {
		t.Errorf("%d encodings for %d streams", len(seen), len(streams))
	}
}

// BenchmarkDeliver is the time of one update at 1,000 receivers, without writing.
func BenchmarkDeliver(b *testing.B) {
	d := startDelivery(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		d.deliver(b)
	}
}
