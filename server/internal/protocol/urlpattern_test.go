package protocol

import (
	"strings"
	"testing"
)

type patternCase struct {
	pattern, topic string
	want           bool
}

func testPatterns(t *testing.T, hub string, cases []patternCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(name(tc.pattern, tc.topic), func(t *testing.T) {
			t.Parallel()
			m, err := NewURLPattern(tc.pattern, mustHub(t, hub))
			if err != nil {
				t.Fatal(err)
			}
			if got := m.Match(NewTopic(tc.topic)); got != tc.want {
				t.Errorf("pattern %s, topic %s: got %t, want %t", tc.pattern, tc.topic, got, tc.want)
			}
		})
	}
}

// The worked examples of section 4.3. Spec: M-7, M-8, M-9, M-10
func TestURLPatternWorkedExamples(t *testing.T) {
	t.Parallel()
	const orders = "https://shop.example/orders/:id"
	testPatterns(t, defaultHub, []patternCase{
		{orders, "https://shop.example/orders/17", true},
		{orders, "https://shop.example/orders/17/", false},
		{orders, "https://shop.example/orders/", false},
		{orders, "https://shop.example/orders/17/lines/2", false},
		{orders, "https://SHOP.example/orders/17", true},
		{orders, "https://shop.example/ORDERS/17", false},
		{orders, "HTTPS://shop.example:443/orders/17", true},
		{orders, "https://shop.example:8443/orders/17", false},
		{orders, "http://shop.example/orders/17", false},
		{orders, "https://shop.example/orders/17?x=1#y", true},
		{orders, "https://u:p@shop.example/orders/17", true},
		{orders, orders, true},
		{"https://shop.example/orders/*", "https://shop.example/orders/17/lines/2", true},
		{"https://shop.example/orders/*", "https://shop.example/orders/", true},
		{"https://shop.example/orders/*", "https://shop.example/orders", false},
		{"https://shop.example/orders{/*}?", "https://shop.example/orders", true},
		{"https://shop.example/feed/:kind(news|alerts)", "https://shop.example/feed/news", true},
		{"https://shop.example/feed/:kind(news|alerts)", "https://shop.example/feed/sport", false},
		{"https://shop.example/items{/:rest}*", "https://shop.example/items/a/b", true},
		{"https://*.shop.example/a", "https://eu.shop.example/a", true},
		{"https://*.shop.example/a", "https://shop.example/a", false},
		{"https://{*.}?shop.example/a", "https://shop.example/a", true},
		{"https://:t.shop.example/a", "https://x.y.shop.example/a", false},
		{`http{s}?\://shop.example/:x`, "http://shop.example/a", true},
		{"https://shop.example/a?b=c", "https://shop.example/a", false},
		{"https://shop.example/a?b=c", "https://shop.example/a?b=c#z", true},
		{`https://shop.example/x/:id\?v=:v`, "https://shop.example/x/1?v=2", true},
		{"https://shop.example/x/:id?v=:v", "https://shop.example/x/1?v=2", false},
		{"https://shop.example", "https://shop.example/anything", true},
		{"https://shop.example:*/a", "https://shop.example:8080/a", true},
		{`https://shop.example/a\+b`, "https://shop.example/a+b", true},
		{"https://shop.example/caf\u00E9", "https://shop.example/caf%C3%A9", true},
		{"https://shop.example/%61", "https://shop.example/a", false},
		{"/.well-known/mercure/subscriptions/exact/a%3ab/:s", "/.well-known/mercure/subscriptions/exact/a%3Ab/1", false},
		{"/books/:id", "/books/7", true},
		{"/books/:id", "https://hub.example.com/books/7", true},
		{"/books/:id", "https://other.example/books/7", false},
		{"books/:id", "/.well-known/books/7", true},
		{"books/:id", "books/7", true},
		{":id", "foo", true},
		{"/*", "foo", true},
		{"/*", "urn:uuid:1", false},
		{`urn\:uuid\:*`, "urn:uuid:1", true},
		{"urn:uuid:*", "urn:uuid:1", false},
		{"*:*", "urn:uuid:1", true},
		{"*:*", "https://a/b", true},
		{"*:*", "foo", true},
		{"*://*/*", "urn:uuid:1", false},
		{"//shop.example/a", "https://shop.example/a", false},
		{"./:x", "foo", false},
		{"../:x", "foo", false},
		{"*:*", "http://[", false},
		{orders, "http://[", false},
	})
}

// Spec: M-9, M-11, Q-4
func TestURLPatternMalformed(t *testing.T) {
	t.Parallel()
	hub := mustHub(t, defaultHub)
	for _, pattern := range []string{
		"https://shop.example/a+b",
		"{open",
		"/(open",
		"https://h/:a/:a",
		"https://h/(?<n>x)",
		"https://h/(\u00E9)",
		// JavaScript only, Go only, or not the same in both.
		"https://h/(a(?=b))",
		"https://h/(a(?!b))",
		"https://h/(a(?<=b))",
		"https://h/(a(?<n>b))",
		"https://h/(a(?i:b))",
		`https://h/(a\1)`,
		`https://h/(\12)`,
		`https://h/(\Qa)`,
		`https://h/(a\z)`,
		`https://h/(\C)`,
		`https://h/(\x{41})`,
		`https://h/(\pL)`,
		"https://h/([a&&b])",
		"https://h/([a--b])",
		"https://h/([[a]])",
		"https://h/([]a])",
		"https://h/([^]a])",
		"https://h/(a**)",
		"https://h/(a{2000})",
		"https://h/(a{400})(b{400})(c{400})",
		"https://h/" + strings.Repeat("*", 101),
		"https://h/" + strings.Repeat("{a}?", 101),
		"https://h/(" + strings.Repeat(`\p{L}`, 500) + ")",
		"https://h:99999/",
		"}",
		"a}",
		"a{b{c}}",
		`a\`,
		"a?b:",
		"http*://exa mple/",
		// The library panics.
		"https://h/*a/..",
	} {
		t.Run(name(pattern[:min(len(pattern), 40)]), func(t *testing.T) {
			t.Parallel()
			_, err := NewURLPattern(pattern, hub)
			if err == nil {
				t.Fatalf("pattern %s: got no error", pattern)
			}
			wantFieldError(t, err, "matcher", false)
		})
	}
}

// What the worked examples leave out of the syntax summary of section 4.3.
func TestURLPatternSyntax(t *testing.T) {
	t.Parallel()
	testPatterns(t, defaultHub, []patternCase{
		// A slash before a group belongs to it.
		{"https://h/a/:x?", "https://h/a", true},
		{"https://h/a/:x?", "https://h/a/b", true},
		{"https://h/a/:x?", "https://h/a/", false},
		{"https://h/a/:x+", "https://h/a/b/c", true},
		{"https://h/a/:x+", "https://h/a", false},
		{"https://h/a/:x*", "https://h/a", true},
		{"https://h/a/{:x}?", "https://h/a/", true},
		{"https://h/a/{:x}?", "https://h/a", false},
		{"https://h/a/*?", "https://h/a", true},
		{`https://h/a/(\d+)?`, "https://h/a", true},
		{`https://h/a/(\d+)`, "https://h/a/12", true},
		{`https://h/a/(\d+)`, "https://h/a/x", false},
		{"https://h/{a}+", "https://h/aaa", true},
		{"https://h/{a}+", "https://h/", false},
		{"https://h/{a}?b", "https://h/b", true},
		{"https://h/{a}b", "https://h/ab", true},
		{"https://h/:x-:y", "https://h/1-2", true},
		{"https://h/:x-:y", "https://h/1-", false},
		{"https://h/{p:x.s}*", "https://h/p1.sp2.s", true},
		{"https://h/{p:x.s}*", "https://h/p1.", false},
		{"https://h/{:x.s}", "https://h/a.s", true},
		{"https://h/{:x.s}", "https://h/a", false},
		{"https://h/{*.s}", "https://h/a/b.s", true},
		{"https://h/{*.s}", "https://h/a/b", false},
		{"https://h/a*", "https://h/a/b", true},
		{"https://h/*/c", "https://h/a/b/c", true},
		{"https://h/*/c", "https://h/c", false},
		// Anchors are relative to the component, not to what is left of it.
		{"https://h/a(^b)", "https://h/ab", false},
		{`https://h/a(\bb)`, "https://h/ab", false},
		{`https://h/a(b$)`, "https://h/ab", true},
		{"https://h/a(b|c)d", "https://h/acd", true},
		{"https://h/a(b|c)d", "https://h/ab", false},
		{"https://h/(.*)", "https://h/a/b", true},
		{"https://h/:x(.*)", "https://h/a/b", true},
		{`https://h/([^/]+)`, "https://h/a", true},
		{`https://h/([^/]+)`, "https://h/a/b", false},
		{`https://h/(a\)b)`, "https://h/a)b", true},
		// Names are identifiers of JavaScript.
		{"https://h/:_id", "https://h/1", true},
		{"https://h/:$", "https://h/1", true},
		{"https://h/:a$b", "https://h/1", true},
		{"https://h/:a$b", "https://h/1$b", true},
		{"https://h/:a$b/c", "https://h/1/c", true},
		{"https://h/:\u00E9t\u00E9", "https://h/1", true},
		// Omitted components.
		{"https://h/a#b", "https://h/a#b", true},
		{"https://h/a#b", "https://h/a?x#b", false},
		{"https://h/a#b", "https://h/a#c", false},
		{"https://h/a#b", "https://h/a", false},
		{"https://h/a?x", "https://h/a?x#anything", true},
		{"https://h?x", "https://h/?x", true},
		{"https://u@h/a", "https://u@h/a", true},
		{"https://u@h/a", "https://h/a", false},
		{`https://u\:p@h/a`, "https://u:p@h/a", true},
		{`https://u\:p@h/a`, "https://u:q@h/a", false},
		{"https://h:8080", "https://h:8080/x", true},
		{"https://h:443/a", "https://h/a", true},
		// Canonicalization of literals.
		{"HTTPS://H/a", "https://h/a", true},
		{"https://b\u00FCcher.example/", "https://xn--bcher-kva.example/", true},
		{"https://h/a/../b", "https://h/b", true},
		{"https://h/a b", "https://h/a%20b", true},
		{"https://h/a b", "https://h/a b", true},
		{"https://h/\u00E9:x", "https://h/\u00E9t\u00E9", true},
		{"https://h/\uFFFD", "https://h/%EF%BF%BD", true},
		{`https://[\:\:1]/a`, "https://[::1]/a", true},
		// Schemes other than http.
		{"foo://h/:x", "foo://h/a", true},
		{"foo://h/:x", "foo://h/a/b", true}, // no segments in other schemes
		{"mailto\\:*@example.com", "mailto:a@example.com", true},
		{"mailto\\:*@example.com", "mailto:a@example.org", false},
		{"data\\:foo*", "data:foobar", true},
		{"file:///a/:x", "file:///a/b", true},
		{"file:///a/:x", "file:///a/b/c", false},
		{"file:///a/{:x}?", "file:///a", false},
		{"FILE:///a/b/../c", "file:///a/c", true},
		{"file:///a/:x", "ftp:///a/b", false},
		{"ws://h/:x", "ws://h/a/b", false},
		// The value is compared in full.
		{"https://h/:x", "https://h/a\u2028b", true},
		{"https://h/:x", "https://h/a\nb", true}, // line ends are no part of a URL
	})
}

// Spec: M-8
func TestURLPatternFollowsTheHubURL(t *testing.T) {
	t.Parallel()
	testPatterns(t, "http://other.example:8080/push/hub", []patternCase{
		{"books/:id", "http://other.example:8080/push/books/1", true},
		{"books/:id", "books/1", true},
		{"books/:id", "/books/1", false},
		{"/books/:id", "https://other.example:8080/books/1", false},
		{"http://other.example:8080/push/:x", "foo", true},
	})
	m, err := NewURLPattern("https://hub.example.com/*", mustHub(t, "http://hub.example.com/hub"))
	if err != nil {
		t.Fatal(err)
	}
	// The text is relative to an https hub only.
	if !m.Match(NewTopic("https:hub.example.com/x")) {
		t.Error("an absolute topic without slashes does not match under an http hub")
	}
}

// What issuers and subscribers should know before they use a pattern.
//
// Spec: M-13, M-15
func TestURLPatternConsequences(t *testing.T) {
	t.Parallel()
	testPatterns(t, defaultHub, []patternCase{
		// A pattern of one URL covers more than that URL.
		{"https://shop.example/orders/1", "https://shop.example/orders/1", true},
		{"https://shop.example/orders/1", "https://shop.example/orders/1?full", true},
		{"https://shop.example/orders/1", "https://shop.example/orders/1#total", true},
		{"https://shop.example/orders/1", "https://u:p@shop.example/orders/1", true},
		{"https://shop.example/orders/1", "https://shop.example/orders/1/", false},
		// A topic that is no URL is next to the hub.
		{"/.well-known/:room", "chat-room-12", true},
		{"chat-room-*", "chat-room-12", true},
		{"/:room", "chat-room-12", false},
		// One with a colon may be an opaque URI.
		{`tenant\:*`, "tenant:acme", true},
		{"/.well-known/*", "tenant:acme", false},
	})
	for _, topic := range []string{"https://shop.example/orders/1?full", "https://u:p@shop.example/orders/1"} {
		if mustExact(t, "https://shop.example/orders/1").Match(NewTopic(topic)) {
			t.Errorf("exact covers %s", topic)
		}
	}
}

// Simple patterns must not pay for a regular expression.
func TestURLPatternFastPaths(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]component{
		"https://h/a/b":  {how: matchLiteral, head: "/a/b"},
		"https://h/a/*":  {how: matchHead, head: "/a/"},
		"https://h/a*":   {how: matchHead, head: "/a"},
		"https://h":      {how: matchHead},
		"https://h/a/:x": {how: matchSegment, head: "/a/", delimiter: "/"},
		"urn\\:a\\::x":   {how: matchSegment, head: "a:"},
	} {
		m := mustPattern(t, pattern)
		if got := m.pattern.pathname; got != want {
			t.Errorf("%s: got %+v, want %+v", pattern, got, want)
		}
	}
}

// Spec: M-11, Z-10
func TestURLPatternIsLinear(t *testing.T) {
	t.Parallel()
	// A backtracking engine needs about 2^2000 steps for this.
	m := mustPattern(t, "https://h/((?:a|a|a?)+)+b")
	if m.Match(NewTopic("https://h/" + strings.Repeat("a", 2000))) {
		t.Error("matched without the final b")
	}
	// The bounds on groups leave room for real patterns.
	for _, pattern := range []string{
		`https://h/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})`,
		`https://h/(\w{1,255})`,
		"https://h" + strings.Repeat("/*", 50),
	} {
		mustPattern(t, pattern)
	}
}
