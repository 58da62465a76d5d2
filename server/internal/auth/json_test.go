package auth

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Spec: V-4.
func TestCheckStrict(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		json string
		want error
	}{
		"scalar":                     {`1`, nil},
		"string":                     {`"a\\\"b"`, nil},
		"empty object":               {`{}`, nil},
		"spaces":                     {" { \"a\" : [ 1 , { } ] , \"b\" : \"a\" } ", nil},
		"value equal to a name":      {`{"a":"a","b":"a"}`, nil},
		"strings in arrays":          {`{"a":["b","b"],"b":["a"]}`, nil},
		"object after array":         {`{"a":[{"x":1},{"x":1}],"x":1}`, nil},
		"names that look like JSON":  {`{"{\"a\":1,":1,"a":2}`, nil},
		"name ends in a backslash":   {`{"a\\":1,"a":2}`, nil},
		"surrogate pair":             {`"\ud83d\ude00\uD83D\uDE00"`, nil},
		"escaped backslash before u": {`"\\ud800"`, nil},
		"other case":                 {`{"a":1,"A":2}`, nil},

		"empty":                  {``, errNotJSON},
		"two values":             {`{}{}`, errNotJSON},
		"comment":                {`{}//`, errNotJSON},
		"byte order mark":        {"\ufeff{}", errNotJSON},
		"overlong":               {"\"\xc0\x80\"", errNotUTF8},
		"encoded surrogate":      {"\"\xed\xa0\x80\"", errNotUTF8},
		"twice":                  {`{"a":1,"a":1}`, errDuplicate},
		"twice, after object":    {`{"a":{"b":1},"a":1}`, errDuplicate},
		"twice, after array":     {`{"a":[1,2],"b":[],"a":1}`, errDuplicate},
		"twice, nested":          {`[[{"x":{"a":1,"a":1}}]]`, errDuplicate},
		"twice, escaped":         {`{"a":1,"\u0061":1}`, errDuplicate},
		"twice, escaped twice":   {`{"\u0061":1,"\u0061":1}`, errDuplicate},
		"twice, escaped slash":   {`{"/":1,"\/":1}`, errDuplicate},
		"twice, empty name":      {`{"":1,"":1}`, errDuplicate},
		"high surrogate":         {`"\ud800"`, errSurrogate},
		"high surrogate, more":   {`"\ud800x"`, errSurrogate},
		"high surrogate, escape": {`"\ud800\n"`, errSurrogate},
		"low surrogate":          {`"\udc00"`, errSurrogate},
		"wrong order":            {`"\udc00\ud800"`, errSurrogate},
		"high twice":             {`"\ud800\ud800\udc00"`, errSurrogate},
		"in a name":              {`{"\ud800":1}`, errSurrogate},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			if err := checkStrict([]byte(tc.json)); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// The scanner agrees with one built from the decoder of the standard library.
//
// Spec: V-4.
func TestCheckStrictAgainstDecoder(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		text := genJSON(3).Draw(t, "json")

		got := checkStrict([]byte(text))
		want := duplicates(json.NewDecoder(strings.NewReader(text)))

		if (got != nil) != want {
			t.Fatalf("got %v, want duplicates: %v", got, want)
		}
	})
}

// On whatever is strictly right the quick look and the real reading agree.
//
// Spec: V-4, V-5.
func TestPeekMemberAgainstDecoder(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		raw := []byte(genJSON(3).Draw(t, "json"))

		members, ok := object(raw)
		if !ok || checkStrict(raw) != nil {
			return
		}

		for _, name := range []string{"a", "b", "{", ""} {
			got, gotOK := text(peekMember(raw, name))
			want, wantOK := text(members[name])

			if got != want || gotOK != wantOK {
				t.Fatalf("%s: got %q, %v; want %q, %v", name, got, gotOK, want, wantOK)
			}
		}
	})
}

func TestPeekMember(t *testing.T) {
	t.Parallel()

	for text, want := range map[string]string{
		`{"iss":"a"}`:                            `"a"`,
		` { "x" : "iss" , "iss" : "a" } `:        `"a"`,
		`{"x":{"iss":"b"},"y":["iss"],"iss":""}`: `""`,
		`{"\u0069\u0073\u0073":"\"a"}`:           `"\"a"`,
		`{"iss":1}`:                              `1`,
		`{"iss":{"iss":"a"}}`:                    `{`,
		`{"iss":null,"iss":"a"}`:                 `n`,
		`{"isss":"a","is":"b","ISS":"c"}`:        ``,
		`{"x":"\"iss\":"}`:                       ``,

		// Not JSON. Anything will do, as long as nothing panics.
		`{"iss"`: ``, `{"iss":`: ``, `{"iss":"a`: `"a`, `{"issx`: ``, `{"`: ``, `{"\`: ``, `}]{"iss":"a"}`: ``, ``: ``,
	} {
		if got := string(peekMember([]byte(text), "iss")); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func genJSON(depth int) *rapid.Generator[string] {
	word := rapid.SampledFrom([]string{`"a"`, `"b"`, `"\u0061"`, `"\\"`, `"\""`, `"{"`, `"]"`, `","`, `""`})

	return rapid.Custom(func(t *rapid.T) string {
		kind := 0
		if depth > 0 {
			kind = rapid.IntRange(0, 2).Draw(t, "kind")
		}

		var parts []string

		switch kind {
		case 1:
			for range rapid.IntRange(0, 3).Draw(t, "elements") {
				parts = append(parts, genJSON(depth-1).Draw(t, "element"))
			}

			return "[" + strings.Join(parts, ",") + "]"
		case 2:
			for range rapid.IntRange(0, 3).Draw(t, "members") {
				parts = append(parts, word.Draw(t, "name")+": "+genJSON(depth-1).Draw(t, "value"))
			}

			return "{" + strings.Join(parts, " ,") + "}"
		default:
			return word.Draw(t, "word")
		}
	})
}

// duplicates reads one value and reports whether an object in it has a name
// twice.
func duplicates(dec *json.Decoder) bool {
	token, err := dec.Token()
	if err != nil {
		return false
	}

	found := false

	switch token {
	case json.Delim('{'):
		names := map[any]bool{}
		for dec.More() {
			name, _ := dec.Token()
			found = found || names[name]
			names[name] = true
			found = duplicates(dec) || found
		}

		_, _ = dec.Token()
	case json.Delim('['):
		for dec.More() {
			found = duplicates(dec) || found
		}

		_, _ = dec.Token()
	}

	return found
}

// Spec: V-8, L-6.
func TestNumericDate(t *testing.T) {
	t.Parallel()

	for text, want := range map[string]time.Time{
		"0":            time.Unix(0, 0),
		"-0":           time.Unix(0, 0),
		"1":            time.Unix(1, 0),
		"1.5":          time.Unix(1, 5e8),
		"1.8e9":        time.Unix(1_800_000_000, 0),
		" 7 ":          time.Unix(7, 0),
		"-1":           time.Unix(0, 0),
		"-1e999":       time.Unix(0, 0),
		"253402300800": time.Unix(maxUnix, 0),
		"1e999":        time.Unix(maxUnix, 0),
		"1e-999":       time.Unix(0, 0),
		`"1"`:          {},
		"null":         {},
		"true":         {},
		"[1]":          {},
		"":             {},
	} {
		got, ok := numericDate([]byte(text))
		if ok == want.IsZero() || !got.Equal(want) {
			t.Errorf("%q: got %v, %v; want %v", text, got, ok, want)
		}
	}
}
