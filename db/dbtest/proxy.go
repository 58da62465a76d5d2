package dbtest

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Fault is what a Proxy does to what passes through it.
type Fault struct {
	// Hold lets nothing through in either direction, and answers no new connection, as a network does that has become
	// a black hole. What was held back arrives when the fault is over.
	Hold bool
	// Deaf is Hold for new connections only: they are accepted and never answered.
	Deaf bool
	// Refuse resets new connections.
	Refuse bool
	// HoldFrom holds a connection once its client sends a message with this text, that message included, until it is
	// cut. The others go on.
	HoldFrom string
	// HoldAnswer lets a message of a client with this text through, and holds what the server answers the connection from
	// then on, until it is cut.
	HoldAnswer string
	// BytesPerSecond limits each direction of each connection; 0: no limit.
	BytesPerSecond int
}

// Proxy stands between a hub and its database, to disturb what they say to each other.
type Proxy struct {
	// DB is the database as seen through the proxy.
	DB *DB

	listener net.Listener
	target   string
	ctx      context.Context // ends with the proxy
	cancel   context.CancelFunc
	group    sync.WaitGroup

	mu      sync.Mutex
	fault   Fault
	changed chan struct{} // closed and replaced when fault changes or connections are cut
	pairs   map[*pair]struct{}
	watched map[string]int
}

// pair is one connection. Guarded by Proxy.mu, apart from what net.Conn guards.
type pair struct {
	client, server net.Conn // server is nil until it is connected
	held, cut      bool
	unanswered     bool
}

// NewProxy starts a proxy, without a fault, which ends with t. The database must be one of [NewServer], or reachable over
// TCP without TLS.
func NewProxy(t testing.TB, db *DB) *Proxy {
	t.Helper()
	config, err := pgx.ParseConfig(db.URL)
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	address, err := url.Parse(db.URL)
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	target := address.Host
	address.Host = listener.Addr().String()
	p := &Proxy{
		DB: &DB{URL: address.String()}, listener: listener, target: target,
		changed: make(chan struct{}), pairs: map[*pair]struct{}{}, watched: map[string]int{},
	}
	if config.TLSConfig != nil {
		t.Fatalf("dbtest: a proxy cannot look into connections with TLS")
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.group.Go(p.accept)
	t.Cleanup(func() {
		p.cancel()
		_ = listener.Close()
		p.Cut()
		p.group.Wait()
	})
	return p
}

// Set begins a fault, or ends it with the zero value. It is one for open connections, too.
func (p *Proxy) Set(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
	p.notify()
}

// Cut resets every connection.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.cut = true
		reset(c.client)
		if c.server != nil {
			reset(c.server)
		}
	}
	p.notify()
}

// Count returns how many messages of clients had the text, since it was first asked for.
func (p *Proxy) Count(text string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watched[text] += 0
	return p.watched[text]
}

// Connections is how many there are.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pairs)
}

func (p *Proxy) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // with RST, as a firewall does
	}
	_ = conn.Close()
}

// accept ends when the listener is closed.
func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.fault.Refuse || p.ctx.Err() != nil
		c := &pair{client: conn}
		if !refuse {
			p.pairs[c] = struct{}{}
		}
		p.mu.Unlock()
		if refuse {
			reset(conn)
			continue
		}
		p.group.Go(func() { p.serve(c) })
	}
}

// serve ends when the connection does.
func (p *Proxy) serve(c *pair) {
	defer func() {
		_ = c.client.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.pairs, c)
	}()
	if !p.await(c, func(f Fault) bool { return !f.Hold && !f.Deaf }) {
		return
	}
	server, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.target)
	if err != nil {
		reset(c.client)
		return
	}
	defer func() { _ = server.Close() }()
	p.mu.Lock()
	c.server = server
	cut := c.cut
	p.mu.Unlock()
	if cut {
		return
	}
	var directions sync.WaitGroup
	directions.Go(func() { p.carry(c, server, c.client, true) })
	directions.Go(func() { p.carry(c, c.client, server, false) })
	directions.Wait()
}

// carry carries one direction, and ends the connection when it ends.
func (p *Proxy) carry(c *pair, to, from net.Conn, fromClient bool) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if fromClient {
			p.inspect(c, buffer[:n])
		}
		if !p.await(c, func(f Fault) bool { return !f.Hold && !c.held && (fromClient || !c.unanswered) }) || !p.brake(n) {
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) inspect(c *pair, message []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for text := range p.watched {
		p.watched[text] += bytes.Count(message, []byte(text))
	}
	if p.fault.HoldFrom != "" && bytes.Contains(message, []byte(p.fault.HoldFrom)) {
		c.held = true
	}
	if p.fault.HoldAnswer != "" && bytes.Contains(message, []byte(p.fault.HoldAnswer)) {
		c.unanswered = true
	}
}

// await waits until a connection may go on; false: it is over. may is called with Proxy.mu held.
func (p *Proxy) await(c *pair, may func(Fault) bool) bool {
	for {
		p.mu.Lock()
		ready, over, changed := may(p.fault), c.cut, p.changed
		p.mu.Unlock()
		if over || p.ctx.Err() != nil {
			return false
		}
		if ready {
			return true
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
		}
	}
}

// brake takes as long as n bytes take; false: the proxy has ended.
func (p *Proxy) brake(n int) bool {
	p.mu.Lock()
	limit := p.fault.BytesPerSecond
	p.mu.Unlock()
	if limit == 0 {
		return true
	}
	timer := time.NewTimer(time.Duration(n) * time.Second / time.Duration(limit))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}
