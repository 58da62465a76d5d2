//go:build unix

package sse

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// Suits reports whether a Loop can take a connection over.
func Suits(conn net.Conn) bool {
	_, ok := conn.(*net.TCPConn)
	return ok
}

var errUnsuitable = errors.New("not a TCP connection")

func newSocket(conn net.Conn, timeout time.Duration, expires time.Time) (*socket, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errUnsuitable
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	transport := tcpTransport{TCPConn: tcp}
	if err := raw.Control(func(fd uintptr) { transport.fd = int(fd) }); err != nil {
		return nil, err
	}
	return &socket{transport: transport, timeout: timeout, expires: expires}, nil
}

// tcpTransport bypasses the waiting of net.Conn, and what that costs.
type tcpTransport struct {
	*net.TCPConn
	// fd stays in the care of package net, and is valid until close is called:
	// by whoever has the client, as all other methods but SetWriteDeadline are.
	fd int
}

func (t tcpTransport) tryWrite(b []byte) (int, error) {
	for {
		switch n, err := syscall.Write(t.fd, b); err { //nolint:errorlint // a system call's own
		case syscall.EINTR:
		case nil, syscall.EAGAIN:
			return max(n, 0), nil
		default:
			return max(n, 0), err
		}
	}
}

func (t tcpTransport) control(f func(fd uintptr)) error {
	f(uintptr(t.fd))
	return nil
}

// maxDiscard bounds how much input is read only to be thrown away.
const maxDiscard = 256 << 10

func (t tcpTransport) closeWrite() {
	t.discard()
	_ = t.CloseWrite()
}

func (t tcpTransport) close() {
	t.discard()
	_ = t.Close()
}

// discard reads what has come: nothing is expected on a connection that carries
// a stream.
func (t tcpTransport) discard() {
	buffer := make([]byte, 4<<10)
	for left := maxDiscard; left > 0; {
		n, err := syscall.Read(t.fd, buffer)
		if n <= 0 && !errors.Is(err, syscall.EINTR) {
			return
		}
		left -= max(n, 0)
	}
}
