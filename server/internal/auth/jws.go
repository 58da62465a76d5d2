package auth

import (
	"encoding/base64"
	"errors"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// The JWT library does the signatures (jwt.SigningMethod), the base64url
// decoding and, in Mint, the assembling. Its parser and validator are not
// used, because their defaults would be wrong here:
//   - the parser takes the algorithm from the token and looks for the key
//     afterwards; we take it from the key,
//   - it ignores crit, keeps the last of several members of one name, and
//     reads payload members into structs without regard to case,
//   - the validator takes an exp of 0 for a missing one, applies one leeway to
//     exp and nbf alike, and rounds fractional times.

// jws is a token taken apart. Nothing in it is verified yet.
type jws struct {
	alg     string
	kid     string // empty if absent
	dialect Dialect

	signed    string // what the signature covers
	signature []byte
	payload   []byte
}

var strictBase64 = jwt.NewParser(jwt.WithStrictDecoding())

// isCompactJWS reports whether s has the shape of a compact JWS: three
// base64url parts, of which only the signature may be empty.
//
// Spec: A-4, V-13.
func isCompactJWS(s string) bool {
	header, rest, _ := strings.Cut(s, ".")
	payload, signature, found := strings.Cut(rest, ".")

	return found && header != "" && payload != "" && isBase64URL(header) && isBase64URL(payload) && isBase64URL(signature)
}

// isBase64URL looks at the alphabet only. It runs on all that anybody sends,
// before any limit, so it is a table.
func isBase64URL(s string) bool {
	for i := range len(s) {
		if !base64URLAlphabet[s[i]] {
			return false
		}
	}

	return true
}

var base64URLAlphabet = func() (table [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
		table[c] = true
	}

	return table
}()

// maxHeaderBytes bounds the decoded header of a token. It is read strictly and
// before the signature; what is in it fits into a tenth of this.
const maxHeaderBytes = 4096

// classify reads the header of a token and nothing else. Every failure is an
// InvalidToken error; the dialect is then set if the header got that far.
func classify(token string) (*jws, error) {
	t := &jws{}

	if !isCompactJWS(token) {
		return t, invalid("the token is not a compact JWS (three base64url parts)")
	}

	part, _, _ := strings.Cut(token, ".")
	if len(part) > base64.RawURLEncoding.EncodedLen(maxHeaderBytes) {
		return t, invalid("the token's header is longer than %d bytes", maxHeaderBytes)
	}

	header, err := strictBase64.DecodeSegment(part)
	if err != nil {
		return t, invalid("the token's header is not base64url")
	}

	if err := t.readHeader(header); err != nil {
		return t, invalid("the token's header: %v", err)
	}

	return t, nil
}

// parseJWS takes a token apart and classifies it. It does not look into the
// payload. Errors are those of classify.
func parseJWS(token string) (*jws, error) {
	t, err := classify(token)
	if err != nil {
		return t, err
	}

	dot := strings.LastIndexByte(token, '.')
	t.signed = token[:dot]
	_, payloadPart, _ := strings.Cut(t.signed, ".")

	if t.payload, err = strictBase64.DecodeSegment(payloadPart); err != nil {
		return t, invalid("the token's payload is not base64url")
	}

	if t.signature, err = strictBase64.DecodeSegment(token[dot+1:]); err != nil {
		return t, invalid("the token's signature is not base64url")
	}

	return t, nil
}

// readHeader takes from the header what we use. Members that carry or point
// to keys (jwk, jku, x5c, x5u, x5t) are not even looked at.
//
// Spec: V-1, V-3, X-1. Duplicate names are refused in both dialects, because
// classification depends on them.
func (t *jws) readHeader(raw []byte) error {
	if err := checkStrict(raw); err != nil {
		return err
	}

	header, ok := object(raw)
	if !ok {
		return errors.New("not a JSON object")
	}

	t.dialect = Dialect0
	if typ, ok := text(header["typ"]); ok && isAccessTokenType(typ) {
		t.dialect = Dialect1
	}

	// RFC 7515 wants unknown critical extensions refused; we know none.
	if _, ok := header["crit"]; ok {
		return errors.New("crit names extensions this hub does not implement")
	}

	if t.alg, ok = text(header["alg"]); !ok {
		return errors.New("alg is missing or not a string")
	}

	if kid, ok := header["kid"]; ok {
		if t.kid, ok = text(kid); !ok && t.dialect == Dialect1 {
			return errors.New("kid is not a string")
		}
	}

	return nil
}

// isAccessTokenType normalizes typ as media types are: an optional
// "application/" in front, no difference of case.
//
// Spec: V-1.
func isAccessTokenType(typ string) bool {
	const prefix = "application/"

	if len(typ) >= len(prefix) && strings.EqualFold(typ[:len(prefix)], prefix) {
		typ = typ[len(prefix):]
	}

	return strings.EqualFold(typ, "at+jwt")
}
