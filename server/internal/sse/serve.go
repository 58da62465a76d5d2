package sse

import (
	"context"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
)

// Serve writes the stream until it has a reason to end. ctx is the
// connection's: it ends when the peer closes. The response headers must have
// been written.
func Serve(ctx context.Context, conn Conn, stream *broadcast.Stream, o Options) Reason {
	s := newSession(waiting{conn}, stream, &o)
	if err := s.begin(); err != nil {
		return s.reasonOf(err)
	}
	wake := stream.Wake()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		reason, more := s.advance(ctx)
		if reason != "" {
			return reason
		}
		if more {
			continue
		}
		var due <-chan time.Time
		if at := s.nextDue(); !at.IsZero() {
			timer.Reset(time.Until(at))
			due = timer.C
		}
		select {
		case <-wake:
		case <-due:
		case <-ctx.Done():
			return ClientGone
		}
	}
}

// waiting is an output that waits for the peer.
type waiting struct{ conn Conn }

func (w waiting) write(b []byte) error {
	if _, err := w.conn.Write(b); err != nil {
		return err
	}
	return w.conn.Flush()
}

func (w waiting) writeCopy(b []byte) error { return w.write(b) }

func (w waiting) full() bool { return false }
