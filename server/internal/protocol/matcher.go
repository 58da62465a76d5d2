package protocol

import (
	"strconv"
	"unicode/utf8"
)

// MatcherKind is the type of a matcher, and with it the dialect it belongs to.
type MatcherKind uint8

// The kinds of matchers.
const (
	// Exact matches one topic byte for byte. Spec: M-6
	Exact MatcherKind = iota + 1
	// URLPattern matches by the WHATWG URL Pattern standard. Spec: M-7
	URLPattern
	// Selector is a 0.x topic selector. Spec: M-16
	Selector
)

// String returns the 1.0 type name, or "selector" for the 0.x kind, which has
// none.
func (k MatcherKind) String() string {
	switch k {
	case Exact:
		return "exact"
	case URLPattern:
		return "urlpattern"
	case Selector:
		return "selector"
	}
	return "MatcherKind(" + strconv.Itoa(int(k)) + ")"
}

// wildcard is the value that matches every topic, whatever the kind.
//
// Spec: M-2, M-19
const wildcard = "*"

// Matcher decides which topics a subscription or a grant covers. It is
// immutable and safe for concurrent use.
type Matcher struct {
	kind  MatcherKind
	value string
	// all is set for the wildcard; pattern and template are nil then.
	all bool
	// pattern is set for URL patterns.
	pattern *urlPattern
	// template is set for selectors that match more than their own text.
	template *uriTemplate
}

// MatcherKey identifies a matcher. Matchers with equal keys match the same
// topics and appear as the same subscription, so one can stand for all.
type MatcherKey struct {
	Kind  MatcherKind
	Value string
	// Base is what the result depends on of the hub URL, empty if nothing.
	Base string
}

// NewExact returns a matcher for the topic value, or for everything if value
// is "*". Spec: M-2, M-6, S-5
func NewExact(value string) (*Matcher, error) {
	if value != wildcard {
		if err := validateTopic("matcher", value); err != nil {
			return nil, err
		}
	}
	return &Matcher{kind: Exact, value: value, all: value == wildcard}, nil
}

// NewURLPattern compiles a URL pattern; relative patterns and the topics they
// are matched with are resolved against hub, which must not be nil.
//
// Spec: M-2, M-7, M-8, M-9, S-5
func NewURLPattern(value string, hub *HubURL) (*Matcher, error) {
	if value == wildcard {
		return &Matcher{kind: URLPattern, value: value, all: true}, nil
	}
	if err := validateTopic("matcher", value); err != nil {
		return nil, err
	}
	pattern, problem := compileURLPattern(value, hub)
	if problem != "" {
		return nil, &FieldError{Field: "matcher", Problem: "must be a valid URL pattern: " + problem, Excerpt: excerpt(value)}
	}
	return &Matcher{kind: URLPattern, value: value, pattern: pattern}, nil
}

// NewSelector returns the matcher for a 0.x selector. A value that is not a
// valid URI Template matches only the topic equal to it, and so does one with
// characters that no topic can contain, which never matches.
//
// Spec: M-16, M-17, M-19, S-5
func NewSelector(value string) (*Matcher, error) {
	switch {
	case value == "":
		return nil, &FieldError{Field: "matcher", Problem: "must not be empty; check the code that fills it in"}
	case !utf8.ValidString(value):
		return nil, &FieldError{Field: "matcher", Problem: "must be valid UTF-8", Excerpt: excerpt(value)}
	case value == wildcard:
		return &Matcher{kind: Selector, value: value, all: true}, nil
	}
	return &Matcher{kind: Selector, value: value, template: compileURITemplate(value)}, nil
}

// Kind returns the type of the matcher.
func (m *Matcher) Kind() MatcherKind { return m.kind }

// Value returns the text the matcher was made from.
func (m *Matcher) Value() string { return m.value }

// Wildcard reports whether the matcher matches every topic.
func (m *Matcher) Wildcard() bool { return m.all }

// Key returns what identifies the matcher.
func (m *Matcher) Key() MatcherKey {
	key := MatcherKey{Kind: m.kind, Value: m.value}
	if m.pattern != nil {
		key.Base = m.pattern.keyBase
	}
	return key
}

// Match reports whether the matcher covers the topic. It never fails: a topic
// that a URL pattern cannot parse is one that it does not match.
//
// Spec: M-2, M-6, M-10, M-16
func (m *Matcher) Match(t *Topic) bool {
	switch {
	case m.all:
		return true
	case m.pattern != nil:
		return m.pattern.match(t)
	case m.value == t.raw:
		return true
	}
	return m.template != nil && m.template.match(t.raw)
}

// literal reports whether the matcher matches the topic equal to its value and
// no other.
func (m *Matcher) literal() bool {
	return !m.all && m.pattern == nil && m.template == nil
}
