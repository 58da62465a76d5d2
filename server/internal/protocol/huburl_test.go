package protocol

import (
	"sync"
	"testing"
)

func TestParseHubURL(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, raw, href, path, origin string
	}{
		{"default path", defaultHub, defaultHub, "/.well-known/mercure", "https://hub.example.com"},
		{"canonicalized", "HTTPS://Hub.Example.COM:443/a/../push", "https://hub.example.com/push", "/push", "https://hub.example.com"},
		{"port", "http://localhost:3000/.well-known/mercure", "http://localhost:3000/.well-known/mercure", "/.well-known/mercure", "http://localhost:3000"},
		{"IPv6", "http://[::1]:80/hub", "http://[::1]/hub", "/hub", "http://[::1]"},
		{"root", "https://hub.example.com", "https://hub.example.com/", "/", "https://hub.example.com"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := mustHub(t, tc.raw)
			if h.String() != tc.href || h.Path() != tc.path || h.Origin() != tc.origin {
				t.Errorf("got %s, %s, %s; want %s, %s, %s", h, h.Path(), h.Origin(), tc.href, tc.path, tc.origin)
			}
		})
	}
}

func TestParseHubURLRefuses(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{
		"empty":       "",
		"relative":    "/.well-known/mercure",
		"no slashes":  "https:hub.example.com",
		"scheme":      "ftp://hub.example.com/hub",
		"opaque":      "urn:hub",
		"query":       "https://hub.example.com/hub?x",
		"empty query": "https://hub.example.com/hub?",
		"fragment":    "https://hub.example.com/hub#x",
		"credentials": "https://u:p@hub.example.com/hub",
		"bad host":    "https://a b/hub",
		"no host":     "https://",
		"bad port":    "https://hub.example.com:99999/hub",
		"drive":       "https://hub.example.com/C:",
		"below drive": "https://hub.example.com/c:/hub",
		"same drive":  "https://hub.example.com/%43:",
	} {
		if h, err := ParseHubURL(raw); err == nil {
			t.Errorf("%s: got %s, want an error", name, h)
		}
	}
}

// The table of section 7. Spec: N-2, N-4, Z-5
func TestReserved(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		topic    string
		reserved bool
	}{
		{"/.well-known/mercure", true},
		{"/.well-known/mercure/", true},
		{"/.well-known/mercure/subscriptions/exact/a/b", true},
		{"https://hub.example.com/.well-known/mercure/x", true},
		{"http://somewhere.else/.well-known/mercure/x", true},
		{"foo://x/.well-known/mercure", true},
		{"urn:/.well-known/mercure/a", true},
		{"file:///.well-known/mercure", true},
		{"//hub.example.com/.well-known/mercure", true},
		{"https:/.well-known/mercure", true},
		{"mercure", true},
		{"./mercure", true},
		{"mercure/subscriptions/x", true},
		{"", true},
		{"?x=1", true},
		{"#frag", true},
		{"../.well-known/mercure/x", true},
		{"/.well-known/%6Dercure/x", true},
		{"/%2Ewell-known/mercure", true},
		{"/.well-known/x/%2e%2e/mercure", true},
		{"/.well-known/mercure/../mercure/x", true},
		{`https://shop.example\.well-known\mercure\x`, true},
		{"  /.well-known/mercure  ", true},
		{"/.well-known/mercure?x=y", true},
		{"/.well-known/mercure/../other", false},
		{"/.well-known/mercureX", false},
		{"/.well-known/mercure-dashboard", false},
		{"/.well-known/mercure%2Fx", false},
		{"/.well-known%2Fmercure", false},
		{"/.well-known/%256Dercure", false},
		{"/.well-known/MERCURE", false},
		{"/.well-known//mercure", false},
		{"/.well-known/mercure;a=b", false},
		{"https://shop.example/foo/.well-known/mercure/bar", false},
		{"subscriptions/x", false},
		{"bar", false},
		{"a topic with spaces", false},
		{"../mercure/x", false},
		{"urn:example:mercure", false},
		{"blob:https://hub.example.com/.well-known/mercure", false},
		{"http://[", false},
		{"https://a b.example/.well-known/mercure", false},
		{"*", false}, // refused by another rule
	} {
		t.Run(name(tc.topic), func(t *testing.T) {
			t.Parallel()
			if got := mustHub(t, defaultHub).Reserved(tc.topic); got != tc.reserved {
				t.Errorf("Reserved(%q) = %t, want %t", tc.topic, got, tc.reserved)
			}
		})
	}
}

// Spec: N-2, E-19
func TestReservedAtOtherHubPaths(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		hub, topic string
		reserved   bool
	}{
		{"https://shop.example/push/hub", "/push/hub", true},
		{"https://shop.example/push/hub", "hub/x", true},
		{"https://shop.example/push/hub", "https://z.example/push/hub/x", true},
		{"https://shop.example/push/hub", "", true},
		{"https://shop.example/push/hub", "/.well-known/mercure", false},
		{"https://shop.example/push/hub", "x", false},
		// Step 6: the hub's own path is transformed like the topics'.
		{"https://shop.example/p%75sh/%68ub", "/push/hub/x", true},
		{"https://shop.example/p%75sh/%68ub", "/p%75sh/hub", true},
		{"https://shop.example/a%2Fb", "/a%2Fb/c", true},
		{"https://shop.example/a%2Fb", "/a/b", false},
	} {
		t.Run(name(tc.hub, tc.topic), func(t *testing.T) {
			t.Parallel()
			if got := mustHub(t, tc.hub).Reserved(tc.topic); got != tc.reserved {
				t.Errorf("Reserved(%q) = %t, want %t", tc.topic, got, tc.reserved)
			}
		})
	}
}

// Spec: N-2 step 5
func TestRemoveDotSegments(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/":         "/",
		"/a/b":      "/a/b",
		"/.a/b.":    "/.a/b.",
		"/a/./b":    "/a/b",
		"/a/../b":   "/b",
		"/../../b":  "/b",
		"/a/b/..":   "/a/",
		"/a/b/.":    "/a/b/",
		"/..":       "/",
		"/a//../b":  "/a/b",
		"/a/.../b":  "/a/.../b",
		"/a/b/../.": "/a/",
	} {
		if got := removeDotSegments(path); got != want {
			t.Errorf("removeDotSegments(%q) = %q, want %q", path, got, want)
		}
	}
}

// The race detector is the judge here: the URL library writes to a base URL
// when it first resolves something against it.
func TestHubURLIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	for range 20 {
		hub := mustHub(t, defaultHub)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				<-start
				if hub.resolve("x") == nil || !hub.Reserved("mercure") {
					t.Error("wrong result")
				}
			})
		}
		close(start)
		wg.Wait()
	}
}

// What a base-free topic resolves to must not depend on the hub URL, or two
// hub URLs would share one wrong result.
func TestResolvesWithoutBase(t *testing.T) {
	t.Parallel()
	hubs := []*HubURL{
		mustHub(t, defaultHub), mustHub(t, "http://other.example:8080/push"), mustHub(t, "https://third.example/a/b/c"),
	}
	free := 0
	for _, topic := range []string{
		"https://a/b", " \x01https://a/b", "HTTPS://a", "http://a/b", "urn:x", "urn:/a/b", "foo://x/y", "file:a", "file:///a", "ws:a",
		"ftp:/x", "a", "", "/a", "//a/b", "?x", "#x", "https:a", "https:/a", `https:\\a`, "http:a", "ht\ntps://a", "https:\n//a",
		"1a:b", ":x", "a b:c", "a+b-c.d1:x", "mailto:", "\u212Attp://x",
	} {
		if !resolvesWithoutBase(topic) {
			continue
		}
		free++
		want := hubs[0].resolve(topic)
		for _, h := range hubs[1:] {
			got := h.resolve(topic)
			if (got == nil) != (want == nil) || got != nil && *got != *want {
				t.Errorf("%q depends on the hub URL: %+v and %+v", topic, got, want)
			}
		}
	}
	if free != 13 {
		t.Errorf("%d topics are free of the base, want 13", free)
	}
}
