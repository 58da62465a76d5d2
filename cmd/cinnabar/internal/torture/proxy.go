package torture

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// proxy stands between a node and PostgreSQL, to disturb what they say to each
// other.
type proxy struct {
	listener net.Listener
	// network and address are those of PostgreSQL.
	network, address string
	// ctx ends with the proxy; its goroutines wait on it.
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{} // both ends of every connection
	mode  proxyMode
	// changed is closed and replaced with every change of mode.
	changed chan struct{}
}

// proxyMode is how the proxy treats its connections. The zero value lets
// everything through.
type proxyMode struct {
	// hold keeps back what comes, in both directions.
	hold bool
	// deaf leaves new connections waiting for an answer.
	deaf bool
	// bytesPerSecond limits each direction of each connection; 0: no limit.
	bytesPerSecond int
}

func newProxy(ctx context.Context, network, address string) (*proxy, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{
		listener: listener, network: network, address: address,
		conns: map[net.Conn]struct{}{}, changed: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.group.Go(p.accept)
	return p, nil
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// accept ends when the listener is closed.
func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // too many files; the next one may fare better
			p.pause(10 * time.Millisecond)
			continue
		}
		p.group.Go(func() { p.serve(conn) })
	}
}

// serve ends when the connection does.
func (p *proxy) serve(client net.Conn) {
	if !p.add(client) {
		return
	}
	defer p.remove(client)
	if !p.awaitMode(func(m proxyMode) bool { return !m.deaf }) {
		return
	}
	server, err := (&net.Dialer{}).DialContext(p.ctx, p.network, p.address)
	if err != nil {
		return
	}
	if !p.add(server) {
		return
	}
	defer p.remove(server)
	var directions sync.WaitGroup
	directions.Go(func() { p.copy(server, client) })
	directions.Go(func() { p.copy(client, server) })
	directions.Wait()
}

// copy carries one direction, and ends the connection when it ends.
func (p *proxy) copy(to, from net.Conn) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
	}()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer[:p.chunk(len(buffer))])
		if err != nil {
			return
		}
		if !p.awaitMode(func(m proxyMode) bool { return !m.hold }) || !p.brake(n) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// chunk keeps what is carried at once small on a slow link.
func (p *proxy) chunk(most int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode.bytesPerSecond == 0 {
		return most
	}
	return min(most, max(1, p.mode.bytesPerSecond/20))
}

// brake takes as long as n bytes take.
func (p *proxy) brake(n int) bool {
	p.mu.Lock()
	limit := p.mode.bytesPerSecond
	p.mu.Unlock()
	return limit == 0 || p.pause(time.Duration(n)*time.Second/time.Duration(limit))
}

func (p *proxy) pause(d time.Duration) bool { return sleep(p.ctx, d) }

// awaitMode waits until the mode is as wanted; false: the proxy was closed.
func (p *proxy) awaitMode(wanted func(proxyMode) bool) bool {
	for {
		p.mu.Lock()
		mode, changed := p.mode, p.changed
		p.mu.Unlock()
		if wanted(mode) {
			return true
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return false
		}
	}
}

// set changes how connections are treated, also those that are open.
func (p *proxy) set(mode proxyMode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = mode
	close(p.changed)
	p.changed = make(chan struct{})
}

// cut resets every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // with RST, as a firewall does
		}
		_ = conn.Close()
	}
}

func (p *proxy) add(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		_ = conn.Close()
		return false
	}
	p.conns[conn] = struct{}{}
	return true
}

func (p *proxy) remove(conn net.Conn) {
	p.mu.Lock()
	delete(p.conns, conn)
	p.mu.Unlock()
	_ = conn.Close()
}

// close ends the proxy and everything it carries.
func (p *proxy) close() {
	p.cancel()
	_ = p.listener.Close()
	p.cut()
	p.group.Wait()
}

// sleep waits; false: ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
