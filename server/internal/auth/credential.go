package auth

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// source is where a credential was found.
type source uint8

const (
	fromHeader source = iota + 1
	fromQuery
	fromCookie
)

type credential struct {
	token  string
	source source
}

// queryParameter is where 0.x clients put tokens in URLs. The access_token
// parameter of OAuth is never looked at.
const queryParameter = "authorization"

// credential picks the one credential that counts, or none. Whatever it
// returns is final: a failure must not fall through to a lower rank.
//
// Spec: and the ranks of section 8.1.
func (a *Authenticator) credential(r *http.Request) (credential, bool, error) {
	if fields, present := r.Header["Authorization"]; present {
		token, err := bearerToken(fields)

		return credential{token: token, source: fromHeader}, true, err
	}

	if a.compat && takesQueryToken(r.Method) {
		token, present, err := queryToken(r.URL.RawQuery)
		if present || err != nil {
			return credential{token: token, source: fromQuery}, true, err
		}
	}

	token, present := cookie(r.Header, a.cookieName)
	if !present && a.compat {
		token, present = cookie(r.Header, a.legacyCookieName)
	}

	return credential{token: token, source: fromCookie}, present, nil
}

// bearerToken applies the grammar of the Authorization field. The reasons
// repeat nothing of its value: a missing scheme would make that the token.
//
// Spec: A-4.
func bearerToken(fields []string) (string, error) {
	if len(fields) != 1 {
		return "", refuse(Malformed, "there are %d Authorization fields, one is allowed", len(fields))
	}

	scheme, rest, _ := strings.Cut(strings.Trim(fields[0], " \t"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", refuse(Malformed, "the scheme of the Authorization field is not Bearer")
	}

	token := strings.TrimLeft(rest, " ")
	if !isCompactJWS(token) {
		return "", refuse(Malformed, "the Authorization field does not hold Bearer and one compact JWS (three base64url parts)")
	}

	return token, nil
}

// Deployed clients use the parameter for subscribing and for publishing. QUERY
// is newer than they are.
//
// Spec: A-9.
func takesQueryToken(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodPost
}

func queryToken(rawQuery string) (token string, present bool, err error) {
	// The parameter is rare and streams have long queries: do not parse them
	// when the name cannot be there, not even percent-encoded.
	if !strings.Contains(rawQuery, queryParameter) && !strings.Contains(rawQuery, "%") {
		return "", false, nil
	}

	for _, pair := range protocol.ParseForm(rawQuery) {
		if pair.Name != queryParameter {
			continue
		}

		if present {
			return "", true, refuse(Malformed, "the authorization parameter occurs several times")
		}

		token, present = pair.Value, true
	}

	return token, present, nil
}

// cookie returns the first cookie of that name that is not empty. It is not
// left to net/http, which drops cookies with unusual bytes: such a credential
// is invalid, not absent.
//
// Spec: A-5, S-16.
func cookie(header http.Header, name string) (string, bool) {
	for _, field := range header["Cookie"] {
		for pair := range strings.SplitSeq(field, ";") {
			key, value, _ := strings.Cut(pair, "=")
			if strings.Trim(key, " \t") != name {
				continue
			}

			value = strings.Trim(value, " \t")
			if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
				value = value[1 : len(value)-1]
			}

			if value != "" {
				return value, true
			}
		}
	}

	return "", false
}

// checkOrigin is the defence against forged requests: browsers attach cookies
// to requests that any page makes, but do not let the page choose the origin
// they report.
//
// Spec: A-7, Z-8.
func (a *Authenticator) checkOrigin(r *http.Request, hub *protocol.HubURL) error {
	const advice = "publishing with a cookie works from the hub's own origin and from MERCURE_PUBLISH_ALLOWED_ORIGINS"

	origin, field := "", "Origin"

	if values, present := r.Header[field]; present {
		if len(values) != 1 {
			return refuse(CSRF, "there are %d Origin fields", len(values))
		}

		origin = values[0]
	} else {
		field = "Referer"

		referer := r.Header.Get(field)
		if referer == "" {
			return refuse(CSRF, "the request has a cookie but neither Origin nor Referer: %s", advice)
		}

		u, err := url.Parse(referer)
		if err != nil || u.Scheme == "" || u.Host == "" {
			return refuse(CSRF, "the request has a cookie, no Origin and an unusable Referer: %s", advice)
		}

		origin = u.Scheme + "://" + u.Host
	}

	if a.isOwnOrigin(origin, hub) || a.publishOrigins.mayPublish(origin) {
		return nil
	}

	return naming(refuse(CSRF, "the origin %s (from %s) may not publish: %s", quote(origin), field, advice), origin)
}

func (a *Authenticator) isOwnOrigin(origin string, hub *protocol.HubURL) bool {
	theirs, ok := parseOrigin(origin)
	if !ok {
		return false
	}

	own, ok := parseOrigin(hub.Origin())

	return ok && own == theirs
}

// isSafe reports whether a method changes nothing, so that a forged request
// with it is harmless.
func isSafe(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, "QUERY":
		return true
	default:
		return false
	}
}
