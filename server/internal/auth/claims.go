package auth

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// claims is what a token says once its own dialect's rules have been applied.
type claims struct {
	subject   string
	expires   time.Time // zero: none
	notBefore time.Time // zero: none

	publish, subscribe []*protocol.Matcher
	payloads           []PayloadEntry
}

// maxIssuerBytes bounds the identifier of an issuer.
const maxIssuerBytes = 4096

// peekIssuer reads iss from a payload that nobody has vouched for yet, so it
// does as little as possible. The caller checks the rest after the signature.
//
// Spec: V-5.
func peekIssuer(payload []byte) (string, error) {
	switch firstByte(payload) {
	case '{':
	case '[', '"', 'n', 't', 'f':
		return "", invalid("the token's payload is not a JSON object")
	default:
		return "", invalid("the token's payload: %v", errNotJSON)
	}

	literal := peekMember(payload, "iss")
	if len(literal) > maxLiteral(maxIssuerBytes) {
		return "", invalid("iss is longer than %d bytes", maxIssuerBytes)
	}

	issuer, ok := text(literal)
	if !ok {
		return "", invalid("iss is missing or not a string")
	}

	return issuer, nil
}

// payloadMembers reads the payload once its signature has been checked.
func payloadMembers(payload []byte, check func([]byte) error) (map[string]json.RawMessage, error) {
	if err := check(payload); err != nil {
		return nil, invalid("the token's payload: %v", err)
	}

	members, ok := object(payload)
	if !ok {
		return nil, invalid("the token's payload is not a JSON object")
	}

	return members, nil
}

// requireExpiry is for 1.0 tokens; readTimes does the rest.
//
// Spec: V-8.
func requireExpiry(members map[string]json.RawMessage) error {
	if members["exp"] == nil {
		return invalid("exp is missing: every 1.0 token needs one")
	}

	return nil
}

// readTimes applies exp and nbf. There is no leeway on exp: a token that
// expires now is expired.
//
// Spec: V-8, V-9, L-6.
func (a *Authenticator) readTimes(members map[string]json.RawMessage, now time.Time) (c claims, err error) {
	if raw, present := members["exp"]; present {
		var ok bool
		if c.expires, ok = numericDate(raw); !ok {
			return c, invalid("exp is not a number")
		}

		if expired(c.expires, now) {
			return c, invalid("the token expired %s ago", now.Sub(c.expires).Round(time.Millisecond))
		}
	}

	if raw, present := members["nbf"]; present {
		var ok bool
		if c.notBefore, ok = numericDate(raw); !ok {
			return c, invalid("nbf is not a number")
		}

		if a.early(c.notBefore, now) {
			return c, invalid("nbf is %s in the future: check both clocks", c.notBefore.Sub(now).Round(time.Millisecond))
		}
	}

	return c, nil
}

func expired(expires, now time.Time) bool {
	return !expires.IsZero() && !now.Before(expires)
}

func (a *Authenticator) early(notBefore, now time.Time) bool {
	return notBefore.After(now.Add(a.notBeforeLeeway))
}

// checkAudience wants the resource identifier itself, byte for byte.
//
// Spec: V-10.
func checkAudience(raw json.RawMessage, resource string) error {
	const advice = "issuers put the resource identifier there; it is set with MERCURE_PUBLIC_URL or MERCURE_RESOURCE_IDENTIFIER"

	if resource == "" {
		return invalid("the hub has no resource identifier to compare aud with: set MERCURE_PUBLIC_URL")
	}

	if raw == nil {
		return invalid("aud is missing: %s", advice)
	}

	if one, ok := text(raw); ok {
		if one != resource {
			return naming(invalid("aud is %s, not %s: %s", quote(one), quote(resource), advice), one)
		}

		return nil
	}

	elements, ok := array(raw)
	if !ok {
		return invalid("aud is neither a string nor an array of strings")
	}

	audiences := make([]string, 0, len(elements))

	for _, element := range elements {
		audience, ok := text(element)
		if !ok {
			return invalid("aud is neither a string nor an array of strings")
		}

		audiences = append(audiences, audience)
	}

	if !slices.Contains(audiences, resource) {
		return naming(invalid("aud does not contain %s: %s", quote(resource), advice), audiences...)
	}

	return nil
}
