//go:build unix

package sse

import (
	"errors"
	"net"
	"sync"
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
	return &socket{transport: tcpTransport{tcp, raw}, timeout: timeout, expires: expires}, nil
}

// tcpTransport bypasses the waiting of net.Conn. The descriptor stays in the
// care of package net.
type tcpTransport struct {
	*net.TCPConn
	raw syscall.RawConn
}

// attempt is one call of write(2), kept for the next one: it costs no memory.
type attempt struct {
	b    []byte
	n    int
	err  error
	call func(fd uintptr) bool
}

var attempts = sync.Pool{New: func() any {
	a := new(attempt)
	a.call = func(fd uintptr) bool {
		for {
			if a.n, a.err = syscall.Write(int(fd), a.b); !errors.Is(a.err, syscall.EINTR) {
				return true // never wait
			}
		}
	}
	return a
}}

func (t tcpTransport) tryWrite(b []byte) (int, error) {
	a := attempts.Get().(*attempt) //nolint:forcetypeassert // nothing else is put in
	a.b = b
	err := t.raw.Write(a.call)
	n, failed := max(a.n, 0), a.err
	a.b, a.n, a.err = nil, 0, nil
	attempts.Put(a)
	switch {
	case err != nil:
		return 0, err
	case failed == nil || failed == syscall.EAGAIN: //nolint:errorlint // a system call's own
		return n, nil
	}
	return n, failed
}

func (t tcpTransport) control(f func(fd uintptr)) error { return t.raw.Control(f) }

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
	_ = t.raw.Read(func(fd uintptr) bool {
		buffer := make([]byte, 4<<10)
		for left := maxDiscard; left > 0; {
			n, err := syscall.Read(int(fd), buffer)
			if n <= 0 && !errors.Is(err, syscall.EINTR) {
				break
			}
			left -= max(n, 0)
		}
		return true
	})
}
