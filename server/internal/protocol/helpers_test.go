package protocol

import (
	"errors"
	"strings"
	"testing"
)

const defaultHub = "https://hub.example.com/.well-known/mercure"

func mustHub(t testing.TB, raw string) *HubURL {
	t.Helper()
	h, err := ParseHubURL(raw)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func mustExact(t testing.TB, value string) *Matcher {
	t.Helper()
	m, err := NewExact(value)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustPattern(t testing.TB, value string) *Matcher {
	t.Helper()
	m, err := NewURLPattern(value, mustHub(t, defaultHub))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustSelector(t testing.TB, value string) *Matcher {
	t.Helper()
	m, err := NewSelector(value)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// wantFieldError checks what every error of this package promises, and returns
// it for more.
func wantFieldError(t *testing.T, err error, field string, tooLarge bool) *FieldError {
	t.Helper()
	var fieldErr *FieldError
	if !errors.As(err, &fieldErr) {
		t.Fatalf("got error %v, want a *FieldError about %s", err, field)
	}
	if fieldErr.Field != field || fieldErr.TooLarge != tooLarge {
		t.Errorf("got error about %s, too large %t (%v); want %s, %t", fieldErr.Field, fieldErr.TooLarge, err, field, tooLarge)
	}
	text := err.Error()
	if len(text) > 500 {
		t.Errorf("error text has %d bytes, want a short one: %s", len(text), text)
	}
	for _, r := range text {
		if r < ' ' || r > '~' {
			t.Errorf("error text %q contains %U, want printable ASCII only", text, r)
		}
	}
	return fieldErr
}

// name makes a case name of arbitrary input.
func name(parts ...string) string {
	return strings.ReplaceAll(strings.Join(parts, " "), "/", "\u2215")
}
