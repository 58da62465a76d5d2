package protocol

import (
	"errors"
	"strings"

	urlpattern "github.com/dunglas/go-urlpattern"
)

// urlPattern is a compiled URL pattern.
//
// go-urlpattern reads the pattern and canonicalizes its pieces. Evaluation is
// ours: the library would parse the topic anew for every pattern, or
// canonicalize again what was parsed, and it does not tell which literal
// prefix a pattern has. So each canonical component pattern is compiled a
// second time, into a form that works on a topic parsed once.
type urlPattern struct {
	hub *HubURL
	// keyBase is MatcherKey.Base.
	keyBase string

	protocol, username, password, hostname, port, pathname, search, hash component
}

// compileURLPattern returns the compiled pattern or the problem with it.
//
// Spec: M-9, M-11
func compileURLPattern(value string, hub *HubURL) (p *urlPattern, problem string) {
	tokens := tokenizePattern(value)
	if problem := checkPatternGroups(tokens); problem != "" {
		return nil, problem
	}
	text := renamePatternGroups(value, tokens)

	// Absolute first: with a base always supplied, patterns of opaque URIs get
	// the hub's directory glued in front of their path.
	source, file := standInForFile(text)
	parsed, err := parseWithLibrary(source, "")
	relative := err != nil
	if relative {
		parsed, err = parseWithLibrary(source, hub.href)
	}
	if err != nil {
		return nil, describePatternError(err)
	}
	protocol := parsed.Protocol()
	if file != "" {
		protocol = file
	}

	p = &urlPattern{hub: hub}
	for _, c := range []struct {
		into    *component
		pattern string
		syntax  componentSyntax
	}{
		{&p.protocol, protocol, componentSyntax{}},
		{&p.username, parsed.Username(), componentSyntax{}},
		{&p.password, parsed.Password(), componentSyntax{}},
		{&p.hostname, parsed.Hostname(), componentSyntax{delimiter: "."}},
		{&p.port, parsed.Port(), componentSyntax{}},
		{&p.hash, parsed.Hash(), componentSyntax{}},
	} {
		if *c.into, problem = compileComponent(c.pattern, c.syntax); problem != "" {
			return nil, problem
		}
	}
	pathSyntax, searchSyntax := componentSyntax{}, componentSyntax{}
	if file != "" || matchesSpecialScheme(&p.protocol) {
		pathSyntax = componentSyntax{delimiter: "/", prefix: "/", literals: pathLiterals}
		searchSyntax = componentSyntax{literals: searchLiterals}
	}
	if p.pathname, problem = compileComponent(parsed.Pathname(), pathSyntax); problem != "" {
		return nil, problem
	}
	if p.search, problem = compileComponent(parsed.Search(), searchSyntax); problem != "" {
		return nil, problem
	}
	p.keyBase = p.baseDependence(relative)
	return p, ""
}

// The library canonicalizes literals as parts of a URL without a scheme. In
// URLs of the schemes that the URL standard calls special, these characters are
// not like any other.
var (
	searchLiterals = strings.NewReplacer("'", "%27")
	pathLiterals   = strings.NewReplacer(`\`, "/")
)

// standInForFile returns the pattern to parse in place of one that matches
// file URLs and no others with segments in their paths, together with its real
// protocol pattern, or the pattern itself and nothing.
//
// The library treats paths of file URLs as opaque, so that ":name" would run
// across slashes. Another scheme with the same syntax and no use as a topic
// stands in while it parses.
func standInForFile(text string) (source, protocol string) {
	end := protocolEnd(text)
	if end < 0 || isWebScheme(text[:end]) {
		return text, ""
	}
	parsed, err := parseWithLibrary(text[:end]+"://x", "")
	if err != nil {
		return text, ""
	}
	c, problem := compileComponent(parsed.Protocol(), componentSyntax{})
	if problem != "" || !c.match("file") || matchesSpecialScheme(&c) {
		return text, ""
	}
	return "ftp" + text[end:], parsed.Protocol()
}

// protocolEnd returns where the colon after the protocol of a pattern is,
// escaped or not, or -1 if there is none. Inside of braces it is not one.
func protocolEnd(text string) int {
	braces := 0
	for i := 0; i < len(text); {
		token := nextPatternToken(text, i)
		switch token.kind {
		case tokenOpen:
			braces++
		case tokenClose:
			braces--
		case tokenChar, tokenEscapedChar, tokenInvalid:
			if braces <= 0 && strings.HasSuffix(text[token.start:token.end], ":") {
				return token.start
			}
		}
		i = token.end
	}
	return -1
}

// errPatternPanic stands for a panic of the library.
var errPatternPanic = errors.New("parsing panicked")

// parseWithLibrary contains the library's panics. At least one is known, for
// dot segments after a group ("/*a/.."), and any subscriber can send that.
func parseWithLibrary(pattern, base string) (p *urlpattern.URLPattern, err error) {
	defer func() {
		if recover() != nil {
			p, err = nil, errPatternPanic
		}
	}()
	return urlpattern.New(pattern, base, nil)
}

// matchesSpecialScheme reports whether a protocol matches schemes whose paths
// consist of segments, leaving out file.
func matchesSpecialScheme(protocol *component) bool {
	for _, scheme := range [...]string{"http", "https", "ws", "wss", "ftp"} {
		if protocol.match(scheme) {
			return true
		}
	}
	return false
}

// baseDependence returns as much of the hub URL as the set of matched topics
// depends on.
func (p *urlPattern) baseDependence(relative bool) string {
	h := p.hub
	switch {
	case relative:
		return h.href
	case !p.protocol.match("http") && !p.protocol.match("https"):
		// Whatever needs a base gets its scheme from it.
		return ""
	case p.protocol.match(h.scheme) && p.hostname.match(h.host) && p.port.match(h.port):
		return h.href
	}
	// Topics that take host and port from the base are not matched. What is
	// left are the likes of "//host/path", which take the scheme alone.
	return h.scheme + ":"
}

// match evaluates the components most likely to differ first.
//
// Spec: M-10
func (p *urlPattern) match(t *Topic) bool {
	c := t.resolve(p.hub)
	return c != nil &&
		p.hostname.match(c.hostname) &&
		p.pathname.match(c.pathname) &&
		p.protocol.match(c.protocol) &&
		p.port.match(c.port) &&
		p.search.match(c.search) &&
		p.hash.match(c.hash) &&
		p.username.match(c.username) &&
		p.password.match(c.password)
}

// describePatternError words the library's errors for whoever wrote the
// pattern. Theirs can be as long as the pattern and worse.
func describePatternError(err error) string {
	switch {
	case errors.Is(err, urlpattern.ErrDuplicatePartName):
		return "two groups have the same name; rename one"
	case errors.Is(err, urlpattern.ErrRequiredToken), errors.Is(err, urlpattern.ErrType), errors.Is(err, urlpattern.ErrNonEmptySuffix):
		return `one of { } ( ) : ? + * is out of place; put a backslash before it if it is meant literally`
	}
	if errors.Is(err, errPatternPanic) {
		return "one of its parts cannot be resolved; remove . and .. segments"
	}
	return "a scheme, host or port is not valid"
}
