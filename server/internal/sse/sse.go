// Package sse keeps one event stream going: it writes what the stream has,
// comments when it is silent, and ends it for a reason that has a name.
//
// Promises:
//   - Blocks go out whole and in order; several share a write only if they
//     already wait (W-9).
//   - The peer may be as slow as it likes as long as it takes something within
//     the dispatch timeout.
//   - The response ends cleanly: a client that was not at fault reconnects.
//
// What is sent when, and when a stream ends, is in session.go. There are two ways
// to run a session: Serve does it in the goroutine of an HTTP handler, whatever
// the connection is; a Loop (loop.go) keeps thousands of plain HTTP/1.1
// connections with a few goroutines and a few kilobytes each.
package sse

import (
	"io"
	"math/rand/v2"
	"strconv"
	"time"
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

// RetryBlock tells a client to come back in one to three seconds.
func RetryBlock() []byte {
	delay := time.Second + rand.N(2*time.Second)
	return []byte("retry: " + strconv.FormatInt(delay.Milliseconds(), 10) + "\n\n")
}

func (o *Options) expiredAt(now time.Time) bool { return !o.Expires.IsZero() && !now.Before(o.Expires) }
