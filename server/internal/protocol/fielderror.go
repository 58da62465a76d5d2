package protocol

import (
	"strconv"
	"unicode/utf8"
)

// FieldError says which field of a request breaks a rule and what to change.
// Its text is safe to send to the client and to log: input appears in it only
// as a short escaped excerpt.
type FieldError struct {
	// Field is the parameter or form field at fault, or "body" or "request".
	Field string
	// Index counts the occurrences of a repeatable field from 1; zero when
	// there is nothing to count.
	Index int
	// Problem completes the sentence that starts with the field.
	Problem string
	// Excerpt is an escaped and quoted piece of the input, or empty.
	Excerpt string
	// TooLarge means that a limit on publishing was exceeded (413); every
	// other violation is a malformed request (400). Spec: P-20
	TooLarge bool
}

func (e *FieldError) Error() string {
	s := e.Field
	if e.Index > 0 {
		s += " number " + strconv.Itoa(e.Index)
	}
	s += " " + e.Problem
	if e.Excerpt != "" {
		s += " (got " + e.Excerpt + ")"
	}
	return s
}

// asError keeps a nil *FieldError from becoming a non-nil error.
func asError(e *FieldError) error {
	if e == nil {
		return nil
	}
	return e
}

// excerptBytes bounds what of a client's input comes back in an error.
const excerptBytes = 32

// excerpt quotes the beginning of s in ASCII.
func excerpt(s string) string {
	if len(s) <= excerptBytes {
		return strconv.QuoteToASCII(s)
	}
	cut := excerptBytes
	for cut > excerptBytes-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.QuoteToASCII(s[:cut]) + "..."
}
