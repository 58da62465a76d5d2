package protocol

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// formatCharacters is general category Cf as of Unicode 17.0. The list is
// frozen here rather than taken from package unicode, so that a new Go release
// cannot turn a topic that was accepted yesterday into a refused one.
//
// Spec: TP-2, TP-3
var formatCharacters = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x00AD, Hi: 0x00AD, Stride: 1},
		{Lo: 0x0600, Hi: 0x0605, Stride: 1},
		{Lo: 0x061C, Hi: 0x061C, Stride: 1},
		{Lo: 0x06DD, Hi: 0x06DD, Stride: 1},
		{Lo: 0x070F, Hi: 0x070F, Stride: 1},
		{Lo: 0x0890, Hi: 0x0891, Stride: 1},
		{Lo: 0x08E2, Hi: 0x08E2, Stride: 1},
		{Lo: 0x180E, Hi: 0x180E, Stride: 1},
		{Lo: 0x200B, Hi: 0x200F, Stride: 1},
		{Lo: 0x202A, Hi: 0x202E, Stride: 1},
		{Lo: 0x2060, Hi: 0x2064, Stride: 1},
		{Lo: 0x2066, Hi: 0x206F, Stride: 1},
		{Lo: 0xFEFF, Hi: 0xFEFF, Stride: 1},
		{Lo: 0xFFF9, Hi: 0xFFFB, Stride: 1},
	},
	R32: []unicode.Range32{
		{Lo: 0x110BD, Hi: 0x110BD, Stride: 1},
		{Lo: 0x110CD, Hi: 0x110CD, Stride: 1},
		{Lo: 0x13430, Hi: 0x1343F, Stride: 1},
		{Lo: 0x1BCA0, Hi: 0x1BCA3, Stride: 1},
		{Lo: 0x1D173, Hi: 0x1D17A, Stride: 1},
		{Lo: 0xE0001, Hi: 0xE0001, Stride: 1},
		{Lo: 0xE0020, Hi: 0xE007F, Stride: 1},
	},
	LatinOffset: 1,
}

// ValidateTopic reports whether topic may name something a subscriber listens
// to: not empty, valid UTF-8, no control and no format characters. What only
// publishers must not do (the wildcard, the reserved namespace) is checked by
// ParsePublish.
//
// Spec: TP-1, TP-2, TP-5
func ValidateTopic(topic string) error {
	return asError(validateTopic("topic", topic))
}

// ValidateID reports whether id may be chosen by a publisher as an event id.
// The empty id is refused; whether an empty field means "no id" is the
// caller's decision.
//
// Spec: P-8, TP-5
func ValidateID(id string) error {
	return asError(validateID(id))
}

// ValidateType reports whether typ may be chosen by a publisher as an event
// type. The empty type is refused, as in ValidateID.
//
// Spec: P-9, TP-5
func ValidateType(typ string) error {
	return asError(validateType(typ))
}

func validateTopic(field, topic string) *FieldError {
	if topic == "" {
		return &FieldError{Field: field, Problem: "must not be empty; check the code that fills it in"}
	}
	return validateText(field, topic)
}

func validateID(id string) *FieldError {
	switch {
	case id == "":
		return &FieldError{Field: "id", Problem: "must not be empty; leave the field out to have an id generated"}
	case id[0] == '#':
		return &FieldError{Field: "id", Problem: "must not start with #, which is reserved for ids chosen by hubs"}
	case id == string(Earliest):
		return &FieldError{Field: "id", Problem: `must not be "earliest", which has a meaning as a cursor`}
	}
	return validateText("id", id)
}

func validateType(typ string) *FieldError {
	switch typ {
	case "":
		return &FieldError{Field: "type", Problem: "must not be empty; leave the field out to send no type"}
	case "mercure":
		return &FieldError{Field: "type", Problem: `must not be "mercure", which is reserved for the hub's own events`}
	}
	return validateText("type", typ)
}

// validateText applies the constraint shared by everything but data.
//
// Spec: TP-1, TP-2
func validateText(field, s string) *FieldError {
	for i := 0; i < len(s); {
		// The common case is plain ASCII and costs two comparisons a byte.
		if c := s[i]; c < utf8.RuneSelf {
			if c < 0x20 || c == 0x7F {
				return forbiddenCharacter(field, s, i, rune(c), "control")
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return &FieldError{
				Field:   field,
				Problem: fmt.Sprintf("must be valid UTF-8, but byte %d is not; encode it as UTF-8 before percent-encoding", i+1),
				Excerpt: excerpt(s[i:]),
			}
		case r <= 0x9F:
			return forbiddenCharacter(field, s, i, r, "control")
		case unicode.Is(formatCharacters, r):
			return forbiddenCharacter(field, s, i, r, "invisible format")
		}
		i += size
	}
	return nil
}

func forbiddenCharacter(field, s string, at int, r rune, class string) *FieldError {
	return &FieldError{
		Field:   field,
		Problem: fmt.Sprintf("must not contain the %s character U+%04X at byte %d; remove it", class, r, at+1),
		Excerpt: excerpt(strings.ToValidUTF8(s, "\uFFFD")),
	}
}
