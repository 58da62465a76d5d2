package sse

import (
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// socket is the output of a client: it takes what the kernel takes at once, and
// keeps the rest, or waits while it was told to.
type socket struct {
	transport
	timeout time.Duration // the peer must take something within it; zero: for ever
	expires time.Time     // no write outlasts it; zero: never

	rest        []byte // what the kernel has not taken; nobody changes it
	waits       bool
	interrupted atomic.Bool
}

// transport is a connection in the form that can be written to without waiting.
type transport interface {
	io.Writer // waits
	// SetWriteDeadline may be called at any time, until close.
	SetWriteDeadline(at time.Time) error
	// tryWrite hands on what is taken at once.
	tryWrite(b []byte) (n int, err error)
	// control gives access to the descriptor.
	control(f func(fd uintptr)) error
	// closeWrite sends the end, and discards input.
	closeWrite()
	// close closes the connection without resetting it because of input.
	close()
}

func (s *socket) full() bool { return len(s.rest) > 0 }

func (s *socket) write(b []byte) error {
	switch {
	case s.waits:
		return s.writeWaiting(b)
	case s.full():
		s.keep(b)
		return nil
	}
	n, err := s.tryWrite(b)
	s.rest = b[n:]
	return err
}

func (s *socket) writeCopy(b []byte) error {
	switch {
	case s.waits:
		return s.writeWaiting(b)
	case s.full():
		s.keep(b)
		return nil
	}
	n, err := s.tryWrite(b)
	s.keep(b[n:])
	return err
}

// keep adds a copy to what is kept.
func (s *socket) keep(b []byte) {
	if len(b) > 0 {
		s.rest = append(slices.Clip(s.rest), b...)
	}
}

// wait writes what is kept. Until hurry, writes wait for the peer.
func (s *socket) wait() error {
	s.waits = true
	rest := s.rest
	s.rest = nil
	return s.writeWaiting(rest)
}

func (s *socket) hurry() {
	s.waits = false
	_ = s.SetWriteDeadline(time.Time{})
}

func (s *socket) writeWaiting(b []byte) error {
	_, err := writeSteps(s.transport, b, s.extend)
	return err
}

// extend gives the peer its time for the next step.
func (s *socket) extend() error {
	if err := s.SetWriteDeadline(stepDeadline(s.timeout, s.expires)); err != nil {
		return err
	}
	if s.interrupted.Load() {
		return os.ErrClosed // the deadline may have come after that of interrupt
	}
	return nil
}

// interrupt ends a write that waits, for good.
func (s *socket) interrupt() {
	s.interrupted.Store(true)
	_ = s.SetWriteDeadline(time.Unix(0, 1))
}
