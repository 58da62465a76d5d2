package sse

import (
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

// maxStep is written under one deadline: a slow peer that takes this much
// within the dispatch timeout is slow, not stuck.
const maxStep = 16 << 10

func (c *responseConn) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		if err := c.extend(); err != nil {
			return written, err
		}
		n, err := c.w.Write(b[written:min(len(b), written+maxStep)])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (c *responseConn) Flush() error {
	if err := c.extend(); err != nil {
		return err
	}
	return c.controller.Flush()
}

func (c *responseConn) extend() error {
	deadline := c.expires
	if c.timeout > 0 {
		deadline = time.Now().Add(c.timeout)
		if !c.expires.IsZero() && c.expires.Before(deadline) {
			deadline = c.expires
		}
	}
	return c.controller.SetWriteDeadline(deadline)
}
