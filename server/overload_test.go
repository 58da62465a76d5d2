package server_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// More is published than may wait: the rest is refused at once, and what was
// accepted is in the log.
func TestOverload(t *testing.T) {
	t.Parallel()
	const publishes, size = 110, 1_000_000 // 64 MiB may wait, and a batch is in flight
	database := dbtest.New(t)
	hub := servertest.Start(t, database)
	holder, err := database.Conn(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(t.Context(), "LOCK TABLE mercure.append_lock IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	token := servertest.PublisherToken(t)
	body := "topic=overload&data=" + strings.Repeat("x", size)
	answers := make(chan int, publishes)
	refused := make(chan struct{}, publishes)
	var group errgroup.Group
	for range publishes {
		group.Go(func() error {
			status, answer, err := hub.TryPost(t.Context(), token, body)
			if err != nil {
				return err
			}
			answers <- status
			if status != http.StatusOK {
				refused <- struct{}{}
				if status != http.StatusServiceUnavailable || !strings.Contains(answer, "#overloaded") {
					return fmt.Errorf("answered %d %s", status, answer)
				}
			}
			return nil
		})
	}
	select {
	case <-refused:
	case <-time.After(servertest.Deadline):
		t.Error("nothing was refused")
	}
	a := send(t, "POST", hub.URL, body, form, "Authorization: Bearer "+token)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("answered %d %v %s", a.status, a.header, a.body)
	}
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	close(answers)
	accepted := 0
	for status := range answers {
		if status == http.StatusOK {
			accepted++
		}
	}
	var logged int
	if err := database.Conn(t).QueryRow(t.Context(), "SELECT count(*) FROM mercure.updates").Scan(&logged); err != nil {
		t.Fatal(err)
	}
	if logged != accepted || accepted < 60 {
		t.Errorf("%d accepted, %d in the log", accepted, logged)
	}
}

// Connections that say nothing, or next to nothing, disturb nobody and are
// closed in the end.
func TestConnectionsThatDawdle(t *testing.T) {
	t.Parallel()
	const silent = 2000
	hub := servertest.Start(t, dbtest.New(t))
	address := strings.TrimSuffix(strings.TrimPrefix(hub.URL, "http://"), "/.well-known/mercure")
	open := func() net.Conn {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	var group errgroup.Group
	began := time.Now()
	for range silent {
		conn := open()
		group.Go(func() error { return untilClosed(conn, began, 10*time.Second) })
	}
	headers, body := open(), open()
	dawdle(t, headers, "GET /.well-known/mercure?match=a HTTP/1.1\r\nHost: h\r\nX-Long: ")
	group.Go(func() error { return untilClosed(headers, began, 10*time.Second) })
	dawdle(t, body, "POST /.well-known/mercure HTTP/1.1\r\nHost: h\r\n"+form+"\r\nAuthorization: Bearer "+
		servertest.PublisherToken(t)+"\r\nContent-Length: 100000\r\n\r\ntopic=")
	group.Go(func() error { return untilClosed(body, began, 30*time.Second) })

	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}})
	for range 20 {
		id := hub.Publish(t, url.Values{"topic": {"a"}, "data": {"x"}})
		if got := stream.Next(t); got.ID != id {
			t.Errorf("got %+v", got)
		}
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// dawdle sends this and then a byte now and then, as long as it is let.
func dawdle(t *testing.T, conn net.Conn, begin string) {
	t.Helper()
	if _, err := io.WriteString(conn, begin); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	go func() { // ends when the connection does
		defer close(done)
		pace := time.NewTicker(100 * time.Millisecond)
		defer pace.Stop()
		for range pace.C {
			if _, err := conn.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
}

// untilClosed waits until the hub has closed a connection, which it may not do
// before its timeout.
func untilClosed(conn net.Conn, began time.Time, timeout time.Duration) error {
	const slack = 10 * time.Second
	if err := conn.SetReadDeadline(began.Add(timeout + slack)); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	took := time.Since(began)
	if timedOut := net.Error(nil); errors.As(err, &timedOut) && timedOut.Timeout() {
		return fmt.Errorf("open after %s", took)
	}
	if took < timeout-time.Second {
		return fmt.Errorf("closed after %s, with %q", took, answer)
	}
	return nil
}

// A header larger than any request needs is refused.
func TestOversizedHeader(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	conn := connect(t, hub)
	go func() { // ends when the hub closes the connection, or the test does
		_, _ = fmt.Fprintf(conn, "GET /.well-known/mercure?match=a HTTP/1.1\r\nHost: h\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 4<<20))
	}()
	answer := make([]byte, len("HTTP/1.1 431"))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 431" {
		t.Errorf("answered %q, %v", answer, err)
	}
}
