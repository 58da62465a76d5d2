// Package sse keeps one event stream going: it writes what the stream has,
// comments when it is silent, and ends it for a reason that has a name.
//
// Promises:
//   - Blocks go out whole and in order; several share a write only if they
//     already wait (W-9).
//   - The peer may be as slow as it likes as long as it takes something within
//     the dispatch timeout.
//   - The response ends cleanly: a client that was not at fault reconnects.
package sse

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Reason says why a stream ended.
type Reason string

// Every reason there is.
const (
	ClientGone   Reason = "client_gone"   // it closed the connection
	TooSlow      Reason = "too_slow"      // it took nothing for the dispatch timeout
	Lifetime     Reason = "lifetime"      // the longest life of a stream is over
	TokenExpired Reason = "token_expired" // its token's exp has come
	KeyRemoved   Reason = "key_removed"   // the key that verified its token was
	Shutdown     Reason = "shutdown"      // the hub stops
	Interrupted  Reason = "interrupted"   // the log cannot be continued; the client resumes by id
)

// Conn is a connection that carries an event stream. Write returns after the
// bytes were handed to the peer's connection, or an error that wraps
// os.ErrDeadlineExceeded when nothing could be for the dispatch timeout.
type Conn interface {
	io.Writer
	// Flush makes everything written leave.
	Flush() error
}

// Options is how one stream behaves. Zero durations turn their feature off.
type Options struct {
	Heartbeat time.Duration // comment after this much silence (W-7)
	Lifetime  time.Duration // see Jittered
	// Expires is when the token does (S-21); zero: never.
	Expires time.Time
	// Checkpoints sends ids without data (S-26), one at the start if
	// InitialCheckpoint is set.
	Checkpoints       bool
	InitialCheckpoint bool
	Gap               Gap
	// ExpiryEvent is the type of an event that comes shortly before Expires;
	// empty: none.
	ExpiryEvent string
	// SpreadReturn tells the client when to come back, if the hub stops: each at
	// another time.
	SpreadReturn bool
	// SeparateWrites turns sharing off (W-9).
	SeparateWrites bool
	// Away says whether the log is unreachable, so that a stream would not be
	// able to come back (S-28).
	Away func() bool
}

// Jittered shortens a lifetime by up to a tenth, so that streams that began
// together do not end together (S-22).
func Jittered(lifetime time.Duration) time.Duration {
	if lifetime < 10 {
		return lifetime
	}
	return lifetime - time.Duration(rand.Int64N(int64(lifetime/10)))
}

// retryDelay is how long a stream waits after history could not be read.
const retryDelay = time.Second

// maxShared bounds what waiting blocks are gathered into one write.
const maxShared = 64 << 10

// Serve writes the stream until it has a reason to end. ctx is the
// connection's: it ends when the peer closes. The response headers must have
// been written.
func Serve(ctx context.Context, conn Conn, stream *broadcast.Stream, o Options) Reason {
	s := &server{conn: conn, stream: stream, options: o}
	return s.serve(ctx)
}

type server struct {
	conn    Conn
	stream  *broadcast.Stream
	options Options
}

// pollTimeout bounds one look for what to send next, which may read history: a
// stream must notice its heartbeat and its end while the database hangs.
const pollTimeout = 10 * time.Second

// again is always ready.
var again = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (s *server) serve(ctx context.Context) Reason {
	o := s.options
	heartbeat := newTimer(o.Heartbeat)
	defer heartbeat.stop()
	lifetime := newTimer(Jittered(o.Lifetime))
	defer lifetime.stop()
	expiry := newTimer(0)
	if !o.Expires.IsZero() {
		expiry = newTimer(max(time.Until(o.Expires), 1))
	}
	defer expiry.stop()
	warning := newTimer(o.untilWarning())
	defer warning.stop()
	retry := newTimer(0)
	defer func() { retry.stop() }()

	if err := s.begin(); err != nil {
		return s.reasonOf(err)
	}
	for {
		if o.expired() {
			return TokenExpired
		}
		sent, more, err := s.sendNext(ctx)
		switch {
		case errors.Is(err, broadcast.ErrEnded):
			return s.farewell()
		case errors.Is(err, broadcast.ErrRevoked):
			return KeyRemoved
		case errors.Is(err, broadcast.ErrInterrupted):
			return Interrupted
		case errors.Is(err, errWrite):
			return s.reasonOf(err) // before ctx: net/http ends it when a write fails
		case ctx.Err() != nil:
			return ClientGone
		case err != nil:
			// The database is away. The stream stays; its cursor does too.
			more = false
			retry.stop()
			retry = newTimer(retryDelay)
		}
		if sent {
			heartbeat.reset(o.Heartbeat)
		}
		var next chan struct{} // ready if there is more; timers get their turn
		if more {
			next = again
		}
		select {
		case <-next:
		case <-s.stream.Wake():
		case <-retry.c:
		case <-heartbeat.c:
			if err := s.beat(); err != nil {
				return s.reasonOf(err)
			}
			heartbeat.reset(o.Heartbeat)
		case <-lifetime.c:
			if o.Away == nil || !o.Away() {
				return Lifetime
			}
			lifetime.reset(retryDelay) // Spec: S-28
		case <-warning.c:
			if err := s.warnOfExpiry(); err != nil {
				return s.reasonOf(err)
			}
			heartbeat.reset(o.Heartbeat)
		case <-expiry.c:
			return TokenExpired
		case <-ctx.Done():
			return ClientGone
		}
	}
}

// farewell is the end of a stream of a hub that stops.
func (s *server) farewell() Reason {
	if s.options.SpreadReturn {
		_ = s.write(RetryBlock()) // a client that does not take it comes back all the same
	}
	return Shutdown
}

// RetryBlock tells a client to come back in one to three seconds.
func RetryBlock() []byte {
	delay := time.Second + rand.N(2*time.Second)
	return []byte("retry: " + strconv.FormatInt(delay.Milliseconds(), 10) + "\n\n")
}

// begin writes what comes before the first update.
//
// Spec: S-19, W-8, S-26, S-27.
func (s *server) begin() error {
	if err := s.write([]byte(protocol.Comment)); err != nil {
		return err
	}
	switch {
	case s.options.Gap.Event != "":
		return s.gap()
	case s.options.Checkpoints && s.options.InitialCheckpoint:
		return s.checkpoint(true)
	}
	return nil
}

func (o Options) expired() bool { return !o.Expires.IsZero() && !time.Now().Before(o.Expires) }

var errWrite = errors.New("write")

// sendNext writes what the stream has next; more says that it may have more.
func (s *server) sendNext(ctx context.Context) (sent, more bool, err error) {
	pollCtx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	blocks, more, err := s.stream.Poll(pollCtx)
	if err != nil || len(blocks) == 0 {
		return false, more, err
	}
	if err := s.send(blocks); err != nil {
		return true, false, errors.Join(errWrite, err)
	}
	return true, more, nil
}

// send writes blocks, together as far as they may be.
func (s *server) send(blocks [][]byte) error {
	for i := 0; i < len(blocks); {
		first := blocks[i]
		i++
		if s.options.SeparateWrites || i == len(blocks) || len(first)+len(blocks[i]) > maxShared {
			if err := s.write(first); err != nil {
				return err
			}
			continue
		}
		buffer := buffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is put in
		shared := (*buffer)[:0]
		shared = append(shared, first...)
		for i < len(blocks) && len(shared)+len(blocks[i]) <= maxShared {
			shared = append(shared, blocks[i]...)
			i++
		}
		err := s.write(shared)
		*buffer = shared
		buffers.Put(buffer)
		if err != nil {
			return err
		}
	}
	return nil
}

// buffers are shared by all streams: one that is silent keeps none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func (s *server) write(b []byte) error {
	if _, err := s.conn.Write(b); err != nil {
		return err
	}
	return s.conn.Flush()
}

// beat keeps a silent connection open, and the client's cursor near.
func (s *server) beat() error {
	if s.options.Checkpoints {
		if err := s.checkpoint(false); err != nil {
			return err
		}
	}
	return s.write([]byte(protocol.Comment))
}

func (s *server) checkpoint(force bool) error {
	id, ok := s.stream.Checkpoint(force)
	if !ok {
		return nil
	}
	return s.write(protocol.AppendCheckpoint(nil, id))
}

func (s *server) reasonOf(err error) Reason {
	switch {
	case !errors.Is(err, os.ErrDeadlineExceeded):
	case s.options.expired():
		return TokenExpired
	default:
		return TooSlow
	}
	return ClientGone
}
