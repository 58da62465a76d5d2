package protocol

import (
	"strings"
	"testing"
	"unicode"
)

// Spec: TP-2, TP-3
func TestFormatCharactersAreFrozen(t *testing.T) {
	t.Parallel()
	count := 0
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if !unicode.Is(formatCharacters, r) {
			continue
		}
		count++
		if !unicode.Is(unicode.Cf, r) {
			t.Errorf("%U is listed, but is not a format character", r)
		}
	}
	if count != 170 {
		t.Errorf("the list has %d code points, want 170", count)
	}
}

// Spec: TP-1, TP-2, TP-4
func TestValidateTopic(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, topic string
		valid       bool
	}{
		{"plain", "https://shop.example/orders/17", true},
		{"wildcard is for publishers to refuse", "*", true},
		{"space", "a b", true},
		{"no-break space", "a\u00A0b", true},
		{"line separator", "a\u2028b", true},
		{"paragraph separator", "a\u2029b", true},
		{"combining mark", "e\u0301", true},
		{"private use", "\uE000", true},
		{"emoji", "\U0001F600", true},
		{"right-to-left letters", "\u05D0\u0627", true},
		{"replacement character", "\uFFFD", true},
		{"next to a range", "\u0606\u2065\u2010\uFFFC\U000E0002", true},
		{"empty", "", false},
		{"NUL", "a\x00", false},
		{"tab", "\t", false},
		{"LF", "a\nb", false},
		{"CR", "a\rb", false},
		{"unit separator", "\x1F", false},
		{"DEL", "\x7F", false},
		{"first C1", "\u0080", false},
		{"last C1", "\u009F", false},
		{"soft hyphen", "a\u00ADb", false},
		{"zero-width joiner", "\u200D", false},
		{"zero-width non-joiner", "\u200C", false},
		{"right-to-left override", "\u202E", false},
		{"byte-order mark", "\uFEFFa", false},
		{"language tag", "\U000E0001", false},
		{"tag space", "\U000E0020", false},
		{"lone byte", "\xFF", false},
		{"overlong", "\xC0\xAF", false},
		{"encoded surrogate", "\xED\xA0\x80", false},
		{"truncated sequence", "a\xE2\x82", false},
		{"beyond Unicode", "\xF4\x90\x80\x80", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := ValidateTopic(tc.topic)
			if tc.valid {
				if err != nil {
					t.Errorf("got error %v, want none", err)
				}
				return
			}
			wantFieldError(t, err, "topic", false)
		})
	}
}

// Spec: P-8, H-6
func TestValidateID(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		id    string
		valid bool
	}{
		{"urn:uuid:6f0f3a57-0d0c-4c8e-9f55-2a7d2c0e9c11", true},
		{"1", true},
		{"a#b", true},
		{"Earliest", true},
		{" padded ", true},
		{"", false},
		{"#1", false},
		{"earliest", false},
		{"a\nb", false},
		{"a\x00", false},
		{"\u200B", false},
	} {
		err := ValidateID(tc.id)
		if tc.valid && err != nil {
			t.Errorf("ValidateID(%q): %v", tc.id, err)
		}
		if !tc.valid {
			wantFieldError(t, err, "id", false)
		}
	}
}

// Spec: P-9
func TestValidateType(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		typ   string
		valid bool
	}{
		{"message", true},
		{"Mercure", true},
		{"mercure2", true},
		{"mercure", false},
		{"", false},
		{"a\rb", false},
		{"\u00AD", false},
	} {
		err := ValidateType(tc.typ)
		if tc.valid && err != nil {
			t.Errorf("ValidateType(%q): %v", tc.typ, err)
		}
		if !tc.valid {
			wantFieldError(t, err, "type", false)
		}
	}
}

func TestFieldErrorsEchoLittle(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("a", 100) + "SECRET\x00"
	err := wantFieldError(t, ValidateTopic(secret), "topic", false)
	if strings.Contains(err.Error(), "SECRET") {
		t.Errorf("error repeats the end of a long value: %v", err)
	}
	if got, want := excerpt(strings.Repeat("\u20AC", 20)), `"\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac\u20ac"...`; got != want {
		t.Errorf("got excerpt %s, want %s, cut between characters", got, want)
	}
	numbered := &FieldError{Field: "topic", Index: 3, Problem: "is odd", Excerpt: `"x"`}
	if got, want := numbered.Error(), `topic number 3 is odd (got "x")`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
