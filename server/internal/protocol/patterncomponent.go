package protocol

import (
	"regexp"
	"strings"
)

// componentSyntax is what differs between the components of a URL pattern.
type componentSyntax struct {
	// delimiter ends ":name" groups; empty if nothing does.
	delimiter string
	// prefix directly before a group belongs to the group.
	prefix string
	// literals canonicalizes literal text further than the library does.
	literals *strings.Replacer
}

// component matches one URL component. Most are literal or anything at all,
// and most of the others end in a single group, so regular expressions are
// kept for the rest.
type component struct {
	how componentMatch
	// head is a literal that every match starts with; the whole of it when
	// matching literally.
	head string
	// delimiter is set when matching a segment.
	delimiter string
	// re is set when matching by expression, for the whole component.
	re *regexp.Regexp
}

type componentMatch uint8

const (
	matchLiteral    componentMatch = iota // head
	matchHead                             // head, then anything
	matchSegment                          // head, then one or more characters other than the delimiter
	matchExpression                       // re
)

func (c *component) match(s string) bool {
	rest, ok := strings.CutPrefix(s, c.head)
	if !ok {
		return false
	}
	switch c.how {
	case matchLiteral:
		return rest == ""
	case matchHead:
		return true
	case matchSegment:
		return rest != "" && (c.delimiter == "" || !strings.Contains(rest, c.delimiter))
	default:
		return c.re.MatchString(s)
	}
}

// compileComponent compiles the canonical pattern of one component.
func compileComponent(pattern string, syntax componentSyntax) (c component, problem string) {
	parts, problem := parsePatternParts(pattern, syntax)
	if problem != "" {
		return component{}, problem
	}

	// Literal parts at the start, and the prefix of the group after them
	// unless the group may be missing, are the head.
	next := 0
	for next < len(parts) && parts[next].kind == partText && parts[next].modifier == 0 {
		c.head += parts[next].text
		next++
	}
	if next == len(parts) {
		return c, ""
	}
	group := &parts[next]
	if group.kind != partText && (group.modifier == 0 || group.modifier == '+') {
		c.head += group.prefix
	}
	if next == len(parts)-1 && group.modifier == 0 && group.suffix == "" {
		switch group.kind {
		case partWildcard:
			c.how = matchHead
			return c, ""
		case partSegment:
			c.how = matchSegment
			c.delimiter = syntax.delimiter
			return c, ""
		}
	}

	re, err := regexp.Compile(partsExpression(parts, syntax))
	if err != nil {
		return component{}, "its groups do not compile to a regular expression; use fewer or smaller ones"
	}
	c.how = matchExpression
	c.re = re
	return c, ""
}

// partsExpression builds one anchored expression. Component values contain no
// line ends, so "." needs the s flag only to be independent of that.
//
// Spec: M-11
func partsExpression(parts []patternPart, syntax componentSyntax) string {
	var out strings.Builder
	out.WriteString(`\A`)
	for _, part := range parts {
		var body string
		switch part.kind {
		case partText:
			body = regexp.QuoteMeta(part.text)
		case partSegment:
			body = `(?s:.+)`
			if syntax.delimiter != "" {
				body = `[^` + regexp.QuoteMeta(syntax.delimiter) + `]+`
			}
		case partWildcard:
			body = `(?s:.*)`
		case partRegexp:
			body = part.text
		}
		writePart(&out, part, "(?:"+body+")")
	}
	out.WriteString(`\z`)
	return out.String()
}

func writePart(out *strings.Builder, part patternPart, body string) {
	modifier := ""
	if part.modifier != 0 {
		modifier = string(rune(part.modifier))
	}
	if part.prefix == "" && part.suffix == "" {
		out.WriteString(body + modifier)
		return
	}
	prefix, suffix := regexp.QuoteMeta(part.prefix), regexp.QuoteMeta(part.suffix)
	switch part.modifier {
	case '*', '+':
		// Between two repetitions stand the suffix of one and the prefix of
		// the next, so that "{/:x}*" matches "/a/b".
		out.WriteString("(?:" + prefix + body + "(?:" + suffix + prefix + body + ")*" + suffix + ")")
		if part.modifier == '*' {
			out.WriteByte('?')
		}
	default:
		out.WriteString("(?:" + prefix + body + suffix + ")" + modifier)
	}
}

// patternPart is a piece of a component pattern.
type patternPart struct {
	kind patternPartKind
	// text is the literal or the regular expression.
	text string
	// prefix and suffix are literals that come and go with a group.
	prefix, suffix string
	// modifier is 0, '?', '+' or '*'.
	modifier byte
}

type patternPartKind uint8

const (
	partText patternPartKind = iota
	partSegment
	partWildcard
	partRegexp
)

// parsePatternParts parses the pattern of one component.
func parsePatternParts(pattern string, syntax componentSyntax) (parts []patternPart, problem string) {
	p := partParser{tokens: tokenizePattern(pattern), syntax: syntax}
	for p.peek() != tokenEnd {
		if !p.part() {
			return nil, "{ } ? + * are out of place; put a backslash before what is meant literally"
		}
	}
	p.flushText()
	if syntax.literals != nil {
		canonicalizeLiterals(p.parts, syntax.literals)
	}
	return p.parts, ""
}

func canonicalizeLiterals(parts []patternPart, literals *strings.Replacer) {
	for i := range parts {
		part := &parts[i]
		if part.kind == partText {
			part.text = literals.Replace(part.text)
		}
		part.prefix, part.suffix = literals.Replace(part.prefix), literals.Replace(part.suffix)
	}
}

type partParser struct {
	tokens []patternToken
	next   int
	syntax componentSyntax
	parts  []patternPart
	// text is literal text not yet made a part, since more may follow.
	text []byte
}

func (p *partParser) peek() patternTokenKind { return p.tokens[p.next].kind }

func (p *partParser) take() patternToken {
	token := p.tokens[p.next]
	p.next++
	return token
}

// part consumes a character, a group, or a group in braces.
func (p *partParser) part() bool {
	switch p.peek() {
	case tokenChar:
		char := p.take().value
		if char != p.syntax.prefix || !p.atGroup() {
			p.text = append(p.text, char...)
			return true
		}
		group := p.group()
		group.prefix = char
		p.add(group)
		return true
	case tokenEscapedChar:
		p.text = append(p.text, p.take().value...)
		return true
	case tokenName, tokenRegexp, tokenAsterisk:
		p.add(p.group())
		return true
	case tokenOpen:
		return p.braces()
	}
	return false
}

func (p *partParser) braces() bool {
	p.take()
	part := patternPart{kind: partText}
	prefix := p.literal()
	if p.atGroup() {
		part = p.group()
		part.prefix = prefix
		part.suffix = p.literal()
	} else {
		part.text = prefix
	}
	if p.peek() != tokenClose {
		return false
	}
	p.take()
	if part.kind != partText {
		p.add(part)
		return true
	}
	if part.modifier = p.modifier(); part.modifier == 0 {
		p.text = append(p.text, part.text...)
	} else if part.text != "" {
		p.flushText()
		p.parts = append(p.parts, part)
	}
	return true
}

func (p *partParser) atGroup() bool {
	kind := p.peek()
	return kind == tokenName || kind == tokenRegexp || kind == tokenAsterisk
}

// group consumes a name, an expression, both, or a wildcard.
func (p *partParser) group() patternPart {
	token := p.take()
	if token.kind == tokenName {
		if p.peek() != tokenRegexp {
			return patternPart{kind: partSegment}
		}
		token = p.take()
	}
	if token.kind == tokenAsterisk || token.value == ".*" {
		return patternPart{kind: partWildcard}
	}
	return patternPart{kind: partRegexp, text: token.value}
}

func (p *partParser) literal() string {
	var text []byte
	for p.peek() == tokenChar || p.peek() == tokenEscapedChar {
		text = append(text, p.take().value...)
	}
	return string(text)
}

func (p *partParser) modifier() byte {
	if p.peek() == tokenModifier || p.peek() == tokenAsterisk {
		return p.take().value[0]
	}
	return 0
}

// add appends a group together with the modifier that follows it.
func (p *partParser) add(group patternPart) {
	p.flushText()
	group.modifier = p.modifier()
	p.parts = append(p.parts, group)
}

func (p *partParser) flushText() {
	if len(p.text) > 0 {
		p.parts = append(p.parts, patternPart{kind: partText, text: string(p.text)})
		p.text = p.text[:0]
	}
}
