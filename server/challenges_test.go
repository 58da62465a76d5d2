package server_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// The exact values of section 8.2, with the metadata of publicURL.
const (
	challengeNone    = `Bearer resource_metadata="https://hub.example.com/.well-known/oauth-protected-resource/.well-known/mercure"`
	challengeRequest = `Bearer error="invalid_request", resource_metadata="https://hub.example.com/.well-known/oauth-protected-resource/.well-known/mercure"`
	challengeToken   = `Bearer error="invalid_token", resource_metadata="https://hub.example.com/.well-known/oauth-protected-resource/.well-known/mercure"`
	challengeScope   = `Bearer error="insufficient_scope", resource_metadata="https://hub.example.com/.well-known/oauth-protected-resource/.well-known/mercure"`
)

// exchangeCase is a request and what it is answered.
type exchangeCase struct {
	name, method, query, body string
	headers                   []string
	status                    int
	challenge                 string
}

func (c exchangeCase) check(t *testing.T, hub *servertest.Hub) {
	t.Helper()
	a := send(t, c.method, hub.URL+c.query, c.body, c.headers...)
	if a.status != c.status {
		t.Errorf("status %d, want %d: %s", a.status, c.status, a.body)
	}
	if got := strings.Join(a.header.Values("WWW-Authenticate"), " | "); got != c.challenge {
		t.Errorf("challenge %q, want %q", got, c.challenge)
	}
	if a.status < 400 {
		return
	}
	// Spec: P-19, Z-13. No code and no reason in the body, nor the token.
	for _, word := range []string{"invalid_", "insufficient", "expired", "signature", "eyJ", "error_description"} {
		if strings.Contains(a.body, word) {
			t.Errorf("the body tells %q: %s", word, a.body)
		}
	}
	if a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("Cache-Control is %q", a.header.Get("Cache-Control"))
	}
}

// Spec, S-15,
// S-16, S-17, P-17, P-18, X-5, X-6, Z-8.
func TestPresentation(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), pinned, func(c *server.Config) {
		c.PublishAllowedOrigins = "https://app.example.com"
	})
	subscriber := token1(t, servertest.SubscriberSecret, publicURL, "*", inAnHour())
	publisher := token1(t, servertest.PublisherSecret, publicURL, "*", inAnHour())
	narrow := token1(t, servertest.PublisherSecret, publicURL, "b", inAnHour())
	elsewhere := token1(t, servertest.SubscriberSecret, "https://other.example/hub", "*", inAnHour())
	subscriber0 := servertest.Token(t, servertest.SubscriberSecret, nil, nil)
	publisher0 := servertest.PublisherToken(t)
	narrow0 := servertest.Token(t, servertest.PublisherSecret, []string{"b"}, nil)
	own := "Origin: https://hub.example.com"

	for _, test := range []exchangeCase{
		// No credential, on a hub that lets anybody subscribe.
		{"anonymous", "GET", "?match=a", "", nil, 200, ""},
		{"publish without a token", "POST", "", "topic=a", []string{form}, 401, challengeNone},
		{"access_token is no credential", "GET", "?match=a&access_token=x.y.z", "", nil, 200, ""},
		{"nor for publishing", "POST", "?access_token=" + publisher, "topic=a", []string{form}, 401, challengeNone},
		{"nor in the body", "POST", "", "topic=a&access_token=" + publisher, []string{form}, 401, challengeNone},

		// The Authorization field.
		{"1.0", "GET", "?match=a", "", []string{bearer(subscriber)}, 200, ""},
		{"0.x", "GET", "?match=a", "", []string{bearer(subscriber0)}, 200, ""},
		{"1.0 with a selector", "GET", "?topic=a", "", []string{bearer(subscriber)}, 200, ""},
		{"the scheme in any case, spaces", "GET", "?match=a", "", []string{"Authorization: bEARER   " + subscriber}, 200, ""},
		{"another scheme", "GET", "?match=a", "", []string{"Authorization: Basic eA=="}, 400, challengeRequest},
		{"no token", "GET", "?match=a", "", []string{"Authorization: Bearer"}, 400, challengeRequest},
		{"an empty field", "GET", "?match=a", "", []string{"Authorization: "}, 400, challengeRequest},
		{"two parts", "GET", "?match=a", "", []string{bearer("a.b")}, 400, challengeRequest},
		{"four parts", "GET", "?match=a", "", []string{bearer("a.b.c.d")}, 400, challengeRequest},
		{"two tokens", "GET", "?match=a", "", []string{bearer(subscriber + " " + subscriber)}, 400, challengeRequest},
		{"two fields", "GET", "?match=a", "", []string{bearer(subscriber), bearer(subscriber)}, 400, challengeRequest},
		{"malformed while publishing", "POST", "", "topic=a", []string{form, "Authorization: x"}, 400, challengeRequest},
		{"an empty signature", "GET", "?match=a", "", []string{bearer("eyJhbGciOiJub25lIn0.e30.")}, 401, challengeToken},
		{"shaped like a token", "GET", "?match=a", "", []string{bearer("a.b.c")}, 401, challengeToken},
		{"for another hub", "GET", "?match=a", "", []string{bearer(elsewhere)}, 401, challengeToken},
		{"of the other role", "GET", "?match=a", "", []string{bearer(publisher)}, 401, challengeToken},
		{"of the other role, publishing", "POST", "", "topic=a", []string{form, bearer(subscriber)}, 401, challengeToken},
		{"HEAD is refused too", "HEAD", "?match=a", "", []string{bearer(elsewhere)}, 401, challengeToken},
		{"and QUERY", "QUERY", "", "match=a", []string{form, bearer(elsewhere)}, 401, challengeToken},

		// Rights.
		{"publish", "POST", "", "topic=a", []string{form, bearer(publisher)}, 200, ""},
		{"publish out of scope", "POST", "", "topic=a", []string{form, bearer(narrow)}, 403, challengeScope},
		{"publish out of scope, 0.x", "POST", "", "topic=a", []string{form, bearer(narrow0)}, 403, challengeScope},
		{"publish partly out of scope", "POST", "", "topic=b&topic=a", []string{form, bearer(narrow)}, 403, challengeScope},
		{"no grant is no error for subscribers", "GET", "?match=a", "", []string{bearer(subscriber0)}, 200, ""},

		// Errors that are not about the token have no challenge.
		{"a bad matcher", "GET", "?match_x=a", "", []string{bearer(subscriber)}, 400, ""},
		{"a bad field", "POST", "", "topic=*", []string{form, bearer(publisher)}, 400, ""},

		// what failed is not replaced.
		{"header before cookie", "GET", "?match=a", "", []string{bearer(subscriber), cookies(tokenCookie, "garbage")}, 200, ""},
		{"bad header, good cookie", "GET", "?match=a", "", []string{bearer(elsewhere), cookies(tokenCookie, subscriber)}, 401, challengeToken},
		{"malformed header, good cookie", "GET", "?match=a", "", []string{"Authorization: x", cookies(tokenCookie, subscriber)}, 400, challengeRequest},
		{"bad URL token, good cookie", "GET", "?match=a&authorization=a.b.c", "", []string{cookies(tokenCookie, subscriber)}, 401, challengeToken},
		{"bad cookie, good old cookie", "GET", "?match=a", "", []string{cookies(tokenCookie, "x", oldCookie, subscriber0)}, 401, challengeToken},

		// Cookies.
		{"cookie", "GET", "?match=a", "", []string{cookies(tokenCookie, subscriber)}, 200, ""},
		{"0.x token in the 1.0 cookie", "GET", "?match=a", "", []string{cookies(tokenCookie, subscriber0)}, 200, ""},
		{"old cookie", "GET", "?match=a", "", []string{cookies(oldCookie, subscriber0)}, 200, ""},
		{"stale cookie", "GET", "?match=a", "", []string{cookies(tokenCookie, "deleted")}, 401, challengeToken},
		{"empty cookie", "GET", "?match=a", "", []string{cookies(tokenCookie, "")}, 200, ""},
		{"the first cookie counts", "GET", "?match=a", "", []string{cookies(tokenCookie, subscriber, tokenCookie, "x")}, 200, ""},
		{"and no other", "GET", "?match=a", "", []string{cookies(tokenCookie, "x", tokenCookie, subscriber)}, 401, challengeToken},

		//
		{"token in the URL", "GET", "?match=a&authorization=" + subscriber0, "", nil, 200, ""},
		{"token in the URL, HEAD", "HEAD", "?match=a&authorization=" + subscriber0, "", nil, 200, ""},
		{"token in the URL, publishing", "POST", "?authorization=" + publisher0, "topic=a", []string{form}, 200, ""},
		{"two tokens in the URL", "GET", "?match=a&authorization=" + subscriber0 + "&authorization=" + subscriber0, "", nil, 400, challengeRequest},
		{"1.0 token in the URL", "GET", "?match=a&authorization=" + subscriber, "", nil, 400, challengeRequest},
		{"garbage in the URL", "GET", "?match=a&authorization=x", "", nil, 401, challengeToken},
		{"header before URL", "GET", "?match=a&authorization=x", "", []string{bearer(subscriber)}, 200, ""},
		{"QUERY has no URL token", "QUERY", "?authorization=x", "match=a", []string{form}, 200, ""},

		//
		{"cookie from the hub's own origin", "POST", "", "topic=a", []string{form, cookies(tokenCookie, publisher), own}, 200, ""},
		{"cookie from a listed origin", "POST", "", "topic=a", []string{form, cookies(tokenCookie, publisher), "Origin: https://app.example.com"}, 200, ""},
		{"cookie from another origin", "POST", "", "topic=a", []string{form, cookies(tokenCookie, publisher), "Origin: https://evil.example"}, 400, challengeRequest},
		{"cookie from nowhere", "POST", "", "topic=a", []string{form, cookies(tokenCookie, publisher)}, 400, challengeRequest},
		{"cookie from null", "POST", "", "topic=a", []string{form, cookies(tokenCookie, publisher), "Origin: null"}, 400, challengeRequest},
		{"cookie with a referrer", "POST", "", "topic=a", []string{form, cookies(tokenCookie, publisher), "Referer: https://app.example.com/page?x"}, 200, ""},
		{"cookie with a bad referrer", "POST", "", "topic=a", []string{form, cookies(tokenCookie, publisher), "Referer: https://evil.example/https://app.example.com"}, 400, challengeRequest},
		{"the origin wins over the referrer", "POST", "", "topic=a", []string{form, cookies(tokenCookie, publisher), "Origin: https://evil.example", "Referer: https://app.example.com/"}, 400, challengeRequest},
		{"old cookie from nowhere", "POST", "", "topic=a", []string{form, cookies(oldCookie, publisher0)}, 400, challengeRequest},
		{"a header needs no origin", "POST", "", "topic=a", []string{form, bearer(publisher), "Origin: https://evil.example"}, 200, ""},
		{"nor does a URL token", "POST", "?authorization=" + publisher0, "topic=a", []string{form, "Origin: https://evil.example"}, 200, ""},
		{"subscribing is safe", "GET", "?match=a", "", []string{cookies(tokenCookie, subscriber), "Origin: https://evil.example"}, 200, ""},
		{"so is QUERY", "QUERY", "", "match=a", []string{form, cookies(tokenCookie, subscriber), "Origin: https://evil.example"}, 200, ""},
		{"the token comes before the origin", "POST", "", "topic=a", []string{form, cookies(tokenCookie, "a.b.c"), "Origin: https://evil.example"}, 401, challengeToken},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.check(t, hub)
		})
	}
}

// Spec, S-9, X-3. Without 0.x nothing of it is looked at.
func TestPresentationWithoutCompat(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), pinned, func(c *server.Config) { c.Compat = "off" })
	subscriber0 := servertest.Token(t, servertest.SubscriberSecret, nil, nil)
	for _, test := range []exchangeCase{
		{"0.x token", "GET", "?match=a", "", []string{bearer(subscriber0)}, 401, challengeToken},
		{"token in the URL is ignored", "GET", "?match=a&authorization=x&authorization=y", "", nil, 200, ""},
		{"old cookie is ignored", "GET", "?match=a", "", []string{cookies(oldCookie, "x")}, 200, ""},
		{"0.x token in the 1.0 cookie", "GET", "?match=a", "", []string{cookies(tokenCookie, subscriber0)}, 401, challengeToken},
		{"publish with a token in the URL", "POST", "?authorization=" + servertest.PublisherToken(t), "topic=a", []string{form}, 401, challengeNone},
		{"selector", "GET", "?topic=a", "", nil, 400, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.check(t, hub)
		})
	}
	if a := send(t, "GET", hub.URL+"?topic=a", ""); !strings.Contains(a.body, "match") {
		t.Errorf("no hint at match: %s", a.body) // Spec: Q-7
	}
}

// The order in which a request that is wrong in every way is told so.
//
// Spec: P-21, P-18, Q-30, N-1, P-5.
func TestOrderOfPublishChecks(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), pinned, func(c *server.Config) { c.MaxRequestBody = 1000 })
	publisher := token1(t, servertest.PublisherSecret, publicURL, "b", inAnHour())
	cookie := cookies(tokenCookie, publisher)
	own := "Origin: https://hub.example.com"
	json := "Content-Type: application/json"
	large := "topic=a&topic=*&data=" + strings.Repeat("x", 1000)
	for _, test := range []exchangeCase{
		{"1 method", "PUT", "", large, []string{json, "Authorization: x"}, 405, ""},
		{"2 presentation", "POST", "", large, []string{json, "Authorization: x", cookie}, 400, challengeRequest},
		{"2 token", "POST", "", large, []string{json, cookies(tokenCookie, "x")}, 401, challengeToken},
		{"2 no token", "POST", "", large, []string{json}, 401, challengeNone},
		{"3 origin", "POST", "", large, []string{json, cookie}, 400, challengeRequest},
		{"4 media type", "POST", "", large, []string{json, cookie, own}, 400, ""},
		{"5 size", "POST", "", large, []string{form, cookie, own}, 413, ""},
		{"6 fields", "POST", "", "topic=a&topic=*", []string{form, cookie, own}, 400, ""},
		{"6 a reserved topic without a grant", "POST", "", "topic=/.well-known/mercure/x", []string{form, cookie, own}, 400, ""},
		{"7 grants", "POST", "", "topic=a", []string{form, cookie, own}, 403, challengeScope},
		{"8 published", "POST", "", "topic=b", []string{form, cookie, own}, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.check(t, hub)
		})
	}
}

// Spec: section 5.2 (order of checks), S-6, S-15, S-16.
func TestOrderOfSubscribeChecks(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), pinned, func(c *server.Config) {
		c.Anonymous = false
		c.MaxStreams = 1
	})
	subscriber := bearer(token1(t, servertest.SubscriberSecret, publicURL, "*", inAnHour()))
	open := hub.Subscribe(t, servertest.Request{Query: map[string][]string{"match": {"a"}}, Token: strings.TrimPrefix(subscriber, "Authorization: Bearer ")})
	defer open.Close()
	for _, test := range []exchangeCase{
		{"1 method", "PATCH", "?match_x=a", "", []string{"Authorization: x"}, 405, ""},
		{"2 presentation", "GET", "?match_x=a", "", []string{"Authorization: x"}, 400, challengeRequest},
		{"2 token", "GET", "?match_x=a", "", []string{bearer("a.b.c")}, 401, challengeToken},
		{"3 nobody, and no matcher", "GET", "", "", nil, 401, challengeNone},
		{"3 nobody, and a bad matcher", "GET", "?match_x=a", "", nil, 401, challengeNone},
		{"4 parameters", "GET", "?match_x=a", "", []string{subscriber}, 400, ""},
		{"5 limits", "GET", "?match=a", "", []string{subscriber}, 429, ""},
	} {
		t.Run(test.name, func(t *testing.T) { test.check(t, hub) })
	}
}

// Spec: G-4, E-11, E-18. Keys decide whether there is a publish endpoint.
func TestNoPublisherKeyNoPublishing(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.PublisherJWTKey = "" })
	for _, method := range []string{"POST", "DELETE"} {
		a := send(t, method, hub.URL, "topic=a", form, bearer(servertest.PublisherToken(t)))
		if allow := a.header.Get("Allow"); a.status != http.StatusMethodNotAllowed || allow != "GET, HEAD, QUERY, OPTIONS" {
			t.Errorf("%s is answered %d, Allow %q", method, a.status, allow)
		}
		if a.header.Get("WWW-Authenticate") != "" {
			t.Errorf("%s asks for a token", method)
		}
	}
	if a := send(t, "OPTIONS", hub.URL, ""); a.status != 204 || strings.Contains(a.header.Get("Allow"), "POST") {
		t.Errorf("OPTIONS is answered %d, Allow %q", a.status, a.header.Get("Allow"))
	}
	if a := send(t, "GET", hub.URL+"?match=a", ""); a.status != 200 {
		t.Errorf("subscribing is answered %d", a.status)
	}
	// And it appears with a key.
	if _, err := hub.Reload(t.Context(), func(c *server.Config) { c.PublisherJWTKey = servertest.PublisherSecret }); err != nil {
		t.Fatal(err)
	}
	if a := send(t, "POST", hub.URL, "topic=a", form, bearer(servertest.PublisherToken(t))); a.status != 200 {
		t.Errorf("with a key it is answered %d %s", a.status, a.body)
	}
	if allow := send(t, "DELETE", hub.URL, "").header.Get("Allow"); !strings.Contains(allow, "POST") {
		t.Errorf("Allow is %q", allow)
	}
}
