package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// markerOf returns the marker that an answer leaves with the browser.
func markerOf(a answer) string { return strings.Join(a.header.Values("Set-Cookie"), " | ") }

// Spec: S-14, S-15, A-5. A browser that had a token is told that it has lost it.
func TestNoFallbackToAnonymous(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	off := func(c *server.Config) { pinned(c); c.AnonymousFallback = false }
	hub := servertest.Start(t, database, off)
	subscriber := token1(t, servertest.SubscriberSecret, publicURL, "*", inAnHour())
	withCookie := cookies(tokenCookie, subscriber)
	const (
		markerName = "__Secure-mercure_access_token_presented"
		lax        = markerName + "=1; Path=/.well-known/mercure; HttpOnly; Secure; SameSite=Lax"
		none       = markerName + "=1; Path=/.well-known/mercure; HttpOnly; Secure; SameSite=None"
	)
	for name, test := range map[string]struct {
		headers []string
		status  int
		marker  string
	}{
		"cookie":                      {[]string{withCookie}, 200, lax},
		"cookie, same origin":         {[]string{withCookie, "Sec-Fetch-Site: same-origin", "Origin: https://hub.example.com"}, 200, lax},
		"cookie, same site":           {[]string{withCookie, "Sec-Fetch-Site: same-site", "Origin: https://app.example.com"}, 200, lax},
		"cookie, cross site":          {[]string{withCookie, "Sec-Fetch-Site: cross-site", "Origin: https://shop.example"}, 200, none},
		"cookie, old browser":         {[]string{withCookie, "Origin: https://shop.example"}, 200, none},
		"old cookie":                  {[]string{cookies(oldCookie, servertest.Token(t, servertest.SubscriberSecret, nil, nil))}, 200, "mercureAuthorization_presented=1; Path=/.well-known/mercure; HttpOnly; Secure; SameSite=Lax"},
		"header":                      {[]string{bearer(subscriber)}, 200, ""},
		"nothing":                     {nil, 200, ""},
		"marker":                      {[]string{cookies(markerName, "1")}, 401, ""},
		"marker of the old cookie":    {[]string{cookies("mercureAuthorization_presented", "1")}, 401, ""},
		"marker, EventSource":         {append([]string{cookies(markerName, "1")}, eventSource...), 401, ""},
		"marker, an empty cookie":     {[]string{cookies(markerName, "1", tokenCookie, "")}, 401, ""},
		"marker and cookie":           {[]string{cookies(markerName, "1", tokenCookie, subscriber)}, 200, lax},
		"marker and header":           {[]string{cookies(markerName, "1"), bearer(subscriber)}, 200, ""},
		"a bad cookie leaves no mark": {[]string{cookies(tokenCookie, "x")}, 401, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, method := range []string{"GET", "HEAD"} { // E-15
				a := send(t, method, hub.URL+"?match=a", "", test.headers...)
				if a.status != test.status || markerOf(a) != test.marker {
					t.Errorf("%s is answered %d and marked %q, want %d and %q", method, a.status, markerOf(a), test.status, test.marker)
				}
			}
		})
	}
	if a := send(t, "GET", hub.URL+"?match=a", "", cookies(markerName, "1")); a.header.Get("WWW-Authenticate") != challengeNone {
		t.Errorf("the challenge is %q", a.header.Get("WWW-Authenticate"))
	}
	// By default nobody is marked, and a marker means nothing.
	on := servertest.Start(t, database, pinned)
	if a := send(t, "GET", on.URL+"?match=a", "", withCookie); a.status != 200 || markerOf(a) != "" {
		t.Errorf("answered %d, marked %q", a.status, markerOf(a))
	}
	if a := send(t, "GET", on.URL+"?match=a", "", cookies(markerName, "1")); a.status != 200 {
		t.Errorf("answered %d", a.status)
	}
}

// Browsers refuse cookies whose attributes do not fit their name or the scheme.
func TestMarkerFitsTheCookie(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	token := servertest.Token(t, servertest.SubscriberSecret, nil, nil)
	for name, test := range map[string]struct {
		cookie string
		https  bool
		want   string
	}{
		"a developer's machine":          {"token", false, "token_presented=1; Path=/.well-known/mercure; HttpOnly; SameSite=Lax"},
		"TLS":                            {"token", true, "token_presented=1; Path=/.well-known/mercure; HttpOnly; Secure; SameSite=None"},
		"a TLS proxy nobody told us of":  {"__Secure-token", false, "__Secure-token_presented=1; Path=/.well-known/mercure; HttpOnly; Secure; SameSite=None"},
		"a name that allows for no path": {"__Host-token", true, "__Secure-token_presented=1; Path=/.well-known/mercure; HttpOnly; Secure; SameSite=None"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := servertest.Start(t, database, func(c *server.Config) {
				c.AnonymousFallback = false
				c.CookieName = test.cookie
				if test.https {
					c.PublicURL = publicURL
				}
			})
			a := send(t, "GET", hub.URL+"?match=a", "", cookies(test.cookie, token), "Sec-Fetch-Site: cross-site")
			if a.status != 200 || markerOf(a) != test.want {
				t.Fatalf("answered %d, marked %q, want %q", a.status, markerOf(a), test.want)
			}
			marker, err := http.ParseSetCookie(markerOf(a))
			if err != nil {
				t.Fatal(err)
			}
			if a := send(t, "GET", hub.URL+"?match=a", "", cookies(marker.Name, marker.Value)); a.status != 401 {
				t.Errorf("with its marker it is answered %d", a.status)
			}
		})
	}
}

// Spec: S-15. Subscribers may say that they do not want to be anonymous.
func TestAnonymousOff(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), pinned)
	subscriber := token1(t, servertest.SubscriberSecret, publicURL, "*", inAnHour())
	for _, test := range []exchangeCase{
		{"without a token", "GET", "?match=a&anonymous=off", "", nil, 401, challengeNone},
		{"EventSource", "GET", "?match=a&anonymous=off", "", eventSource, 401, challengeNone},
		{"QUERY", "QUERY", "", "match=a&anonymous=off", []string{form}, 401, challengeNone},
		{"with a token", "GET", "?match=a&anonymous=off", "", []string{bearer(subscriber)}, 200, ""},
		{"with a cookie", "GET", "?match=a&anonymous=off", "", []string{cookies(tokenCookie, subscriber)}, 200, ""},
		{"another value", "GET", "?match=a&anonymous=on", "", nil, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.check(t, hub)
		})
	}
}
