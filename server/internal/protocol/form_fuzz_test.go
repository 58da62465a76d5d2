package protocol

import (
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// parseFormByRules is S-1 and S-2 sentence by sentence.
func parseFormByRules(raw string) []Pair {
	decode := func(s string) string {
		var out []byte
		for i := 0; i < len(s); i++ {
			if s[i] == '+' {
				out = append(out, ' ')
				continue
			}
			if s[i] == '%' && i+3 <= len(s) {
				if b, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
					out = append(out, b...)
					i += 2
					continue
				}
			}
			out = append(out, s[i])
		}
		return string(out)
	}
	var pairs []Pair
	for piece := range strings.SplitSeq(raw, "&") {
		if piece == "" {
			continue
		}
		halves := append(strings.SplitN(piece, "=", 2), "")
		pairs = append(pairs, Pair{Name: decode(halves[0]), Value: decode(halves[1])})
	}
	return pairs
}

// Spec: S-1, S-2, S-3
func FuzzParseFormByRules(f *testing.F) {
	for _, seed := range []string{"", "a=b&c", "%", "%4", "a=%C3%A9+%zz&%%41", "&&=&", "a;b=c", "a=b=c&=&=x", "%FF=\xFF", "?a=#b&%26=%3D", "a=%4&1=2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got := ParseForm(raw)
		if want := parseFormByRules(raw); !slices.Equal(got, want) {
			t.Fatalf("ParseForm(%q) = %q, want %q", raw, got, want)
		}
		// The standard library has a stricter grammar; what it takes it must
		// take alike.
		values, err := url.ParseQuery(raw)
		if err != nil {
			return
		}
		ours := make(url.Values)
		for _, pair := range got {
			ours.Add(pair.Name, pair.Value)
		}
		if ours.Encode() != values.Encode() {
			t.Fatalf("ParseForm(%q) = %q, the standard library %q", raw, ours, values)
		}
	})
}
