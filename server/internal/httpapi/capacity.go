package httpapi

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
)

// capacity counts streams and refuses those beyond a limit.
//
// Spec: S-13.
type capacity struct {
	max, maxPerAddress int // zero: no limit

	mu        sync.Mutex
	streams   int
	byAddress map[netip.Prefix]int // those with a stream only

	uncounted func() // release, made once: each stream keeps what it gets
}

func newCapacity(limit, perAddress int) *capacity {
	c := &capacity{max: limit, maxPerAddress: perAddress, byAddress: map[netip.Prefix]int{}}
	c.uncounted = c.release
	return c
}

// errTooManyPatterns is for matchers that would make every publish slower.
var errTooManyPatterns = &problem{
	status: http.StatusTooManyRequests, code: "too-many-patterns", retry: retrySeconds,
	detail: "The hub has as many patterns without a literal host as it may; subscribe to a pattern that names its scheme and host, or try again later.",
	reason: "as many distinct patterns without a literal host are subscribed to as MERCURE_MAX_UNANCHORED_PATTERNS allows",
}

// take counts a stream until release is called, exactly once. A problem: there
// is no room for it.
func (c *capacity) take(client netip.Addr) (release func(), full *problem) {
	network := networkOf(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.max > 0 && c.streams >= c.max {
		return nil, &problem{
			status: http.StatusTooManyRequests, code: "too-many-streams", retry: retrySeconds,
			detail: "The hub has as many streams as it may; try again later.",
			reason: "as many streams are open as MERCURE_MAX_STREAMS allows",
		}
	}
	// An address that is not known cannot be told from others.
	counted := c.maxPerAddress > 0 && network.IsValid()
	if counted && c.byAddress[network] >= c.maxPerAddress {
		return nil, &problem{
			status: http.StatusTooManyRequests, code: "too-many-streams", retry: retrySeconds,
			detail: "Too many streams are open from this address; close one, or put several matchers into one stream.",
			reason: "as many streams of " + network.String() + " are open as MERCURE_MAX_STREAMS_PER_ADDRESS allows",
		}
	}
	c.streams++
	if counted {
		c.byAddress[network]++
	}
	if !counted {
		return c.uncounted, nil
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.streams--
		if c.byAddress[network]--; c.byAddress[network] == 0 {
			delete(c.byAddress, network)
		}
	}, nil
}

func (c *capacity) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams--
}

// networkOf is what counts as one address. Who has an IPv6 address has all of
// its /64.
func networkOf(client netip.Addr) netip.Prefix {
	client = client.Unmap().WithZone("")
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	network, err := client.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

// clientAddress is who made a request: the peer or, if that is a trusted proxy,
// whom the proxies say they had it from. What stands further left than the
// first address that is no trusted proxy's, anybody may have written.
//
// Spec: Z-15.
func (h *hubResolver) clientAddress(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	client := peer.Addr().Unmap()
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for i := len(hops) - 1; i >= 0 && h.isProxy(client); i-- {
		hop, ok := parseHop(hops[i])
		if !ok {
			break
		}
		client = hop
	}
	return client
}

// parseHop reads an element of X-Forwarded-For, which some proxies write with
// a port.
func parseHop(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if address, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return address.Unmap().WithZone(""), true
	}
	address, err := netip.ParseAddrPort(s)
	return address.Addr().Unmap().WithZone(""), err == nil
}
