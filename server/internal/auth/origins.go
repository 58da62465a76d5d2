package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Origins is a list of web origins, as used for publishing with cookies
// and for CORS (section 13). The nil list matches nothing. It is immutable and
// safe for concurrent use.
type Origins struct {
	all      bool
	null     bool
	exact    map[string]bool
	suffixes []originSuffix
	// localhost allows every port of the machine itself.
	localhost bool
}

// originSuffix is an entry such as https://*.example.com:8443.
type originSuffix struct {
	prefix string // "https://"
	suffix string // ".example.com:8443"
}

// ParseOrigins reads a list separated by spaces or commas. The empty list
// matches nothing. The error names every bad entry.
//
// An entry is *, null, scheme://host with an optional port, the same with *.
// before the host (any subdomain, at any depth, but not the host itself), or a
// custom scheme without a host, such as capacitor://.
//
// Spec: A-8.
func ParseOrigins(list string) (*Origins, error) {
	o := &Origins{exact: map[string]bool{}}

	var problems []error

	for entry := range strings.FieldsFuncSeq(list, isListSeparator) {
		if err := o.add(entry); err != nil {
			problems = append(problems, fmt.Errorf("origin %s: %w", quote(entry), err))
		}
	}

	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}

	return o, nil
}

func isListSeparator(r rune) bool {
	return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r'
}

func (o *Origins) add(entry string) error {
	switch entry {
	case "*":
		o.all = true

		return nil
	case "null":
		o.null = true

		return nil
	}

	scheme, rest, ok := strings.Cut(entry, "://")
	if !ok {
		return errors.New("write it as scheme://host, such as https://app.example.com")
	}

	wildcard := false
	if after, found := strings.CutPrefix(rest, "*."); found {
		wildcard, rest = true, after
	}

	origin, err := canonicalOrigin(scheme, rest)
	if err != nil {
		return err
	}

	if !wildcard {
		o.exact[origin] = true

		return nil
	}

	prefix, host, _ := strings.Cut(origin, "://")
	if host == "" || host[0] == '[' || isIPv4(host) {
		return errors.New("*. needs a domain name after it")
	}

	o.suffixes = append(o.suffixes, originSuffix{prefix: prefix + "://", suffix: "." + host})

	return nil
}

// Any reports whether the list contains *. For CORS this decides between
// answering * and answering the origin (C-2).
func (o *Origins) Any() bool {
	return o != nil && o.all
}

// Empty reports whether the list matches nothing at all.
func (o *Origins) Empty() bool {
	return o == nil || (!o.all && !o.null && len(o.exact) == 0 && len(o.suffixes) == 0 && !o.localhost)
}

// Match reports whether the value of an Origin field is in the list. The
// entry * matches every value, null included.
func (o *Origins) Match(origin string) bool {
	if o == nil {
		return false
	}

	return o.all || o.listed(origin)
}

// WithLocalhost returns the list with every http and https origin of the
// machine itself added, whatever its port. For development: on a shared
// machine those belong to anybody.
func (o *Origins) WithLocalhost() *Origins {
	added := &Origins{}
	if o != nil {
		*added = *o
	}

	added.localhost = true

	return added
}

func isLocalhost(origin string) bool {
	scheme, host, _ := strings.Cut(origin, "://")
	if scheme != "http" && scheme != "https" {
		return false
	}

	if at := strings.LastIndexByte(host, ':'); at > strings.LastIndexByte(host, ']') {
		host = host[:at]
	}

	return host == "localhost" || host == "127.0.0.1" || host == "[::1]"
}

// mayPublish is Match for cookies: the opaque origin null, which any sandboxed
// frame can have, must be listed by name; * does not cover it.
//
// Spec: A-7.
func (o *Origins) mayPublish(origin string) bool {
	if o == nil {
		return false
	}

	return (o.all && origin != "null" && origin != "") || o.listed(origin)
}

func (o *Origins) listed(origin string) bool {
	if origin == "null" {
		return o.null
	}

	canonical, ok := parseOrigin(origin)
	if !ok {
		return false
	}

	if o.exact[canonical] || o.localhost && isLocalhost(canonical) {
		return true
	}

	for _, s := range o.suffixes {
		rest, found := strings.CutPrefix(canonical, s.prefix)
		// No valid host starts with a dot, so the wildcard stands for at least
		// one label.
		if found && strings.HasSuffix(rest, s.suffix) {
			return true
		}
	}

	return false
}

// parseOrigin reads the value of an Origin field other than null.
func parseOrigin(value string) (string, bool) {
	scheme, authority, ok := strings.Cut(value, "://")
	if !ok {
		return "", false
	}

	canonical, err := canonicalOrigin(scheme, authority)

	return canonical, err == nil
}

// canonicalOrigin checks the two parts of an origin and puts them together
// the way browsers write it: lower case, IPv6 addresses in their short form,
// no default port.
func canonicalOrigin(scheme, authority string) (string, error) {
	if !isScheme(scheme) {
		return "", errors.New("the part before :// is not a scheme")
	}

	scheme = strings.ToLower(scheme)

	if authority == "" {
		if defaultPort(scheme) != "" {
			return "", errors.New("the host is missing")
		}

		return scheme + "://", nil
	}

	if i := strings.IndexAny(authority, "/?#@"); i >= 0 {
		switch authority[i] {
		case '/':
			return "", errors.New("an origin has no path, not even a trailing slash")
		case '@':
			return "", errors.New("an origin has no user name or password")
		default:
			return "", errors.New("an origin has no query and no fragment")
		}
	}

	host, port, err := splitPort(authority)
	if err != nil {
		return "", err
	}

	host, ok := canonicalHost(host)
	if !ok {
		return "", errors.New("the host is not valid; write international names in their xn-- form, and * only as a whole first label")
	}

	if port != "" && port != defaultPort(scheme) {
		host += ":" + port
	}

	return scheme + "://" + host, nil
}

func splitPort(authority string) (host, port string, err error) {
	host = authority

	// The colons inside the brackets of an IPv6 address are not ours.
	if i := strings.LastIndexByte(authority, ':'); i > strings.LastIndexByte(authority, ']') {
		host, port = authority[:i], authority[i+1:]

		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return "", "", errors.New("the port is not a number from 1 to 65535")
		}

		port = strconv.FormatUint(n, 10)
	}

	return host, port, nil
}

func defaultPort(scheme string) string {
	switch scheme {
	case "http", "ws":
		return "80"
	case "https", "wss":
		return "443"
	default:
		return ""
	}
}

func isScheme(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'

		if !letter && (i == 0 || !isDigit(c) && c != '+' && c != '-' && c != '.') {
			return false
		}
	}

	return s != ""
}

func canonicalHost(s string) (string, bool) {
	if inner, found := strings.CutPrefix(s, "["); found {
		inner, closed := strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)

		if !closed || err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", false
		}

		return "[" + addr.String() + "]", true
	}

	return strings.ToLower(s), isDomain(s)
}

func isDomain(s string) bool {
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" {
			return false
		}

		for i := range len(label) {
			c := label[i]
			if c|0x20 < 'a' || c|0x20 > 'z' {
				if !isDigit(c) && c != '-' && c != '_' {
					return false
				}
			}
		}
	}

	return true
}

func isIPv4(host string) bool {
	host, _, _ = strings.Cut(host, ":")
	addr, err := netip.ParseAddr(host)

	return err == nil && addr.Is4()
}

func isDigit(c byte) bool {
	return c >= '0' && c <= '9'
}
