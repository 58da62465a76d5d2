package auth

import (
	"errors"
	"net/http"
)

// CookieName is where browsers present tokens of either dialect.
func (a *Authenticator) CookieName() string { return a.cookieName }

// CookieNames are all the cookies that may hold a credential.
func (a *Authenticator) CookieNames() []string {
	if a.compat {
		return []string{a.cookieName, a.legacyCookieName}
	}

	return []string{a.cookieName}
}

// Presentation says where the credential of a request is.
type Presentation struct {
	// InURL: the authorization parameter.
	InURL bool
	// Cookie is the name of the cookie, empty if it is elsewhere.
	Cookie string
	// LegacyCookie: it is the one of 0.x clients.
	LegacyCookie bool
}

// Presented finds the credential that Authenticate would judge. The zero value
// stands for none, a malformed one, and one in the Authorization field.
//
// Spec: section 8.1.
func (a *Authenticator) Presented(r *http.Request) Presentation {
	cred, present, err := a.credential(r)
	if !present || err != nil {
		return Presentation{}
	}

	switch cred.source {
	case fromQuery:
		return Presentation{InURL: true}
	case fromCookie:
		if _, ok := cookie(r.Header, a.cookieName); ok {
			return Presentation{Cookie: a.cookieName}
		}

		return Presentation{Cookie: a.legacyCookieName, LegacyCookie: true}
	default:
		return Presentation{}
	}
}

// HasCookie reports whether a request has a cookie of a name with a value.
func HasCookie(r *http.Request, name string) bool {
	_, present := cookie(r.Header, name)

	return present
}

// naming notes for which URL a credential is instead of the hub's.
func naming(err error, named ...string) error {
	if refused, ok := errors.AsType[*Error](err); ok {
		refused.Named = named
	}

	return err
}
