package httpapi

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// urlAdvice ends every hint.
const urlAdvice = ": set MERCURE_PUBLIC_URL to the URL of the hub as the world sees it, or MERCURE_TRUSTED_PROXIES to the address of the proxy"

// explain adds to the reason of a refused credential that the hub may be
// mistaken about its own URL. Behind a proxy that ends TLS nothing else looks
// wrong, and the URL in the token is the one everybody uses.
//
// Spec: V-17, Z-15.
func (a *api) explain(r *http.Request, hub *protocol.HubURL, err error) error {
	denied, ok := errors.AsType[*auth.Error](err)
	if !ok || denied.Named == nil || a.Hub.PublicURL != nil || denied.Kind == auth.InvalidToken && a.Hub.Resource != "" {
		return err
	}
	hint := a.hubs.proxyHint(r, hub)
	if hint == "" && namesHub(hub, denied.Named) {
		hint = "that is the URL of the hub but for scheme, host or port; the hub takes its own from the request, as " + hub.String() + urlAdvice
	}
	if hint == "" {
		return err
	}
	return &auth.Error{Kind: denied.Kind, Reason: denied.Reason + "; " + hint, Named: denied.Named}
}

// proxyHint says which field shows that a request came through a proxy whose
// word does not count.
func (h *hubResolver) proxyHint(r *http.Request, hub *protocol.HubURL) string {
	if r.TLS != nil || h.trusts(r.RemoteAddr) {
		return ""
	}
	for _, field := range []string{"X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"} {
		if r.Header.Get(field) != "" {
			return "the request came in over plain HTTP with " + field + " from " + r.RemoteAddr +
				", which is no trusted proxy, so the hub takes its URL for " + hub.String() + urlAdvice
		}
	}
	return ""
}

// namesHub reports whether one of several URLs may be meant for this hub: the
// same path on whatever host, or an origin with the same host name.
func namesHub(hub *protocol.HubURL, named []string) bool {
	own, err := url.Parse(hub.String())
	if err != nil {
		return false
	}
	for _, name := range named {
		u, err := url.Parse(name)
		switch {
		case err != nil || u.Host == "":
		case u.Path == own.Path, u.Path == "" && strings.EqualFold(u.Hostname(), own.Hostname()):
			return true
		}
	}
	return false
}
