package server

import (
	"context"
	"net"
	"time"
)

// keepAlive finds out within a minute that a peer is gone without a word while
// nothing is sent to it.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 20 * time.Second, Interval: 10 * time.Second, Count: 3}

// silentPeerTimeout is the same for a peer that something was sent to. Left to
// itself the kernel goes on trying for a quarter of an hour, and takes
// heartbeats all the while.
const silentPeerTimeout = 40 * time.Second

// sendBufferBytes is what the kernel may hold for one connection (it takes twice
// as much). Left to itself it holds 4 MB for each reader that is slow, and
// reports progress only a megabyte at a time, so that a reader of 100 kB/s looks
// stuck.
const sendBufferBytes = 128 << 10

// configureConn bounds what a connection costs. All of these are wishes: the
// connection works without.
func (s *Server) configureConn(ctx context.Context, conn net.Conn) context.Context {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return ctx
	}
	_ = tcp.SetWriteBuffer(sendBufferBytes)
	// The kernel counts a peer that is alive and takes nothing among the silent
	// ones. Those are the dispatch timeout's.
	if s.config.DispatchTimeout > 0 {
		_ = setUserTimeout(tcp, max(silentPeerTimeout, 2*s.config.DispatchTimeout))
	}
	return ctx
}
