//go:build !linux

package server

import (
	"errors"
	"net"
	"time"
)

// setUserTimeout does nothing: what the kernel calls it differs, or there is no
// such thing. Keep-alive finds silent peers all the same, later.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }

// ignoreNew is not possible: who connects while the listener is being closed may
// be reset.
func ignoreNew(net.Listener) error { return errors.ErrUnsupported }
