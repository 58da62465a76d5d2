package protocol

import (
	"strings"
	"testing"
)

func TestIndexPrefix(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for _, tc := range []struct {
		m    *Matcher
		want string
	}{
		{mustExact(t, "*"), ""},
		{mustExact(t, "https://h/a"), "https://h/a"},
		{mustExact(t, long), long[:256]},
		{mustSelector(t, "https://h/a"), "https://h/a"},
		{mustSelector(t, "https://h/{a}/b"), "https://h/"},
		{mustSelector(t, "{+a}"), ""},
		{mustSelector(t, "https://h/{"), "https://h/{"},
		{mustPattern(t, "*:*"), ""},
		{mustPattern(t, "https://h/a/b"), "https\x00h\x00\x00/a/b"},
		{mustPattern(t, "https://h/a/:x"), "https\x00h\x00\x00/a/"},
		{mustPattern(t, "https://h/a/:x+"), "https\x00h\x00\x00/a/"},
		// The slash is part of the optional group.
		{mustPattern(t, "https://h/a/:x?"), "https\x00h\x00\x00/a"},
		{mustPattern(t, "https://h/a/*"), "https\x00h\x00\x00/a/"},
		{mustPattern(t, "https://h/a/*?"), "https\x00h\x00\x00/a"},
		{mustPattern(t, "https://h/a{/b}?/c"), "https\x00h\x00\x00/a"},
		{mustPattern(t, "https://h/a{b:x}c"), "https\x00h\x00\x00/ab"},
		{mustPattern(t, "https://h/a(b|)c"), "https\x00h\x00\x00/a"},
		{mustPattern(t, `https://h/a\:b/:x`), "https\x00h\x00\x00/a:b/"},
		{mustPattern(t, "https://h/\u00E9/:x"), "https\x00h\x00\x00/%C3%A9/"},
		{mustPattern(t, "https://h:8080/a"), "https\x00h\x008080\x00/a"},
		{mustPattern(t, "https://h:*/a"), "https\x00h\x00"},
		{mustPattern(t, "https://*.h/a"), "https\x00"},
		{mustPattern(t, "https://eu.*/a"), "https\x00eu."},
		{mustPattern(t, "http{s}?://h/a"), "http"},
		{mustPattern(t, "/a/:x"), "https\x00hub.example.com\x00\x00/a/"},
		{mustPattern(t, `urn\:a\:*`), "urn\x00\x00\x00a:"},
		{mustPattern(t, "https://h/"+long), "https\x00h\x00\x00/" + long[:256-len("https0h00/")]},
	} {
		t.Run(name(tc.m.Kind().String(), tc.m.Value()[:min(len(tc.m.Value()), 30)]), func(t *testing.T) {
			t.Parallel()
			if got := tc.m.IndexPrefix(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestIndexSpace(t *testing.T) {
	t.Parallel()
	other, err := NewURLPattern("/a", mustHub(t, "https://other.example/hub"))
	if err != nil {
		t.Fatal(err)
	}
	raw := mustExact(t, "a").IndexSpace()
	if raw != (IndexSpace{}) || mustSelector(t, "{a}").IndexSpace() != raw || mustPattern(t, "*").IndexSpace() != raw {
		t.Error("exact matchers, selectors and wildcards do not share the zero space")
	}
	if mustPattern(t, "/a").IndexSpace() != mustPattern(t, "/b").IndexSpace() {
		t.Error("patterns with one hub URL have different spaces")
	}
	if mustPattern(t, "/a").IndexSpace() == other.IndexSpace() || mustPattern(t, "/a").IndexSpace() == raw {
		t.Error("patterns share the space of another hub URL or of raw topics")
	}
	if key, ok := mustPattern(t, "/a").IndexKey(NewTopic("http://[")); ok {
		t.Errorf("got key %q for a topic that does not parse", key)
	}
}
