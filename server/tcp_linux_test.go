package server

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// That the kernel keeps to what it is told is its own affair; that it is told
// is ours.
func TestSilentPeersAreGivenUp(t *testing.T) {
	t.Parallel()
	for dispatch, want := range map[time.Duration]time.Duration{
		0:                0, // the operator wants to wait
		5 * time.Second:  silentPeerTimeout,
		60 * time.Second: 2 * time.Minute,
	} {
		t.Run(dispatch.String(), func(t *testing.T) {
			t.Parallel()
			s := &Server{config: Config{DispatchTimeout: dispatch}}
			conn := accepted(t)
			s.configureConn(t.Context(), conn)
			if got := time.Duration(tcpOption(t, conn, tcpUserTimeout)) * time.Millisecond; got != want {
				t.Errorf("the kernel waits %s, want %s", got, want)
			}
			idle, interval, count := tcpOption(t, conn, syscall.TCP_KEEPIDLE), tcpOption(t, conn, syscall.TCP_KEEPINTVL), tcpOption(t, conn, syscall.TCP_KEEPCNT)
			lastProbe := time.Duration(idle+interval*(count-1)) * time.Second
			noticed := time.Duration(idle+interval*count) * time.Second
			if noticed+silentPeerTimeout > time.Minute-2*time.Second || lastProbe >= silentPeerTimeout {
				t.Errorf("keep-alive probes until %s and takes %s, beside %s for what was sent", lastProbe, noticed, silentPeerTimeout)
			}
		})
	}
}

// accepted is the hub's side of a connection.
func accepted(t *testing.T) net.Conn {
	t.Helper()
	listener, err := (&net.ListenConfig{KeepAlive: -1}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	client, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func tcpOption(t *testing.T, conn net.Conn, name int) (value int) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn() //nolint:forcetypeassert // of a TCP listener
	if err != nil {
		t.Fatal(err)
	}
	if controlErr := raw.Control(func(fd uintptr) {
		value, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, name)
	}); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return value
}

// Probes of streams that were opened together must not leave together.
func TestKeepAliveIsSpread(t *testing.T) {
	t.Parallel()
	s := &Server{}
	begins := map[int]int{}
	for range 200 {
		conn := accepted(t)
		s.configureConn(t.Context(), conn)
		begins[tcpOption(t, conn, syscall.TCP_KEEPIDLE)]++
	}
	for begin, n := range begins {
		if n > 65 { // of 200 among seven; the odds are 1 in 10^9
			t.Errorf("%d of 200 connections are probed after %d s: %v", n, begin, begins)
		}
	}
}
