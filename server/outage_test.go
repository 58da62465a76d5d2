package server_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// Promise 5: streams stay open, publishes are refused in bounded time, new
// browsers are turned away softly, and everything resumes by itself.
func TestDatabaseGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	database := dbtest.NewServer(t)
	hub := servertest.Start(t, database.DB)
	root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
	everything := servertest.Request{Query: url.Values{"topic": {"*"}}}
	stream := hub.Subscribe(t, everything)
	first := hub.Publish(t, url.Values{"topic": {"a"}, "data": {"before"}})
	if got := stream.Next(t); got.ID != first {
		t.Fatalf("got %+v", got)
	}

	if err := database.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := send(t, "POST", hub.URL, "topic=a&data=during", form, "Authorization: Bearer "+servertest.PublisherToken(t))
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("publish answers %d %v %s", a.status, a.header, a.body)
	}
	if ready := send(t, "GET", root+"/readyz", ""); ready.status != http.StatusServiceUnavailable || strings.Contains(ready.body, "127.0.0.1") {
		t.Errorf("readyz answers %d %s", ready.status, ready.body)
	}
	if alive := send(t, "GET", root+"/healthz", ""); alive.status != http.StatusOK {
		t.Errorf("healthz answers %d", alive.status)
	}
	// Spec: S-20. A cursor that is not in memory cannot be resolved now.
	unknown := hub.URL + "?match=a&last_event_id=unknown"
	soft := send(t, "HEAD", unknown, "", "Accept: text/event-stream", "Cache-Control: no-cache")
	if soft.status != http.StatusOK || soft.header.Get("Mercure-Last-Event-ID") != "unknown" {
		t.Errorf("a browser is answered %d %v", soft.status, soft.header)
	}
	if hard := send(t, "GET", unknown, ""); hard.status != http.StatusServiceUnavailable || hard.header.Get("Retry-After") == "" {
		t.Errorf("another client is answered %d", hard.status)
	}
	// One that is in memory is served from there.
	resumed := hub.Subscribe(t, servertest.Request{Query: everything.Query, LastEventID: first})

	if err := database.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Deadline)
	defer cancel()
	token := servertest.PublisherToken(t)
	for {
		status, body, err := hub.TryPost(ctx, token, "topic=a&data=after")
		if err != nil {
			t.Fatal(err)
		}
		if status == http.StatusOK {
			break
		}
		if status != http.StatusServiceUnavailable {
			t.Fatalf("publish answers %d %s", status, body)
		}
	}
	for name, s := range map[string]*servertest.Stream{"the open stream": stream, "the one that resumed meanwhile": resumed} {
		if got := s.Next(t); got.Data != "after" {
			t.Errorf("%s got %+v", name, got)
		}
	}
}

// A reader that stops reading is closed after the dispatch timeout, and no one
// else notices.
func TestReaderThatStopsIsClosed(t *testing.T) { // Spec: S-23
	t.Parallel()
	database := dbtest.New(t)
	ended := make(logLines, 100)
	hub := servertest.Start(t, database, func(c *server.Config) {
		c.DispatchTimeout = 2 * time.Second // longer than a busy machine keeps the other reader waiting
		c.Logger = slog.New(slog.NewTextHandler(ended, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	stuck := dial(t, hub, "https://example.com/a")
	reader := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"https://example.com/a"}}})
	const updates, size = 200, 100_000 // more than the kernel buffers for a connection
	if _, err := database.Conn(t).Exec(t.Context(),
		"INSERT INTO mercure.outbox (topics, data) SELECT '{https://example.com/a}', repeat('x', $2) FROM generate_series(1, $1)", updates, size); err != nil {
		t.Fatal(err)
	}
	for range updates {
		reader.Next(t)
	}
	ended.wait(t, "reason=too_slow")
	if err := stuck.SetReadDeadline(time.Now().Add(servertest.Deadline)); err != nil {
		t.Fatal(err)
	}
	got, err := io.Copy(io.Discard, stuck)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after %d bytes: %v", got, err)
	}
	if got >= updates*size {
		t.Errorf("the stuck reader was sent all %d bytes", got)
	}
}

// A reader that is slow but never stops is not taken for stuck (S-23): left to
// itself the kernel would tell of its progress a megabyte at a time only.
func TestSlowReaderIsNotClosed(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	ended := make(logLines, 100)
	hub := servertest.Start(t, database, func(c *server.Config) {
		c.DispatchTimeout = 2 * time.Second
		c.Logger = slog.New(slog.NewTextHandler(ended, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	slow := dial(t, hub, "https://example.com/a")
	if _, err := database.Conn(t).Exec(t.Context(),
		"INSERT INTO mercure.outbox (topics, data) SELECT '{https://example.com/a}', repeat('x', 100000) FROM generate_series(1, 200)"); err != nil {
		t.Fatal(err)
	}
	pace := time.NewTicker(50 * time.Millisecond) // 200 kB a second
	defer pace.Stop()
	buffer := make([]byte, 10_000)
	for range 120 {
		<-pace.C
		if _, err := io.ReadFull(slow, buffer); err != nil {
			t.Fatal(err)
		}
	}
	for {
		select {
		case line := <-ended:
			if strings.Contains(line, "too_slow") {
				t.Fatal("a reader that never stopped was closed")
			}
			continue
		default:
		}
		break
	}
}

// logLines is a log that tests wait for; what does not fit is dropped.
type logLines chan string

func (l logLines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}

func (l logLines) wait(t *testing.T, part string) {
	t.Helper()
	timeout := time.After(servertest.Deadline)
	for {
		select {
		case line := <-l:
			if strings.Contains(line, part) {
				return
			}
		case <-timeout:
			t.Fatalf("%q was not logged", part)
		}
	}
}
