package sse

import (
	"io"
	"net/http"
	"time"
)

// NewResponseConn makes a Conn of an ordinary HTTP response. No write outlasts
// expires, unless that is zero.
func NewResponseConn(w http.ResponseWriter, dispatchTimeout time.Duration, expires time.Time) Conn {
	return &responseConn{w: w, controller: http.NewResponseController(w), timeout: dispatchTimeout, expires: expires}
}

type responseConn struct {
	w          http.ResponseWriter
	controller *http.ResponseController
	timeout    time.Duration
	expires    time.Time
}

func (c *responseConn) Write(b []byte) (int, error) { return writeSteps(c.w, b, c.extend) }

func (c *responseConn) Flush() error {
	if err := c.extend(); err != nil {
		return err
	}
	return c.controller.Flush()
}

func (c *responseConn) extend() error {
	return c.controller.SetWriteDeadline(stepDeadline(c.timeout, c.expires))
}

// maxStep is written under one deadline: a slow peer that takes this much
// within the dispatch timeout is slow, not stuck.
const maxStep = 16 << 10

// writeSteps calls extend before each step.
func writeSteps(w io.Writer, b []byte, extend func() error) (written int, err error) {
	for written < len(b) {
		if err := extend(); err != nil {
			return written, err
		}
		n, err := w.Write(b[written:min(len(b), written+maxStep)])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// stepDeadline is that of one step; zero: none.
func stepDeadline(timeout time.Duration, expires time.Time) time.Time {
	if timeout <= 0 {
		return expires
	}
	deadline := time.Now().Add(timeout)
	if !expires.IsZero() && expires.Before(deadline) {
		return expires
	}
	return deadline
}
