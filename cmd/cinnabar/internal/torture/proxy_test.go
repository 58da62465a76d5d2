package torture

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// patience is how long a test waits for what should happen at once; glimpse for
// what should not happen.
const (
	patience = 30 * time.Second
	glimpse  = 100 * time.Millisecond
)

// echo is a server that sends back what it gets.
func echo(t *testing.T) (address string) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

func startProxy(t *testing.T) *proxy {
	t.Helper()
	p, err := newProxy(t.Context(), "tcp", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func dial(t *testing.T, p *proxy) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func receive(conn net.Conn, size int, within time.Duration) (string, error) {
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	buffer := make([]byte, size)
	n, err := io.ReadFull(conn, buffer)
	return string(buffer[:n]), err
}

func wantEcho(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	send(t, conn, text)
	if got, err := receive(conn, len(text), patience); err != nil || got != text {
		t.Fatalf("got %q, %v", got, err)
	}
}

func wantSilence(t *testing.T, conn net.Conn) {
	t.Helper()
	if got, err := receive(conn, 1, glimpse); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestProxyHoldsBackAndGoesOn(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	conn := dial(t, p)
	wantEcho(t, conn, "before")

	p.set(proxyMode{hold: true, deaf: true})
	send(t, conn, "during")
	wantSilence(t, conn)
	another := dial(t, p) // is accepted
	send(t, another, "another")
	wantSilence(t, another)

	p.set(proxyMode{})
	for c, want := range map[net.Conn]string{conn: "during", another: "another"} {
		if got, err := receive(c, len(want), patience); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestProxyCuts(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	conn := dial(t, p)
	wantEcho(t, conn, "before")
	p.cut()
	if _, err := receive(conn, 1, patience); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still there: %v", err)
	}
	wantEcho(t, dial(t, p), "after")
}

func TestProxyIsSlow(t *testing.T) {
	t.Parallel()
	p := startProxy(t)
	p.set(proxyMode{bytesPerSecond: 10_000})
	conn := dial(t, p)
	began := time.Now()
	wantEcho(t, conn, string(make([]byte, 2000)))
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("2,000 bytes there and back took %s", took)
	}
}

func TestProxyCloses(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	p, err := newProxy(ctx, "tcp", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	cancel() // concerns its start only
	conn, held := dial(t, p), dial(t, p)
	wantEcho(t, conn, "open")
	p.set(proxyMode{hold: true, deaf: true})
	send(t, held, "x")
	p.close()
	if _, err := receive(conn, 1, patience); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still there: %v", err)
	}
}
