package protocol

import (
	"strings"

	"github.com/nlnwa/whatwg-url/url"
)

// authority is what a URL says about users and hosts, canonicalized.
type authority struct {
	username, password, hostname string
}

// maxParsedAuthority bounds the user, host and port that the URL library reads.
// It encodes all of the user again at every "@" and copies the rest of an opaque
// host at every "%": 4 kB of them take it some 40 ms (BenchmarkParseHostileTopic).
const maxParsedAuthority = 64

// parse parses a topic with the hub URL as base. Long user information is
// taken out before and encoded here, and so are long opaque hosts; nothing else
// in a URL depends on them.
func (h *HubURL) parse(topic string) (*url.Url, authority, error) {
	start, end, opaque := h.authority(topic)
	if end-start <= maxParsedAuthority {
		u, err := h.base.Parse(topic)
		if err != nil {
			return nil, authority{}, err
		}
		return u, authority{u.Username(), u.Password(), u.Hostname()}, nil
	}
	user, host := "", topic[start:end]
	before, credentials := topic[:start], strings.LastIndexByte(host, '@')
	if credentials >= 0 {
		user, host = host[:credentials], host[credentials+1:]
		before += "u@" // what has to be refused because of a user still is
	}
	name, port := host, ""
	if i := strings.IndexByte(host, ':'); i >= 0 {
		name, port = host[:i], host[i:]
	}
	opaque = opaque && name != "" && name[0] != '['
	if opaque {
		host = "a" + port
		if strings.ContainsAny(name, forbiddenInHosts) {
			host = forbiddenInHosts // is refused as well
		}
	}
	u, err := h.base.Parse(before + host + topic[end:])
	if err != nil {
		return nil, authority{}, err
	}
	a := authority{hostname: u.Hostname()}
	if opaque {
		a.hostname = encodeURLText(name, "")
	}
	username, password, _ := strings.Cut(user, ":")
	a.username, a.password = encodeURLText(username, userDelimiters), encodeURLText(password, userDelimiters)
	return u, a, nil
}

// authority returns where user, host and port of a topic are, and whether the
// host is opaque. If it has none, or characters that no topic has, start and
// end are equal.
func (h *HubURL) authority(topic string) (start, end int, opaque bool) {
	if len(topic) <= maxParsedAuthority || validateText("", topic) != nil {
		return 0, 0, false
	}
	scheme, rest, ok := splitScheme(topic)
	if !ok {
		scheme, rest = h.scheme, strings.TrimLeft(topic, " ")
	}
	delimiters := `/\?#`
	switch strings.ToLower(scheme) {
	case "http", "https", "ws", "wss", "ftp":
		after := strings.TrimLeft(rest, `/\`)
		// Without two slashes, what has the base's scheme is relative to it.
		if strings.EqualFold(scheme, h.scheme) && len(rest)-len(after) < 2 {
			return 0, 0, false
		}
		rest = after
	case "file":
		return 0, 0, false
	default:
		if !strings.HasPrefix(rest, "//") {
			return 0, 0, false
		}
		rest, delimiters, opaque = rest[2:], "/?#", true
	}
	start = len(topic) - len(rest)
	if i := strings.IndexAny(rest, delimiters); i >= 0 {
		end = start + i
	} else {
		end = start + len(strings.TrimRight(rest, " ")) // as parsers do
	}
	return start, end, opaque
}

// forbiddenInHosts are the characters of topics that opaque hosts have not and
// that do not end them.
const forbiddenInHosts = ` <>[\]^|`

// userDelimiters are percent-encoded in user names and passwords.
const userDelimiters = " \"#<>?`{}/:;=@[\\]^|"

// encodeURLText percent-encodes what is not ASCII, and the bytes given. The
// text has no control characters.
func encodeURLText(s, also string) string {
	const hex = "0123456789ABCDEF"
	var out strings.Builder
	for i := range len(s) {
		if c := s[i]; c < 0x7F && strings.IndexByte(also, c) < 0 {
			out.WriteByte(c)
		} else {
			out.Write([]byte{'%', hex[c>>4], hex[c&0xF]})
		}
	}
	return out.String()
}
