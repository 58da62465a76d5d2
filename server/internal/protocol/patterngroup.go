package protocol

import (
	"regexp/syntax"
	"strconv"
	"strings"
)

// Matching is linear in the topic, but also proportional to the size of the
// automaton, and anonymous subscribers choose that. Two bounds keep the worst
// pattern below a millisecond for topics of usual length.
const (
	// maxGroups bounds the groups and wildcards of one pattern.
	maxGroups = 100
	// maxGroupCost bounds the states of its regular expressions. "(\w{1,1000})"
	// is a short way to write two thousand.
	maxGroupCost = 1000
)

// checkPatternGroups returns the problem with the groups of a pattern, before
// anything compiles them.
//
// JavaScript and Go share most of their syntax. What only one of them has, or
// what means different things in the two, is refused, because a matcher that
// silently matches something else is worse than an error.
//
// Spec: M-11, Q-4, Z-10
func checkPatternGroups(tokens []patternToken) string {
	cost, groups := 0, 0
	for _, token := range tokens {
		switch token.kind {
		case tokenName, tokenAsterisk, tokenOpen, tokenRegexp:
			groups++
		}
		if groups > maxGroups {
			return "it has more than " + strconv.Itoa(maxGroups) + " groups and wildcards"
		}
		if token.kind != tokenRegexp {
			continue
		}
		if problem := checkGroupSyntax(token.value); problem != "" {
			return problem
		}
		re, err := syntax.Parse(token.value, syntax.Perl)
		if err != nil {
			return "a regular-expression group does not compile (lookaround, backreferences and set notation are not supported)"
		}
		cost += regexpCost(re)
		if cost > maxGroupCost {
			return "its regular-expression groups are too large; use smaller repetition counts"
		}
	}
	return ""
}

// groupEscapes are the letters that mean the same after a backslash in
// JavaScript and Go.
const groupEscapes = "dDwWsSbBtnrfvxpP"

func checkGroupSyntax(expr string) string {
	inClass := false
	for i := 0; i < len(expr); i++ {
		rest := expr[i:]
		switch c := expr[i]; {
		case c == '\\':
			i++
			e := expr[i]
			if (isAlpha(e) || isDigit(e)) && strings.IndexByte(groupEscapes, e) < 0 ||
				strings.HasPrefix(rest, `\x{`) ||
				(e == 'p' || e == 'P') && !strings.HasPrefix(rest[2:], "{") {
				return `the escape \` + string(rune(e)) + " is not supported in regular-expression groups"
			}
		case inClass && c == ']':
			inClass = false
		case inClass && (c == '[' || strings.HasPrefix(rest, "&&") || strings.HasPrefix(rest, "--")):
			return "set notation is not supported in regular-expression groups; escape [ & and - inside brackets"
		case inClass:
		case c == '[':
			inClass = true
			if body := strings.TrimPrefix(rest[1:], "^"); strings.HasPrefix(body, "]") {
				return "empty brackets are not supported in regular-expression groups"
			}
		case c == '(' && !strings.HasPrefix(rest, "(?:"):
			return "only (?:...) is supported inside regular-expression groups"
		}
	}
	return ""
}

// regexpCost estimates the number of states re compiles to.
func regexpCost(re *syntax.Regexp) int {
	cost := 1
	switch re.Op {
	case syntax.OpLiteral:
		cost = len(re.Rune)
	case syntax.OpCharClass:
		// Large Unicode classes are one state, but a thousand of them fill
		// megabytes.
		cost = 1 + len(re.Rune)/64
	case syntax.OpRepeat:
		times := max(re.Max, re.Min+1, 1)
		// The parser bounds the product of nested counts, so this stays small.
		return times * (1 + regexpCost(re.Sub[0]))
	}
	for _, sub := range re.Sub {
		cost += regexpCost(sub)
	}
	return cost
}
