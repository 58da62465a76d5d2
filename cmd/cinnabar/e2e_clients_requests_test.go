//go:build e2e

package main_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
)

// appOrigin is where the pages of these tests would be from.
const appOrigin = "https://app.example.com"

// testClientRequests sends what client libraries send, byte for byte where that
// matters: those that are not for Node or browsers, or put their requests
// together in a way of their own.
func testClientRequests(t *testing.T, binary string) {
	db := dbtest.New(t)
	h := newHub(t, binary, db.URL, appOrigin, "MERCURE_ANONYMOUS=on")
	h.start(t)
	conn, err := pgxpool.New(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	t.Run("Subscribe", func(t *testing.T) { testSubscribeRequests(t, h) })
	t.Run("Publish", func(t *testing.T) { testPublishRequests(t, h, conn) })
	t.Run("Preflight", func(t *testing.T) { testPreflights(t, h) })
	t.Run("Chunks", func(t *testing.T) { testChunks(t, binary) })
}

// plainHeader is that of most libraries' tokens.
const plainHeader = `{"typ":"JWT","alg":"HS256"}`

// hs256 makes a token of exactly these documents.
func hs256(secret, header, claims string) string {
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// inAnHour is a value for exp.
func inAnHour() string { return strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10) }

// request sends one to the hub. The caller closes the answer's body.
func (h *hub) request(t *testing.T, method, query, body string, header map[string]string) *http.Response {
	t.Helper()
	address := h.url()
	if query != "" {
		address += "?" + query
	}
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	response, err := h.client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, address, err)
	}
	return response
}

// testSubscribeRequests: each client gets what was published after its cursor,
// and then what is published, private updates included if it has a token.
//
// Spec: S-1, S-7, A-9, H-3, H-4, X-5, X-7, C-1, L-1, L-6, L-7.
func testSubscribeRequests(t *testing.T, h *hub) {
	grant := `"subscribe":["https://example.com/clients/{+rest}"]`
	token0 := hs256(subscriberSecret, plainHeader, `{"mercure":{"publish":[],`+grant+`},"exp":`+inAnHour()+`}`)
	withoutExp := hs256(subscriberSecret, plainHeader, `{"mercure":{`+grant+`}}`)
	withDenylist := hs256(subscriberSecret, plainHeader, `{"mercure":{`+grant+`,"subscribe_exclude":[]}}`)
	token1 := h.token(t, server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{
		{Match: "https://example.com/clients/*", Type: "urlpattern"},
	}})

	cors := map[string]string{
		"Access-Control-Allow-Origin": appOrigin, "Access-Control-Allow-Credentials": "true",
	}
	cursors := map[string]string{"Last-Event-ID": "$ID", "Mercure-Last-Event-ID": "$ID"}
	// In queries, bodies and headers stand $TOPIC for a topic, $RAW for the same
	// unencoded, $ID for the cursor, and $OLD for one that is out of date.
	for _, test := range []struct {
		client        string
		method        string // GET unless given
		query         string
		body          string
		header        map[string]string
		status        int // 200 unless given
		answer        map[string]string
		missed, grant bool // gets what came after the cursor; and private updates
	}{
		{
			client: "symfony mercure 0.7",
			query:  "topic=$TOPIC&lastEventID=$ID&Last-Event-ID=$ID",
			header: map[string]string{"Cookie": "mercureAuthorization=" + token0},
			answer: cursors, missed: true, grant: true,
		},
		{
			client: "symfony mercure 0.8",
			query:  "match=$TOPIC&match_urlpattern=https%3A%2F%2Fexample.com%2Fothers%2F%3Aid&lastEventID=$ID&Last-Event-ID=$ID",
			header: map[string]string{"Cookie": cookieName + "=" + token1},
			answer: cursors, missed: true, grant: true,
		},
		{
			client: "symfony mercure 0.8 with an old token",
			query:  "match=$TOPIC",
			header: map[string]string{"Cookie": cookieName + "=" + token0},
			grant:  true,
		},
		{
			client: "laravel-mercure-broadcaster",
			query:  "topic=$TOPIC",
			header: map[string]string{"Cookie": "mercureAuthorization=" + withoutExp},
			grant:  true,
		},
		{
			client: "python-mercure",
			query:  "topic=$TOPIC",
		},
		{
			client: "dart_mercure",
			query:  "topic=https://example.com/others/%7Bid%7D&topic=$RAW&",
			header: map[string]string{"Authorization": "Bearer " + token0},
			grant:  true,
		},
		{
			client: "mercure_client, native",
			query:  "topic=$TOPIC",
			header: map[string]string{
				"Accept": "text/event-stream", "Cache-Control": "no-cache",
				"Authorization": "Bearer " + token0, "Last-Event-ID": "$ID",
			},
			answer: cursors, missed: true, grant: true,
		},
		{
			client: "mercure_client, web",
			query:  "topic=$RAW&authorization=" + token0 + "&Last-Event-ID=$ID",
			answer: cursors, missed: true, grant: true,
		},
		{
			client: "API Platform esa",
			query:  "topic=https%3A%2F%2Fexample.com%2Fothers%2F1&topic=$TOPIC",
			header: map[string]string{"Origin": appOrigin, "Last-Event-Id": "$ID"},
			answer: cors, missed: true,
		},
		{
			client: "API Platform admin",
			query:  "topic=$TOPIC",
			header: map[string]string{"Origin": appOrigin, "Cookie": "mercureAuthorization=" + token0},
			answer: cors, grant: true,
		},
		{
			client: "event-source-polyfill that appends",
			query:  "topic=$TOPIC&lastEventId=$OLD&lastEventId=$ID",
			header: map[string]string{"Accept": "text/event-stream", "Cache-Control": "no-cache", "Authorization": "Bearer " + token0},
			missed: true, grant: true,
		},
		{
			client: "fetch-event-source with QUERY",
			method: "QUERY",
			body:   "match=$TOPIC&last_event_id=$OLD",
			header: map[string]string{
				"Content-Type": "application/x-www-form-urlencoded", "Authorization": "Bearer " + token1, "last-event-id": "$ID",
			},
			missed: true, grant: true,
		},
		{
			client: "user of mercure-php-hub",
			query:  "topic=$TOPIC",
			header: map[string]string{"Authorization": "Bearer " + withDenylist, "Origin": appOrigin},
			status: http.StatusUnauthorized,
			answer: cors, // or a script could not see the status
		},
	} {
		t.Run(test.client, func(t *testing.T) {
			t.Parallel()
			topic := "https://example.com/clients/" + strings.ReplaceAll(test.client, " ", "/") + ";v=1"
			publish := func(data string, more ...string) string {
				form := "topic=" + url.QueryEscape(topic) + "&data=" + data + strings.Join(more, "")
				return h.mustPublish(t, form)
			}
			var old, cursor string
			if test.missed { // else it may be told of what was published just before
				old, cursor = publish("old"), publish("known")
				publish("missed")
			}
			fill := strings.NewReplacer("$TOPIC", url.QueryEscape(topic), "$RAW", topic, "$ID", cursor, "$OLD", old)
			header := make(map[string]string)
			for name, value := range test.header {
				header[name] = fill.Replace(value)
			}
			if test.method == "" {
				test.method = http.MethodGet
			}
			if test.status == 0 {
				test.status = http.StatusOK
			}
			response := h.request(t, test.method, fill.Replace(test.query), fill.Replace(test.body), header)
			defer response.Body.Close()
			if response.StatusCode != test.status {
				t.Fatalf("status %d, want %d", response.StatusCode, test.status)
			}
			for name, value := range test.answer {
				if got := response.Header.Get(name); got != fill.Replace(value) {
					t.Errorf("%s is %q, want %q", name, got, fill.Replace(value))
				}
			}
			if test.status != http.StatusOK {
				return
			}
			if got := response.Header["Content-Type"]; !slices.Equal(got, []string{"text/event-stream"}) {
				t.Errorf("Content-Type is %q", got) // some clients compare it as a whole
			}
			var want []string
			if test.missed {
				want = append(want, "missed")
			}
			publish("private", "&private=on")
			if test.grant {
				want = append(want, "private")
			}
			publish("live")
			want = append(want, "live")
			if diff := cmp.Diff(want, dataUntil(t, response.Body, "live")); diff != "" {
				t.Errorf("updates (-want +got):\n%s", diff)
			}
		})
	}
}

// dataUntil reads updates of one line each, up to a certain one.
func dataUntil(t *testing.T, stream io.Reader, last string) (all []string) {
	t.Helper()
	lines := bufio.NewScanner(stream)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		all = append(all, data)
		if data == last {
			return all
		}
	}
	t.Fatalf("the stream ended after %q: %v", all, lines.Err())
	return nil
}

// fill puts an update into the log and waits until the hub has passed it: who
// subscribes now, without a cursor, does not get it.
func (h *hub) fill(t *testing.T, conn *pgx.Conn, data string) {
	t.Helper()
	token := h.token(t, server.TokenSpec{Dialect: server.Dialect0, Subscribe: []server.MatcherSpec{{Match: public}}})
	probe := h.request(t, http.MethodGet, "topic="+url.QueryEscape(public), "", map[string]string{"Authorization": "Bearer " + token})
	defer probe.Body.Close()
	mustInsert(t, conn, public, false, data)
	dataUntil(t, probe.Body, data)
}

// mustPublish publishes what everybody may, and returns the id.
func (h *hub) mustPublish(t *testing.T, form string) string {
	t.Helper()
	token := h.token(t, server.TokenSpec{Dialect: server.Dialect0, Publish: []server.MatcherSpec{{Match: "*"}}})
	status, body, err := h.do(t, http.MethodPost, form, token)
	if err != nil || status != http.StatusOK {
		t.Fatalf("publish %s: status %d, %v: %s", form, status, err, body)
	}
	return body
}

// logged is an update as it is in the log.
type logged struct {
	Topics  []string
	Data    string
	Private bool
	Type    string
	Retry   int64
}

// testPublishRequests: each publisher gets the id as the whole answer, and what
// it meant is what is in the log.
//
// Spec: P-1, P-3, P-7, P-13, P-15, A-9, L-1, L-6, L-7, Q-10, Q-15.
func testPublishRequests(t *testing.T, h *hub, conn *pgxpool.Pool) {
	const form = "application/x-www-form-urlencoded"
	claims := func(mercure string) string { return `{"mercure":` + mercure + `}` }
	everything := claims(`{"publish":["*"]}`)
	symfony := `{"mercure":{"publish":["*"],"subscribe":[]},"exp":` + inAnHour() + `}`

	for _, test := range []struct {
		client        string
		contentType   string // form unless given
		body          string
		header        string // of the token, plainHeader unless given
		claims        string
		tokenInURL    bool
		status        int    // 200 unless given
		id            string // one of the hub unless given
		want          logged
		wantInHubsLog string
	}{
		{
			client: "symfony mercure",
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F1&topic=https%3A%2F%2Fexample.com%2Freviews%2F%7Bid%7D&data=%3Cturbo-stream%3E%0A%3C%2Fturbo-stream%3E&private=on&id=urn%3Asymfony%3A1&type=book&retry=3000",
			claims: symfony,
			id:     "urn:symfony:1",
			want: logged{
				Topics: []string{"https://example.com/books/1", "https://example.com/reviews/{id}"},
				Data:   "<turbo-stream>\n</turbo-stream>", Private: true, Type: "book", Retry: 3000,
			},
		},
		{
			client: "laravel-mercure-broadcaster",
			body:   "topic=private-orders.1&data=%7B%22event%22%3A%22OrderShipped%22%7D&private=on",
			claims: everything,
			want:   logged{Topics: []string{"private-orders.1"}, Data: `{"event":"OrderShipped"}`, Private: true},
		},
		{
			client: "python-mercure",
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F2&data=two+words&private=on&type=book",
			claims: symfony,
			want:   logged{Topics: []string{"https://example.com/books/2"}, Data: "two words", Private: true, Type: "book"},
		},
		{
			client: "python-mercure, not granted", // "rejected"
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F2&data=x",
			claims: claims(`{"publish":["https://example.com/others/1"]}`),
			status: http.StatusForbidden,
		},
		{
			client: "python-mercure, expired", // "unauthorized"
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F2&data=x",
			claims: `{"mercure":{"publish":["*"]},"exp":1500000000}`,
			status: http.StatusUnauthorized,
		},
		{
			client: "java-mercure", // parses the answer
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F3&data=x&id=0c5b2c4a-9f33-4d7e-8a53-5b6c1c3f2c11",
			claims: symfony,
			id:     "0c5b2c4a-9f33-4d7e-8a53-5b6c1c3f2c11",
			want:   logged{Topics: []string{"https://example.com/books/3"}, Data: "x"},
		},
		{
			client:      "dart_mercure",
			contentType: form + "; charset=utf-8",
			body:        "topic=https%3A%2F%2Fexample.com%2Fbooks%2F4&data=%C3%A9t%C3%A9",
			claims:      everything,
			want:        logged{Topics: []string{"https://example.com/books/4"}, Data: "été"},
		},
		{
			client: "mercure-rs",
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F5&topic=https%3A%2F%2Fexample.com%2Fbooks%2F6&data=x&private=",
			header: `{"alg":"HS256"}`,
			claims: everything,
			want:   logged{Topics: []string{"https://example.com/books/5", "https://example.com/books/6"}, Data: "x", Private: true},
		},
		{
			client:        "node-mercure", // public, as target means nothing any more
			body:          "topic=https%3A%2F%2Fexample.com%2Fbooks%2F7&target=https%3A%2F%2Fexample.com%2Fusers%2F1&target=https%3A%2F%2Fexample.com%2Fusers%2F2&data=x",
			claims:        everything,
			want:          logged{Topics: []string{"https://example.com/books/7"}, Data: "x"},
			wantInHubsLog: "sends the field target",
		},
		{
			client: "action-mercure",
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F8%2Chttps%3A%2F%2Fexample.com%2Fbooks%2F9&data=x&private=false&type=message",
			claims: everything,
			want: logged{
				Topics: []string{"https://example.com/books/8,https://example.com/books/9"},
				Data:   "x", Private: true, Type: "message",
			},
		},
		{
			client: "amp-mercure-publisher",
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F10&data=x&private=1",
			claims: everything,
			want:   logged{Topics: []string{"https://example.com/books/10"}, Data: "x", Private: true},
		},
		{
			client: "amp-mercure-publisher, false", // is a presence like any other
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F10&data=x&private=0",
			claims: everything,
			want:   logged{Topics: []string{"https://example.com/books/10"}, Data: "x", Private: true},
		},
		{
			client: "user of mercure-php-hub",
			body:   "topic=https%3A%2F%2Fexample.com%2Fbooks%2F11&data=x",
			claims: claims(`{"publish":["*"],"publish_exclude":["https://example.com/secret"]}`),
			status: http.StatusUnauthorized,
		},
		{
			client:     "curl",
			body:       `topic=https://example.com/books/12;a&data={"price": "100% of 5;-", "é": true}`,
			claims:     everything,
			tokenInURL: true,
			want:       logged{Topics: []string{"https://example.com/books/12;a"}, Data: `{"price": "100% of 5;-", "é": true}`},
		},
	} {
		t.Run(test.client, func(t *testing.T) {
			t.Parallel()
			if test.header == "" {
				test.header = plainHeader
			}
			if test.contentType == "" {
				test.contentType = form
			}
			if test.status == 0 {
				test.status = http.StatusOK
			}
			token := hs256(publisherSecret, test.header, test.claims)
			header := map[string]string{"Content-Type": test.contentType}
			query := ""
			if test.tokenInURL {
				query = "authorization=" + token
			} else {
				header["Authorization"] = "Bearer " + token
			}
			response := h.request(t, http.MethodPost, query, test.body, header)
			defer response.Body.Close()
			answer, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != test.status {
				t.Fatalf("status %d, want %d (%v): %s", response.StatusCode, test.status, err, answer)
			}
			if test.status != http.StatusOK {
				if challenge := response.Header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, "Bearer error=") {
					t.Errorf("the challenge is %q", challenge)
				}
				return
			}
			id := string(answer)
			if test.id != "" && id != test.id || test.id == "" && !strings.HasPrefix(id, "urn:uuid:") {
				t.Errorf("the answer is %q", id)
			}
			if diff := cmp.Diff(test.want, lookUp(t, conn, id)); diff != "" {
				t.Errorf("in the log (-want +got):\n%s", diff)
			}
			if test.wantInHubsLog != "" {
				eventually(t, "the hub warns", func() bool { return strings.Contains(h.output.String(), test.wantInHubsLog) })
			}
		})
	}
}

func lookUp(t *testing.T, conn *pgxpool.Pool, id string) (u logged) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `
SELECT topics, data, private, coalesce(type, ''), coalesce(retry, 0)
FROM mercure.updates
WHERE id = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	u, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[logged])
	if err != nil {
		t.Fatalf("look up %q: %v", id, err)
	}
	return u
}

// testPreflights: what browsers ask first on behalf of clients that send more
// than plain requests.
//
// Spec: C-3.
func testPreflights(t *testing.T, h *hub) {
	for _, test := range []struct{ client, method, headers string }{
		{"event-source-polyfill with a token", http.MethodGet, "authorization"},
		{"old event-source-polyfill", http.MethodGet, "authorization,cache-control"},
		{"fetch-event-source that resumes", http.MethodGet, "authorization,last-event-id"},
		{"fetch-event-source with QUERY", "QUERY", "authorization,content-type,last-event-id"},
		{"a publisher in a page", http.MethodPost, "authorization"},
	} {
		t.Run(test.client, func(t *testing.T) {
			t.Parallel()
			response := h.request(t, http.MethodOptions, "", "", map[string]string{
				"Origin":                         appOrigin,
				"Access-Control-Request-Method":  test.method,
				"Access-Control-Request-Headers": test.headers,
			})
			defer response.Body.Close()
			if response.StatusCode != http.StatusNoContent {
				t.Errorf("status %d", response.StatusCode)
			}
			for name, want := range map[string]string{
				"Access-Control-Allow-Origin": appOrigin, "Access-Control-Allow-Credentials": "true",
			} {
				if got := response.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			for name, wanted := range map[string]string{
				"Access-Control-Allow-Methods": test.method, "Access-Control-Allow-Headers": test.headers,
			} {
				allowed := strings.Split(strings.ToLower(response.Header.Get(name)), ",")
				for i := range allowed {
					allowed[i] = strings.TrimSpace(allowed[i])
				}
				for one := range strings.SplitSeq(strings.ToLower(wanted), ",") {
					if !slices.Contains(allowed, one) {
						t.Errorf("%s is %q and lacks %s", name, allowed, one)
					}
				}
			}
		})
	}
}

// testChunks: mercure_client takes what arrives at once for one event. For it
// there is a setting.
//
// Spec: W-9, Q-9.
func testChunks(t *testing.T, binary string) {
	db := dbtest.New(t)
	conn := db.Conn(t)
	h := newHub(t, binary, db.URL, appOrigin, "MERCURE_ANONYMOUS=on", "MERCURE_SHARED_WRITES=off")
	h.start(t)
	const updates = 50
	for n := range updates {
		mustInsert(t, conn, public, false, fmt.Sprintf("number %d", n))
	}
	idOf(t, conn, fmt.Sprintf("number %d", updates-1)) // all wait for the subscriber

	all := 0
	for chunk := range chunks(t, h, "topic="+url.QueryEscape(public)+"&Last-Event-ID=earliest") {
		if chunk == ":\n" {
			continue
		}
		if strings.Count(chunk, "\n\n") != 1 || !strings.HasSuffix(chunk, "\n\n") {
			t.Errorf("chunk %q is not an update", chunk)
		}
		if all++; all >= updates {
			break
		}
	}
}

// chunks subscribes and yields the stream as the hub has cut it into chunks.
func chunks(t *testing.T, h *hub, query string) func(yield func(string) bool) {
	t.Helper()
	address, err := url.Parse(h.url())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s?%s HTTP/1.1\r\nHost: %s\r\n\r\n", address.Path, query, address.Host); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	line := func() string {
		text, err := reader.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", text, err)
		}
		return strings.TrimSuffix(text, "\r\n")
	}
	head := []string{line()}
	for head[len(head)-1] != "" {
		head = append(head, line())
	}
	if !strings.HasPrefix(head[0], "HTTP/1.1 200 ") || !slices.Contains(head, "Transfer-Encoding: chunked") {
		t.Fatalf("the answer begins %q", head)
	}
	return func(yield func(string) bool) {
		for {
			size, err := strconv.ParseInt(line(), 16, 32)
			if err != nil || size == 0 {
				t.Fatalf("a chunk of %d bytes: %v", size, err)
			}
			chunk := make([]byte, size+2)
			if _, err := io.ReadFull(reader, chunk); err != nil {
				t.Fatal(err)
			}
			if !yield(string(chunk[:size])) {
				return
			}
		}
	}
}
