package sse

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// newTransport leaves nothing of a connection in package net, where each is half
// of the memory that a silent stream takes.
func newTransport(conn *net.TCPConn) (transport, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, errno := uintptr(0), syscall.Errno(0)
	if err := raw.Control(func(of uintptr) {
		fd, _, errno = syscall.Syscall(syscall.SYS_FCNTL, of, syscall.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	switch errno {
	case 0:
	case syscall.EMFILE, syscall.ENFILE: // this one has its descriptor
		return newTCPTransport(conn)
	default:
		return nil, os.NewSyscallError("fcntl", errno)
	}
	_ = conn.Close() // not the connection: that is the descriptor's now
	return &bareTransport{descriptor: descriptor(fd)}, nil
}

// bareTransport is a descriptor and, once a write has had to wait, the file with
// which package os waits for it. That owns the descriptor then.
type bareTransport struct {
	descriptor

	mu       sync.Mutex // SetWriteDeadline may be called at any time
	deadline time.Time
	file     *os.File
}

// Write waits.
func (t *bareTransport) Write(b []byte) (int, error) {
	if t.late() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := t.tryWrite(b)
	if err != nil || n == len(b) {
		return n, err
	}
	file, err := t.waitable()
	if err != nil {
		return n, err
	}
	waited, err := file.Write(b[n:])
	return n + waited, err
}

func (t *bareTransport) SetWriteDeadline(at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.deadline = at
	if t.file == nil {
		return nil
	}
	return t.file.SetWriteDeadline(at)
}

func (t *bareTransport) late() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return passed(t.deadline, time.Now())
}

func (t *bareTransport) waitable() (*os.File, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		t.file = os.NewFile(uintptr(t.descriptor), "stream")
	}
	return t.file, t.file.SetWriteDeadline(t.deadline)
}

func (t *bareTransport) closeWrite() {
	t.discard()
	_ = syscall.Shutdown(int(t.descriptor), syscall.SHUT_WR)
}

func (t *bareTransport) close() {
	t.discard()
	if t.file != nil {
		_ = t.file.Close()
		return
	}
	_ = syscall.Close(int(t.descriptor))
}
