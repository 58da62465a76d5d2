package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// Spec: S-1, S-2, S-3, S-4, S-5, S-6, S-7, S-9, S-10, S-11, Q-6, Q-20. Through
// the whole hub what the parser's own tests say of it.
func TestSubscribeParameters(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	for query, want := range map[string]int{
		"match=a":                          200,
		"match_exact=a":                    200,
		"match_urlpattern=/:a":             200,
		"match=*":                          200,
		"match_urlpattern=*":               200,
		"topic=https://h/{id}":             200,
		"topic={":                          200,
		"m%61tch=a":                        200,
		"match=a&&=&x":                     200,
		"match=a%zz;b":                     200,
		"topic=https://h/a;b=c&":           200, // as dart_mercure sends it
		"match=a&topic=b":                  200,
		"match=a&foo=%FF":                  200,
		"match=a&match=a&match_exact=a":    200,
		"":                                 400,
		"last_event_id=x":                  400,
		"match":                            400,
		"match=":                           400,
		"match=a&match=":                   400,
		"topic=":                           400,
		"match=a%00":                       400,
		"match=%E2%80%8D":                  400,
		"match=%FF":                        400,
		"topic=%FF":                        400,
		"match=a&last_event_id=%FF":        400,
		"Match=a":                          400,
		"match=a&MATCH_urlpattern=b":       400,
		"match=a&matchurlpattern=b":        400,
		"match=a&match_regexp=b":           400,
		"match=a&match_unknown=*":          400,
		"match=a&match_=b":                 400,
		"match=a&matches=b":                400,
		"match=a&matching-id=b":            400,
		"match_urlpattern={open":           400,
		"match_urlpattern=/(open":          400,
		"match_urlpattern=/%28?%3Dx%29":    400, // what the engine cannot do
		"match_urlpattern=https://h/:a/:a": 400,
	} {
		a := send(t, "GET", hub.URL+"?"+query, "")
		if a.status != want {
			t.Errorf("GET ?%s is answered %d %s, want %d", query, a.status, a.body, want)
		}
		// In a body the same holds.
		if a := send(t, "QUERY", hub.URL, query, form); a.status != want {
			t.Errorf("QUERY %s is answered %d %s, want %d", query, a.status, a.body, want)
		}
	}
}

// Spec: S-7, E-2, E-14, Q-38.
func TestQuery(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.MaxRequestBody = 2000 })
	for name, test := range map[string]struct {
		query, body, mediaType string
		status                 int
	}{
		"parameters in the body":        {"", "match=a", "application/x-www-form-urlencoded", 200},
		"with a charset":                {"", "match=a", "application/x-www-form-urlencoded;charset=UTF-8", 200},
		"in the URL":                    {"?match=a", "", "", 200},
		"in both":                       {"?match=a", "match=b", "application/x-www-form-urlencoded", 200},
		"bad in the URL":                {"?match_x=a", "match=b", "application/x-www-form-urlencoded", 400},
		"bad in the body":               {"?match=a", "match_x=b", "application/x-www-form-urlencoded", 400},
		"an empty body of another type": {"?match=a", "", "application/json", 200},
		"another type":                  {"?match=a", "{}", "application/json", 400},
		"no type":                       {"?match=a", "match=b", "", 400},
		"too large":                     {"?match=a", "match=b&x=" + strings.Repeat("x", 2000), "application/x-www-form-urlencoded", 413},
	} {
		a := send(t, "QUERY", hub.URL+test.query, test.body, "Content-Type: "+test.mediaType)
		if a.status != test.status {
			t.Errorf("%s: answered %d %s", name, a.status, a.body)
		}
	}
	// Spec: P-1, Q-31. What is no form is no update.
	for mediaType, status := range map[string]int{
		"application/x-www-form-urlencoded; charset=UTF-8": 200, "APPLICATION/x-www-form-urlencoded": 200,
		"multipart/form-data": 400, "text/plain": 400, "": 400,
	} {
		a := send(t, "POST", hub.URL+"?topic=b&private=on", "topic=a", "Content-Type: "+mediaType, bearer(servertest.PublisherToken(t)))
		if a.status != status {
			t.Errorf("POST of %q is answered %d", mediaType, a.status)
		}
	}
}

// Spec: E-15, Q-1, E-13.
func TestHeadEqualsGet(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), pinned, func(c *server.Config) { c.CORSAllowedOrigins = appOrigin })
	root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
	id := hub.Publish(t, url.Values{"topic": {"a"}, "id": {"x"}})
	subscriber := bearer(token1(t, servertest.SubscriberSecret, publicURL, "*", inAnHour()))
	for name, request := range map[string]struct {
		target  string
		headers []string
	}{
		"stream":        {hub.URL + "?match=a", nil},
		"with a token":  {hub.URL + "?match=a", []string{subscriber}},
		"with a cursor": {hub.URL + "?topic=a", []string{"Last-Event-ID: " + id}},
		"lost cursor":   {hub.URL + "?match=a&gap_event=gap", []string{"Last-Event-ID: gone"}},
		"from a page":   {hub.URL + "?match=a", []string{"Origin: " + appOrigin}},
		"bad request":   {hub.URL + "?match_x=a", nil},
		"bad token":     {hub.URL + "?match=a", []string{bearer("a.b.c")}},
		"no token":      {hub.URL + "?match=a&anonymous=off", nil},
		"not found":     {root + "/elsewhere", nil},
		"metadata":      {root + metadataPath, nil},
		"health":        {root + "/healthz", nil},
		"ready":         {root + "/readyz", nil},
	} {
		get, head := send(t, "GET", request.target, "", request.headers...), send(t, "HEAD", request.target, "", request.headers...)
		if head.body != "" || get.status != head.status {
			t.Errorf("%s: GET is answered %d, HEAD %d with %q", name, get.status, head.status, head.body)
		}
		if diff := cmp.Diff(withoutDate(get.header), withoutDate(head.header)); diff != "" {
			t.Errorf("%s: (-GET +HEAD):\n%s", name, diff)
		}
	}
}

// Spec: E-15. The connection is free again at once, and so is the place.
func TestHeadOpensNoStream(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.MaxStreams = 1 })
	conn := connect(t, hub)
	if err := conn.SetDeadline(time.Now().Add(servertest.Deadline)); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for range 2 {
		if _, err := io.WriteString(conn, "HEAD /.well-known/mercure?match=a HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodHead})
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("answered %d", response.StatusCode)
		}
	}
}

// Spec: E-17, E-11.
func TestUnknownPaths(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	token := bearer(servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"}))
	for _, path := range []string{
		"/subscriptions", "/subscriptions/exact/a", "/subscriptions/exact/a/urn%3Auuid%3A1", "/subscriptions/a", "/subscriptions/a/b",
		"/", "/x", "x", "%2Fx",
	} {
		for _, method := range []string{"GET", "HEAD"} {
			a := send(t, method, hub.URL+path, "", token)
			if a.status != 404 || a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("WWW-Authenticate") != "" {
				t.Errorf("%s %s is answered %d %v", method, path, a.status, a.header)
			}
		}
	}
}

// Spec: S-12, Z-10, TP-9. As much as the limits allow fits into a URL, percent-
// encoded, and into a body; one more does not.
func TestLargestSubscribeRequests(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.MaxRequestBody = 4 << 20 })
	largest := func(matchers, bytes int) string {
		var b strings.Builder
		for i := range matchers {
			fmt.Fprintf(&b, "&match=%03d%s", i, strings.Repeat("%C3%A9", (bytes-3)/2))
			if (bytes-3)%2 == 1 {
				b.WriteByte('x')
			}
		}
		return b.String()[1:]
	}
	for _, test := range []struct {
		matchers, bytes, status int
	}{{100, 4096, 200}, {101, 4096, 400}, {100, 4097, 400}} {
		query := largest(test.matchers, test.bytes)
		a := send(t, "GET", hub.URL+"?"+query, "")
		if a.status != test.status && !(test.matchers > 100 && a.status == http.StatusRequestHeaderFieldsTooLarge) {
			t.Errorf("%d matchers of %d bytes are answered %d %s", test.matchers, test.bytes, a.status, a.body)
		}
		if a := send(t, "QUERY", hub.URL, query, form); a.status != test.status {
			t.Errorf("in a body they are answered %d %s", a.status, a.body)
		}
	}
	// 0.x selectors have the same limits.
	if a := send(t, "GET", hub.URL+"?topic="+strings.Repeat("x", 4097), ""); a.status != 400 {
		t.Errorf("a long selector is answered %d", a.status)
	}
	if a := send(t, "GET", hub.URL+"?"+strings.Repeat("topic=x&", 101), ""); a.status != 400 {
		t.Errorf("many selectors are answered %d", a.status)
	}
}

// Requests that no library sends: the right status, and never a 5xx.
func TestOddRequests(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	token := servertest.PublisherToken(t)
	const path = "/.well-known/mercure"
	end := "Host: h\r\nConnection: close\r\n\r\n"
	post := "Host: h\r\nConnection: close\r\nAuthorization: Bearer " + token + "\r\n" + form + "\r\n"
	for name, test := range map[string]struct {
		request string
		want    string
	}{
		"bad escape in the path":         {"GET /.well-known/mercure%zz?match=a HTTP/1.1\r\n" + end, "400"},
		"bad escape in the query":        {"HEAD " + path + "?match=%zz HTTP/1.1\r\n" + end, "200"},
		"a space in the query":           {"GET " + path + "?match=a b HTTP/1.1\r\n" + end, "400"},
		"raw UTF-8":                      {"HEAD " + path + "?match=\u00E9 HTTP/1.1\r\n" + end, "200"},
		"absolute form":                  {"HEAD http://other.example" + path + "?match=a HTTP/1.1\r\n" + end, "200"},
		"absolute form, another path":    {"GET http://other.example/x HTTP/1.1\r\n" + end, "404"},
		"authority form":                 {"CONNECT other.example:443 HTTP/1.1\r\n" + end, "40"},
		"asterisk form":                  {"GET * HTTP/1.1\r\n" + end, "40"},
		"OPTIONS *":                      {"OPTIONS * HTTP/1.1\r\n" + end, "200"},
		"a fragment":                     {"HEAD " + path + "?match=a#x HTTP/1.1\r\n" + end, "200"},
		"no host":                        {"GET " + path + "?match=a HTTP/1.1\r\nConnection: close\r\n\r\n", "400"},
		"two hosts":                      {"GET " + path + "?match=a HTTP/1.1\r\nHost: a\r\n" + end, "400"},
		"HTTP/1.0":                       {"HEAD " + path + "?match=a HTTP/1.0\r\nHost: h\r\n\r\n", "200"},
		"HTTP/1.0 without a host":        {"GET " + path + "?match=a HTTP/1.0\r\n\r\n", "400"},
		"HTTP/0.9":                       {"GET " + path + "\r\n\r\n", "400"},
		"HTTP/3.0":                       {"GET " + path + " HTTP/3.0\r\n" + end, "505"},
		"a dot segment":                  {"GET /x/../.well-known/mercure?match=a HTTP/1.1\r\n" + end, "404"},
		"two slashes":                    {"GET /" + path + "?match=a HTTP/1.1\r\n" + end, "404"},
		"a lower-case method":            {"get " + path + "?match=a HTTP/1.1\r\n" + end, "405"},
		"an expectation":                 {"POST " + path + " HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 12\r\n" + post + "\r\ntopic=a&id=x", "200 x"},
		"an expectation without a token": {"POST " + path + " HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 12\r\n" + end, "401"},
		"an unknown expectation":         {"POST " + path + " HTTP/1.1\r\nExpect: tea\r\nContent-Length: 12\r\n" + post + "\r\ntopic=a&id=x", "417"},
		"a negative length":              {"POST " + path + " HTTP/1.1\r\nContent-Length: -1\r\n" + post + "\r\n", "400"},
		"chunks":                         {"POST " + path + " HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + post + "\r\nc\r\ntopic=a&id=x\r\n0\r\n\r\n", "200 x"},
		"broken chunks":                  {"POST " + path + " HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + post + "\r\nzz\r\n", "400"},
		"chunks and a length":            {"POST " + path + " HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n" + post + "\r\nc\r\ntopic=a&id=x\r\n0\r\n\r\n", "200 x"},
		"an unknown coding":              {"POST " + path + " HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" + post + "\r\n", "501"},
		"too long a URL":                 {"GET " + path + "?match=" + strings.Repeat("x", 2<<20) + " HTTP/1.1\r\n" + end, "431"},
		"too many fields":                {"GET " + path + "?match=a HTTP/1.1\r\n" + strings.Repeat("X-Y: "+strings.Repeat("z", 1000)+"\r\n", 2000) + end, "431"},
		"a NUL in a field":               {"GET " + path + "?match=a HTTP/1.1\r\nX: a\x00b\r\n" + end, "400"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := exchangeHead(t, hub, test.request)
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("answered %q, want %q", got, test.want)
			}
		})
	}
}

// exchangeHead is exchange for requests that the hub may stop reading.
func exchangeHead(t *testing.T, hub *servertest.Hub, request string) string {
	t.Helper()
	conn := connect(t, hub)
	if err := conn.SetDeadline(time.Now().Add(servertest.Deadline)); err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() { // ends when the hub has read it, or closes the connection
		defer close(written)
		_, _ = io.WriteString(conn, request)
	}()
	defer func() { _ = conn.Close(); <-written }()
	reader := bufio.NewReader(conn)
	method, _, _ := strings.Cut(request, " ")
	for {
		response, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusContinue {
			return fmt.Sprint(response.StatusCode, " ", string(body))
		}
	}
}

// Requests that follow each other on a connection without waiting are answered
// in their order.
func TestPipelining(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	token := servertest.PublisherToken(t)
	conn := connect(t, hub)
	var requests strings.Builder
	want := []string{"1", "2", "3"}
	for _, id := range want {
		fmt.Fprintf(&requests, "POST /.well-known/mercure HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\n%s\r\nContent-Length: 12\r\n\r\ntopic=a&id=%s", token, form, id)
	}
	if _, err := io.WriteString(conn, requests.String()); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(servertest.Deadline)); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	var got []string
	for range want {
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(body))
	}
	if !slices.Equal(got, want) {
		t.Errorf("answered %q, want %q", got, want)
	}
}
