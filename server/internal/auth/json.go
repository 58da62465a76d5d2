package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// The helpers below read JSON without structs, because encoding/json matches
// struct fields without regard to case: {"EXP": …} would count as exp.

// object returns the members of a JSON object, or false for anything else.
// Of members with the same name it keeps the last one; see checkStrict.
func object(raw []byte) (map[string]json.RawMessage, bool) {
	if firstByte(raw) != '{' {
		return nil, false
	}

	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil {
		return nil, false
	}

	return members, true
}

func array(raw []byte) ([]json.RawMessage, bool) {
	if firstByte(raw) != '[' {
		return nil, false
	}

	var elements []json.RawMessage
	if json.Unmarshal(raw, &elements) != nil {
		return nil, false
	}

	return elements, true
}

func text(raw []byte) (string, bool) {
	if firstByte(raw) != '"' {
		return "", false
	}

	var s string
	if json.Unmarshal(raw, &s) != nil {
		return "", false
	}

	return s, true
}

func isNull(raw []byte) bool {
	return firstByte(raw) == 'n'
}

func firstByte(raw []byte) byte {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return 0
	}

	return raw[0]
}

// maxUnix is the end of the year 9999. Later times are brought down to it, as
// time.Time misbehaves far beyond; so are negative ones up to 1970, which
// also keeps them apart from the zero time.
const maxUnix = 253402300799

// numericDate reads a JSON number of seconds, possibly fractional. raw is one
// valid JSON value.
func numericDate(raw []byte) (time.Time, bool) {
	c := firstByte(raw)
	if c != '-' && !isDigit(c) {
		return time.Time{}, false
	}

	// A number out of range is ±Inf here and clamped like other large ones.
	seconds, err := strconv.ParseFloat(string(bytes.TrimSpace(raw)), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return time.Time{}, false
	}

	whole, fraction := math.Modf(min(max(seconds, 0), maxUnix))

	return time.Unix(int64(whole), int64(fraction*1e9)), true
}

var (
	errNotUTF8   = errors.New("not valid UTF-8")
	errNotJSON   = errors.New("not valid JSON")
	errDuplicate = errors.New("a member name occurs twice in one object")
	errSurrogate = errors.New("a string holds half a surrogate pair")
)

// checkJSON accepts one JSON value in valid UTF-8.
func checkJSON(b []byte) error {
	if !utf8.Valid(b) {
		return errNotUTF8
	}

	if !json.Valid(b) {
		return errNotJSON
	}

	return nil
}

// checkStrict accepts what checkJSON does if it means the same to every
// reader: no member name twice in any object, however written, and no string
// that is not Unicode, which encoding/json would silently repair.
//
// Spec: V-4.
func checkStrict(b []byte) error {
	if err := checkJSON(b); err != nil {
		return err
	}

	// One frame for each open object or array. The syntax is known to be right.
	type frame struct {
		names    map[string]struct{} // nil for arrays
		nameNext bool
	}

	var stack []frame

	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{':
			stack = append(stack, frame{names: map[string]struct{}{}, nameNext: true})
		case '[':
			stack = append(stack, frame{})
		case '}', ']':
			stack = stack[:len(stack)-1]
		case ',':
			top := &stack[len(stack)-1]
			top.nameNext = top.names != nil
		case '"':
			literal := stringLiteral(b[i:])
			i += len(literal) - 1

			if halfSurrogate(literal) {
				return errSurrogate
			}

			if len(stack) == 0 || !stack[len(stack)-1].nameNext {
				continue
			}

			top := &stack[len(stack)-1]
			top.nameNext = false
			name, _ := text(literal)

			if _, twice := top.names[name]; twice {
				return errDuplicate
			}

			top.names[name] = struct{}{}
		}
	}

	return nil
}

// StrictJSON reports why b is not one JSON value that means the same to every
// reader: its names occur once in each object, its strings are Unicode.
func StrictJSON(b []byte) error { return checkStrict(b) }

// peekMember returns the raw value of the first top-level member of that name
// if it is a string, and otherwise the byte the value starts with; nil if there
// is no such member. The name is of ASCII letters. It allocates nothing, stops at the member and checks next
// to no syntax: whoever believes the answer runs checkStrict first or later.
func peekMember(b []byte, name string) []byte {
	depth, nameNext := 0, false

	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			depth++
			nameNext = depth == 1
		case '}', ']':
			depth--
		case ',':
			nameNext = depth == 1
		case '"':
			literal := stringLiteral(b[i:])
			i += len(literal) - 1

			if !nameNext {
				continue
			}

			nameNext = false

			if !isName(literal, name) {
				continue
			}

			_, value, _ := bytes.Cut(b[i:], []byte{':'})
			value = bytes.TrimLeft(value, " \t\r\n")

			if firstByte(value) == '"' {
				return stringLiteral(value)
			}

			return value[:min(1, len(value))]
		}
	}

	return nil
}

// isName reports whether a string literal, possibly with \uXXXX in it, is a
// name of ASCII letters. Those have no other escapes.
func isName(literal []byte, name string) bool {
	if len(literal) < 2 {
		return false
	}

	rest := literal[1 : len(literal)-1]

	for i := range len(name) {
		if unit, ok := escapedUnit(rest); ok && unit == rune(name[i]) {
			rest = rest[6:]
		} else if len(rest) > 0 && rest[0] == name[i] {
			rest = rest[1:]
		} else {
			return false
		}
	}

	return len(rest) == 0
}

// maxLiteral is how long a literal of n bytes gets if all are written \u00XX.
func maxLiteral(n int) int { return 6*n + 2 }

// stringLiteral returns the string literal b starts with, quotes included.
func stringLiteral(b []byte) []byte {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return b[:i+1]
		}
	}

	return b
}

func halfSurrogate(literal []byte) bool {
	for i := 0; i < len(literal); i++ {
		if literal[i] != '\\' {
			continue
		}

		first, ok := escapedUnit(literal[i:])
		if !ok {
			i++ // over the escaped character

			continue
		}

		i += 5

		if !utf16.IsSurrogate(first) {
			continue
		}

		second, ok := escapedUnit(literal[i+1:])
		if !ok || utf16.DecodeRune(first, second) == utf8.RuneError {
			return true
		}

		i += 6
	}

	return false
}

// escapedUnit reads the \uXXXX that b starts with.
func escapedUnit(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}

	unit, err := strconv.ParseUint(string(b[2:6]), 16, 16)

	return rune(unit), err == nil
}
