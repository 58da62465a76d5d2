package protocol_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

func TestParseIdempotencyKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 255)
	for _, test := range []struct {
		name   string
		fields []string
		want   string // empty with fields: refused
	}{
		{"no field", nil, ""},
		{"string", []string{`"8e03978e-40d5-43dd-bc93-6894a57f9324"`}, "8e03978e-40d5-43dd-bc93-6894a57f9324"},
		{"bare", []string{"8e03978e-40d5-43dd-bc93-6894a57f9324"}, "8e03978e-40d5-43dd-bc93-6894a57f9324"},
		{"bare base64", []string{"a+/=="}, "a+/=="},
		{"space around", []string{" \t\"a\" "}, "a"},
		{"space inside", []string{`"a b"`}, "a b"},
		{"escaped", []string{`"a\"b\\c"`}, `a"b\c`},
		{"separators inside", []string{`"a,b;c"`}, "a,b;c"},
		{"longest", []string{`"` + long + `"`}, long},
		{"longest, bare", []string{long}, long},
		{"longest, escaped", []string{`"` + strings.Repeat(`\\`, 255) + `"`}, strings.Repeat(`\`, 255)},

		{"too long", []string{`"` + long + `k"`}, ""},
		{"empty", []string{""}, ""},
		{"empty string", []string{`""`}, ""},
		{"twice", []string{`"a"`, `"a"`}, ""},
		{"list", []string{`"a", "b"`}, ""},
		{"bare list", []string{"a,b"}, ""},
		{"bare with a space", []string{"a b"}, ""},
		{"parameter", []string{`"a";b=1`}, ""},
		{"bare parameter", []string{"a;b"}, ""},
		{"not closed", []string{`"a`}, ""},
		{"only a quote", []string{`"`}, ""},
		{"quote inside", []string{`a"b"`}, ""},
		{"more behind", []string{`"a"b`}, ""},
		{"escape of nothing", []string{`"a\`}, ""},
		{"escape of a letter", []string{`"\a"`}, ""},
		{"escaped end", []string{`"a\"`}, ""},
		{"control character", []string{"\"a\x01\""}, ""},
		{"not ASCII", []string{`"ä"`}, ""},
		{"bare, not ASCII", []string{"ä"}, ""},
		{"bytes", []string{":YQ==:"}, ":YQ==:"}, // bare, as it is
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := protocol.ParseIdempotencyKey(test.fields)
			var field *protocol.FieldError
			if refused := test.want == "" && test.fields != nil; refused != errors.As(err, &field) || got != test.want {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}
