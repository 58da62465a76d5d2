package sse

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

const (
	// retryDelay is how long a stream waits after history could not be read.
	retryDelay = time.Second
	// maxShared bounds what waiting blocks are gathered into one write.
	maxShared = 64 << 10
	// pollTimeout bounds one look for what to send next, which may read history:
	// a stream must notice its heartbeat and its end while the database hangs.
	pollTimeout = 10 * time.Second
)

// output takes bytes for the peer.
type output interface {
	// write takes b, which nobody changes any more. One that does not wait for
	// the peer keeps what it could not hand on.
	write(b []byte) error
	// writeCopy is write for bytes that are changed afterwards.
	writeCopy(b []byte) error
	// full says that something is kept: write nothing more for now.
	full() bool
}

// session is one stream on its way to the peer. One goroutine at a time has it.
type session struct {
	out     output
	stream  *broadcast.Stream
	options Options

	lastWrite time.Time
	// Zero: never.
	lifetimeAt, warningAt, retryAt time.Time
	// unsent are blocks that were taken from the stream and not begun.
	unsent [][]byte
}

func newSession(out output, stream *broadcast.Stream, options *Options) session {
	now := time.Now()
	s := session{out: out, stream: stream, options: *options, lastWrite: now, warningAt: options.warningAt(now)}
	if options.Lifetime > 0 {
		s.lifetimeAt = now.Add(Jittered(options.Lifetime))
	}
	return s
}

// begin writes what comes before the first update.
//
// Spec: S-19, W-8, S-26, S-27.
func (s *session) begin() error {
	if err := s.write(comment); err != nil {
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

var comment = []byte(protocol.Comment)

// passed reports whether a time has come.
func passed(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// due does what its time has come for. A reason: the stream is over.
func (s *session) due(now time.Time) Reason {
	if s.options.expiredAt(now) {
		return TokenExpired
	}
	if passed(s.lifetimeAt, now) {
		if s.options.Away == nil || !s.options.Away() {
			return Lifetime
		}
		s.lifetimeAt = now.Add(retryDelay) // Spec: S-28
	}
	var err error
	if passed(s.warningAt, now) {
		s.warningAt = time.Time{}
		err = s.warnOfExpiry()
	}
	if err == nil && passed(s.heartbeatAt(), now) {
		err = s.beat()
	}
	if err != nil {
		return s.reasonOf(err)
	}
	return ""
}

func (s *session) heartbeatAt() time.Time {
	if s.options.Heartbeat <= 0 {
		return time.Time{}
	}
	return s.lastWrite.Add(s.options.Heartbeat)
}

// nextDue is when due has something to do, at the earliest; zero: never.
func (s *session) nextDue() time.Time {
	next := s.options.Expires
	for _, at := range [...]time.Time{s.heartbeatAt(), s.lifetimeAt, s.warningAt, s.retryAt} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// advance sends what there is to be sent next, and waits for the peer and the
// log as it must; more: call again. A reason: the stream is over.
func (s *session) advance(ctx context.Context) (reason Reason, more bool) {
	now := time.Now()
	if reason = s.due(now); reason != "" {
		return reason, false
	}
	if len(s.unsent) == 0 {
		if now.Before(s.retryAt) {
			return "", false
		}
		s.retryAt = time.Time{}
		pollCtx, cancel := context.WithTimeout(ctx, pollTimeout)
		defer cancel()
		var err error
		if s.unsent, more, err = s.stream.Poll(pollCtx, nil); err != nil {
			return s.troubled(ctx, err), false
		}
	}
	if err := s.send(); err != nil {
		return s.reasonOf(err), false
	}
	if ctx.Err() != nil {
		return ClientGone, false
	}
	return "", more
}

// troubled judges an error of the stream. No reason: it goes on later.
func (s *session) troubled(ctx context.Context, err error) Reason {
	switch {
	case errors.Is(err, broadcast.ErrEnded):
		return s.farewell()
	case errors.Is(err, broadcast.ErrRevoked):
		return KeyRemoved
	case errors.Is(err, broadcast.ErrInterrupted):
		return Interrupted
	case ctx.Err() != nil:
		return ClientGone
	}
	// The database is away. The stream stays; its cursor does too.
	s.retryAt = time.Now().Add(retryDelay)
	return ""
}

// farewell is the end of a stream of a hub that stops.
func (s *session) farewell() Reason {
	if s.options.SpreadReturn {
		_ = s.write(RetryBlock()) // a client that does not take it comes back all the same
	}
	return Shutdown
}

// send writes the blocks that are unsent, together as far as they may be, until
// the output is full.
func (s *session) send() error {
	for len(s.unsent) > 0 && !s.out.full() {
		first, rest := s.unsent[0], s.unsent[1:]
		if s.options.SeparateWrites || len(rest) == 0 || len(first)+len(rest[0]) > maxShared {
			s.unsent = rest
			if err := s.write(first); err != nil {
				return err
			}
			continue
		}
		if err := s.sendShared(); err != nil {
			return err
		}
	}
	if len(s.unsent) == 0 {
		s.unsent = nil
	}
	return nil
}

func (s *session) sendShared() error {
	buffer := buffers.Get().(*[]byte) //nolint:forcetypeassert // nothing else is put in
	shared := (*buffer)[:0]
	n := 0
	for n < len(s.unsent) && len(shared)+len(s.unsent[n]) <= maxShared {
		shared = append(shared, s.unsent[n]...)
		n++
	}
	s.unsent = s.unsent[n:]
	s.lastWrite = time.Now()
	err := s.out.writeCopy(shared)
	*buffer = shared
	buffers.Put(buffer)
	return err
}

// buffers are shared by all streams: one that is silent keeps none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func (s *session) write(b []byte) error {
	s.lastWrite = time.Now()
	return s.out.write(b)
}

// beat keeps a silent connection open, and the client's cursor near.
func (s *session) beat() error {
	if s.options.Checkpoints {
		if err := s.checkpoint(false); err != nil {
			return err
		}
	}
	return s.write(comment)
}

func (s *session) checkpoint(force bool) error {
	id, ok := s.stream.Checkpoint(force)
	if !ok {
		return nil
	}
	return s.write(protocol.AppendCheckpoint(nil, id))
}

func (s *session) reasonOf(err error) Reason {
	switch {
	case !errors.Is(err, os.ErrDeadlineExceeded):
	case s.options.expiredAt(time.Now()):
		return TokenExpired
	default:
		return TooSlow
	}
	return ClientGone
}

// Jittered shortens a lifetime by up to a tenth, so that streams that began
// together do not end together (S-22).
func Jittered(lifetime time.Duration) time.Duration {
	if lifetime < 10 {
		return lifetime
	}
	return lifetime - time.Duration(rand.Int64N(int64(lifetime/10)))
}
