package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

const (
	// openTimeout is how long a hub may take to open a stream: those of
	// thousands wait for their turn.
	openTimeout = 30 * time.Second
	dialTimeout = 10 * time.Second
)

var errSilent = fmt.Errorf("the hub did not answer a subscriber within %s; connect fewer at once with --connecting", openTimeout)

// target is where a node is, looked up once.
type target struct {
	url     *url.URL
	address netip.AddrPort
	tls     *tls.Config // nil for http
}

func resolve(ctx context.Context, urls []string) (targets []*target, err error) {
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		t := &target{url: u}
		port := u.Port()
		if u.Scheme == "https" {
			t.tls = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
		}
		if port == "" {
			port = u.Scheme
		}
		number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
		if err != nil {
			return nil, err
		}
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
		if err != nil {
			return nil, err
		}
		chosen := addresses[0].Unmap()
		for _, a := range addresses {
			if a = a.Unmap(); a.Is4() && a.IsLoopback() {
				chosen = a // where there are many to connect from
			}
		}
		t.address = netip.AddrPortFrom(chosen, uint16(number))
		targets = append(targets, t)
	}
	return targets, nil
}

// dial connects in the ordinary way.
func (t *target) dial(ctx context.Context, index int) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	if source := sourceAddress(t.address.Addr(), index); source.IsValid() {
		dialer.LocalAddr = &net.TCPAddr{IP: source.AsSlice()}
	}
	conn, err := dialer.DialContext(ctx, "tcp", t.address.String())
	if err != nil {
		return nil, explainDial(t, err)
	}
	if t.tls == nil {
		return conn, nil
	}
	secure := tls.Client(conn, t.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", t.url.Host, err)
	}
	return secure, nil
}

// perSource is how many streams share a source address: there are 28,000 ports
// for each.
const perSource = 10_000

// sourceAddress spreads streams to this machine over 127.0.0.x; invalid: the
// system shall choose.
func sourceAddress(to netip.Addr, index int) netip.Addr {
	if !canPoll || !to.Is4() || !to.IsLoopback() { // elsewhere only 127.0.0.1 is there
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + index/perSource%250)})
}

// explainDial says what to do about the errors that happen to everybody.
func explainDial(t *target, err error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens on %s: %w; start the hub, or name another one with --hub", t.url.Host, err)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("%w: no more connections can be opened; choose fewer --streams, more --processes, or a higher limit (ulimit -n)", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("connect to %s: %w: all ports are in use; wait a minute, or widen net.ipv4.ip_local_port_range", t.url.Host, err)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the hub at %s closes new connections: %w; has it reached its descriptor limit?", t.url.Host, err)
	}
	return fmt.Errorf("connect to %s: %w", t.url.Host, err)
}
