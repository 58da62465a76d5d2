package server_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// openRaw opens a stream and returns the answer and a reader of its body.
func openRaw(t *testing.T, hub *servertest.Hub, query string, fields ...string) (answer, *bufio.Reader) {
	t.Helper()
	return openOn(t, connect(t, hub), query, fields...)
}

// openOn does so on a connection.
func openOn(t *testing.T, conn net.Conn, query string, fields ...string) (answer, *bufio.Reader) {
	t.Helper()
	request := "GET /.well-known/mercure?" + query + " HTTP/1.1\r\nHost: h\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(servertest.Deadline)); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close() // first: closing a body waits for its end
		_ = response.Body.Close()
	})
	return answer{status: response.StatusCode, header: response.Header}, bufio.NewReader(response.Body)
}

// expect reads exactly what is wanted from a stream.
func expect(t *testing.T, reader *bufio.Reader, want string) {
	t.Helper()
	got := make([]byte, 0, len(want))
	for len(got) < len(want) {
		b, err := reader.ReadByte()
		if err != nil {
			t.Fatalf("got %q and %v, want %q", got, err, want)
		}
		got = append(got, b)
		if string(got) != want[:len(got)] {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// Spec: W-1, W-2, W-3, W-4, W-5, W-6, W-8, W-10, S-18, S-19, Z-4. The table of 5.5,
// byte for byte, live and replayed.
func TestBytesOnTheWire(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	a, live := openRaw(t, hub, "match=a")
	if a.status != 200 || a.header.Get("Content-Type") != "text/event-stream" ||
		a.header.Get("Content-Length") != "" || a.header.Get("Content-Encoding") != "" {
		t.Errorf("answered %d %v", a.status, a.header)
	}
	expect(t, live, ":\n") // before anything is published
	var all strings.Builder
	for _, test := range []struct{ fields, want string }{
		{"id=e1&data=hello", "id: e1\ndata: hello\n\n"},
		{"type=ping&retry=3000&id=e2&data=a", "event: ping\nretry: 3000\nid: e2\ndata: a\n\n"},
		{"id=e3&data=l1%0Al2%0D%0Al3%0Dl4", "id: e3\ndata: l1\ndata: l2\ndata: l3\ndata: l4\n\n"},
		{"id=e4&data=a%0A", "id: e4\ndata: a\ndata: \n\n"},
		{"id=e5&data=x%0Aevent:%20evil%0Aid:%209", "id: e5\ndata: x\ndata: event: evil\ndata: id: 9\n\n"},
		{"id=e6&data=%20z", "id: e6\ndata:  z\n\n"},
		{"id=e7", "id: e7\ndata: \n\n"},
		{"id=e8&data=", "id: e8\ndata: \n\n"},
		{"id=e9&retry=0&data=x", "retry: 0\nid: e9\ndata: x\n\n"},
		{"id=e10&data=%EF%BB%BFx%00y", "id: e10\ndata: \uFEFFx\x00y\n\n"},
		{"id=e11&data=%0D%0A%0D%0Aid:%20x%0D%0A", "id: e11\ndata: \ndata: \ndata: id: x\ndata: \n\n"},
		{"id=e12&type=Mercure&data=%3A", "event: Mercure\nid: e12\ndata: :\n\n"},
	} {
		if status, body := hub.Post(t, servertest.PublisherToken(t), "topic=a&"+test.fields); status != 200 {
			t.Fatalf("%s: %d %s", test.fields, status, body)
		}
		expect(t, live, test.want)
		all.WriteString(test.want)
	}
	_, replay := openRaw(t, hub, "match=a&last_event_id=earliest")
	expect(t, replay, ":\n"+all.String())
}

// writes returns what arrives in each network chunk until all of want has.
func writes(t *testing.T, hub *servertest.Hub, query string, want int) (chunks []string) {
	t.Helper()
	conn := connect(t, hub)
	if _, err := fmt.Fprintf(conn, "GET /.well-known/mercure?%s HTTP/1.1\r\nHost: h\r\n\r\n", query); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(servertest.Deadline)); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for { // the head of the response
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			break
		}
	}
	for total := 0; total < want; {
		size, err := reader.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscanf(size, "%x\r\n", &n); err != nil {
			t.Fatalf("%q: %v", size, err)
		}
		chunk := make([]byte, n+2)
		for read := 0; read < len(chunk); {
			k, err := reader.Read(chunk[read:])
			if err != nil {
				t.Fatal(err)
			}
			read += k
		}
		chunks = append(chunks, string(chunk[:n]))
		total += n
	}
	return chunks
}

// Spec: W-9. For a client that takes each chunk for one event, the operator can
// have everything sent alone.
func TestSeparateWrites(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.SharedWrites = false })
	want, total := []string{":\n"}, len(":\n")
	for _, data := range []string{"1", "2", "3"} {
		id := hub.Publish(t, url.Values{"topic": {"a"}, "data": {data}})
		want = append(want, "id: "+id+"\ndata: "+data+"\n\n")
		total += len(want[len(want)-1])
	}
	if got := writes(t, hub, "last_event_id=earliest&match=a", total); !slices.Equal(got, want) {
		t.Errorf("came as %q", got)
	}
}

// Spec: W-7. Exactly two bytes, and no empty line after them.
func TestHeartbeatOnTheWire(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.Heartbeat = 10 * time.Millisecond })
	_, reader := openRaw(t, hub, "match=a")
	expect(t, reader, ":\n:\n:\n")
}

// Spec: S-22, S-24, Z-7. The end of a stream is the end of the response, not of the
// connection alone: clients tell it from a failure.
func TestStreamsEndCleanly(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.WriteTimeout = 50 * time.Millisecond })
	conn := connect(t, hub)
	if _, err := conn.Write([]byte("GET /.well-known/mercure?match=a HTTP/1.1\r\nHost: h\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	checkCleanEnd(t, conn)
}

func checkCleanEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(servertest.Deadline)); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := httputil.DumpResponse(response, true); err != nil { // an end that is cut off is an error
		t.Errorf("the stream ended with %v", err)
	}
}

// Spec: S-21, V-18, Z-7. The token's end is the stream's, and it says so before.
func TestExpiryEndsTheStream(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), bothDialects)
	expires := time.Now().Add(3 * time.Second).Truncate(time.Second)
	token := token1(t, servertest.SubscriberSecret, hub.URL, "*", expires)
	id := hub.Publish(t, url.Values{"topic": {"a"}})
	stream := hub.Subscribe(t, servertest.Request{
		Query: url.Values{"match": {"a"}, "expiry_event": {"renew"}, "last_event_id": {"earliest"}}, Token: token,
	})
	if got := stream.Next(t); got.ID != id {
		t.Fatalf("first came %+v", got)
	}
	want := servertest.Event{ID: id, Type: "renew", Data: `{"expires":"` + expires.UTC().Format(time.RFC3339) + `"}`}
	if got := stream.Next(t); got != want { // with the id of the last update: no cursor moved
		t.Errorf("then came %+v, want %+v", got, want)
	}
	if _, err := stream.TryNext(t.Context()); !errors.Is(err, servertest.ErrEnded) || time.Now().Before(expires) {
		t.Errorf("then %v, %s before the end", err, time.Until(expires))
	}
	if late := time.Since(expires); late > 10*time.Second {
		t.Errorf("ended %s after the token", late)
	}
	// It cannot come back.
	if a := send(t, "GET", hub.URL+"?match=a", "", bearer(token)); a.status != 401 {
		t.Errorf("an expired token is answered %d", a.status)
	}
}

// A reader that takes nothing does not outlive its token either, however patient
// the hub is with it.
func TestExpiryEndsAStuckStream(t *testing.T) { // Spec: S-21
	t.Parallel()
	database := dbtest.New(t)
	ended := make(logLines, 100)
	hub := servertest.Start(t, database, bothDialects, func(c *server.Config) {
		c.DispatchTimeout = time.Hour
		c.Logger = debugLogger(ended)
	})
	token := token1(t, servertest.SubscriberSecret, "http://h/.well-known/mercure", "*", time.Now().Add(3*time.Second).Truncate(time.Second))
	if a, _ := openRaw(t, hub, "match=numbered", bearer(token)); a.status != http.StatusOK {
		t.Fatalf("answered %d", a.status)
	}
	insertNumbered(t, database.Conn(t), 1, 200, 100_000) // more than the kernel buffers for a connection
	ended.wait(t, "reason=token_expired")
}
