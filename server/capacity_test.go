package server_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

var onA = url.Values{"match": {"a"}}

// openSoon opens a stream as soon as there is room: that the client is gone the
// hub learns a moment later.
func openSoon(t *testing.T, hub *servertest.Hub, r servertest.Request) *servertest.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Deadline)
	defer cancel()
	for {
		stream, err := hub.TrySubscribe(t.Context(), r)
		if err == nil {
			t.Cleanup(stream.Close)
			return stream
		}
		if full, ok := errors.AsType[*servertest.StatusError](err); !ok || full.Status != http.StatusTooManyRequests {
			t.Fatal(err)
		}
		if ctx.Err() != nil {
			t.Fatal("there was no room again")
		}
	}
}

// Spec: S-13, S-20, S-12. However a stream ends, its place is free again.
func TestPlacesAreFreedHoweverStreamsEnd(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), bothDialects, func(c *server.Config) {
		c.MaxStreams = 2
		c.MaxStreamsPerAddress = 1
	})
	full := func(what string) {
		t.Helper()
		if a := send(t, "GET", hub.URL+"?match=a", ""); a.status != http.StatusTooManyRequests {
			t.Errorf("%s: answered %d", what, a.status)
		}
	}
	stream := openSoon(t, hub, servertest.Request{Query: onA})
	full("one is open")
	stream.Close()

	stream = openSoon(t, hub, servertest.Request{Query: onA})
	full("the first was closed by its client")
	stream.Close()

	expires := time.Now().Add(2 * time.Second).Truncate(time.Second)
	if time.Until(expires) < time.Second {
		expires = expires.Add(time.Second)
	}
	stream = openSoon(t, hub, servertest.Request{Query: onA, Token: token1(t, servertest.SubscriberSecret, hub.URL, "*", expires)})
	full("one with a token is open")
	if _, err := stream.TryNext(t.Context()); !errors.Is(err, servertest.ErrEnded) {
		t.Fatal(err)
	}

	stream = openSoon(t, hub, servertest.Request{Query: onA, Token: servertest.Token(t, servertest.SubscriberSecret, nil, nil)})
	full("the token expired")
	if _, err := hub.Reload(t.Context(), func(c *server.Config) { c.SubscriberJWTKey = "another secret, long enough for HS256 as well" }); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.TryNext(t.Context()); !errors.Is(err, servertest.ErrEnded) { // Z-22
		t.Fatal(err)
	}

	// What never was a stream takes no place.
	for range 5 {
		for _, refused := range []struct{ method, query string }{{"HEAD", "?match=a"}, {"GET", "?match_x=a"}, {"GET", ""}} {
			for { // the one above may still hold its place
				a := send(t, refused.method, hub.URL+refused.query, "")
				if a.status != http.StatusTooManyRequests {
					break
				}
			}
		}
	}
	stream = openSoon(t, hub, servertest.Request{Query: onA})
	full("the last")
	stream.Close()
}

// Spec: S-22. Lifetimes end streams, too.
func TestPlacesAreFreedByLifetimes(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) {
		c.MaxStreams = 1
		c.WriteTimeout = 50 * time.Millisecond
	})
	for range 3 {
		stream := openSoon(t, hub, servertest.Request{Query: onA})
		if _, err := stream.TryNext(t.Context()); !errors.Is(err, servertest.ErrEnded) {
			t.Fatal(err)
		}
	}
}

// Spec: S-13, S-20, E-15.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.MaxStreams = 1 })
	hub.Subscribe(t, servertest.Request{Query: onA})
	for _, method := range []string{"GET", "HEAD"} {
		a := send(t, method, hub.URL+"?match=a", "")
		after, err := strconv.Atoi(a.header.Get("Retry-After"))
		if a.status != http.StatusTooManyRequests || err != nil || after < 1 {
			t.Errorf("%s is answered %d %v", method, a.status, a.header)
		}
	}
	// A browser would give up for good on that status.
	a := send(t, "HEAD", hub.URL+"?match=a", "", append(eventSource, "Last-Event-ID: some id")...)
	if a.status != 200 || a.header.Get("Content-Type") != "text/event-stream" || a.header.Get("Mercure-Last-Event-ID") != "some id" {
		t.Errorf("HEAD of a browser is answered %d %v", a.status, a.header)
	}
	answer := exchange(t, hub, "GET /.well-known/mercure?match=a HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n", false)
	rest, ok := strings.CutPrefix(answer, "200 retry: ")
	if delay, err := strconv.Atoi(strings.TrimSuffix(rest, "\n\n")); !ok || err != nil || delay < 1000 || delay > 10_000 {
		t.Errorf("a browser is answered %q", answer)
	}
	// Publishing goes on.
	hub.Publish(t, url.Values{"topic": {"a"}})
}

// Spec: S-13, Z-15. Whose streams are counted together.
func TestStreamsPerAddress(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) {
		c.MaxStreamsPerAddress = 1
		c.TrustedProxies = "127.0.0.1 10.0.0.0/8"
	})
	direct := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.MaxStreamsPerAddress = 1 })
	for _, forwarded := range []string{
		"192.0.2.1", "2001:db8:1:2::1", "198.51.100.7, 192.0.2.2", "192.0.2.3, 10.1.2.3", "192.0.2.4:4711",
		"[2001:db8:1:3::1]:80, 10.0.0.1", "garbage, 10.9.9.9", "10.7.7.7", "",
	} {
		hold(t, hub, forwarded)
	}
	for forwarded, want := range map[string]int{
		"192.0.2.1":                        429,
		"::ffff:192.0.2.1":                 429,
		"203.0.113.9, 192.0.2.1":           429, // what stands further left is anybody's invention
		"2001:db8:1:2:ffff::9":             429, // the same /64
		"2001:db8:1:4::1":                  200,
		"192.0.2.2":                        429,
		"192.0.2.3, 10.4.4.4, 10.1.2.3":    429,
		"192.0.2.4":                        429,
		"2001:db8:1:3::2":                  429,
		"10.9.9.9":                         429,
		"198.51.100.7":                     200,
		"198.51.100.7, also garbage, oops": 429, // the peer itself
		"":                                 429,
	} {
		if a := send(t, "HEAD", hub.URL+"?match=a", "", "X-Forwarded-For: "+forwarded); a.status != want {
			t.Errorf("%q is answered %d, want %d", forwarded, a.status, want)
		}
	}
	// Several fields are one list.
	if a := send(t, "HEAD", hub.URL+"?match=a", "", "X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 192.0.2.1"); a.status != 429 {
		t.Errorf("two fields are answered %d", a.status)
	}
	// Who is not trusted is counted by its own address.
	hold(t, direct, "192.0.2.1")
	if a := send(t, "HEAD", direct.URL+"?match=a", "", "X-Forwarded-For: 192.0.2.9"); a.status != 429 {
		t.Errorf("an untrusted proxy is answered %d", a.status)
	}
}

// hold keeps a stream of a forwarded client open.
func hold(t *testing.T, hub *servertest.Hub, forwarded string) {
	t.Helper()
	a, reader := openRaw(t, hub, "match=a", "X-Forwarded-For: "+forwarded)
	if a.status != 200 {
		t.Fatalf("%q is answered %d", forwarded, a.status)
	}
	expect(t, reader, ":\n")
}
