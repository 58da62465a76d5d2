package protocol

import "strings"

// An index over many matchers keeps them by literal prefix, and asks only
// those whose prefix begins the key of a topic.

// indexSeparator stands between URL components in keys. It occurs in none of
// them, since URL parsing encodes control characters.
const indexSeparator = "\x00"

// maxIndexPrefix bounds prefixes: longer ones cost memory and separate little.
const maxIndexPrefix = 256

// IndexSpace identifies how keys are made. Matchers of equal space produce
// equal keys for the same topic, so an index computes each key once per space.
// The zero value is the space whose keys are the topics themselves.
type IndexSpace struct {
	// base is the hub URL that topics are parsed with; empty if they are not.
	base string
}

// IndexSpace returns the space that IndexPrefix and IndexKey belong to.
func (m *Matcher) IndexSpace() IndexSpace {
	if m.pattern == nil {
		return IndexSpace{}
	}
	return IndexSpace{base: m.pattern.hub.href}
}

// IndexKey returns the key of a topic in the matcher's space. If ok is false
// no matcher of the space other than a wildcard matches the topic.
//
// Whenever Match(t) is true, ok is true and the key starts with IndexPrefix().
func (m *Matcher) IndexKey(t *Topic) (key string, ok bool) {
	if m.pattern == nil {
		return t.raw, true
	}
	c := t.resolve(m.pattern.hub)
	if c == nil {
		return "", false
	}
	return c.indexKey, true
}

// IndexPrefix returns what the keys of all matched topics start with, at most
// 256 bytes of it. Empty means that the matcher must be asked about every
// topic.
func (m *Matcher) IndexPrefix() string {
	var prefix string
	switch {
	case m.all:
		return ""
	case m.pattern != nil:
		prefix = m.pattern.indexPrefix()
	case m.template != nil:
		// The selector's own text, which matches too, has the same head.
		prefix = m.template.head
	default:
		prefix = m.value
	}
	return prefix[:min(len(prefix), maxIndexPrefix)]
}

// Unanchored reports whether the prefix of a pattern or template does not even name
// a host, so that it is asked about nearly every topic.
func (m *Matcher) Unanchored() bool {
	switch {
	case m.all:
		return false
	case m.pattern != nil:
		return m.pattern.protocol.how != matchLiteral || m.pattern.hostname.how != matchLiteral
	case m.template != nil:
		head := m.template.head
		web := "https://"
		if strings.HasPrefix(head, "http:") {
			web = "http://"
		}
		return head == web[:min(len(head), len(web))] || strings.HasSuffix(head, "://")
	}
	return false
}

// indexPrefix joins components like components.indexKey does, up to the first
// one that is not literal.
func (p *urlPattern) indexPrefix() string {
	prefix := ""
	for _, c := range [...]*component{&p.protocol, &p.hostname, &p.port} {
		prefix += c.head
		if c.how != matchLiteral {
			return prefix
		}
		prefix += indexSeparator
	}
	return prefix + p.pathname.head
}
