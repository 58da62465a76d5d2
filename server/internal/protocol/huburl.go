package protocol

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nlnwa/whatwg-url/url"
)

// HubURL is a public URL of the hub in canonical form: the base of relative
// topics and patterns, and the root of the reserved namespace. It is immutable
// and safe for concurrent use.
type HubURL struct {
	href   string
	scheme string
	host   string
	port   string
	path   string
	// reserved is path with the transformations that topics get before they
	// are compared with it.
	reserved string
	// reservedEnd is the last segment of reserved, or empty if that says nothing
	// about topics: see obviouslyFree.
	reservedEnd string
	// base is only ever cloned; see ParseHubURL.
	base *url.Url
}

// ParseHubURL parses an absolute http or https URL without credentials, query
// and fragment.
func ParseHubURL(raw string) (*HubURL, error) {
	scheme, rest, ok := splitScheme(raw)
	if !ok || !isWebScheme(scheme) || !strings.HasPrefix(rest, "//") {
		return nil, fmt.Errorf("parse hub URL: %s does not start with http:// or https://", excerpt(raw))
	}
	if strings.ContainsAny(raw, "?#") {
		return nil, errors.New("parse hub URL: remove the query or fragment")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("parse hub URL: %s is not a valid URL", excerpt(raw))
	}
	if u.Username() != "" || u.Password() != "" {
		return nil, errors.New("parse hub URL: remove the user name and password")
	}
	// Resolving a reference clones the base, and cloning fills in the search
	// parameters of the original on first use. Doing that here makes every
	// later use of base read-only, hence free of data races.
	u.SearchParams()

	h := &HubURL{
		href:   u.Href(true),
		scheme: u.Scheme(),
		host:   u.Hostname(),
		port:   u.Port(),
		path:   u.Pathname(),
		base:   u,
	}
	h.reserved = comparablePath(h.path)
	if hasDriveLetter(h.reserved) {
		return nil, fmt.Errorf("parse hub URL: the path %s begins with a drive letter, which topics can spell in ways of their own; choose another one", excerpt(h.path))
	}
	if !strings.Contains(h.reserved, "%") {
		h.reservedEnd = h.reserved[strings.LastIndexByte(h.reserved, '/')+1:]
	}
	return h, nil
}

// hasDriveLetter recognizes paths that URL parsers also make of file URLs with a
// bar: file:///C|/x has the path /C:/x.
func hasDriveLetter(path string) bool {
	return len(path) >= 3 && isAlpha(path[1]) && path[2] == ':' && (len(path) == 3 || path[3] == '/')
}

// String returns the canonical URL.
func (h *HubURL) String() string { return h.href }

// Path returns the canonical path, which starts with a slash.
func (h *HubURL) Path() string { return h.path }

// Namespace returns the path under which topics are reserved: Path, spelled as
// the paths of topics are before they are compared with it.
//
// Spec: N-2 step 6
func (h *HubURL) Namespace() string { return h.reserved }

// Origin returns scheme, host and, unless it is the default one, port.
func (h *HubURL) Origin() string {
	if h.port == "" {
		return h.scheme + "://" + h.host
	}
	return h.scheme + "://" + h.host + ":" + h.port
}

// Reserved reports whether topic lies in the namespace under the hub's own
// path, where only the hub may publish. Host and scheme do not matter.
//
// Spec: N-2, N-4
func (h *HubURL) Reserved(topic string) bool {
	if h.obviouslyFree(topic) {
		return false
	}
	return h.reservedByParsing(topic)
}

// obviouslyFree spares nearly all topics the URL parser, which was a fourteenth
// of what a publish costs; false says nothing. mercure.is_ordinary_update has the
// same rule.
//
// A path is reserved if it has the last segment of the hub's. It has that either
// from the topic, spelled so or with percent signs, or from the hub URL, which
// lends its whole path to references without a path of their own only: what has
// a letter or a digit in front of its end, query or fragment, with at most a slash in
// between, has a path, or a host, whose path is "/".
func (h *HubURL) obviouslyFree(topic string) bool {
	if h.reservedEnd == "" || strings.Contains(topic, h.reservedEnd) {
		return false
	}
	end := len(topic)
	for i := 0; i < len(topic); i++ {
		switch c := topic[i]; {
		case c < ' ' || c > '~' || c == '%':
			return false
		case (c == '?' || c == '#') && end == len(topic):
			end = i
		}
	}
	reference := strings.TrimSuffix(topic[:end], "/")
	if reference == "" {
		return false
	}
	last := reference[len(reference)-1]
	return isAlpha(last) || isDigit(last)
}

func (h *HubURL) reservedByParsing(topic string) bool {
	u, _, err := h.parse(topic)
	if err != nil || u.OpaquePath() {
		return false
	}
	path := comparablePath(u.Pathname())
	rest, under := strings.CutPrefix(path, h.reserved)
	return under && (rest == "" || rest[0] == '/')
}

// comparablePath undoes the ways to spell one path differently that survive
// URL parsing. Spec: N-2 steps 4 and 5
func comparablePath(path string) string {
	return removeDotSegments(DecodeUnreserved(path))
}

// DecodeUnreserved decodes percent-triplets of unreserved characters, once:
// what is left are spellings of different things.
func DecodeUnreserved(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if c, ok := percentTriplet(s[i:]); ok && isUnreserved(c) {
			out = append(out, c)
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

func isUnreserved(c byte) bool {
	return isAlpha(c) || isDigit(c) || c == '-' || c == '.' || c == '_' || c == '~'
}

// removeDotSegments resolves "." and ".." in a path that starts with a slash.
func removeDotSegments(path string) string {
	if !strings.Contains(path, "/.") {
		return path
	}
	segments := strings.Split(path, "/")
	kept := segments[:0]
	for i, segment := range segments {
		last := i == len(segments)-1
		switch segment {
		case ".":
		case "..":
			// kept[0] is the empty string before the leading slash.
			if len(kept) > 1 {
				kept = kept[:len(kept)-1]
			}
		default:
			kept = append(kept, segment)
			continue
		}
		if last {
			// A dot segment at the end leaves the slash before it.
			kept = append(kept, "")
		}
	}
	return strings.Join(kept, "/")
}

// components are the parts of a parsed URL that patterns look at.
type components struct {
	protocol, username, password, hostname, port, pathname, search, hash string
	// indexKey is what index prefixes of URL patterns are compared with.
	indexKey string
}

// resolve parses a topic with the hub URL as base; nil if it does not parse.
//
// Spec: M-8, M-10
func (h *HubURL) resolve(topic string) *components {
	u, a, err := h.parse(topic)
	if err != nil {
		return nil
	}
	c := &components{
		protocol: u.Scheme(),
		username: a.username,
		password: a.password,
		hostname: a.hostname,
		port:     u.Port(),
		pathname: u.Pathname(),
		search:   u.Query(),
		hash:     u.Fragment(),
	}
	c.indexKey = c.protocol + indexSeparator + c.hostname + indexSeparator + c.port + indexSeparator + c.pathname
	return c
}

// resolvesWithoutBase reports whether topic parses to the same URL whatever
// the hub URL is. It may say no when in doubt: the answer only decides whether
// a parsed topic is shared between hub URLs.
func resolvesWithoutBase(topic string) bool {
	scheme, rest, ok := splitScheme(topic)
	if !ok {
		return false
	}
	// "https:path" is relative to a base of the same scheme; with two slashes
	// it never is. Hub URLs are http or https.
	return !isWebScheme(scheme) || strings.HasPrefix(rest, "//")
}

// splitScheme cuts a leading URL scheme off, ignoring the leading characters
// that URL parsers strip.
func splitScheme(s string) (scheme, rest string, ok bool) {
	s = strings.TrimLeftFunc(s, func(r rune) bool { return r <= ' ' })
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case isAlpha(c):
		case i > 0 && (isDigit(c) || c == '+' || c == '-' || c == '.'):
		case i > 0 && c == ':':
			return s[:i], s[i+1:], true
		default:
			return "", "", false
		}
	}
	return "", "", false
}

func isWebScheme(scheme string) bool {
	return strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")
}
