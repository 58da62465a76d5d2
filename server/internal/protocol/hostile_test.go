package protocol

import (
	"strings"
	"testing"
)

// Topics of 4 kB made to cost much. Those with many "@" or "%" took the URL
// library 40 ms.
func BenchmarkParseHostileTopic(b *testing.B) {
	hub := mustHub(b, defaultHub)
	for name, topic := range map[string]string{
		"credentials":        "https://" + strings.Repeat("@", 4086) + "h",
		"long password":      "https://[" + strings.Repeat(":", 4085) + "@h",
		"opaque credentials": "foo://" + strings.Repeat(":@", 2044) + "h",
		"opaque host":        "foo://" + strings.Repeat("%", 4090),
		"labels":             "https://" + strings.Repeat("\u00E9.", 1362),
		"invalid labels":     "https://" + strings.Repeat("xn--a.", 681),
		"dot segments":       "https://h" + strings.Repeat("/%2e%2e", 584),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				hub.resolve(topic)
			}
		})
	}
}

// The same for subscribers.
func BenchmarkCompileHostilePattern(b *testing.B) {
	hub := mustHub(b, defaultHub)
	for name, pattern := range map[string]string{
		"literal":      "https://h/" + strings.Repeat("a", 4086),
		"slashes":      "https://h" + strings.Repeat("/", 4087),
		"host":         "*://" + strings.Repeat("\u00E9.", 1364),
		"opaque host":  "foo://" + strings.Repeat("%", 4090),
		"credentials":  "https://" + strings.Repeat("a@", 2043),
		"dot segments": "https://h/:x" + strings.Repeat("/..", 1361),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, _ = NewURLPattern(pattern, hub)
			}
		})
	}
}
