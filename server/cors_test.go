package server_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

const appOrigin = "https://app.example.com"

// Spec: C-1, C-2, C-4, C-5, Z-9. Whatever is answered, a page that may read it
// can, and a page that may not cannot.
func TestEveryAnswerIsMarkedForOrigins(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	subscriber := bearer(servertest.Token(t, servertest.SubscriberSecret, nil, nil))
	publisher := servertest.PublisherToken(t)
	narrow := servertest.Token(t, servertest.PublisherSecret, []string{"b"}, nil)
	requests := []exchangeCase{
		{"stream", "GET", "?match=a", "", []string{subscriber}, 200, ""},
		{"HEAD", "HEAD", "?match=a", "", []string{subscriber}, 200, ""},
		{"QUERY", "QUERY", "", "match=a", []string{form, subscriber}, 200, ""},
		{"published", "POST", "", "topic=a", []string{form, bearer(publisher)}, 200, ""},
		{"bad request", "GET", "?match_x=a", "", []string{subscriber}, 400, ""},
		{"no token", "GET", "?match=a", "", nil, 401, ""},
		{"bad token", "GET", "?match=a", "", []string{bearer("a.b.c")}, 401, ""},
		{"out of scope", "POST", "", "topic=a", []string{form, bearer(narrow)}, 403, ""},
		{"not found", "GET", "/subscriptions", "", nil, 404, ""},
		{"method", "DELETE", "", "", nil, 405, ""},
		{"unknown method", "PROPFIND", "", "", nil, 405, ""},
		{"too large", "POST", "", "topic=a&data=" + strings.Repeat("x", 1000), []string{form, bearer(publisher)}, 413, ""},
		{"OPTIONS that is no preflight", "OPTIONS", "", "", nil, 204, ""},
	}
	for name, test := range map[string]struct {
		configured, origin, allowed, credentials string
	}{
		"listed":         {appOrigin + " https://*.example.org", appOrigin, appOrigin, "true"},
		"wildcard label": {"https://*.example.org", "https://eu.example.org", "https://eu.example.org", "true"},
		"not listed":     {appOrigin, "https://evil.example", "", ""},
		"looks alike":    {appOrigin, "https://app.example.com.evil.example", "", ""},
		"no origin":      {appOrigin, "", "", ""},
		"null, listed":   {"null", "null", "null", "true"}, // C-6
		"null":           {appOrigin, "null", "", ""},
		"all":            {"*", "https://evil.example", "*", ""},
		"none":           {"", appOrigin, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := servertest.Start(t, database, func(c *server.Config) {
				c.Anonymous = false
				c.MaxRequestBody = 500
				c.CORSAllowedOrigins = test.configured
			})
			for _, request := range requests {
				headers := request.headers
				if test.origin != "" {
					headers = append(slices.Clone(headers), "Origin: "+test.origin)
				}
				a := send(t, request.method, hub.URL+request.query, request.body, headers...)
				if a.status != request.status {
					t.Errorf("%s: status %d, want %d", request.name, a.status, request.status)
				}
				if got := strings.Join(a.header.Values("Access-Control-Allow-Origin"), " "); got != test.allowed {
					t.Errorf("%s: allowed origin %q, want %q", request.name, got, test.allowed)
				}
				if got := a.header.Get("Access-Control-Allow-Credentials"); got != test.credentials {
					t.Errorf("%s: credentials %q, want %q", request.name, got, test.credentials)
				}
				if got := slices.Contains(a.header.Values("Vary"), "Origin"); got != (test.configured != "") {
					t.Errorf("%s: Vary is %q", request.name, a.header.Values("Vary"))
				}
				exposed := strings.ToLower(a.header.Get("Access-Control-Expose-Headers"))
				for field := range strings.FieldsSeq("link mercure-last-event-id last-event-id www-authenticate etag retry-after") {
					if got := slices.Contains(strings.Split(exposed, ", "), field); got != (test.allowed != "") {
						t.Errorf("%s: exposed are %q", request.name, exposed)
						break
					}
				}
			}
		})
	}
}

// Spec: C-4. The answers for want of room and of a database, too.
func TestTurnedAwayIsMarkedForOrigins(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) {
		c.CORSAllowedOrigins = appOrigin
		c.MaxStreams = 1
	})
	hub.Subscribe(t, servertest.Request{Query: map[string][]string{"match": {"a"}}})
	for name, headers := range map[string][]string{"429": {"Origin: " + appOrigin}, "softly": append([]string{"Origin: " + appOrigin}, eventSource...)} {
		a := send(t, "GET", hub.URL+"?match=a", "", headers...)
		if a.header.Get("Access-Control-Allow-Origin") != appOrigin || a.header.Get("Access-Control-Allow-Credentials") != "true" || !slices.Contains(a.header.Values("Vary"), "Origin") {
			t.Errorf("%s: %d %v", name, a.status, a.header)
		}
	}
}

// Spec: C-3, E-4.
func TestPreflight(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) {
		c.Anonymous = false
		c.CORSAllowedOrigins = appOrigin
	})
	root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
	for name, test := range map[string]struct {
		target, origin, method, fields string
		allowed                        bool
	}{
		"GET":                 {hub.URL, appOrigin, "GET", "", true},
		"HEAD":                {hub.URL, appOrigin, "HEAD", "", true},
		"POST":                {hub.URL, appOrigin, "POST", "authorization,content-type", true},
		"QUERY":               {hub.URL, appOrigin, "QUERY", "authorization,cache-control,content-type,if-none-match,last-event-id", true},
		"another path":        {root + "/elsewhere", appOrigin, "GET", "", true},
		"another method":      {hub.URL, appOrigin, "DELETE", "", false},
		"another field":       {hub.URL, appOrigin, "GET", "x-forged", false},
		"another origin":      {hub.URL, "https://evil.example", "GET", "", false},
		"another origin, PUT": {hub.URL, "https://evil.example", "PUT", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			headers := []string{"Origin: " + test.origin, "Access-Control-Request-Method: " + test.method}
			if test.fields != "" {
				headers = append(headers, "Access-Control-Request-Headers: "+test.fields)
			}
			a := send(t, "OPTIONS", test.target, "", headers...)
			if a.status != 204 || a.body != "" || !strings.Contains(strings.Join(a.header.Values("Vary"), ", "), "Origin") {
				t.Errorf("answered %d %v", a.status, a.header)
			}
			if !test.allowed {
				for name := range a.header {
					if strings.HasPrefix(name, "Access-Control-Allow-") {
						t.Errorf("has %s: %s", name, a.header.Get(name))
					}
				}
				return
			}
			if a.header.Get("Access-Control-Allow-Origin") != appOrigin || a.header.Get("Access-Control-Allow-Methods") != test.method ||
				a.header.Get("Access-Control-Allow-Headers") != test.fields || a.header.Get("Access-Control-Max-Age") != "86400" ||
				a.header.Get("Access-Control-Allow-Credentials") != "true" {
				t.Errorf("answered %v", a.header)
			}
		})
	}
	// Two origins in one request are nobody's: no browser sends them.
	if a := send(t, "GET", hub.URL, "", "Origin: "+appOrigin, "Origin: https://evil.example"); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("allowed are %q", a.header.Values("Access-Control-Allow-Origin"))
	}
}

// Spec: E-4. Without origins there is nothing to say but what the path takes.
func TestOptionsWithoutOrigins(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	a := send(t, "OPTIONS", hub.URL, "", "Origin: "+appOrigin, "Access-Control-Request-Method: GET")
	if a.status != 204 || a.header.Get("Allow") != "GET, HEAD, POST, QUERY, OPTIONS" || a.header.Get("Access-Control-Allow-Origin") != "" || a.header.Get("Vary") != "" {
		t.Errorf("answered %d %v", a.status, a.header)
	}
}
