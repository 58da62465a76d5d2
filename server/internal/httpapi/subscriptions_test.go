package httpapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

const testSecret = "a secret of the tests, long enough for HS256"

// lists is a Presence that fails, or has more documents than fit into memory.
type lists struct {
	cursor    protocol.EventID
	documents func(ctx context.Context, yield func(string) error) error
	joinErr   error

	mu     sync.Mutex
	filter protocol.SubscriptionFilter // guarded by mu: of the last List
}

func (l *lists) Join(context.Context, []protocol.Subscription) (func(), error) {
	if l.joinErr != nil {
		return nil, l.joinErr
	}
	return func() {}, nil
}

func (l *lists) List(ctx context.Context, filter protocol.SubscriptionFilter, begin func(protocol.EventID) error, each func(string) error) error {
	l.mu.Lock()
	l.filter = filter
	l.mu.Unlock()
	if l.cursor == "" {
		return errors.New("the database is away")
	}
	if err := begin(l.cursor); err != nil || l.documents == nil {
		return err
	}
	return l.documents(ctx, each)
}

func (l *lists) lastFilter() protocol.SubscriptionFilter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.filter
}

// testLog is ready, and that is all.
type testLog struct{}

func (testLog) Append(context.Context, *protocol.Update) (protocol.EventID, error) {
	return "", errors.New("not in this test")
}

func (l testLog) AppendOnce(ctx context.Context, update *protocol.Update, _ protocol.PublishKey) (protocol.EventID, error) {
	return l.Append(ctx, update)
}
func (testLog) Ready() error { return nil }

// emptyHistory has no update.
type emptyHistory struct{}

func (emptyHistory) PageAfter(_ context.Context, _, upTo protocol.Position, _ []string) ([]protocol.Entry, protocol.Position, error) {
	return nil, upTo, nil
}

func (emptyHistory) Find(context.Context, protocol.EventID) (protocol.Position, bool, error) {
	return 0, false, nil
}

// serve starts a hub over HTTP, which has no log.
func serve(t *testing.T, presence Presence, options ...func(*Config)) (root string) {
	t.Helper()
	keys, err := auth.ParseKeys(testSecret, "HS256")
	if err != nil {
		t.Fatal(err)
	}
	authenticator, err := auth.New(auth.Config{
		Issuers: []auth.Issuer{{ID: "https://issuer.example", Subscriber: keys}}, Legacy: auth.LegacyKeys{Subscriber: keys}, Compat: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	hub, err := protocol.ParseHubURL("https://hub.example.com/.well-known/mercure")
	if err != nil {
		t.Fatal(err)
	}
	broadcaster := broadcast.New(broadcast.Config{History: emptyHistory{}, TailBytes: 1 << 10})
	broadcaster.Start(nil, 0)
	config := Config{
		Log: testLog{}, Broadcaster: broadcaster, Auth: func() *auth.Authenticator { return authenticator },
		Hub: HubConfig{Path: hub.Path(), PublicURL: hub}, Logger: slog.New(slog.DiscardHandler),
		Limits: protocol.DefaultLimits(), Presence: presence, DispatchTimeout: 5 * time.Second, Draining: make(chan struct{}),
	}
	for _, option := range options {
		option(&config)
	}
	handler := New(config)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(&hastyWriter{w}, r)
	}))
	t.Cleanup(s.Close)
	return s.URL + hub.Path()
}

// hastyWriter gives clients a second where the hub gives them longer.
type hastyWriter struct{ http.ResponseWriter }

func (w *hastyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *hastyWriter) SetWriteDeadline(deadline time.Time) error {
	if sooner := time.Now().Add(time.Second); deadline.After(sooner) {
		deadline = sooner
	}
	return http.NewResponseController(w.ResponseWriter).SetWriteDeadline(deadline)
}

func testToken(t *testing.T, dialect auth.Dialect) string {
	t.Helper()
	return tokenUntil(t, dialect, time.Now().Add(time.Hour))
}

// tokenUntil grants everything.
func tokenUntil(t *testing.T, dialect auth.Dialect, expires time.Time) string {
	t.Helper()
	key, err := auth.ParseSigningKey(testSecret, "HS256")
	if err != nil {
		t.Fatal(err)
	}
	spec := auth.TokenSpec{Dialect: dialect, Key: key, Subscribe: []auth.MatcherSpec{{Match: "*"}}}
	if dialect == auth.Dialect1 {
		spec.Issuer, spec.Audience = "https://issuer.example", "https://hub.example.com/.well-known/mercure"
		spec.Subject, spec.Expires = "somebody", expires
	}
	token, err := auth.Mint(spec)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func get(t *testing.T, target, token string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// What a path means. Spec: E-5 to E-9, E-16, X-9, Q-2, R-11, Q-28.
func TestSubscriptionPaths(t *testing.T) {
	t.Parallel()
	const root = "/.well-known/mercure/subscriptions"
	tokens := map[auth.Dialect]string{auth.Dialect1: testToken(t, auth.Dialect1), auth.Dialect0: testToken(t, auth.Dialect0)}
	all := protocol.SubscriptionFilter{}
	collection := func(path string) protocol.SubscriptionFilter {
		return protocol.SubscriptionFilter{Collection: root + path}
	}
	single := func(path string) protocol.SubscriptionFilter { return protocol.SubscriptionFilter{Topic: root + path} }
	for _, test := range []struct {
		path    string
		status1 int
		filter1 protocol.SubscriptionFilter
		status0 int
		filter0 protocol.SubscriptionFilter
	}{
		{path: "", status1: 200, filter1: all, status0: 200, filter0: all},
		{path: "/a", status1: 404, status0: 200, filter0: collection("/a")},
		{path: "/exact/a", status1: 200, filter1: collection("/exact/a"), status0: 404, filter0: single("/exact/a")},
		{path: "/exact/a/urn%3Auuid%3A1", status1: 404, filter1: single("/exact/a/urn%3Auuid%3A1"), status0: 404},
		{path: "/a/b/c/d", status1: 404, status0: 404},
		{path: "/", status1: 404, status0: 404},
		{path: "/exact/a/", status1: 404, status0: 404},
		{path: "/a/", status1: 404, status0: 404},
		{path: "//a", status1: 404, status0: 404},
		// A slash that is encoded separates nothing, whatever else is sloppy.
		{path: "/exact/a%2Fb", status1: 200, filter1: collection("/exact/a%2Fb"), status0: 404, filter0: single("/exact/a%2Fb")},
		{path: "/https%3a%2f%2fa%2f{id}", status1: 404, status0: 200, filter0: collection("/https%3A%2F%2Fa%2F%7Bid%7D")},
		{path: "/\u00E9%2F\"", status1: 404, status0: 200, filter0: collection("/%C3%A9%2F%22")},
		{path: "/a:b(c)!*'@~", status1: 404, status0: 200, filter0: collection("/a%3Ab%28c%29%21%2A%27%40~")},
		{path: "/a+b", status1: 404, status0: 200, filter0: collection("/a%2Bb")},
		{path: "/a%20b", status1: 404, status0: 200, filter0: collection("/a%20b")},
		{path: "/%252F", status1: 404, status0: 200, filter0: collection("/%252F")},
		{path: "/%61%2E", status1: 404, status0: 200, filter0: collection("/a.")},
		{path: "/exact/a%252Fb%2525", status1: 200, filter1: collection("/exact/a%252Fb%2525"), status0: 404, filter0: single("/exact/a%252Fb%2525")},
		{path: "/exact/%2e%2E", status1: 200, filter1: collection("/exact/.."), status0: 404, filter0: single("/exact/..")},
		{path: "/./..", status1: 200, filter1: collection("/./.."), status0: 404, filter0: single("/./..")},
		{path: "/..", status1: 404, status0: 200, filter0: collection("/..")},
		{path: "/exact//a", status1: 404, status0: 404},
		{path: "/exact/%2F", status1: 200, filter1: collection("/exact/%2F"), status0: 404, filter0: single("/exact/%2F")},
		{path: "/%00%0D%0A", status1: 404, status0: 200, filter0: collection("/%00%0D%0A")},
		{path: "/exact/a;b=c,d&e=$f[1]", status1: 200, filter1: collection("/exact/a%3Bb%3Dc%2Cd%26e%3D%24f%5B1%5D"), status0: 404, filter0: single("/exact/a%3Bb%3Dc%2Cd%26e%3D%24f%5B1%5D")},
		{path: "/exact/..", status1: 200, filter1: collection("/exact/.."), status0: 404, filter0: single("/exact/..")},
		{path: "/%FF", status1: 404, status0: 200, filter0: collection("/%FF")},
		{path: "?x=y", status1: 200, filter1: all, status0: 200, filter0: all},
		{path: "/a%", status1: 400, status0: 400},
		{path: "/a%zz", status1: 400, status0: 400},
		{path: "/a%2", status1: 400, status0: 400},
		{path: "X", status1: 404, status0: 404},
	} {
		for _, dialect := range []struct {
			auth.Dialect
			status int
			filter protocol.SubscriptionFilter
		}{{auth.Dialect1, test.status1, test.filter1}, {auth.Dialect0, test.status0, test.filter0}} {
			t.Run(test.path+" with "+dialect.String(), func(t *testing.T) {
				t.Parallel()
				presence := &lists{cursor: "c"}
				status := rawStatus(t, serve(t, presence), root+test.path, tokens[dialect.Dialect])
				if status != dialect.status {
					t.Errorf("answered %d, want %d", status, dialect.status)
				}
				want := dialect.filter
				asked := status == 200 || want != all
				want.Selector = asked && dialect.Dialect == auth.Dialect0
				if diff := cmp.Diff(want, presence.lastFilter()); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
	}
}

// As forward proxies may be asked. Spec: R-11.
func TestSubscriptionsByAbsoluteTarget(t *testing.T) {
	t.Parallel()
	presence := &lists{cursor: "c"}
	const path = "/.well-known/mercure/subscriptions/exact/a%2Fb"
	if status := rawStatus(t, serve(t, presence), "http://hub.example.com"+path, testToken(t, auth.Dialect1)); status != http.StatusOK {
		t.Errorf("answered %d", status)
	}
	if got := presence.lastFilter().Collection; got != path {
		t.Errorf("asked for %s", got)
	}
}

// rawStatus sends a path byte for byte.
func rawStatus(t *testing.T, hub, path, token string) int {
	t.Helper()
	u, err := url.Parse(hub)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer "+token+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// A list is sent as it is read: there is no end to this one. One that cannot be
// finished does not look finished. Spec: R-13.
func TestListsAreStreamed(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	presence := &lists{cursor: "c", documents: func(_ context.Context, yield func(string) error) error {
		document := `{"x":"` + strings.Repeat("x", 1000) + `"}`
		for range 1000 {
			if err := yield(document); err != nil {
				return err
			}
		}
		<-goOn
		return errors.New("the database went away")
	}}
	response := get(t, serve(t, presence)+"/subscriptions", testToken(t, auth.Dialect1))
	defer func() { _ = response.Body.Close() }()
	if _, err := io.ReadFull(response.Body, make([]byte, 500_000)); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if rest, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("the list ended well with %q", rest[len(rest)-20:])
	}
}

// Who does not read is cut off, and has no place among the streams any more.
// Spec: S-13, S-23.
func TestSlowReadersOfLists(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	presence := &lists{cursor: "c", documents: func(_ context.Context, yield func(string) error) error {
		for {
			if err := yield(strings.Repeat("x", 1000)); err != nil {
				select {
				case ended <- err:
				default: // there should be one list only
				}
				return err
			}
		}
	}}
	hub, token := serve(t, presence, func(c *Config) { c.MaxStreams = 1 }), testToken(t, auth.Dialect1)
	response := get(t, hub+"/subscriptions", token)
	defer func() { _ = response.Body.Close() }()
	for path, want := range map[string]int{"/subscriptions": 429, "/subscriptions/exact/a/b": 429, "/subscriptions/x": 404, "?match=a": 429} {
		second := get(t, hub+path, token)
		_ = second.Body.Close()
		if second.StatusCode != want {
			t.Errorf("%s is answered %d while a list is sent", path, second.StatusCode)
		}
	}
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the list ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the list does not end")
	}
	for { // the place is free a moment later
		second := get(t, hub+"/subscriptions/exact/a/b", token)
		_ = second.Body.Close()
		if second.StatusCode == http.StatusOK {
			return
		}
	}
}

// A slow reader sees nobody who came after its token had expired. Spec: S-21, Z-12.
func TestListsEndWithTheToken(t *testing.T) {
	t.Parallel()
	presence := &lists{cursor: "c", documents: func(ctx context.Context, yield func(string) error) error {
		if err := yield(strings.Repeat("x", 1<<20)); err != nil { // more than is buffered
			return err
		}
		patience := time.NewTimer(20 * time.Second)
		defer patience.Stop()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-patience.C:
			return nil
		}
	}}
	response := get(t, serve(t, presence)+"/subscriptions", tokenUntil(t, auth.Dialect1, time.Now().Add(2*time.Second)))
	defer func() { _ = response.Body.Close() }()
	if list, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("the list ended well with %q", list)
	}
}

// Spec: section 8.2, R-14.
func TestListsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	hub, token := serve(t, &lists{}), testToken(t, auth.Dialect1)
	for _, path := range []string{"", "/exact/a", "/exact/a/b"} {
		response := get(t, hub+"/subscriptions"+path, token)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" || response.Header.Get("ETag") != "" {
			t.Errorf("%q is answered %d %v", path, response.StatusCode, response.Header)
		}
	}
}

// Who cannot be announced is refused, softly if it is a browser. Spec: S-20.
func TestSubscribersThatCannotBeAnnounced(t *testing.T) {
	t.Parallel()
	hub, token := serve(t, &lists{joinErr: errors.New("the database is away")}), testToken(t, auth.Dialect0)
	response := get(t, hub+"?match=a", token)
	_ = response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf("answered %d %v", response.StatusCode, response.Header)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, hub+"?match=a&last_event_id=x&authorization="+token, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "text/event-stream")
	request.Header.Set("Cache-Control", "no-cache")
	soft, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = soft.Body.Close() }()
	body, err := io.ReadAll(soft.Body)
	if err != nil || soft.StatusCode != 200 || !strings.Contains(string(body), "retry: ") || soft.Header.Get("Mercure-Last-Event-ID") != "x" {
		t.Errorf("answered %d %v %q, %v", soft.StatusCode, soft.Header, body, err)
	}
}

// Spec.
func TestCursorFields(t *testing.T) {
	t.Parallel()
	for cursor, want := range map[protocol.EventID]struct{ link, tag string }{
		"urn:uuid:1":    {"urn:uuid:1", "urn:uuid:1"},
		"earliest":      {"earliest", "earliest"},
		`a"b\c`:         {`a\"b\\c`, `a%22b\c`},
		"a b, \u00E9 %": {"a b, \u00E9 %", "a%20b,%20%C3%A9%20%"},
	} {
		response := get(t, serve(t, &lists{cursor: cursor})+"/subscriptions", testToken(t, auth.Dialect1))
		_ = response.Body.Close()
		link := `<https://hub.example.com/.well-known/mercure>; rel="mercure"; last-event-id="` + want.link + `"; type="mercure"; content-type="application/json"`
		if got := response.Header.Get("Link"); got != link {
			t.Errorf("%s: Link is\n%s\nwant\n%s", cursor, got, link)
		}
		if got := response.Header.Get("ETag"); got != `"`+want.tag+`"` {
			t.Errorf("%s: ETag is %s, want %q", cursor, got, want.tag)
		}
	}
}

// Spec: R-18.
func TestMatchesTag(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]bool{
		``: false, `"a"`: true, `a`: true, ` a `: true, `W/"a"`: true, `W/a`: true, `*`: true,
		`"b"`: false, `b`: false, `"A"`: false, `"aa"`: false, `"`: false, `"a`: true, `W/`: false, `,`: false,
		`"b", "a"`: true, `b,a`: true, `"b","c"`: false, `W/"b" , W/"a" ,`: true,
		`"b,a"`: false, `"b, a, c"`: false,
	} {
		if got := matchesTag([]string{field}, "a"); got != want {
			t.Errorf("%s: %v", field, got)
		}
	}
	if !matchesTag([]string{`"b"`, `"a"`}, "a") || matchesTag(nil, "a") || !matchesTag([]string{"a,b"}, "a,b") {
		t.Error("several fields, no field, or a tag with a comma")
	}
}

// A token has one payload, its subscriptions have one each. Spec: S-12.
func TestPayloadsAreBounded(t *testing.T) {
	t.Parallel()
	a := &api{Config: Config{Presence: &lists{}}}
	hub, err := protocol.ParseHubURL("https://hub.example.com/.well-known/mercure")
	if err != nil {
		t.Fatal(err)
	}
	everything, err := protocol.NewExact("*")
	if err != nil {
		t.Fatal(err)
	}
	grants := &auth.Grants{Payloads: []auth.PayloadEntry{{
		Matchers: []*protocol.Matcher{everything}, Payload: []byte(`"` + strings.Repeat("x", maxPayloadBytes/100) + `"`),
	}}}
	matchers := make([]*protocol.Matcher, 100)
	for i := range matchers {
		if matchers[i], err = protocol.NewExact(strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := a.subscriptionsOf(hub, matchers[:99], grants)
	if err != nil || len(list) != 99 {
		t.Errorf("99 subscriptions became %d, %v", len(list), err)
	}
	if _, err := a.subscriptionsOf(hub, matchers, grants); err == nil || problemOf(err).status != http.StatusBadRequest {
		t.Errorf("100 subscriptions: %v", err)
	}
}
