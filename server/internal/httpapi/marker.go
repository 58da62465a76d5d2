package httpapi

import (
	"net/http"
	"strings"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// A browser whose token cookie has expired comes back without a credential, and
// would become an anonymous subscriber that silently misses every private
// update. With MERCURE_ANONYMOUS_FALLBACK off it carries a second cookie, which
// holds nothing but that there was a token once, and is refused.

// refusesFallback reports whether a request without a credential comes from
// where there was one.
func (a *api) refusesFallback(r *http.Request) bool {
	if a.AnonymousFallback {
		return false
	}
	for _, name := range a.Auth().CookieNames() {
		if auth.HasCookie(r, markerName(name)) {
			return true
		}
	}
	return false
}

// mark leaves the marker with a browser whose token came in a cookie.
func (a *api) mark(w http.ResponseWriter, r *http.Request, hub *protocol.HubURL) {
	if a.AnonymousFallback || !a.Anonymous {
		return // who comes without a token is not let in unnoticed
	}
	name := a.Auth().Presented(r).Cookie
	if name == "" {
		return
	}
	marker := &http.Cookie{
		Name: markerName(name), Value: "1", Path: hub.Path(), HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Secure: strings.HasPrefix(hub.Origin(), "https:"),
	}
	// A browser that has a cookie of that name got it over TLS, whatever the
	// hub sees behind a proxy, and takes no other.
	if strings.HasPrefix(marker.Name, securePrefix) {
		marker.Secure = true
	}
	// As strict as the token's cookie can have been: one that came from a page
	// of another site is None, and a marker that is not would not be kept.
	if marker.Secure && isCrossSite(r, hub) {
		marker.SameSite = http.SameSiteNoneMode
	}
	http.SetCookie(w, marker)
}

const (
	securePrefix = "__Secure-"
	hostPrefix   = "__Host-"
)

// markerName keeps what browsers promise about names with a prefix, but for
// that of __Host-: those have no path.
func markerName(cookie string) string {
	const suffix = "_presented"
	for _, prefix := range []string{securePrefix, hostPrefix} {
		if len(cookie) > len(prefix) && strings.EqualFold(cookie[:len(prefix)], prefix) {
			return securePrefix + cookie[len(prefix):] + suffix
		}
	}
	return cookie + suffix
}

// isCrossSite goes by what browsers say; by the origin with those that do not.
func isCrossSite(r *http.Request, hub *protocol.HubURL) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "cross-site"
	}
	origin := r.Header.Get("Origin")
	return origin != "" && !strings.EqualFold(origin, hub.Origin())
}
