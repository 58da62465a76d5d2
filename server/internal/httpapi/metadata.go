package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// wellKnownResource comes between host and path of a resource identifier in
// the address of its metadata (RFC 9728).
const wellKnownResource = "/.well-known/oauth-protected-resource"

// authorizationDetail is the type of the entries of 1.0 tokens that are for
// hubs (section 8.4).
const authorizationDetail = "https://mercure.rocks/authorization-detail"

// metadataPath is where the metadata of a resource with a path is found.
func metadataPath(path string) string {
	return wellKnownResource + strings.TrimSuffix(path, "/")
}

// metadataRoutes serves the metadata at the address that follows from the hub
// URL, with and without its last slash, and at that of a resource identifier on
// the same host.
//
// Spec: I-1, E-10, Q-33.
func (a *api) metadataRoutes(r chi.Router) {
	a.metadataPaths = []string{wellKnownResource + a.Hub.Path}
	if path := metadataPath(a.Hub.Path); path != a.metadataPaths[0] {
		a.metadataPaths = append(a.metadataPaths, path)
	}
	if a.Hub.Resource != "" {
		// Not a web URL: then no address follows from it.
		if resource, err := protocol.ParseHubURL(a.Hub.Resource); err == nil {
			if path := metadataPath(routable(resource.Path())); !a.isMetadata(path) {
				a.resourcePath, a.resourceHost = path, hostOf(resource)
				a.metadataPaths = append(a.metadataPaths, path)
			}
		}
	}
	for _, path := range a.metadataPaths {
		r.Method(http.MethodGet, path, a.handle(a.metadata))
		r.Method(http.MethodHead, path, a.handle(a.metadata))
		r.Method(http.MethodOptions, path, http.HandlerFunc(a.metadataOptions))
	}
}

func hostOf(u *protocol.HubURL) string {
	_, host, _ := strings.Cut(u.Origin(), "://")
	return host
}

func (a *api) isMetadata(path string) bool { return slices.Contains(a.metadataPaths, path) }

// servesMetadata: a hub that validates no tokens has nothing to tell.
//
// Spec: I-1, X-11: whatever the dialect.
func (a *api) servesMetadata() bool {
	authenticator := a.Auth()
	return authenticator.HasKeys(auth.Publisher) || authenticator.HasKeys(auth.Subscriber)
}

func (a *api) metadata(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	if !a.servesMetadata() {
		return errNotFound
	}
	hub, resource, err := a.hubs.of(r)
	if err != nil {
		return err
	}
	if r.URL.Path == a.resourcePath && hostOf(hub) != a.resourceHost {
		return errNotFound
	}
	document := struct {
		Resource                          string   `json:"resource"`
		AuthorizationServers              []string `json:"authorization_servers,omitempty"`
		AuthorizationDetailsTypeSupported []string `json:"authorization_details_types_supported"`
		BearerMethodsSupported            []string `json:"bearer_methods_supported"`
		MercureCookie                     string   `json:"mercure_cookie"`
		MercureSubscriptions              bool     `json:"mercure_subscriptions,omitempty"`
	}{
		Resource:                          resource,
		AuthorizationDetailsTypeSupported: []string{authorizationDetail},
		BearerMethodsSupported:            []string{"header"},
		MercureCookie:                     a.Auth().CookieName(),
		MercureSubscriptions:              a.Presence != nil,
	}
	if a.AuthorizationServers != nil {
		document.AuthorizationServers = a.AuthorizationServers()
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	if a.Hub.PublicURL == nil {
		h.Add("Vary", "X-Forwarded-Proto, X-Forwarded-Host") // what the URL is taken from
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(document)
}

// metadataOptions lets pages of any origin read the metadata, with whatever
// fields they send: it is the same for everybody.
func (a *api) metadataOptions(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Allow", "GET, HEAD, OPTIONS")
	h.Set("Access-Control-Allow-Origin", "*")
	if isPreflight(r) {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD")
		if fields := r.Header.Get("Access-Control-Request-Headers"); fields != "" {
			h.Set("Access-Control-Allow-Headers", fields)
			h.Add("Vary", "Access-Control-Request-Headers")
		}
		h.Set("Access-Control-Max-Age", "86400")
	}
	w.WriteHeader(http.StatusNoContent)
}

// metadataURL is where the client of a request finds the metadata; empty if
// there is none for it.
//
// Spec: A-10.
func (a *api) metadataURL(r *http.Request) string {
	if !a.servesMetadata() {
		return ""
	}
	hub, _, err := a.hubs.of(r)
	if err != nil {
		return ""
	}
	return hub.Origin() + wellKnownResource + hub.Path()
}
