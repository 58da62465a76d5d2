package httpapi

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/sse"
)

type connKey struct{}

// WithConn is for http.Server.ConnContext: streams leave connections that are
// known here to Config.Loop.
func WithConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// suitsLoop reports whether a stream can leave its connection to the loop, and
// with it everything that net/http keeps for a request. HTTP/2 and TLS have
// more to a connection than its bytes; HTTP/1.0 is rare. A client that takes each
// chunk for one event (W-9) needs chunks, which a stream that ends with its
// connection has not.
func (a *api) suitsLoop(r *http.Request) bool {
	conn, known := r.Context().Value(connKey{}).(net.Conn)
	return a.Loop != nil && !a.SeparateWrites && r.Method != http.MethodHead && r.ProtoMajor == 1 && r.ProtoMinor == 1 && r.TLS == nil &&
		known && sse.Suits(conn)
}

// leaveToLoop takes the connection from net/http and leaves it, with the answer
// of which only the fields are known, to the loop. After an error nothing can be
// answered any more.
func (a *api) leaveToLoop(w http.ResponseWriter, h sse.Hijacked) error {
	h.Head = responseHead(w.Header())
	var err error
	if h.Conn, _, err = http.NewResponseController(w).Hijack(); err != nil {
		return err
	}
	return a.Loop.Add(h)
}

// responseHead is what net/http would send for an answer that ends with its
// connection.
//
// Spec: S-18.
func responseHead(fields http.Header) []byte {
	fields.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	fields.Set("Connection", "close")
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\n")
	_ = fields.Write(&head)
	head.WriteString("\r\n")
	return head.Bytes()
}
