package protocol

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Spec: S-1, S-2, S-3
func TestParseForm(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, raw string
		want      []Pair
	}{
		{"empty", "", nil},
		{"one pair", "a=b", []Pair{{"a", "b"}}},
		{"repeated name", "a=1&a=2", []Pair{{"a", "1"}, {"a", "2"}}},
		{"no equals sign", "a&b", []Pair{{"a", ""}, {"b", ""}}},
		{"empty name", "=b", []Pair{{"", "b"}}},
		{"empty name and value", "=", []Pair{{"", ""}}},
		{"second equals sign", "a=b=c", []Pair{{"a", "b=c"}}},
		{"empty pairs", "&&a=b&&c=d&", []Pair{{"a", "b"}, {"c", "d"}}},
		{"semicolon is data", "a=b;c=d", []Pair{{"a", "b;c=d"}}},
		{"plus", "a+b=c+d", []Pair{{"a b", "c d"}}},
		{"encoded plus", "a=%2B", []Pair{{"a", "+"}}},
		{"encoded name", "m%61tch=x", []Pair{{"match", "x"}}},
		{"encoded delimiters", "a%3D%26=%3D%26", []Pair{{"a=&", "=&"}}},
		{"both hex cases", "a=%c3%A9", []Pair{{"a", "\u00E9"}}},
		{"lone percent", "a=%", []Pair{{"a", "%"}}},
		{"percent and one digit", "a=%4", []Pair{{"a", "%4"}}},
		{"percent and no hex", "a=%zz%4g", []Pair{{"a", "%zz%4g"}}},
		{"percent before triplet", "a=%%41", []Pair{{"a", "%A"}}},
		{"decoded once", "a=%2541", []Pair{{"a", "%41"}}},
		{"invalid UTF-8 is kept", "%FF=%C3", []Pair{{"\xFF", "\xC3"}}},
		{"raw bytes are kept", "\xFF=\u00E9", []Pair{{"\xFF", "\u00E9"}}},
		{"NUL", "a=%00", []Pair{{"a", "\x00"}}},
		{"byte-order mark is kept", "a=%EF%BB%BFb", []Pair{{"a", "\uFEFFb"}}},
		{"question mark and fragment are data", "?a=#b", []Pair{{"?a", "#b"}}},
		{"unencoded spaces and JSON", `a={"b": 1}`, []Pair{{"a", `{"b": 1}`}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, ParseForm(tc.raw)); diff != "" {
				t.Errorf("ParseForm(%q) (-want +got):\n%s", tc.raw, diff)
			}
		})
	}
}

func FuzzParseForm(f *testing.F) {
	for _, seed := range []string{"", "a=b&c", "%", "%4", "a=%C3%A9+%zz", "&&=", "a;b=c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		pairs := ParseForm(raw)
		if limit := strings.Count(raw, "&") + 1; len(pairs) > limit {
			t.Fatalf("%d pairs from %d pieces", len(pairs), limit)
		}
		var encoded []string
		for _, pair := range pairs {
			if len(pair.Name)+len(pair.Value) > len(raw) {
				t.Fatalf("decoding %q made it longer: %q", raw, pair)
			}
			encoded = append(encoded, url.QueryEscape(pair.Name)+"="+url.QueryEscape(pair.Value))
		}
		// What was decoded and is encoded properly decodes to the same pairs,
		// here and with the standard library's parser.
		canonical := strings.Join(encoded, "&")
		if again := ParseForm(canonical); !slices.Equal(again, pairs) {
			t.Fatalf("%q does not survive encoding: got %q, then %q", raw, pairs, again)
		}
		values, err := url.ParseQuery(canonical)
		if err != nil {
			t.Fatal(err)
		}
		for _, pair := range pairs {
			if len(values[pair.Name]) == 0 || values[pair.Name][0] != pair.Value {
				t.Fatalf("%q: got %q, standard library %q", canonical, pair, values[pair.Name])
			}
			values[pair.Name] = values[pair.Name][1:]
		}
	})
}
