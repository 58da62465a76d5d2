package protocol

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// patternTokenKind classifies the tokens of the URL Pattern standard.
type patternTokenKind uint8

const (
	tokenChar patternTokenKind = iota
	tokenEscapedChar
	tokenOpen
	tokenClose
	tokenName
	tokenRegexp
	tokenModifier // ? and +
	tokenAsterisk // wildcard or modifier, depending on where it is
	tokenInvalid
	tokenEnd
)

// patternToken is one token. start and end delimit its source text; value is
// the text without the syntax around it.
type patternToken struct {
	kind       patternTokenKind
	start, end int
	value      string
}

// tokenizePattern splits a pattern into tokens and an end token. What is
// malformed becomes an invalid token; the caller decides whether that matters.
func tokenizePattern(s string) []patternToken {
	tokens := make([]patternToken, 0, len(s)/4+4)
	for i := 0; i < len(s); {
		token := nextPatternToken(s, i)
		tokens = append(tokens, token)
		i = token.end
	}
	return append(tokens, patternToken{kind: tokenEnd, start: len(s), end: len(s)})
}

func nextPatternToken(s string, i int) patternToken {
	_, size := utf8.DecodeRuneInString(s[i:])
	token := patternToken{start: i, end: i + size, value: s[i : i+size]}
	switch s[i] {
	case '*':
		token.kind = tokenAsterisk
	case '+', '?':
		token.kind = tokenModifier
	case '{':
		token.kind = tokenOpen
	case '}':
		token.kind = tokenClose
	case '\\':
		if i+1 == len(s) {
			token.kind = tokenInvalid
			break
		}
		_, size := utf8.DecodeRuneInString(s[i+1:])
		token.kind = tokenEscapedChar
		token.end = i + 1 + size
		token.value = s[i+1 : token.end]
	case ':':
		end := groupNameEnd(s, i+1)
		if end == i+1 {
			token.kind = tokenInvalid
			break
		}
		token.kind = tokenName
		token.end = end
		token.value = s[i+1 : end]
	case '(':
		end := groupRegexpEnd(s, i+1)
		if end < 0 {
			token.kind = tokenInvalid
			break
		}
		token.kind = tokenRegexp
		token.end = end
		token.value = s[i+1 : end-1]
	}
	return token
}

// groupNameEnd returns where the identifier that starts at from ends.
func groupNameEnd(s string, from int) int {
	i := from
	for i < len(s) {
		r, size := utf8.DecodeRuneInString(s[i:])
		if !isIdentifier(r, i == from) {
			break
		}
		i += size
	}
	return i
}

// isIdentifier follows JavaScript's definition of identifiers.
func isIdentifier(r rune, first bool) bool {
	switch {
	case r == '$' || r == '_':
		return true
	case unicode.In(r, unicode.Pattern_Syntax, unicode.Pattern_White_Space):
		return false
	case unicode.In(r, unicode.L, unicode.Nl, unicode.Other_ID_Start):
		return true
	case first:
		return false
	}
	return unicode.In(r, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc, unicode.Other_ID_Continue)
}

// groupRegexpEnd returns the position after the parenthesis that closes the
// regular expression starting at from, or -1 if it is malformed: empty, not
// ASCII, beginning with "?", unbalanced, or with a capturing group inside.
func groupRegexpEnd(s string, from int) int {
	depth := 1
	for i := from; i < len(s); i++ {
		c := s[i]
		if c >= utf8.RuneSelf || i == from && (c == '?' || c == ')') {
			return -1
		}
		switch c {
		case '\\':
			i++
			if i == len(s) || s[i] >= utf8.RuneSelf {
				return -1
			}
		case '(':
			depth++
			if i+1 == len(s) || s[i+1] != '?' {
				return -1
			}
		case ')':
			depth--
			if depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// renamePatternGroups gives all groups plain names. Names make no difference
// to what matches, except that two equal ones are an error, which is kept; and
// the library's idea of an identifier is narrower than JavaScript's (no "_" at
// the start, no "$"), which would end some names early.
func renamePatternGroups(s string, tokens []patternToken) string {
	var out strings.Builder
	names := make(map[string]string)
	for _, token := range tokens {
		if token.kind != tokenName {
			out.WriteString(s[token.start:token.end])
			continue
		}
		name, known := names[token.value]
		if !known {
			name = ":g" + strconv.Itoa(len(names))
			names[token.value] = name
		}
		out.WriteString(name)
	}
	return out.String()
}
