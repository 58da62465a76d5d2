package keyset

import (
	"net/netip"
	"strings"
	"testing"
)

// Spec: V-15, Z-14.
func TestGuard(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "172.15.255.255": true, "172.32.0.0": true, "100.63.255.255": true, "100.128.0.0": true,
		"11.0.0.0": true, "223.255.255.255": true, "192.0.1.0": true,
		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "127.0.0.1": false, "127.255.255.255": false, "169.254.169.254": false,
		"172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "100.64.0.1": false, "100.127.255.255": false,
		"192.0.0.192": false, "192.0.2.1": false, "192.88.99.1": false, "198.18.0.1": false, "198.19.255.255": false,
		"198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false,

		"[2a00:1450:4001:80b::200e]": true, "[2606:4700::1111]": true,
		"[::]": false, "[::1]": false, "[::ffff:127.0.0.1]": false, "[::ffff:10.0.0.1]": false, "[::ffff:8.8.8.8]": true,
		"[::7f00:1]": false, "[fe80::1]": false, "[fe80::1%eth0]": false, "[fec0::1]": false, "[fc00::1]": false, "[fd12::1]": false,
		"[ff02::1]": false, "[64:ff9b::a00:1]": false, "[64:ff9b:1::a00:1]": false, "[2001::1]": false, "[2001:db8::1]": false,
		"[2002:a00:1::]": false, "[3fff::1]": false, "[100::1]": false, "[5f00::1]": false,
		"localhost": false, "": false,
	} {
		err := newGuard(nil).control(t.Context(), "tcp", address+":443", nil)
		if got := err == nil; got != want {
			t.Errorf("%s: got %v", address, err)
		}
	}
}

// Spec: V-15.
func TestGuardNetworks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		network, address string
		want             bool
	}{
		{"10.0.0.0/8", "10.1.2.3", true},
		{"10.0.0.0/8", "[::ffff:10.1.2.3]", true},
		{"10.0.0.0/8", "11.1.2.3", true}, // public all the same
		{"10.0.0.0/8", "192.168.0.1", false},
		{"10.0.0.0/8", "[::a01:203]", false},
		{"::ffff:10.0.0.0/104", "10.1.2.3", true},
		{"::ffff:10.0.0.0/104", "192.168.0.1", false},
		{"fd00::/8", "[fd12::1]", true},
		{"fd00::/8", "[fc12::1]", false},
		{"fe80::/10", "[fe80::1%eth0]", true},
		{"64:ff9b::/96", "[64:ff9b::808:808]", true},
	} {
		err := newGuard([]netip.Prefix{netip.MustParsePrefix(tc.network)}).control(t.Context(), "tcp", tc.address+":443", nil)
		if got := err == nil; got != tc.want {
			t.Errorf("%s in %s: got %v", tc.address, tc.network, err)
		}
		if err != nil && !strings.Contains(err.Error(), "MERCURE_JWKS_NETWORKS") {
			t.Errorf("%s: the setting is not named: %v", tc.address, err)
		}
	}
}
