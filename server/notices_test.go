package server_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// Spec: Q-10, P-3. By target, publishers of before 0.10 mean private.
func TestTarget(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	var log, strictLog logbook
	hub := servertest.Start(t, database, bothDialects, log.use)
	strict := servertest.Start(t, database, bothDialects, strictLog.use, func(c *server.Config) { c.RefuseTarget = true })
	token := func(h *servertest.Hub) string {
		return token1(t, servertest.PublisherSecret, h.URL, "*", inAnHour())
	}
	for range 3 {
		if status, body := hub.Post(t, token(hub), "topic=a&target=x&target=y"); status != 200 {
			t.Errorf("answered %d %s", status, body)
		}
	}
	if got := log.with("level=WARN", "target", "subject=somebody", "MERCURE_REFUSE_TARGET"); len(got) != 1 {
		t.Errorf("%d warnings for one subject: %q", len(got), got)
	}
	if status, _ := hub.Post(t, servertest.PublisherToken(t), "topic=a&target=x"); status != 200 || len(log.with("level=WARN", "target")) != 2 {
		t.Errorf("another subject: %d %q", status, log.with("target"))
	}
	status, body := strict.Post(t, token(strict), "topic=a&target=x")
	if status != 400 || !strings.Contains(body, "target") || !strings.Contains(body, "private") {
		t.Errorf("strict: answered %d %s", status, body)
	}
	for _, fields := range []string{"topic=a&target=x&private=on", "topic=a&target=x&private", "topic=a"} {
		if status, body := strict.Post(t, token(strict), fields); status != 200 {
			t.Errorf("strict: %s is answered %d %s", fields, status, body)
		}
	}
	if got := strictLog.with("level=WARN", "public"); len(got) != 0 {
		t.Errorf("warnings of private updates: %q", got)
	}
}

// Spec: H-10.
func TestReusedIDIsToldOfOnce(t *testing.T) {
	t.Parallel()
	var log logbook
	hub := servertest.Start(t, dbtest.New(t), log.use)
	hub.Publish(t, url.Values{"topic": {"a"}, "id": {"UPDATE"}})
	hub.Publish(t, url.Values{"topic": {"a"}, "id": {"another"}})
	hub.Publish(t, url.Values{"topic": {"a"}})
	hub.Publish(t, url.Values{"topic": {"a"}})
	if got := log.with("uses an event id again"); len(got) != 0 {
		t.Errorf("nothing was used again: %q", got)
	}
	for range 3 {
		hub.Publish(t, url.Values{"topic": {"a"}, "id": {"UPDATE"}})
	}
	if got := log.with("level=WARN", "uses an event id again", "id=UPDATE"); len(got) != 1 {
		t.Errorf("logged %q", got)
	}
}

// Spec: X-10, Z-3.
func TestUseOf0xIsToldOfOnce(t *testing.T) {
	t.Parallel()
	var log logbook
	hub := servertest.Start(t, dbtest.New(t), bothDialects, log.use)
	const agent = "User-Agent: old client"
	token := servertest.Token(t, servertest.SubscriberSecret, nil, nil)
	token1 := token1(t, servertest.SubscriberSecret, hub.URL, "*", inAnHour())
	modern := []string{agent, bearer(token1), "Last-Event-ID: x"}
	for range 2 {
		send(t, "GET", hub.URL+"?match=a&last_event_id=x&lastEventId=x", "", modern...)
	}
	if got := log.with("protocol 0.x"); len(got) != 0 {
		t.Errorf("1.0 is told of: %q", got)
	}
	for _, test := range []struct {
		kind, query string
		headers     []string
	}{
		{"0.x token", "?match=a", []string{bearer(token)}},
		{"topic parameter", "?topic=a", nil},
		{"authorization parameter", "?match=a&authorization=" + token, nil},
		{"0.x cookie", "?match=a", []string{cookies(oldCookie, token)}},
		{"lastEventID parameter", "?match=a&lastEventID=x", nil},
		{"Last-Event-ID parameter", "?match=a&Last-Event-ID=x", nil},
	} {
		for range 2 {
			if a := send(t, "GET", hub.URL+test.query, "", append(test.headers, agent)...); a.status != 200 {
				t.Errorf("%s: answered %d %s", test.kind, a.status, a.body)
			}
		}
		if got := log.with("level=INFO", `kind="`+test.kind+`"`, `user_agent="old client"`); len(got) != 1 {
			t.Errorf("%s: logged %q", test.kind, got)
		}
	}
	if got := log.with("protocol 0.x"); len(got) != 6 {
		t.Errorf("logged %q", got)
	}
	if got := log.with(token); len(got) != 0 {
		t.Errorf("the token is in the log: %q", got)
	}
}

// Spec: Z-3. What is wrong with a token the log says, but not the token.
func TestRefusedTokensAreNotLogged(t *testing.T) {
	t.Parallel()
	var log logbook
	hub := servertest.Start(t, dbtest.New(t), bothDialects, log.use)
	forged := servertest.Token(t, "not the secret of this hub, though long enough", []string{"*"}, nil)
	signature := forged[strings.LastIndexByte(forged, '.')+1:]
	send(t, "GET", hub.URL+"?match=a", "", bearer(forged))
	send(t, "GET", hub.URL+"?match=a&authorization="+forged, "")
	send(t, "POST", hub.URL+"?authorization="+forged, "topic=a", form)
	if got := log.with("level=WARN", "signature does not fit"); len(got) != 3 {
		t.Errorf("logged %q", got)
	}
	if got := log.with(signature); len(got) != 0 {
		t.Errorf("the token is in the log: %q", got)
	}
}

// Spec: V-10, V-17, Z-15, A-7. A hub behind a proxy that ends TLS takes itself
// for another one; its log says why.
func TestHintAtTheURL(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	forwarded := "X-Forwarded-Proto: https"
	for name, test := range map[string]struct {
		option   func(*server.Config)
		audience string
		headers  []string
		origin   string // not empty: publish with a cookie
		hint     bool
	}{
		"aud, behind a proxy":                 {nil, "https://other.example/x", []string{forwarded}, "", true},
		"aud, Forwarded":                      {nil, "https://other.example/x", []string{"Forwarded: proto=https"}, "", true},
		"aud, X-Forwarded-Host":               {nil, "https://other.example/x", []string{"X-Forwarded-Host: hub"}, "", true},
		"aud, the same path":                  {nil, publicURL, nil, "", true},
		"aud, another path":                   {nil, "https://other.example/x", nil, "", false},
		"aud, the URL is pinned":              {func(c *server.Config) { c.PublicURL = publicURL }, "https://other.example/.well-known/mercure", []string{forwarded}, "", false},
		"aud, the identifier is pinned":       {func(c *server.Config) { c.ResourceIdentifier = "https://x.example/" }, publicURL, []string{forwarded}, "", false},
		"aud, a trusted proxy":                {func(c *server.Config) { c.TrustedProxies = "127.0.0.1" }, "https://other.example/x", []string{forwarded}, "", false},
		"origin, behind a proxy":              {nil, "", []string{forwarded}, "https://shop.example", true},
		"origin, the same host":               {nil, "", nil, "https://127.0.0.1", true},
		"origin, another host":                {nil, "", nil, "https://evil.example", false},
		"origin, the URL is pinned":           {func(c *server.Config) { c.PublicURL = publicURL }, "", []string{forwarded}, "https://shop.example", false},
		"a signature that does not fit":       {func(c *server.Config) { c.SubscriberJWTKey = "another secret, long enough for HS256 as well" }, publicURL, []string{forwarded}, "", false},
		"aud, a scheme that only looks alike": {nil, "urn:example:hub", nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log logbook
			hub := servertest.Start(t, database, bothDialects, log.use, func(c *server.Config) {
				if test.option != nil {
					test.option(c)
				}
			})
			var a answer
			if test.origin == "" {
				token := token1(t, servertest.SubscriberSecret, test.audience, "*", inAnHour())
				a = send(t, "GET", hub.URL+"?match=a", "", append(test.headers, bearer(token))...)
			} else {
				a = send(t, "POST", hub.URL, "topic=a", append(test.headers, form, "Origin: "+test.origin, cookies(oldCookie, servertest.PublisherToken(t)))...)
			}
			if a.status != 401 && a.status != 400 {
				t.Fatalf("answered %d", a.status)
			}
			if refused := log.with("request refused"); len(refused) != 1 {
				t.Fatalf("logged %q", refused)
			}
			if got := log.with("request refused", "MERCURE_TRUSTED_PROXIES", "MERCURE_PUBLIC_URL"); (len(got) == 1) != test.hint {
				t.Errorf("logged %q", log.with("request refused"))
			}
			if strings.Contains(a.body, "PROX") {
				t.Errorf("the client is told: %s", a.body)
			}
		})
	}
}
