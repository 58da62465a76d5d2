package server

import (
	"context"
	"math/rand/v2"
	"net"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/httpapi"
)

// keepAlive and silentPeerTimeout find out within a minute, together, that a peer
// is gone without a word: what is sent to it shortly before keep-alive would have
// given it up, a heartbeat for one, is waited for anew.

// keepAlive is for peers that nothing is sent to.
//
// It begins at another time for each. Kernels fire timers of seconds in bundles of
// a quarter of a second, so the probes of thousands of streams that were opened in
// a rush, and then heard nothing, left at once: more than a queue of 1,000 packets
// takes, always the same ones were dropped, and peers that were alive given up. So
// spread, a bundle has a 28th of what a second opened, times the seconds the rush
// took, up to seven; and who met once does not meet again.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{
		Enable:   true,
		Idle:     time.Duration(8+rand.IntN(7)) * time.Second,
		Interval: time.Duration(4+rand.IntN(2)) * time.Second,
		Count:    3,
	}
}

// silentPeerTimeout is for one that something was sent to. Left to itself the
// kernel goes on trying for a quarter of an hour, and takes heartbeats all the
// while. Keep-alive heeds it, too, so it is longer than until the last probe.
const silentPeerTimeout = 26 * time.Second

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
	_ = tcp.SetKeepAliveConfig(keepAlive())
	_ = tcp.SetWriteBuffer(sendBufferBytes)
	// The kernel counts a peer that is alive and takes nothing among the silent
	// ones. Those are the dispatch timeout's.
	if s.config.DispatchTimeout > 0 {
		_ = setUserTimeout(tcp, max(silentPeerTimeout, 2*s.config.DispatchTimeout))
	}
	return httpapi.WithConn(ctx, conn)
}
