package protocol

import (
	"strings"
	"testing"
)

func BenchmarkMatchExact(b *testing.B) {
	m, topic := mustExact(b, "https://shop.example/orders/17"), NewTopic("https://shop.example/orders/17")
	b.ReportAllocs()
	for b.Loop() {
		if !m.Match(topic) {
			b.Fatal("no match")
		}
	}
}

// The topic is parsed already, as it is for all patterns but the first.
func BenchmarkMatchURLPattern(b *testing.B) {
	for _, bm := range []struct{ name, pattern string }{
		{"segment", "https://shop.example/orders/:id"},
		{"wildcard", "https://shop.example/*"},
		{"expression", "https://shop.example/orders/:id(\\d+)"},
		{"miss", "https://shop.example/users/:id"},
	} {
		b.Run(bm.name, func(b *testing.B) {
			m, topic := mustPattern(b, bm.pattern), NewTopic("https://shop.example/orders/17")
			m.Match(topic)
			b.ReportAllocs()
			for b.Loop() {
				m.Match(topic)
			}
		})
	}
}

func BenchmarkMatchSelector(b *testing.B) {
	m, topic := mustSelector(b, "https://shop.example/orders/{id}"), NewTopic("https://shop.example/orders/17")
	b.ReportAllocs()
	for b.Loop() {
		m.Match(topic)
	}
}

// What the first pattern to look at a topic pays.
func BenchmarkParseTopic(b *testing.B) {
	hub := mustHub(b, defaultHub)
	b.ReportAllocs()
	for b.Loop() {
		NewTopic("https://shop.example/orders/17").resolve(hub)
	}
}

func BenchmarkCompileURLPattern(b *testing.B) {
	hub := mustHub(b, defaultHub)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewURLPattern("https://shop.example/orders/:id", hub); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendBlock128(b *testing.B) {
	u := &Update{ID: NewEventID(), Topics: []string{"https://shop.example/orders/17"}, Data: strings.Repeat("x", 128)}
	dst := make([]byte, 0, 1024)
	b.ReportAllocs()
	b.SetBytes(128)
	for b.Loop() {
		dst = AppendBlock(dst[:0], u)
	}
}

func BenchmarkParsePublish(b *testing.B) {
	hub := mustHub(b, defaultHub)
	body := "topic=https%3A%2F%2Fshop.example%2Forders%2F17&private=on&data=" + strings.Repeat("x", 128)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParsePublish(body, hub, DefaultLimits()); err != nil {
			b.Fatal(err)
		}
	}
}
