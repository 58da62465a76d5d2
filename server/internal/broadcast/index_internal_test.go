package broadcast

import (
	"fmt"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// BenchmarkIndex is the time of finding the receivers of an update whose topic
// is new, parsing it included. Only patterns without a literal prefix may cost
// more the more there are.
func BenchmarkIndex(b *testing.B) {
	hub, err := protocol.ParseHubURL("https://hub.example.com/.well-known/mercure")
	if err != nil {
		b.Fatal(err)
	}
	pattern := func(text string) (*protocol.Matcher, error) { return protocol.NewURLPattern(text, hub) }
	for _, bm := range []struct {
		name    string
		make    func(string) (*protocol.Matcher, error)
		matcher string // with the number of the stream
		topic   string // with that of the receiver
		counts  []int
	}{
		{"exact", protocol.NewExact, "https://example.com/%d/orders", "https://example.com/%d/orders", []int{100, 10_000}},
		{"prefix", pattern, "https://example.com/%d/:id", "https://example.com/%d/orders", []int{100, 10_000}},
		{"no prefix", pattern, "*://*/%d/*", "https://example.com/%d/orders", []int{1, 100, 10_000}},
	} {
		for _, count := range bm.counts {
			b.Run(fmt.Sprintf("%s/matchers=%d", bm.name, count), func(b *testing.B) {
				x := newIndex()
				for i := range count {
					matcher, err := bm.make(fmt.Sprintf(bm.matcher, i))
					if err != nil {
						b.Fatal(err)
					}
					x.add(&Stream{matchers: protocol.NewMatcherSet([]*protocol.Matcher{matcher})})
				}
				topics := make([][]string, count)
				for i := range topics {
					topics[i] = []string{fmt.Sprintf(bm.topic, i)}
				}
				found, n := 0, 0
				e := &entry{}
				b.ReportAllocs()
				for b.Loop() {
					e.position++
					e.topics = protocol.NewTopics(topics[n%count])
					n++
					x.receivers(e, func(*Stream) { found++ })
				}
				if found != n {
					b.Errorf("%d receivers of %d updates", found, n)
				}
			})
		}
	}
}
