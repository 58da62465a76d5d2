package protocol

import (
	"fmt"
	"strings"
)

// PublishKey names a publish: another one with the same is a retry. A key means
// nothing beyond the issuer and subject of the token it came with.
type PublishKey struct{ Issuer, Subject, Key string }

// maxIdempotencyKey is how long a key may be, in bytes.
const maxIdempotencyKey = 255

// ParseIdempotencyKey reads the fields Idempotency-Key of a request. The value
// is the string of a structured field (RFC 9651), in double quotes; it may also
// stand there as it is, as many clients send it, if it has neither spaces nor
// one of " \ , ; in it. Empty: there is no field.
func ParseIdempotencyKey(fields []string) (string, error) {
	if len(fields) == 0 {
		return "", nil
	}
	if len(fields) > 1 {
		return "", badKey("must occur once")
	}
	value := strings.Trim(fields[0], " \t")
	key, ok := value, !strings.ContainsAny(value, ` "\,;`)
	if strings.HasPrefix(value, `"`) {
		key, ok = unquote(value)
	}
	for _, c := range []byte(key) {
		ok = ok && c >= 0x20 && c < 0x7f
	}
	switch {
	case !ok:
		return "", badKey(`must be one string of ASCII characters in double quotes, such as "8e03978e-40d5-43dd-bc93-6894a57f9324"`)
	case key == "":
		return "", badKey("must not be empty")
	case len(key) > maxIdempotencyKey:
		return "", badKey(fmt.Sprintf("must be at most %d bytes long", maxIdempotencyKey))
	}
	return key, nil
}

func badKey(problem string) error { return &FieldError{Field: "Idempotency-Key", Problem: problem} }

// unquote reads a string that takes all of the value; parameters have no
// meaning and are refused.
func unquote(value string) (string, bool) {
	var b strings.Builder
	for i := 1; i < len(value); i++ {
		switch c := value[i]; c {
		case '"':
			return b.String(), i == len(value)-1
		case '\\':
			i++
			if i == len(value) || value[i] != '"' && value[i] != '\\' {
				return "", false
			}
			b.WriteByte(value[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}
