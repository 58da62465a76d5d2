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

// newSocket takes a connection over. After an error it is as it was.
func newSocket(conn net.Conn, timeout time.Duration, expires time.Time) (*socket, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errUnsuitable
	}
	transport, err := newTransport(tcp)
	if err != nil {
		return nil, err
	}
	return &socket{transport: transport, timeout: timeout, expires: expires}, nil
}

// tcpTransport bypasses the waiting of net.Conn, and what that costs. It is for
// all systems; see newTransport.
type tcpTransport struct {
	*net.TCPConn
	descriptor // in the care of package net
}

func newTCPTransport(conn *net.TCPConn) (transport, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	t := &tcpTransport{TCPConn: conn}
	return t, raw.Control(func(fd uintptr) { t.descriptor = descriptor(fd) })
}

func (t *tcpTransport) closeWrite() {
	t.discard()
	_ = t.CloseWrite()
}

func (t *tcpTransport) close() {
	t.discard()
	_ = t.Close()
}

// descriptor is that of a connection that does not block. It is valid until it is
// closed, by whoever has the client, as all of this is.
type descriptor int

func (d descriptor) tryWrite(b []byte) (int, error) {
	for {
		switch n, err := syscall.Write(int(d), b); err {
		case syscall.EINTR:
		case nil, syscall.EAGAIN:
			return max(n, 0), nil
		default:
			return max(n, 0), err
		}
	}
}

func (d descriptor) control(f func(fd uintptr)) error {
	f(uintptr(d))
	return nil
}

// maxDiscard bounds how much input is read only to be thrown away.
const maxDiscard = 256 << 10

// discard reads what has come: nothing is expected on a connection that carries
// a stream.
func (d descriptor) discard() {
	buffer := make([]byte, 4<<10)
	for left := maxDiscard; left > 0; {
		n, err := syscall.Read(int(d), buffer)
		if n <= 0 && !errors.Is(err, syscall.EINTR) {
			return
		}
		left -= max(n, 0)
	}
}
