package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeHub answers with one handler after the other, the last one for ever.
func fakeHub(t *testing.T, handlers ...http.HandlerFunc) string {
	t.Helper()
	var mu sync.Mutex
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		handler := handlers[0]
		if len(handlers) > 1 {
			handlers = handlers[1:]
		}
		mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(hub.Close)
	return hub.URL + hubPath
}

func answer(status int, mediaType, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func stream(body string) http.HandlerFunc { return answer(http.StatusOK, "text/event-stream", body) }

func TestPublishRequest(t *testing.T) {
	t.Parallel()
	var got url.Values
	var authorization string
	hub := fakeHub(t, func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got, authorization = r.PostForm, r.Header.Get("Authorization")
		_, _ = io.WriteString(w, "urn:uuid:1")
	})
	for _, test := range []struct {
		name  string
		stdin string
		args  []string
		want  url.Values
	}{
		{"everything", "", []string{"--token=t.o.k", "--topic=a,b", "--topic=c", "--private", "--type=x", "--id=1", "--retry=0", "--", "-d=e&f\n"}, url.Values{
			"topic": {"a,b", "c"}, "data": {"-d=e&f\n"}, "private": {"on"}, "type": {"x"}, "id": {"1"}, "retry": {"0"},
		}},
		{"stdin", "a\nb\n\n", []string{"--topic=a"}, url.Values{"topic": {"a"}, "data": {"a\nb\n"}}},
		{"no data", "ignored", []string{"--topic=a", ""}, url.Values{"topic": {"a"}, "data": {""}}},
	} {
		r := invokeWith(t, nil, test.stdin, false, append([]string{"publish", "--hub", hub}, test.args...)...).want(t, exitOK)
		if r.stdout != "urn:uuid:1\n" {
			t.Errorf("%s: printed %q", test.name, r.stdout)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.name, diff)
		}
		if test.name == "everything" && authorization != "Bearer t.o.k" {
			t.Errorf("Authorization: %s", authorization)
		}
	}
}

func TestPublishErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"problem", answer(400, "application/problem+json", `{"title":"Bad Request","detail":"The topic is reserved."}`), "the hub answered 400 Bad Request: The topic is reserved."},
		{"problem without detail", answer(400, "application/problem+json; charset=utf-8", `{"title":"No"}`), "the hub answered 400 Bad Request: No"},
		{"text", answer(401, "text/plain; charset=utf-8", "Unauthorized\nmore"), "the hub answered 401 Unauthorized: Unauthorized"},
		{"page", answer(502, "text/html", "<h1>"), "the hub answered 502 Bad Gateway"},
		{"terminal control", answer(400, "text/plain", "a\x1b[31mb"), "the hub answered 400 Bad Request: a [31mb"},
		{"redirect", answer(301, "text/html", "", "Location", "https://new.example/"), "the hub answered 301 Moved Permanently: it has moved to https://new.example/; give that as --hub"},
		{"accepted is not stored", answer(202, "text/plain", "id"), "the hub answered 202 Accepted: id"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := invoke(t, nil, "publish", "--hub", fakeHub(t, test.handler), "--topic=a", "x").want(t, exitFailure)
			if r.stderr != "cinnabar: "+test.want+"\n" || r.stdout != "" {
				t.Errorf("got %q, want %q", r.stderr, test.want)
			}
		})
	}
	r := invoke(t, nil, "publish", "--hub=http://127.0.0.1:1/", "--token=not-to-be-shown", "--topic=a", "x").want(t, exitFailure)
	if want := "cinnabar: publish to http://127.0.0.1:1/: dial tcp 127.0.0.1:1: connect: connection refused\n"; r.stderr != want {
		t.Errorf("got %q", r.stderr)
	}
}

func TestSubscribeOutput(t *testing.T) {
	t.Parallel()
	const body = ":\nid: 1\ndata: <a>\ndata: b\n\nevent: e\nretry: 7\nid: 2\ndata: c\n\n"
	for format, want := range map[string]string{
		"data":   "<a>\nb\nc\n",
		"events": "id: 1\ndata: <a>\ndata: b\n\nevent: e\nretry: 7\nid: 2\ndata: c\n\n",
		"json":   `{"id":"1","type":"message","data":"<a>\nb"}` + "\n" + `{"id":"2","type":"e","data":"c","retry":7}` + "\n",
	} {
		r := invoke(t, nil, "subscribe", "--hub", fakeHub(t, stream(body)), "--match=*", "--count=2", "--output", format).want(t, exitOK)
		if r.stdout != want || r.stderr != "" {
			t.Errorf("%s: got %q, want %q; %s", format, r.stdout, want, r.stderr)
		}
	}
}

func TestSubscribeRequest(t *testing.T) {
	t.Parallel()
	hub := fakeHub(t, func(w http.ResponseWriter, r *http.Request) {
		stream(fmt.Sprintf("data: %s %s %s\n\n", r.URL.RawQuery, r.Header.Get("Last-Event-ID"), r.Header.Get("Authorization")))(w, r)
	})
	r := invoke(t, nil, "subscribe", "--hub", hub+"?gap_event=gap", "--match=a,b", "--match=*", "--pattern=https://e/:x", "--topic={y}",
		"--last-event-id=é 1", "--token=t.o.k", "--count=1").want(t, exitOK)
	if want := "cursor_checkpoints=on&gap_event=gap&match=a%2Cb&match=%2A&match_urlpattern=https%3A%2F%2Fe%2F%3Ax&topic=%7By%7D é 1 Bearer t.o.k\n"; r.stdout != want {
		t.Errorf("got %q, want %q", r.stdout, want)
	}
}

func TestSubscribeErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"refused", answer(401, "application/problem+json", `{"detail":"An access token is needed."}`), "the hub answered 401 Unauthorized: An access token is needed."},
		{"not a stream", answer(200, "text/html", "<h1>"), "the answer is not an event stream; is this the URL of a hub?"},
	} {
		r := invoke(t, nil, "subscribe", "--hub", fakeHub(t, test.handler), "--match=*").want(t, exitFailure)
		if r.stderr != "cinnabar: "+test.want+"\n" {
			t.Errorf("%s: got %q", test.name, r.stderr)
		}
	}
	r := invoke(t, nil, "subscribe", "--hub=http://127.0.0.1:1/", "--match=*").want(t, exitFailure)
	if want := "cinnabar: subscribe to http://127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused\n"; r.stderr != want {
		t.Errorf("got %q", r.stderr)
	}
}

// TestSubscribeResumes runs through the ends a stream can have.
func TestSubscribeResumes(t *testing.T) {
	t.Parallel()
	var cursors []string
	record := func(handler http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			cursors = append(cursors, r.Header.Get("Last-Event-ID"))
			handler(w, r)
		}
	}
	abort := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "id: 3\ndata: three\n\nid: 4\ndata: fo")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	hub, err := url.Parse(fakeHub(t,
		record(stream("id: 1\ndata: one\n\n")),
		record(stream("retry: 5000\n\n")),
		record(answer(503, "application/problem+json", `{"detail":"Later."}`, "Retry-After", "20")),
		record(answer(503, "text/plain", "")),
		record(stream("id: 2\n\n")),
		record(abort),
		record(stream("data: end\n\n")),
	))
	if err != nil {
		t.Fatal(err)
	}
	var delays []time.Duration
	var warnings []string
	s := &subscriber{
		url: hub, client: newClient(),
		wait: func(_ context.Context, d time.Duration) error { delays = append(delays, d); return nil },
		warn: func(err error) { warnings = append(warnings, err.Error()) },
	}
	defer s.client.CloseIdleConnections()
	var got []string
	err = s.run(t.Context(), func(e event) error {
		got = append(got, e.id+" "+e.data)
		if e.data == "end" {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1 one", "3 three", "3 end"}, got); diff != "" {
		t.Errorf("events, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"", "1", "1", "1", "1", "2", "3"}, cursors); diff != "" {
		t.Errorf("cursors, -want +got:\n%s", diff)
	}
	// Each has a random part of up to a quarter.
	for i, least := range []time.Duration{1, 10, 20, 30, 5, 5} {
		if i >= len(delays) || delays[i] < least*time.Second || delays[i] > least*time.Second*5/4 {
			t.Errorf("delays %v: number %d should be %ds or little more", delays, i+1, least)
		}
	}
	if diff := cmp.Diff([]string{"the stream broke: unexpected EOF"}, warnings); diff != "" {
		t.Errorf("warnings, -want +got:\n%s", diff)
	}
}

func TestSubscribeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	hub := fakeHub(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		cancel()
		<-r.Context().Done()
	})
	log := newTranscript()
	if code := run(ctx, []string{"subscribe", "--hub", hub, "--match=*"}, nil, strings.NewReader(""), log, log); code != exitOK || log.String() != "" {
		t.Errorf("exit code %d: %s", code, log)
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		retry    time.Duration
		failures int
		want     time.Duration
	}{
		{0, 0, time.Second},
		{0, 3, 8 * time.Second},
		{0, 100, 30 * time.Second},
		{3 * time.Second, 1, 6 * time.Second},
		{time.Minute, 0, time.Minute},
		{time.Minute, 5, time.Minute},
		{1<<63 - 1, 9, 24 * time.Hour},
	} {
		s := &subscriber{retry: test.retry}
		if got := s.delay(test.failures); got < test.want || got > test.want*5/4 {
			t.Errorf("retry %s, %d failures: %s, want %s or little more", test.retry, test.failures, got, test.want)
		}
	}
}
