//go:build !linux

package server

import (
	"net"
	"time"
)

// setUserTimeout does nothing: what the kernel calls it differs, or there is no
// such thing. Keep-alive finds silent peers all the same, later.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }

// closeListener closes a listener. The kernel resets those who have connected
// and were not accepted yet.
func closeListener(listener net.Listener) ([]net.Conn, error) { return nil, listener.Close() }
