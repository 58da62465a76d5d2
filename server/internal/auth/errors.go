package auth

import (
	"fmt"
	"net/http"
	"strings"
)

// Kind is the answer owed to a client whose credential does not do: a status
// and a challenge, and nothing about which check failed.
type Kind uint8

// The kinds. Authenticate only returns errors of the kinds Malformed,
// InvalidToken, CSRF and Unavailable; the other two are for callers of
// Challenge.
const (
	// NoCredential: a credential is needed and none was presented.
	NoCredential Kind = iota + 1
	// Malformed: the credential was not presented as the protocol asks.
	Malformed
	// InvalidToken: a token was presented and failed a check or a limit.
	InvalidToken
	// CSRF: a cookie came with a request that no trusted page made.
	CSRF
	// InsufficientScope: the token is valid and does not cover the operation.
	InsufficientScope
	// Unavailable: the token cannot be judged, because the key set it may have
	// been signed for could not be read even once. It is no fault of the
	// client, who keeps the token and comes back: there is no challenge.
	//
	// Spec: Q-17.
	Unavailable
)

// String returns a fixed name, fit for a metrics label.
func (k Kind) String() string {
	switch k {
	case NoCredential:
		return "no_credential"
	case Malformed:
		return "malformed"
	case InvalidToken:
		return "invalid_token"
	case CSRF:
		return "csrf"
	case InsufficientScope:
		return "insufficient_scope"
	case Unavailable:
		return "unavailable"
	default:
		return "unknown"
	}
}

// Status returns the HTTP status of the kind (section 8.2).
func (k Kind) Status() int {
	switch k {
	case Malformed, CSRF:
		return http.StatusBadRequest
	case InsufficientScope:
		return http.StatusForbidden
	case Unavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusUnauthorized
	}
}

// Error says why a credential was refused. It is safe to log; only its Kind is
// for the client.
type Error struct {
	Kind Kind
	// Reason is precise and for the operator's log. It names the setting to
	// change where one helps, and never holds a token or key material.
	Reason string
	// Named is set if the credential was refused because it is not for this
	// hub's URL: the audiences of the token, or the origin of the page.
	Named []string
}

// Error implements error.
func (e *Error) Error() string {
	return e.Kind.String() + ": " + e.Reason
}

func refuse(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Reason: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return refuse(InvalidToken, format, args...)
}

// quoteLimit bounds what a reason repeats of a claim, so that a client cannot
// fill the log.
const quoteLimit = 120

// quote makes a claim value fit for a log line: quoted, and cut when long.
// It is for values that are no credential by themselves, such as iss and aud.
func quote(s string) string {
	if len(s) > quoteLimit {
		return fmt.Sprintf("%q (cut)", s[:quoteLimit])
	}

	return fmt.Sprintf("%q", s)
}

var quotedString = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// Challenge returns the WWW-Authenticate value for kind. An empty
// resourceMetadataURL means that metadata is not served.
//
// Spec: A-10. The challenge for a missing credential has no error member.
func Challenge(kind Kind, resourceMetadataURL string) string {
	var params []string

	switch kind {
	case Malformed, CSRF:
		params = append(params, `error="invalid_request"`)
	case InvalidToken:
		params = append(params, `error="invalid_token"`)
	case InsufficientScope:
		params = append(params, `error="insufficient_scope"`)
	case NoCredential, Unavailable:
	}

	if resourceMetadataURL != "" {
		params = append(params, `resource_metadata="`+quotedString.Replace(resourceMetadataURL)+`"`)
	}

	if len(params) == 0 {
		return "Bearer"
	}

	return "Bearer " + strings.Join(params, ", ")
}
