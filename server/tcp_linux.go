package server

import (
	"errors"
	"math"
	"net"
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

// ignoreNew lets nobody begin to connect any more: they try again a second
// later, and are refused by then. Those who have begun may finish.
func ignoreNew(listener net.Listener) error {
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	const (
		flagsOffset = 13 // in the header of a segment
		synAndAck   = 0x12
		syn         = 0x02
	)
	filter := []syscall.SockFilter{
		{Code: syscall.BPF_LD | syscall.BPF_B | syscall.BPF_ABS, K: flagsOffset},
		{Code: syscall.BPF_ALU | syscall.BPF_AND | syscall.BPF_K, K: synAndAck},
		{Code: syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, K: syn, Jf: 1},
		{Code: syscall.BPF_RET | syscall.BPF_K, K: 0},
		{Code: syscall.BPF_RET | syscall.BPF_K, K: math.MaxUint32},
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = syscall.AttachLsf(int(fd), filter) //nolint:staticcheck // what replaces it attaches nothing by itself
	})
	return errors.Join(err, failed)
}
