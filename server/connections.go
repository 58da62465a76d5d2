package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// idleGrace is for how long a connection without a request is left open when
	// the hub stops.
	idleGrace    = 2 * time.Second
	silenceCheck = 20 * time.Millisecond
)

// connections are what clients have open.
//
// A server that closes one that waits for a request may cut off one that is on
// its way, whose sender then cannot know whether it was served; HTTP/1.1 has no
// way to agree on the end. http.Server.Shutdown closes them all at once, and
// even drops requests that it has read by then. So a hub that stops has its
// answers say that they were the last ones, takes nobody new, and closes a
// connection only when it has been silent for a while. The zero value is ready.
type connections struct {
	mu    sync.Mutex
	known map[net.Conn]connection
}

type connection struct {
	state http.ConnState
	since time.Time
}

// note is for http.Server.ConnState.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case state == http.StateClosed || state == http.StateHijacked:
		delete(c.known, conn)
		return
	case c.known == nil:
		c.known = map[net.Conn]connection{}
	}
	c.known[conn] = connection{state, time.Now()}
}

// silent reports whether no request is being answered, and none has come over
// the connections that are left for at least so long.
func (c *connections) silent(grace time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.known {
		if conn.state == http.StateActive || time.Since(conn.since) < grace {
			return false
		}
	}
	return true
}

// awaitSilence fails if it takes too long.
func (c *connections) awaitSilence(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	ticker := time.NewTicker(silenceCheck)
	defer ticker.Stop()
	for !c.silent(grace) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("stop: requests were still being answered after %s: %w", shutdownTimeout, context.Cause(ctx))
		}
	}
	return nil
}

// lastConnections is a listener of connections that have been accepted.
type lastConnections struct {
	net.Listener // has been closed
	accepted     []net.Conn
}

func (l *lastConnections) Accept() (net.Conn, error) {
	if len(l.accepted) == 0 {
		return nil, net.ErrClosed
	}
	conn := l.accepted[0]
	l.accepted = l.accepted[1:]
	return conn, nil
}

// Close is called once more by those who serve it.
func (l *lastConnections) Close() error { return nil }

// lastAnswers makes a handler say with its answers that they are the last ones
// of their connections, once draining is closed.
func lastAnswers(next http.Handler, draining <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-draining:
			w.Header().Set("Connection", "close")
		default:
		}
		next.ServeHTTP(w, r)
	})
}
