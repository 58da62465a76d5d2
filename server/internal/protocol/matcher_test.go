package protocol

import (
	"testing"
)

// Spec: M-2, M-6
func TestExact(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, matcher, topic string
		want                 bool
	}{
		{"equal", "https://shop.example/orders/17", "https://shop.example/orders/17", true},
		{"other case", "https://shop.example", "https://SHOP.example", false},
		{"not resolved", "/.well-known/x", "x", false},
		{"not normalized", "caf\u00E9", "cafe\u0301", false},
		{"braces are literal", "/orders/{id}", "/orders/17", false},
		{"braces equal", "/orders/{id}", "/orders/{id}", true},
		{"colons are literal", "/orders/:id", "/orders/17", false},
		{"prefix", "/orders", "/orders/1", false},
		{"wildcard", "*", "anything", true},
		{"wildcard and reserved namespace", "*", "/.well-known/mercure/subscriptions/exact/a/b", true},
		{"wildcard and unparsable topic", "*", "http://[", true},
		{"not a wildcard", "**", "anything", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := mustExact(t, tc.matcher).Match(NewTopic(tc.topic)); got != tc.want {
				t.Errorf("exact %q, topic %q: got %t, want %t", tc.matcher, tc.topic, got, tc.want)
			}
		})
	}
}

// Spec: M-2, M-19, X-8
func TestWildcardUnderEveryKind(t *testing.T) {
	t.Parallel()
	for _, m := range []*Matcher{mustExact(t, "*"), mustPattern(t, "*"), mustSelector(t, "*")} {
		if !m.Wildcard() || !m.Match(NewTopic("urn:x")) || !m.Match(NewTopic("http://[")) {
			t.Errorf("%s: * is not the wildcard", m.Kind())
		}
	}
	for _, m := range []*Matcher{mustExact(t, "a"), mustPattern(t, "*:*"), mustSelector(t, "{+a}")} {
		if m.Wildcard() {
			t.Errorf("%s %s is a wildcard", m.Kind(), m.Value())
		}
	}
}

// What is a variable in one dialect is plain text in the other.
//
// Spec: X-8
func TestTemplatesAreNoPatterns(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		m     *Matcher
		topic string
		want  bool
	}{
		{mustSelector(t, "https://h/:id"), "https://h/1", false},
		{mustSelector(t, "https://h/:id"), "https://h/:id", true},
		{mustSelector(t, "https://h/*"), "https://h/1", false},
		{mustPattern(t, "https://h/{id}"), "https://h/1", false},
		{mustPattern(t, "https://h/{id}"), "https://h/id", true}, // a group without a modifier
		{mustPattern(t, "https://h/a{/rest*}"), "https://h/a/b", false},
		{mustPattern(t, "https://h/a{/rest*}"), "https://h/a/rest/b", true}, // text and a wildcard
	} {
		t.Run(name(tc.m.Kind().String(), tc.m.Value(), tc.topic), func(t *testing.T) {
			t.Parallel()
			if got := tc.m.Match(NewTopic(tc.topic)); got != tc.want {
				t.Errorf("got %t, want %t", got, tc.want)
			}
		})
	}
}

// The namespace is reserved for publishing only.
//
// Spec: N-3
func TestReservedTopicsMatch(t *testing.T) {
	t.Parallel()
	const topic = "/.well-known/mercure/subscriptions/exact/a/urn%3Auuid%3A1"
	for _, m := range []*Matcher{
		mustExact(t, "*"), mustExact(t, topic), mustPattern(t, "/.well-known/mercure/subscriptions/:t/:m/:s"),
		mustPattern(t, "/.well-known/mercure/*"), mustSelector(t, "/.well-known/mercure/subscriptions{/rest*}"),
	} {
		if !m.Match(NewTopic(topic)) {
			t.Errorf("%s %s does not match %s", m.Kind(), m.Value(), topic)
		}
	}
}

// Spec: S-5, S-6, TP-5
func TestConstructorsRefuse(t *testing.T) {
	t.Parallel()
	hub := mustHub(t, defaultHub)
	for _, value := range []string{"", "a\x00", "a\u200D", "\xFF"} {
		_, err := NewExact(value)
		wantFieldError(t, err, "matcher", false)
		_, err = NewURLPattern(value, hub)
		wantFieldError(t, err, "matcher", false)
	}
	for _, value := range []string{"", "\xFF"} {
		_, err := NewSelector(value)
		wantFieldError(t, err, "matcher", false)
	}
	// OURS of S-5: characters no topic can have are no error in a selector.
	if m := mustSelector(t, "a\x00{b}"); m.Match(NewTopic("a\x00b")) {
		t.Error("a selector with a control character matches as a template")
	}
}

func TestMatcherKindString(t *testing.T) {
	t.Parallel()
	for kind, want := range map[MatcherKind]string{Exact: "exact", URLPattern: "urlpattern", Selector: "selector", 0: "MatcherKind(0)"} {
		if got := kind.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// Matchers with equal keys are evaluated as one.
//
// Spec: M-12
func TestMatcherKey(t *testing.T) {
	t.Parallel()
	https1, https2, plain := mustHub(t, defaultHub), mustHub(t, "https://other.example/hub"), mustHub(t, "http://hub.example.com/.well-known/mercure")
	key := func(value string, hub *HubURL) MatcherKey {
		m, err := NewURLPattern(value, hub)
		if err != nil {
			t.Fatal(err)
		}
		return m.Key()
	}
	for _, tc := range []struct {
		name, pattern string
		a, b          *HubURL
		equal         bool
	}{
		{"same hub", "/books/:id", https1, mustHub(t, defaultHub), true},
		{"relative pattern", "/books/:id", https1, https2, false},
		{"host of neither hub", "https://shop.example/:id", https1, https2, true},
		{"host of neither hub, other scheme", "https://shop.example/:id", https1, plain, false},
		{"host of one hub", "https://hub.example.com/:id", https1, https2, false},
		{"any host", "https://*/:id", https1, https2, false},
		{"opaque", `urn\:uuid\:*`, https1, plain, true},
		{"any scheme", "*:*", https1, https2, false},
		{"wildcard", "*", https1, plain, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if equal := key(tc.pattern, tc.a) == key(tc.pattern, tc.b); equal != tc.equal {
				t.Errorf("%v and %v: equal %t, want %t", key(tc.pattern, tc.a), key(tc.pattern, tc.b), equal, tc.equal)
			}
		})
	}
	if mustExact(t, "a").Key() == mustSelector(t, "a").Key() || mustExact(t, "*").Key() == mustPattern(t, "*").Key() {
		t.Error("keys of different kinds are equal; the two are different subscriptions")
	}
	if mustExact(t, "a").Key() != mustExact(t, "a").Key() || mustExact(t, "a").Key() == mustExact(t, "b").Key() {
		t.Error("keys do not depend on the value alone")
	}
}
