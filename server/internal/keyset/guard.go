package keyset

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
)

// internal are the IPv4 addresses that are not somebody's on the Internet
// (RFC 6890 and its successors).
var internal = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
)

// Of IPv6, public are those in global but for those in special: protocol
// assignments with Teredo, documentation, and 6to4, which like NAT64 (outside
// of global) may lead to any IPv4 address.
var (
	global  = netip.MustParsePrefix("2000::/3")
	special = prefixes("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// guard keeps the hub from being made to contact what is behind its firewall.
//
// Spec: V-15, Z-14.
type guard struct{ allowed []netip.Prefix }

func newGuard(networks []netip.Prefix) guard {
	allowed := make([]netip.Prefix, 0, len(networks))
	for _, network := range networks {
		// Addresses are compared in their IPv4 form.
		if network.Addr().Is4In6() && network.Bits() >= 96 {
			network = netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
		}
		allowed = append(allowed, network)
	}
	return guard{allowed: allowed}
}

// control is called by the dialer with each address that a name stands for,
// right before the connection is made to it: whatever a name server says, and
// says differently the next time, this address is the one.
func (g guard) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%q is not an address", address)
	}
	if addr := target.Addr().Unmap().WithZone(""); !g.allows(addr) {
		return fmt.Errorf("the address %s is internal: add its network to MERCURE_JWKS_NETWORKS if key sets may be fetched from there", addr)
	}
	return nil
}

func (g guard) allows(addr netip.Addr) bool {
	return isPublic(addr) || contains(g.allowed, addr)
}

func isPublic(addr netip.Addr) bool {
	if addr.Is4() {
		return !contains(internal, addr)
	}
	return global.Contains(addr) && !contains(special, addr)
}

func contains(list []netip.Prefix, addr netip.Addr) bool {
	for _, prefix := range list {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}
