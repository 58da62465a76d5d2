package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// answer is what a request is answered, without its body if that is a stream.
type answer struct {
	status int
	header http.Header
	body   string
}

// send makes a request; headers are "Name: value".
func send(t *testing.T, method, target, body string, headers ...string) answer {
	t.Helper()
	a, err := trySend(t.Context(), method, target, body, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// trySend is send for callers that are not the test's own goroutine.
func trySend(ctx context.Context, method, target, body string, headers ...string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Add(name, value)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	a := answer{status: response.StatusCode, header: response.Header}
	if response.Header.Get("Content-Type") != "text/event-stream" || method == http.MethodHead {
		content, err := io.ReadAll(response.Body)
		if err != nil {
			return answer{}, err
		}
		a.body = string(content)
	}
	return a, nil
}

const form = "Content-Type: application/x-www-form-urlencoded"

// The publishers' tokens here are of 0.x. Spec: E-1, E-3, P-11.
func TestRefusals(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) {
		c.Anonymous = false
		c.MaxRequestBody = 2000
	})
	root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
	publisher := "Authorization: Bearer " + servertest.PublisherToken(t)
	narrow := "Authorization: Bearer " + servertest.Token(t, servertest.PublisherSecret, []string{"https://example.com/mine"}, nil)
	subscriber := "Authorization: Bearer " + servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"})
	forged := "Authorization: Bearer " + servertest.Token(t, "not the secret of this hub, though long enough", []string{"*"}, nil)
	// Spec: section 8.2, A-10.
	metadata := `resource_metadata="` + root + `/.well-known/oauth-protected-resource/.well-known/mercure"`
	noToken := `Bearer ` + metadata
	invalidToken := `Bearer error="invalid_token", ` + metadata
	badRequest := `Bearer error="invalid_request", ` + metadata
	outOfScope := `Bearer error="insufficient_scope", ` + metadata
	for name, test := range map[string]struct {
		method, target, body string
		headers              []string
		status               int
		challenge            string
	}{
		"publish without a token":           {"POST", hub.URL, "topic=a", []string{form}, 401, noToken},
		"publish with a forged token":       {"POST", hub.URL, "topic=a", []string{form, forged}, 401, invalidToken},
		"publish with a subscriber's":       {"POST", hub.URL, "topic=a", []string{form, subscriber}, 401, invalidToken},
		"publish with a broken header":      {"POST", hub.URL, "topic=a", []string{form, "Authorization: Basic eA=="}, 400, badRequest},
		"publish out of scope":              {"POST", hub.URL, "topic=a", []string{form, narrow}, 403, outOfScope},
		"publish partly out of scope":       {"POST", hub.URL, "topic=https://example.com/mine&topic=a", []string{form, narrow}, 403, outOfScope},
		"publish JSON":                      {"POST", hub.URL, "{}", []string{"Content-Type: application/json", publisher}, 400, ""},
		"publish no topic":                  {"POST", hub.URL, "data=x", []string{form, publisher}, 400, ""},
		"publish the wildcard":              {"POST", hub.URL, "topic=*", []string{form, publisher}, 400, ""},
		"publish a reserved topic":          {"POST", hub.URL, "topic=/.well-known/mercure/x", []string{form, narrow}, 400, ""},
		"publish a reserved type":           {"POST", hub.URL, "topic=a&type=mercure", []string{form, publisher}, 400, ""},
		"publish a reserved id":             {"POST", hub.URL, "topic=a&id=earliest", []string{form, publisher}, 400, ""},
		"publish a negative retry":          {"POST", hub.URL, "topic=a&retry=-1", []string{form, publisher}, 400, ""},
		"publish invalid UTF-8":             {"POST", hub.URL, "topic=%FF", []string{form, publisher}, 400, ""},
		"publish too much":                  {"POST", hub.URL, "topic=a&data=" + strings.Repeat("x", 2000), []string{form, publisher}, 413, ""},
		"publish too long a topic":          {"POST", hub.URL, "topic=" + strings.Repeat("%61", 10) + strings.Repeat("b", 1800), []string{form, publisher}, 200, ""},
		"subscribe without a token":         {"GET", hub.URL + "?match=a", "", nil, 401, noToken},
		"subscribe with a publisher's":      {"GET", hub.URL + "?match=a", "", []string{publisher}, 401, invalidToken},
		"subscribe to nothing":              {"GET", hub.URL, "", []string{subscriber}, 400, ""},
		"subscribe with an unknown type":    {"GET", hub.URL + "?match_regexp=a", "", []string{subscriber}, 400, ""},
		"subscribe with a bad pattern":      {"GET", hub.URL + "?match_urlpattern=%7Bopen", "", []string{subscriber}, 400, ""},
		"another method":                    {"DELETE", hub.URL, "", nil, 405, ""},
		"another path":                      {"GET", root + "/", "", nil, 404, ""},
		"head":                              {"HEAD", hub.URL + "?match=a", "", []string{subscriber}, 200, ""},
		"query with the wrong media type":   {"QUERY", hub.URL, "match=a", []string{"Content-Type: text/plain", subscriber}, 400, ""},
		"query with parameters in its body": {"QUERY", hub.URL, "match=a", []string{form, subscriber}, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := send(t, test.method, test.target, test.body, test.headers...)
			if a.status != test.status {
				t.Errorf("status %d, want %d: %s", a.status, test.status, a.body)
			}
			if got := a.header.Get("WWW-Authenticate"); got != test.challenge {
				t.Errorf("challenge %q, want %q", got, test.challenge)
			}
			if a.status >= 400 && a.status != 405 {
				if a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("Cache-Control") != "no-store" ||
					!strings.Contains(a.body, `"detail":"`) && test.method != http.MethodHead {
					t.Errorf("not a problem document: %v %s", a.header, a.body)
				}
			}
		})
	}
	allow := send(t, "DELETE", hub.URL, "").header.Values("Allow")
	allowed := strings.Split(strings.Join(allow, ", "), ", ")
	for _, method := range []string{"GET", "HEAD", "POST", "QUERY", "OPTIONS"} {
		if !slices.Contains(allowed, method) {
			t.Errorf("Allow is %q, without %s", allowed, method) // Spec: E-11
		}
	}
	// Spec: E-12
	for _, path := range []string{"/healthz", "/readyz", "/mercure/health/live", "/mercure/health/ready"} {
		if a := send(t, "GET", root+path, ""); a.status != 200 {
			t.Errorf("%s answers %d", path, a.status)
		}
	}
}

// exchange sends raw bytes, closes its side if told to, and returns what comes.
func exchange(t *testing.T, hub *servertest.Hub, request string, halfClose bool) string {
	t.Helper()
	conn := connect(t, hub)
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	if tcp, ok := conn.(*net.TCPConn); halfClose && ok {
		if err := tcp.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(servertest.Deadline)); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(response.StatusCode, " ", string(body))
}

// What is not a success must never look like one, however a client behaves.
func TestUnusualClients(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hub := servertest.Start(t, database)
	post := func(host, length, body string) string {
		return "POST /.well-known/mercure HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer " + servertest.PublisherToken(t) +
			"\r\n" + form + "\r\nContent-Length: " + length + "\r\nConnection: close\r\n\r\n" + body
	}
	const reserved = "topic=/.well-known/mercure/subscriptions/x"
	for name, test := range map[string]struct {
		request   string
		halfClose bool
		want      string
	}{
		"the body ends early":            {post("h", "100", "topic=a"), true, "400 "},
		"nothing more to send":           {post("h", "12", "topic=a&id=x"), true, "200 x"},
		"no host, a reserved topic":      {post("", "42", reserved), false, "400 "},
		"a path for a host":              {post("a/b", "42", reserved), false, "400 "},
		"a user for a host":              {post("a@b", "42", reserved), false, "400 "},
		"a host that is too long":        {post(strings.Repeat("a", 301), "7", "topic=a"), false, "400 "},
		"an unknown method":              {"FOO /.well-known/mercure HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", false, "405 "},
		"an unknown method, no route":    {"FOO /nothing HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", false, "404 "},
		"HTTP/1.0 without a host":        {"POST /.well-known/mercure HTTP/1.0\r\nContent-Length: 0\r\n\r\n", false, "400 "},
		"a GET with a body and no topic": {"GET /.well-known/mercure HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\nConnection: close\r\n\r\nmatch=a", false, "400 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := exchange(t, hub, test.request, test.halfClose); !strings.HasPrefix(got, test.want) {
				t.Errorf("answered %q, want %q", got, test.want)
			}
		})
	}
}

func TestPublishAnswer(t *testing.T) { // Spec: P-15, P-13
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	token := "Authorization: Bearer " + servertest.PublisherToken(t)
	a := send(t, "POST", hub.URL, "topic=a&id=8b9c8f4e-0c1e-4f4e-9d51-0f1a6c1e3a55", form, token)
	if a.status != 200 || a.header.Get("Content-Type") != "text/plain; charset=utf-8" || a.body != "8b9c8f4e-0c1e-4f4e-9d51-0f1a6c1e3a55" {
		t.Errorf("got %+v", a)
	}
	a = send(t, "POST", hub.URL, "topic=a", "Content-Type: application/x-www-form-urlencoded; charset=UTF-8", token)
	if a.status != 200 || !strings.HasPrefix(a.body, "urn:uuid:") {
		t.Errorf("got %+v", a)
	}
}

// Spec: section 5.4, H-4, Q-41.
func TestStreamHeaders(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	id := hub.Publish(t, url.Values{"topic": {"a"}})
	for name, test := range map[string]struct {
		query           url.Values
		lastEventID     string
		current, legacy string
	}{
		"no cursor":                   {url.Values{"match": {"a"}}, "", "", ""},
		"header":                      {url.Values{"match": {"a"}}, id, id, ""},
		"header, selector":            {url.Values{"topic": {"a"}}, id, id, id},
		"1.0 parameter":               {url.Values{"match": {"a"}, "last_event_id": {id}}, "", id, ""},
		"0.x parameter":               {url.Values{"match": {"a"}, "lastEventID": {id}}, "", id, id},
		"old 0.x parameter":           {url.Values{"topic": {"a"}, "Last-Event-ID": {id}}, "", id, id},
		"polyfill's parameter":        {url.Values{"match": {"a"}, "lastEventId": {id}}, "", id, ""},
		"header beats parameter":      {url.Values{"match": {"a"}, "last_event_id": {"x"}}, id, id, ""},
		"unknown":                     {url.Values{"match": {"a"}, "last_event_id": {"x"}}, "", "earliest", ""},
		"present but empty":           {url.Values{"match": {"a"}, "last_event_id": {""}}, "", "earliest", ""},
		"an empty header with nobody": {url.Values{"match": {"a"}}, "earliest", "earliest", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := hub.Subscribe(t, servertest.Request{Query: test.query, LastEventID: test.lastEventID})
			if got := stream.Header.Get("Mercure-Last-Event-ID"); got != test.current {
				t.Errorf("Mercure-Last-Event-ID is %q, want %q", got, test.current)
			}
			if got := stream.Header.Get("Last-Event-ID"); got != test.legacy {
				t.Errorf("Last-Event-ID is %q, want %q", got, test.legacy)
			}
			for header, want := range map[string]string{
				"Cache-Control":     "private, no-cache, no-store, must-revalidate, max-age=0",
				"X-Accel-Buffering": "no",
				"Content-Length":    "",
			} {
				if got := stream.Header.Get(header); got != want {
					t.Errorf("%s is %q, want %q", header, got, want)
				}
			}
		})
	}
}

// Browsers' EventSource gets ids without data, and so does who asks (S-26).
func TestCheckpointsAreForThoseWhoCanReadThem(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	witness := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"other"}}})
	newest := hub.Publish(t, url.Values{"topic": {"other"}})
	witness.Next(t) // else the streams below may begin before it
	token := servertest.Token(t, servertest.SubscriberSecret, nil, nil)
	for name, request := range map[string]servertest.Request{
		"a browser":        {Query: url.Values{"topic": {"a"}}, AsEventSource: true},
		"a token and asks": {Query: url.Values{"topic": {"a"}, "cursor_checkpoints": {"on"}}, Token: token},
	} {
		if id := hub.Subscribe(t, request).NextID(t); id != newest {
			t.Errorf("%s is told %q, want %q", name, id, newest)
		}
	}
	silent := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}, Token: token})
	first := hub.Publish(t, url.Values{"topic": {"a"}})
	if id := silent.NextID(t); id != first {
		t.Errorf("a client with a token and no wish is told %q, want %q", id, first)
	}
}

func TestForwardedHost(t *testing.T) { // Spec: Z-15
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.TrustedProxies = "::ffff:127.0.0.1" })
	publisher := "Authorization: Bearer " + servertest.PublisherToken(t)
	for host, status := range map[string]int{
		"hub.example.com": 200, "a/b": 400, `a\b`: 400,
		"a/b, hub.example.com": 200, "hub.example.com, a/b": 400, // the last one is the proxy's own word
	} {
		if a := send(t, "POST", hub.URL, "topic=a", form, publisher, "X-Forwarded-Host: "+host); a.status != status {
			t.Errorf("forwarded host %q is answered %d, want %d", host, a.status, status)
		}
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	listed := servertest.Start(t, database, func(c *server.Config) {
		c.Anonymous = false
		c.CORSAllowedOrigins = "https://app.example.com https://*.example.org"
	})
	all := servertest.Start(t, database, func(c *server.Config) { c.CORSAllowedOrigins = "*" })
	for name, test := range map[string]struct {
		hub                 *servertest.Hub
		origin              string
		allowed, credential string
	}{
		"listed":         {listed, "https://app.example.com", "https://app.example.com", "true"},
		"wildcard label": {listed, "https://eu.example.org", "https://eu.example.org", "true"},
		"not listed":     {listed, "https://evil.example", "", ""},
		"any":            {all, "https://evil.example", "*", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// C-4: errors too, or a script could not tell what is wrong.
			for _, a := range []answer{
				send(t, "GET", test.hub.URL+"?match_bad=a", "", "Origin: "+test.origin),
				send(t, "OPTIONS", test.hub.URL, "", "Origin: "+test.origin, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization,last-event-id"),
			} {
				if got := a.header.Get("Access-Control-Allow-Origin"); got != test.allowed {
					t.Errorf("status %d, allowed origin %q, want %q", a.status, got, test.allowed)
				}
				if got := a.header.Get("Access-Control-Allow-Credentials"); got != test.credential {
					t.Errorf("status %d, credentials %q, want %q", a.status, got, test.credential)
				}
			}
			preflight := send(t, "OPTIONS", test.hub.URL, "", "Origin: "+test.origin, "Access-Control-Request-Method: QUERY")
			if preflight.status != 204 {
				t.Errorf("preflight answers %d", preflight.status)
			}
		})
	}
}

func TestPrivateUpdates(t *testing.T) { // Spec: section 9
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	for name, test := range map[string]struct {
		token string
		want  []string
	}{
		"no token":      {"", []string{"public", "end"}},
		"no grant":      {servertest.Token(t, servertest.SubscriberSecret, nil, nil), []string{"public", "end"}},
		"granted":       {servertest.Token(t, servertest.SubscriberSecret, nil, []string{"https://example.com/u/{id}"}), []string{"public", "private", "end"}},
		"granted other": {servertest.Token(t, servertest.SubscriberSecret, nil, []string{"https://example.com/x"}), []string{"public", "end"}},
	} {
		t.Run(name, func(t *testing.T) {
			topic := "https://example.com/" + url.PathEscape(name)
			request := servertest.Request{Query: url.Values{"topic": {topic}}, Token: test.token}
			live := hub.Subscribe(t, request)
			hub.Publish(t, url.Values{"topic": {topic}, "data": {"public"}})
			hub.Publish(t, url.Values{"topic": {topic, "https://example.com/u/7"}, "data": {"private"}, "private": {"off"}}) // P-7
			hub.Publish(t, url.Values{"topic": {topic}, "data": {"end"}})
			request.LastEventID = "earliest"
			for kind, stream := range map[string]*servertest.Stream{"live": live, "replay": hub.Subscribe(t, request)} {
				var got []string
				for len(got) == 0 || got[len(got)-1] != "end" {
					got = append(got, stream.Next(t).Data)
				}
				if !slices.Equal(got, test.want) {
					t.Errorf("%s: got %q, want %q", kind, got, test.want)
				}
			}
		})
	}
}

// connect opens a connection to a hub.
func connect(t *testing.T, hub *servertest.Hub) net.Conn {
	t.Helper()
	address, err := url.Parse(hub.URL)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// dial opens a stream without reading it.
func dial(t *testing.T, hub *servertest.Hub, topic string) net.Conn {
	t.Helper()
	conn := connect(t, hub)
	if _, err := fmt.Fprintf(conn, "GET /.well-known/mercure?topic=%s HTTP/1.1\r\nHost: h\r\n\r\n", url.QueryEscape(topic)); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	if _, err := conn.Read(first); err != nil {
		t.Fatal(err)
	}
	return conn
}
