//go:build !unix

package sse

import (
	"errors"
	"net"
	"time"
)

// Suits reports whether a Loop can take a connection over.
func Suits(net.Conn) bool { return false }

func newSocket(net.Conn, time.Duration, time.Time) (*socket, error) {
	return nil, errors.ErrUnsupported
}
