package protocol

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// uriTemplate decides whether a topic could be an expansion of a URI Template
// (RFC 6570), with one anchored expression of linear cost.
//
// The expression is generated here rather than taken from a library because
// the published one panics on long variable lists and looks for the explode
// modifier on the first variable only.
//
// Spec: M-18
type uriTemplate struct {
	// head is the literal text before the first expression.
	head string
	// rest matches what follows head.
	rest *regexp.Regexp
}

func (t *uriTemplate) match(topic string) bool {
	rest, ok := strings.CutPrefix(topic, t.head)
	return ok && t.rest.MatchString(rest)
}

// templateOperator is a row of the table of M-18.
type templateOperator struct {
	first, separator string
	// reserved allows reserved characters in values.
	reserved bool
	// named allows "=" in values, which are written as name=value.
	named bool
}

var templateOperators = map[byte]templateOperator{
	'+': {separator: ",", reserved: true},
	'#': {first: "#", separator: ",", reserved: true},
	'.': {first: ".", separator: "."},
	'/': {first: "/", separator: "/"},
	';': {first: ";", separator: ";", named: true},
	'?': {first: "?", separator: "&", named: true},
	'&': {first: "&", separator: "&", named: true},
}

var simpleOperator = templateOperator{separator: ","}

// maxTemplateVariables bounds the variables of one template. Each one that is
// separated by something other than its own characters is a copy of a part of
// the automaton, and matching cost is proportional to its size. A longer
// template matches like one that is not valid.
const maxTemplateVariables = 200

// compileURITemplate returns nil if the selector matches nothing but the topic
// equal to it: it is no valid template, or has no expression.
//
// Spec: M-17
func compileURITemplate(selector string) *uriTemplate {
	head, rest, found := strings.Cut(selector, "{")
	if !found || !validTemplateLiteral(head) {
		return nil
	}
	var expr strings.Builder
	expr.WriteString(`\A`)
	variables := 0
	for found {
		inner, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil
		}
		operator, specs, ok := parseTemplateExpression(inner)
		variables += len(specs)
		if !ok || variables > maxTemplateVariables {
			return nil
		}
		writeTemplateExpression(&expr, operator, specs)

		var literal string
		literal, rest, found = strings.Cut(after, "{")
		if !validTemplateLiteral(literal) {
			return nil
		}
		expr.WriteString(regexp.QuoteMeta(literal))
	}
	expr.WriteString(`\z`)
	re, err := regexp.Compile(expr.String())
	if err != nil {
		// The variable limit keeps expressions far below what Go compiles.
		return nil
	}
	return &uriTemplate{head: head, rest: re}
}

// templateVariable is a variable with its modifiers. The length of a prefix
// modifier is checked and then ignored, and so is the name.
type templateVariable struct {
	explode bool
}

// parseTemplateExpression parses what stands between braces.
func parseTemplateExpression(s string) (templateOperator, []templateVariable, bool) {
	operator := simpleOperator
	if s != "" {
		if op, ok := templateOperators[s[0]]; ok {
			operator = op
			s = s[1:]
		}
	}
	var variables []templateVariable
	for more := true; more; {
		var spec string
		spec, s, more = strings.Cut(s, ",")
		name, explode := strings.CutSuffix(spec, "*")
		name, prefix, hasPrefix := strings.Cut(name, ":")
		if !validTemplateName(name) || hasPrefix && (explode || !validTemplatePrefix(prefix)) {
			return operator, nil, false
		}
		variables = append(variables, templateVariable{explode: explode})
	}
	return operator, variables, true
}

// validTemplateName accepts letters, digits, "_" and percent-triplets, with
// single dots between them.
func validTemplateName(name string) bool {
	afterDot := true
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '.':
			if afterDot {
				return false
			}
			afterDot = true
			continue
		case c == '%':
			if _, ok := percentTriplet(name[i:]); !ok {
				return false
			}
			i += 2
		case !isAlpha(c) && !isDigit(c) && c != '_':
			return false
		}
		afterDot = false
	}
	return !afterDot
}

// validTemplatePrefix accepts 1 to 9999 without leading zeros.
func validTemplatePrefix(s string) bool {
	if len(s) == 0 || len(s) > 4 || s[0] == '0' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) {
			return false
		}
	}
	return true
}

// validTemplateLiteral accepts what RFC 6570 allows outside of expressions.
// The apostrophe is allowed, as its erratum wants.
//
// Spec: M-17
func validTemplateLiteral(s string) bool {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '%':
			if _, ok := percentTriplet(s[i:]); !ok {
				return false
			}
		case r <= ' ' || r == 0x7F || strings.ContainsRune("\"<>\\^`{|}", r):
			return false
		case r >= utf8.RuneSelf && !isTemplateUnicode(r):
			return false
		}
		i += size
	}
	return true
}

// isTemplateUnicode accepts the ucschar and iprivate ranges of RFC 3987.
func isTemplateUnicode(r rune) bool {
	switch {
	case r < 0xA0, r >= 0xFDD0 && r <= 0xFDEF, r > 0xFFEF && r < 0x10000:
		return false
	case r >= 0xE0000 && r < 0xE1000:
		return false
	}
	// The last two code points of every plane are not characters.
	return r&0xFFFF < 0xFFFE
}

// writeTemplateExpression appends the language of one expression. Any variable
// may be undefined, so all of it may be missing, and so may any piece.
func writeTemplateExpression(out *strings.Builder, op templateOperator, variables []templateVariable) {
	unlimited := false
	for _, v := range variables {
		unlimited = unlimited || v.explode
	}
	class := `\-.0-9A-Z_a-z~,`
	switch {
	case op.reserved:
		class += `:/?#\[\]@!$&'()*+;=`
	case op.named || unlimited:
		class += `=`
	}
	value := `(?:[` + class + `]|%[0-9A-Fa-f]{2})*`

	out.WriteString("(?:" + regexp.QuoteMeta(op.first) + value)
	// Where values may contain the separator they cover every repetition.
	if op.separator != "," && op.separator != "." {
		again := "(?:" + regexp.QuoteMeta(op.separator) + value + ")"
		if unlimited {
			out.WriteString(again + "*")
		} else if n := len(variables) - 1; n > 0 {
			out.WriteString(again + "{0," + strconv.Itoa(n) + "}")
		}
	}
	out.WriteString(")?")
}
