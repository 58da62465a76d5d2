package protocol

import (
	"iter"
	"strings"
)

// Pair is one decoded name and value of a form or query component. Both hold
// raw bytes that need not be valid UTF-8; callers check what they use.
//
// Spec: S-3
type Pair struct {
	Name, Value string
}

// ParseForm parses application/x-www-form-urlencoded text the way browsers
// do. It never fails: "&" alone separates pairs, the first "=" separates name
// and value, "+" is a space, and a "%" without two hex digits is itself.
//
// Spec: S-1, S-2
func ParseForm(raw string) []Pair {
	var pairs []Pair
	for pair := range formPairs(raw) {
		pairs = append(pairs, pair)
	}
	return pairs
}

// formPairs is ParseForm without the slice: a megabyte of "a&a&a" would
// otherwise become sixteen megabytes of pairs before any limit is looked at.
func formPairs(raw string) iter.Seq[Pair] {
	return func(yield func(Pair) bool) {
		for len(raw) > 0 {
			var pair string
			pair, raw, _ = strings.Cut(raw, "&")
			if pair == "" {
				continue
			}
			name, value, _ := strings.Cut(pair, "=")
			if !yield(Pair{Name: decodeFormText(name), Value: decodeFormText(value)}) {
				return
			}
		}
	}
}

func decodeFormText(s string) string {
	first := strings.IndexAny(s, "+%")
	if first < 0 {
		return s
	}
	out := make([]byte, first, len(s))
	copy(out, s)
	for i := first; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			c = ' '
		} else if decoded, ok := percentTriplet(s[i:]); ok {
			c = decoded
			i += 2
		}
		out = append(out, c)
	}
	return string(out)
}

// percentTriplet decodes "%" and two hex digits at the start of s.
func percentTriplet(s string) (byte, bool) {
	if len(s) < 3 || s[0] != '%' {
		return 0, false
	}
	high, ok1 := hexDigit(s[1])
	low, ok2 := hexDigit(s[2])
	return high<<4 | low, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func isAlpha(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
