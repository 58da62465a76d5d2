package protocol

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Pieces that patterns and topics are made of. Both draw from texts that
// resemble each other, so that matches are common.
var (
	patternPrefixes = []string{
		"", "/", "https://a.example", "https://a.example/", "https://hub.example.com/", `urn\:`, "*:", "*://*/", "http{s}?://a.example/",
		"https://*.example/", "https://:h.example/", "https://a.example:*/", "https://a.example:8080/", "foo://h/", "https://{a.}?example/",
		"https://a.exampl(e|f)/", "(https|urn):", "https{:x}?://", "ws{s}?://a*/",
	}
	patternPieces = []string{
		"a", "b", "/", "/a", "a.b", ":x", ":y", "/:x", "*", "/*", "?", "+", "{", "}", "{/a}?", "{/:x}*", "{a}+", "(a|b)", "/(a|b)?", `(\d+)`,
		`\?`, "?", "#", ".", "..", "%61", "%20", " ", "\u00E9", `\:`, "(.*)", "{:x}", "{a:x}", "/:x?", "/*?", "{}", "{}?", "@", ":", "8080",
	}
	topicPrefixes = []string{
		"", "/", "https://a.example", "https://a.example/", "https://hub.example.com/", "urn:", "http://a.example/", "https://b.example/",
		"https://a.example:8080/", "https://example/", "foo://h/", "//a.example/", "https:", "http://[", "wss://ab/", " https://A.example/",
		"https://u:p@a.example/",
	}
	topicPieces = []string{"a", "b", "/", "/a", "a.b", "?", "#", ".", "..", "%61", "%20", " ", "\u00E9", ":", "1", "12", "@", "8080", "\\", "\uFFFD"}
)

func drawText(t *rapid.T, label string, prefixes, pieces []string) string {
	return rapid.SampledFrom(prefixes).Draw(t, label+" prefix") +
		strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 5).Draw(t, label), "")
}

// Our evaluation must agree with the library's own, which parses the topic
// again and runs the expressions it compiled itself.
//
// Spec: M-7, M-9, M-10
func TestURLPatternAgreesWithLibrary(t *testing.T) {
	t.Parallel()
	hub := mustHub(t, defaultHub)
	rapid.Check(t, func(t *rapid.T) {
		pattern := drawText(t, "pattern", patternPrefixes, patternPieces)
		if pattern == "" || pattern == "*" {
			return
		}
		m, err := NewURLPattern(pattern, hub)
		library, libraryErr := parseWithLibrary(pattern, "")
		if libraryErr != nil {
			library, libraryErr = parseWithLibrary(pattern, hub.String())
		}
		if (err == nil) != (libraryErr == nil) {
			t.Fatalf("pattern %q: got error %v, library %v", pattern, err, libraryErr)
		}
		if err != nil {
			return
		}
		for range 4 {
			topic := drawText(t, "topic", topicPrefixes, topicPieces)
			if got, want := m.Match(NewTopic(topic)), library.Test(topic, hub.String()); got != want {
				t.Fatalf("pattern %q, topic %q: got %t, library %t", pattern, topic, got, want)
			}
		}
	})
}

// drawMatcher returns nil if the drawn pattern is malformed.
func drawMatcher(t *rapid.T, hubs []*HubURL) *Matcher {
	var m *Matcher
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		m, _ = NewExact(drawText(t, "exact", topicPrefixes, topicPieces))
	case 1:
		m, _ = NewSelector(drawText(t, "selector", topicPrefixes,
			[]string{"{a}", "{+a}", "{/a}", "{/a*}", "{?a,b}", "{.a}", "{#a}", "a", "b", "/", "{", "?", " "}))
	case 2:
		m, _ = NewExact(wildcard)
	default:
		m, _ = NewURLPattern(drawText(t, "pattern", patternPrefixes, patternPieces), rapid.SampledFrom(hubs).Draw(t, "hub"))
	}
	return m
}

func drawHubs(t testing.TB) []*HubURL {
	return []*HubURL{mustHub(t, defaultHub), mustHub(t, "https://a.example/a/b"), mustHub(t, "http://a.example:8080/hub"), mustHub(t, "https://c.example/x")}
}

// Whatever matches is found through the index, and matchers of one space agree
// on keys.
func TestIndexFindsEveryMatch(t *testing.T) {
	t.Parallel()
	hubs := drawHubs(t)
	rapid.Check(t, func(t *rapid.T) {
		m, other := drawMatcher(t, hubs), drawMatcher(t, hubs)
		if m == nil || other == nil {
			return
		}
		if len(m.IndexPrefix()) > maxIndexPrefix {
			t.Fatalf("%s %q: prefix of %d bytes", m.Kind(), m.Value(), len(m.IndexPrefix()))
		}
		for range 4 {
			topic := NewTopic(drawText(t, "topic", topicPrefixes, topicPieces))
			key, ok := m.IndexKey(topic)
			if m.Match(topic) && !(ok && strings.HasPrefix(key, m.IndexPrefix())) {
				t.Fatalf("%s %q matches %q, but key %q (%t) does not start with %q", m.Kind(), m.Value(), topic.Raw(), key, ok, m.IndexPrefix())
			}
			if otherKey, otherOK := other.IndexKey(topic); m.IndexSpace() == other.IndexSpace() && (key != otherKey || ok != otherOK) {
				t.Fatalf("topic %q has keys %q and %q in the same space", topic.Raw(), key, otherKey)
			}
		}
	})
}

// Matchers with equal keys are interchangeable, whatever hub URL they were
// made with.
func TestEqualKeysMatchAlike(t *testing.T) {
	t.Parallel()
	hubs := drawHubs(t)
	rapid.Check(t, func(t *rapid.T) {
		pattern := drawText(t, "pattern", patternPrefixes, patternPieces)
		var ms []*Matcher
		for _, hub := range hubs {
			if m, err := NewURLPattern(pattern, hub); err == nil {
				ms = append(ms, m)
			}
		}
		topic := NewTopic(drawText(t, "topic", topicPrefixes, topicPieces))
		for _, a := range ms {
			for _, b := range ms {
				if a.Key() == b.Key() && a.Match(topic) != b.Match(topic) {
					t.Fatalf("pattern %q, topic %q: matchers of %s and %s have key %v and differ",
						pattern, topic.Raw(), a.pattern.hub, b.pattern.hub, a.Key())
				}
			}
		}
	})
}

// A set matches what its members match.
func TestMatcherSetAgreesWithItsMembers(t *testing.T) {
	t.Parallel()
	hubs := drawHubs(t)
	rapid.Check(t, func(t *rapid.T) {
		var ms []*Matcher
		for range rapid.IntRange(0, 4).Draw(t, "matchers") {
			if m := drawMatcher(t, hubs); m != nil {
				ms = append(ms, m)
			}
		}
		var raw []string
		for range rapid.IntRange(0, 3).Draw(t, "topics") {
			raw = append(raw, drawText(t, "topic", topicPrefixes, topicPieces))
		}
		topics := NewTopics(raw)
		matched := 0
		for _, topic := range topics {
			for _, m := range ms {
				if m.Match(topic) {
					matched++
					break
				}
			}
		}
		set := NewMatcherSet(ms)
		if got, want := set.MatchAny(topics), matched > 0; got != want {
			t.Fatalf("MatchAny: got %t, want %t", got, want)
		}
		if got, want := set.MatchAll(topics), matched == len(topics) && matched > 0; got != want {
			t.Fatalf("MatchAll: got %t, want %t", got, want)
		}
		if exact, only := set.ExactTopics(); only {
			for _, topic := range topics {
				found := false
				for _, e := range exact {
					found = found || e == topic.Raw()
				}
				if found != set.MatchAny([]*Topic{topic}) {
					t.Fatalf("topic %q: the exact topics %q are not all that matches", topic.Raw(), exact)
				}
			}
		}
	})
}
