package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// subscriptionsPath is where those of a hub at the default path are.
const subscriptionsPath = "/.well-known/mercure/subscriptions"

// withPresence is a hub of both dialects that tells who is subscribed.
func withPresence(c *server.Config) {
	pinned(c)
	c.Subscriptions = true
}

// subscriberToken makes a token that grants subscribing; payload may be empty.
func subscriberToken(t *testing.T, spec server.TokenSpec, payload string) string {
	t.Helper()
	var err error
	if spec.Key, err = server.ParseSigningKey(servertest.SubscriberSecret, "HS256"); err != nil {
		t.Fatal(err)
	}
	if spec.Dialect == server.Dialect1 {
		spec.Issuer, spec.Audience, spec.Subject = issuer, publicURL, "somebody"
		if spec.Expires.IsZero() {
			spec.Expires = inAnHour()
		}
	}
	if payload != "" {
		spec.Payload = json.RawMessage(payload)
	}
	token, err := server.MintToken(spec)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// omniscient may see every subscription.
func omniscient(t *testing.T) string {
	t.Helper()
	return subscriberToken(t, server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{{Match: "*"}}}, "")
}

// observe listens to the subscriptions of the others.
func observe(t *testing.T, hub *servertest.Hub) *servertest.Stream {
	t.Helper()
	stream := hub.Subscribe(t, servertest.Request{Token: omniscient(t), Query: url.Values{
		"match_urlpattern": {subscriptionsPath + "/*"},
	}})
	// Spec: R-2.
	if own := stream.Next(t); !strings.Contains(own.Data, `"match":"`+subscriptionsPath+`/*"`) || !strings.Contains(own.Data, `"active":true`) {
		t.Fatalf("the first event is not its own arrival: %v", own)
	}
	return stream
}

var subscriberPattern = regexp.MustCompile(`"subscriber":"(urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})"`)

// subscriberOf finds the subscriber in a document.
func subscriberOf(t *testing.T, document string) string {
	t.Helper()
	found := subscriberPattern.FindStringSubmatch(document)
	if found == nil {
		t.Fatalf("no subscriber with a random identifier in %s", document)
	}
	return found[1]
}

// documents are what is to be shown of a subscriber; $S stands for it, and $E
// for it in a path.
func documentsOf(subscriber string, templates []string) []string {
	list := make([]string, len(templates))
	for i, template := range templates {
		list[i] = strings.NewReplacer("$S", subscriber, "$E", strings.ReplaceAll(subscriber, ":", "%3A")).Replace(template)
	}
	return list
}

// One event for each subscription, in its own dialect, when it begins and when
// it ends, for those who may see it. Spec,
// S-11, U-6, Q-28, Z-12.
func TestSubscriptionEvents(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), withPresence)
	observer := observe(t, hub)
	everything := url.Values{"match": {"*"}}
	outsiders := map[string]*servertest.Stream{
		"nobody":               hub.Subscribe(t, servertest.Request{Query: everything}),
		"without a grant":      hub.Subscribe(t, servertest.Request{Query: everything, Token: servertest.Token(t, servertest.SubscriberSecret, nil, nil)}),
		"with another grant":   hub.Subscribe(t, servertest.Request{Query: everything, Token: token1(t, servertest.SubscriberSecret, publicURL, "a", inAnHour())}),
		"with that of a topic": hub.Subscribe(t, servertest.Request{Query: everything, Token: servertest.Token(t, servertest.SubscriberSecret, nil, []string{"https://shop.example/orders/{id}"})}),
	}
	for range outsiders {
		observer.Next(t)
	}

	subject := hub.Subscribe(t, servertest.Request{Query: url.Values{
		"match": {"a b", "*", "a b"}, "match_exact": {"a b"}, "match_urlpattern": {"https://shop.example/orders/:id", "*"},
		"topic": {"https://shop.example/orders/{id}", "https://shop.example/orders/{id}", "a b"},
	}})
	const context = `"@context":"https://mercure.rocks/",`
	templates := []string{
		`{"id":"` + subscriptionsPath + `/exact/a%20b/$E","type":"subscription","match_type":"exact","match":"a b","subscriber":"$S","active":true}`,
		`{"id":"` + subscriptionsPath + `/exact/%2A/$E","type":"subscription","match_type":"exact","match":"*","subscriber":"$S","active":true}`,
		`{"id":"` + subscriptionsPath + `/urlpattern/https%3A%2F%2Fshop.example%2Forders%2F%3Aid/$E","type":"subscription","match_type":"urlpattern","match":"https://shop.example/orders/:id","subscriber":"$S","active":true}`,
		`{"id":"` + subscriptionsPath + `/urlpattern/%2A/$E","type":"subscription","match_type":"urlpattern","match":"*","subscriber":"$S","active":true}`,
		`{` + context + `"id":"` + subscriptionsPath + `/https%3A%2F%2Fshop.example%2Forders%2F%7Bid%7D/$E","type":"Subscription","topic":"https://shop.example/orders/{id}","subscriber":"$S","active":true}`,
		`{` + context + `"id":"` + subscriptionsPath + `/a%20b/$E","type":"Subscription","topic":"a b","subscriber":"$S","active":true}`,
	}
	var subscriber string
	see := func(active string) {
		t.Helper()
		var got, want []string
		for range templates {
			event := observer.Next(t)
			if subscriber == "" {
				subscriber = subscriberOf(t, event.Data)
			}
			if wantType := map[bool]string{true: "", false: "mercure"}[strings.Contains(event.Data, "@context")]; event.Type != wantType {
				t.Errorf("the event of type %q is %s", event.Type, event.Data)
			}
			got = append(got, event.Data)
		}
		for _, document := range documentsOf(subscriber, templates) {
			want = append(want, strings.Replace(document, `"active":true`, `"active":`+active, 1))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	see("true")
	subject.Close()
	see("false")

	hub.Publish(t, url.Values{"topic": {"b"}, "data": {"public"}})
	for name, outsider := range outsiders {
		if event := outsider.Next(t); event.Data != "public" {
			t.Errorf("one %s got %v", name, event)
		}
	}
}

// Who listens with which patterns and templates gets which. Spec: R-5.
func TestListenersOfEachDialect(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), withPresence)
	token := omniscient(t)
	for parameter, test := range map[string]struct{ selector, want string }{
		"match_urlpattern":  {subscriptionsPath + "/:t/:m/:s", `"match":"x"`},
		"match_urlpattern ": {subscriptionsPath + "/exact/x/:s", `"match":"x"`},
		"topic":             {subscriptionsPath + "/{topic}/{subscriber}", `"topic":"x"`},
		"topic ":            {subscriptionsPath + "{/topic}{/subscriber}", `"topic":"x"`},
	} {
		listener := hub.Subscribe(t, servertest.Request{Token: token, Query: url.Values{strings.TrimSpace(parameter): {test.selector}}})
		next := func() servertest.Event {
			for { // besides those of the listeners
				if event := listener.Next(t); strings.Contains(event.Data, `:"x"`) {
					return event
				}
			}
		}
		subject := hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"x"}, "topic": {"x"}}})
		if event := next(); !strings.Contains(event.Data, test.want) || !strings.Contains(event.Data, `"active":true`) {
			t.Errorf("%s=%s got %v", parameter, test.selector, event)
		}
		subject.Close()
		if event := next(); !strings.Contains(event.Data, test.want) || !strings.Contains(event.Data, `"active":false`) {
			t.Errorf("%s=%s got %v in the end", parameter, test.selector, event)
		}
		listener.Close()
	}
}

// Spec: D-25, L-5, L-9, Q-21, Q-22, X-2, X-5.
func TestPayloadsInEvents(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), withPresence)
	observer := observe(t, hub)
	pattern := server.MatcherSpec{Match: "https://shop.example/:x(\\d+)", Type: "urlpattern"}
	// Of both dialects: typ says which of its payloads counts.
	both := func(typ string) string {
		claims := jwt.MapClaims{
			"iss": issuer, "aud": publicURL, "sub": "somebody", "exp": inAnHour().Unix(),
			"mercure": map[string]any{"subscribe": []string{}, "payload": map[string]any{"of": "0.x"}},
			"authorization_details": []any{
				map[string]any{"type": "https://mercure.rocks/authorization-detail", "actions": []string{"publish"}, "topics": []any{map[string]any{"match": "*"}}, "payload": map[string]any{"of": "publishers"}},
				map[string]any{"type": "https://mercure.rocks/authorization-detail", "actions": []string{"subscribe"}, "topics": []any{map[string]any{"match": "none"}}},
				map[string]any{"type": "https://mercure.rocks/authorization-detail", "actions": []string{"subscribe"}, "topics": []any{map[string]any{"match": "first"}}, "payload": map[string]any{"of": "the first"}},
				map[string]any{"type": "https://mercure.rocks/authorization-detail", "actions": []string{"subscribe", "publish"}, "topics": []any{map[string]any{"match": "*"}}, "payload": map[string]any{"of": "1.0"}},
			},
		}
		token := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
		token.Header["typ"] = typ
		signed, err := token.SignedString([]byte(servertest.SubscriberSecret))
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	for _, test := range []struct {
		name           string
		token          string
		parameter, own string
		payload        string // in the document
	}{
		{"no token", "", "match", "a", ""},
		{
			"granted", subscriberToken(t, server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{pattern}}, `{"name": "A\nB"}`),
			"match", "https://shop.example/17", `{"name":"A\nB"}`,
		},
		{
			"the same pattern", subscriberToken(t, server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{pattern}}, `{"a":1}`),
			"match_urlpattern", pattern.Match, `{"a":1}`,
		},
		{
			"not granted", subscriberToken(t, server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{pattern}}, `{"a":1}`),
			"match", "https://shop.example/x", "",
		},
		{
			"no payload", subscriberToken(t, server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{pattern}}, ""),
			"match", "https://shop.example/17", "",
		},
		{
			"0.x", subscriberToken(t, server.TokenSpec{Dialect: server.Dialect0, Subscribe: []server.MatcherSpec{{Match: "b"}}}, `"\"active\":true"`),
			"topic", "https://shop.example/x", `"\"active\":true"`,
		},
		{
			"0.x, 1.0 matcher", subscriberToken(t, server.TokenSpec{Dialect: server.Dialect0}, `[1,{"active":true}]`),
			"match", "a", `[1,{"active":true}]`,
		},
		{"of both dialects, as 1.0", both("at+jwt"), "topic", "a", `{"of":"1.0"}`},
		{"of both dialects, as 0.x", both("JWT"), "match", "first", `{"of":"0.x"}`},
		{"the first entry that matches", both("at+jwt"), "match", "first", `{"of":"the first"}`},
		{"the first entry has none", both("at+jwt"), "match", "none", ""},
	} {
		stream := hub.Subscribe(t, servertest.Request{Token: test.token, Query: url.Values{test.parameter: {test.own}}})
		end := "}"
		if test.payload != "" {
			end = `,"payload":` + test.payload + "}"
		}
		if document := observer.Next(t).Data; !strings.HasSuffix(document, `"active":true`+end) {
			t.Errorf("%s: the document is %s", test.name, document)
		}
		stream.Close()
		if document := observer.Next(t).Data; !strings.HasSuffix(document, `"active":false`+end) {
			t.Errorf("%s: the document of the end is %s", test.name, document)
		}
	}
}

// Nobody but the hub says who a subscriber is. Spec: R-7, Z-11.
func TestSubscribersAreRandom(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), withPresence)
	observer := observe(t, hub)
	token := token1(t, servertest.SubscriberSecret, publicURL, "a", inAnHour())
	seen := map[string]bool{}
	for range 3 {
		_, _ = openRaw(t, hub, "match=a&match=b&subscriber=x&id=x&subscriber_id=x",
			bearer(token), "Subscriber: x", "X-Request-Id: x", "Cookie: subscriber=x")
		first, second := subscriberOf(t, observer.Next(t).Data), subscriberOf(t, observer.Next(t).Data)
		if first != second || seen[first] {
			t.Errorf("subscribers %s and %s of one connection, after %v", first, second, seen)
		}
		seen[first] = true
	}
}

// What opens no stream is no subscription. Spec: E-15, S-20.
func TestOnlyStreamsAreSubscriptions(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { withPresence(c); c.MaxStreams = 2 })
	observer := observe(t, hub)
	for _, test := range []struct {
		method, query string
		fields        []string
		status        int
	}{
		{"HEAD", "?match=head", nil, 200},
		{"GET", "?match=bad&match_x=a", nil, 400},
		{"GET", "?match=token", []string{bearer("a.b.c")}, 401},
		{"GET", "?match=nobody&anonymous=off", nil, 401},
		{"QUERY", "?match=query", []string{"Content-Type: text/plain"}, 200},
	} {
		body := ""
		if test.status != 200 {
			body = "match=x"
		}
		if a := send(t, test.method, hub.URL+test.query, body, test.fields...); a.status != test.status {
			t.Errorf("%s %s is answered %d", test.method, test.query, a.status)
		}
	}
	// The last one was a stream, which send has closed.
	for _, active := range []string{"true", "false"} {
		if event := observer.Next(t); !strings.Contains(event.Data, `"match":"query"`) || !strings.Contains(event.Data, `"active":`+active) {
			t.Errorf("got %v", event)
		}
	}
	stream := openSoon(t, hub, servertest.Request{Query: url.Values{"match": {"a"}}})
	if event := observer.Next(t); !strings.Contains(event.Data, `"match":"a"`) {
		t.Errorf("got %v", event)
	}
	if a := send(t, "GET", hub.URL+"?match=b", ""); a.status != http.StatusTooManyRequests {
		t.Errorf("one too many is answered %d", a.status)
	}
	stream.Close()
	if event := observer.Next(t); !strings.Contains(event.Data, `"match":"a"`) {
		t.Errorf("got %v", event)
	}
}

// However a stream ends, all nodes hear of it. Spec.
func TestEveryEndIsAnnounced(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	observed := servertest.Start(t, database, withPresence)
	for name, test := range map[string]struct {
		option  func(*server.Config)
		expires time.Duration
		end     func(t *testing.T, hub *servertest.Hub)
	}{
		"lifetime":      {option: func(c *server.Config) { c.WriteTimeout = time.Second }},
		"token expired": {expires: 2 * time.Second},
		"key removed": {end: func(t *testing.T, hub *servertest.Hub) {
			t.Helper()
			if _, err := hub.Reload(t.Context(), func(c *server.Config) { c.SubscriberJWTKey = "another secret of the tests, long enough for HS256" }); err != nil {
				t.Error(err)
			}
		}},
		"shutdown": {end: func(_ *testing.T, hub *servertest.Hub) { hub.Stop() }},
		"drained":  {option: func(c *server.Config) { c.DrainTimeout = time.Second }, end: func(_ *testing.T, hub *servertest.Hub) { hub.Stop() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := servertest.Start(t, database, func(c *server.Config) {
				withPresence(c)
				if test.option != nil {
					test.option(c)
				}
			})
			topic := "https://example.com/" + url.PathEscape(name)
			observer := observed.Subscribe(t, servertest.Request{Token: omniscient(t), Query: url.Values{
				"match_urlpattern": {subscriptionsPath + "/exact/" + url.QueryEscape(topic) + "/:subscriber"},
			}})
			spec := server.TokenSpec{Dialect: server.Dialect1}
			if test.expires > 0 {
				spec.Expires = time.Now().Add(test.expires)
			}
			hub.Subscribe(t, servertest.Request{Token: subscriberToken(t, spec, ""), Query: url.Values{"match": {topic}}})
			began := observer.Next(t)
			if !strings.Contains(began.Data, `"active":true`) {
				t.Fatalf("got %v", began)
			}
			if test.end != nil {
				test.end(t, hub)
			}
			endsOnce(t, observer, began, observed, topic)
		})
	}
}

// endsOnce waits for the end of a subscription to a topic, and that no other
// comes before somebody else's beginning.
func endsOnce(t *testing.T, observer *servertest.Stream, began servertest.Event, hub *servertest.Hub, topic string) {
	t.Helper()
	if ended := observer.Next(t); ended.Data != strings.Replace(began.Data, `"active":true`, `"active":false`, 1) || ended.Type != "mercure" {
		t.Errorf("got %v after %v", ended, began)
	}
	hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {topic}}})
	if next := observer.Next(t); !strings.Contains(next.Data, `"active":true`) || subscriberOf(t, next.Data) == subscriberOf(t, began.Data) {
		t.Errorf("got %v after the end", next)
	}
}

// A client that closes its connection, or whose system says that there is none,
// is gone at once. Spec: R-2.
func TestEndOfGoneClientIsAnnounced(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), withPresence, func(c *server.Config) { c.Heartbeat = time.Hour })
	observer := observe(t, hub)
	for name, linger := range map[string]int{"FIN": -1, "RST": 0} {
		conn := connect(t, hub)
		if _, err := fmt.Fprintf(conn, "GET /.well-known/mercure?match=%s HTTP/1.1\r\nHost: h\r\n\r\n", name); err != nil {
			t.Fatal(err)
		}
		began := observer.Next(t)
		if !strings.Contains(began.Data, `"match":"`+name+`"`) {
			t.Fatalf("got %v", began)
		}
		if err := conn.(*net.TCPConn).SetLinger(linger); err != nil { //nolint:forcetypeassert // dialed so
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		endsOnce(t, observer, began, hub, name)
	}
}

// A stream is not there before it is announced. Spec: R-2.
func TestStreamsWaitForTheirAnnouncement(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hub := servertest.Start(t, database, withPresence)
	observer := observe(t, hub)
	blocker := database.Conn(t)
	statement(t, blocker, "BEGIN; LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE")
	answered := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Deadline)
	defer cancel()
	go func() { // ends with ctx
		stream, err := hub.TrySubscribe(ctx, servertest.Request{Query: url.Values{"match": {"a"}}})
		if err == nil {
			defer stream.Close()
		}
		answered <- err
	}()
	awaitBlocked(t, database, "mercure.append_lock")
	select {
	case err := <-answered:
		t.Fatalf("answered before it was announced: %v", err)
	default:
	}
	statement(t, blocker, "COMMIT")
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if began := observer.Next(t); !strings.Contains(began.Data, `"match":"a"`) {
		t.Errorf("got %v", began)
	}
}

// awaitBlocked waits until somebody waits for a lock on a table.
func awaitBlocked(t *testing.T, database *dbtest.DB, table string) {
	t.Helper()
	conn := database.Conn(t)
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Deadline)
	defer cancel()
	for waits := false; !waits; {
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = $1::text::regclass AND NOT granted)", table).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
}

// Without a database nobody can be announced: a new stream is refused, softly if
// it is a browser's, and never heard of. Those that are open stay, and nobody
// hears of an end. Spec: R-2, S-20.
func TestPresenceWithoutDatabase(t *testing.T) {
	t.Parallel()
	database := dbtest.NewServer(t)
	hub := servertest.Start(t, database.DB, withPresence)
	observer := observe(t, hub)
	hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"stays"}}})
	observer.Next(t)

	if err := database.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	soft, stream := openRaw(t, hub, "match=soft&last_event_id=x", "Accept: text/event-stream", "Cache-Control: no-cache")
	body, err := io.ReadAll(stream)
	if err != nil || soft.status != 200 || soft.header.Get("Mercure-Last-Event-ID") != "x" || !strings.Contains(string(body), "retry: ") {
		t.Errorf("a browser is answered %d %v %q, %v", soft.status, soft.header, body, err)
	}
	if hard := send(t, "GET", hub.URL+"?match=hard", ""); hard.status != 503 || hard.header.Get("Retry-After") == "" {
		t.Errorf("another client is answered %d %v", hard.status, hard.header)
	}
	if list := send(t, "GET", hub.URL+"/subscriptions", "", bearer(omniscient(t))); list.status != 503 || list.header.Get("Retry-After") == "" {
		t.Errorf("the list is answered %d %v", list.status, list.header)
	}

	if err := database.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Deadline)
	defer cancel()
	for {
		after, err := hub.TrySubscribe(t.Context(), servertest.Request{Query: url.Values{"match": {"after"}}})
		if err == nil {
			t.Cleanup(after.Close)
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	for {
		event := observer.Next(t)
		if strings.Contains(event.Data, `"match":"after"`) && strings.Contains(event.Data, `"active":true`) {
			break
		}
		// One that was refused while it could not be known whether it had been
		// written has both events.
		if strings.Contains(event.Data, `"match":"stays"`) {
			t.Errorf("got %v", event)
		}
	}
}

// A subscriber that takes nothing any more is gone. Spec: R-2.
func TestEndOfSlowSubscriberIsAnnounced(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { withPresence(c); c.DispatchTimeout = time.Second })
	observer := observe(t, hub)
	_, _ = openRaw(t, hub, "match=flood")
	observer.Next(t)
	data := strings.Repeat("x", 1<<19)
	for range 40 { // more than sockets hold
		hub.Publish(t, url.Values{"topic": {"flood"}, "data": {data}})
	}
	if event := observer.Next(t); !strings.Contains(event.Data, `"match":"flood"`) || !strings.Contains(event.Data, `"active":false`) {
		t.Errorf("got %v", event)
	}
}

// Whoever may publish everything may not publish this. Spec: N-1, N-3, P-9, Z-5.
func TestEventsCannotBeForged(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hub := servertest.Start(t, database, withPresence)
	observer := observe(t, hub)
	subject := hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a"}}})
	document := observer.Next(t).Data
	topic := subscriptionsPath + "/exact/a/" + strings.ReplaceAll(subscriberOf(t, document), ":", "%3A")
	forged := strings.Replace(document, `"active":true`, `"active":false`, 1)

	pool := database.Pool(t)
	publisher := token1(t, servertest.PublisherSecret, publicURL, "*", inAnHour())
	as := func(role, sql string, arguments ...any) error {
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "SELECT set_config('role', CASE $1 WHEN 'CURRENT_USER' THEN current_user ELSE $1 END, true)", role); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), sql, arguments...)
			return err
		})
	}
	for _, spelling := range []string{
		topic, "https://hub.example.com" + topic, strings.Replace(topic, "mercure", "%6Dercure", 1),
		strings.Replace(topic, "subscriptions", "%73ubscriptions", 1), strings.Replace(topic, ".well", "%2ewell", 1),
		strings.TrimPrefix(topic, "/.well-known/"), "./" + strings.TrimPrefix(topic, "/.well-known/"), "/x/.." + topic, "/x/%2e%2E" + topic,
		"//hub.example.com" + topic, "http://elsewhere.example" + topic, "https:" + topic, "https://hub.example.com" + strings.ReplaceAll(topic, "/", `\`),
		" " + topic + " ", topic + "?x", topic + "#x", subscriptionsPath + "/a/urn%3Auuid%3A1", subscriptionsPath, subscriptionsPath + "/",
	} {
		for _, form := range []url.Values{
			{"topic": {spelling}, "data": {forged}, "private": {"on"}},
			{"topic": {"a", spelling}, "data": {forged}, "private": {"on"}},
		} {
			for dialect, token := range map[string]string{"1.0": publisher, "0.x": servertest.PublisherToken(t)} {
				if status, _ := hub.Post(t, token, form.Encode()); status != http.StatusBadRequest {
					t.Errorf("%s over HTTP with a token of %s is answered %d", spelling, dialect, status)
				}
			}
		}
		for _, sql := range []string{
			"INSERT INTO mercure.outbox (topics, data, private) VALUES (ARRAY['a', $1], $2, true)",
			"INSERT INTO mercure.updates (topics, data, private) VALUES (ARRAY[$1], $2, true)",
			"SELECT mercure.publish($1::text, $2, true)",
			"SELECT mercure.publish(ARRAY['a', $1::text], $2, true)",
		} {
			for _, role := range []string{"CURRENT_USER", "mercure_publisher"} {
				if err := as(role, sql, spelling, forged); err == nil {
					t.Errorf("%s with %s is accepted of %s", sql, spelling, role)
				}
			}
		}
	}
	// What the hub writes itself is out of a publisher's reach.
	for _, sql := range []string{
		"INSERT INTO mercure.updates (topics, data, from_hub) VALUES (ARRAY[$1], $2, true)",
		"INSERT INTO mercure.subscriptions (node, number, selector, topic, collection, document) VALUES (gen_random_uuid(), 1, false, $1, $1, $2)",
		"UPDATE mercure.subscriptions SET topic = $1, document = $2",
		"DELETE FROM mercure.subscriptions WHERE topic = $1 OR document = $2",
		"SELECT FROM mercure.subscriptions WHERE topic = $1 OR document = $2",
		"SELECT FROM mercure.nodes WHERE id::text = $1 OR id::text = $2",
		"SELECT mercure.write_presence(gen_random_uuid(), 1, 0, '{}', '{1}', '{false}', ARRAY[$1::text], ARRAY['x'], ARRAY[$2::text])",
		"SELECT mercure.end_node((SELECT id FROM mercure.nodes WHERE $1::text <> $2::text LIMIT 1), NULL, 1, 1)",
		"SELECT mercure.add_node(gen_random_uuid()) WHERE $1::text <> $2::text",
	} {
		if err := as("mercure_publisher", sql, topic, forged); err == nil {
			t.Errorf("%s is accepted of a publisher", sql)
		} else if denied, ok := errors.AsType[*pgconn.PgError](err); !ok || denied.Code != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if status, _ := hub.Post(t, servertest.PublisherToken(t), url.Values{"topic": {"a"}, "data": {forged}, "type": {"mercure"}}.Encode()); status != http.StatusBadRequest {
		t.Errorf("the type over HTTP is answered %d", status)
	}
	if _, err := pool.Exec(t.Context(), "INSERT INTO mercure.outbox (topics, data, type) VALUES ('{a}', $1, 'mercure')", forged); err == nil {
		t.Error("the type is accepted in SQL")
	}
	subject.Close()
	if event := observer.Next(t); event.Data != forged {
		t.Errorf("the end is %v", event)
	}
}

// The longest matchers that a request can have. Spec: S-12, R-6.
func TestLongSubscriptions(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), withPresence)
	observer := observe(t, hub)
	query := url.Values{}
	for i := range 100 {
		query.Add("match", fmt.Sprintf("%02d", i)+strings.Repeat("\u00E9", 2047))
	}
	stream := hub.Subscribe(t, servertest.Request{Query: query})
	var began []string
	for range 100 {
		began = append(began, observer.Next(t).Data)
	}
	var document struct{ ID string }
	if err := json.Unmarshal([]byte(began[99]), &document); err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
	if a := send(t, "GET", root+document.ID, "", bearer(omniscient(t))); a.status != 200 || a.body != began[99] {
		t.Errorf("the longest one is answered %d %.200s", a.status, a.body)
	}
	stream.Close()
	for i := range began {
		if got := observer.Next(t).Data; got != strings.Replace(began[i], `"active":true`, `"active":false`, 1) {
			t.Fatalf("the end of the %dth is %.200s", i, got)
		}
	}
}
