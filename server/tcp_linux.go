package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h, which syscall lacks.
const tcpUserTimeout = 18

// setUserTimeout bounds how long what was sent may stay unacknowledged.
func setUserTimeout(conn *net.TCPConn, timeout time.Duration) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(timeout.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}

// closeListener closes a listener, and returns those who have connected and were
// not accepted yet. The kernel would reset them, with a request perhaps that was
// sent already.
func closeListener(listener net.Listener) (waiting []net.Conn, err error) {
	defer func() { err = errors.Join(err, listener.Close()) }()
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return nil, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	var sockets []int
	err = raw.Control(func(fd uintptr) {
		for {
			socket, _, err := syscall.Accept4(int(fd), syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
			if errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.ECONNABORTED) {
				continue
			}
			if err != nil {
				break
			}
			sockets = append(sockets, socket)
		}
		// At once: who connects in between is reset after all.
		_ = syscall.Shutdown(int(fd), syscall.SHUT_RD)
	})
	for _, socket := range sockets {
		file := os.NewFile(uintptr(socket), "accepted connection")
		conn, fileErr := net.FileConn(file)
		if err = errors.Join(err, fileErr, file.Close()); conn != nil {
			waiting = append(waiting, conn)
		}
	}
	if err != nil {
		return waiting, fmt.Errorf("accept the last connections: %w", err)
	}
	return waiting, nil
}
