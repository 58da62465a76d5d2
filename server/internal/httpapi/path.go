package httpapi

import (
	"net/http"
	"slices"
	"strings"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// routable spells a percent-encoded path as it is spelled in routes: the router
// takes * for a wildcard, and knows of no two spellings of one path.
//
// Spec: E-19.
func routable(path string) string {
	return strings.ReplaceAll(protocol.DecodeUnreserved(path), "*", "%2A")
}

// spelledAlike gives requests their path as routes have it.
func spelledAlike(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := routable(r.URL.EscapedPath())
		if r.URL.RawPath == "" && r.URL.Path == path {
			next.ServeHTTP(w, r)
			return
		}
		spelled, target := *r, *r.URL
		target.Path, target.RawPath = path, ""
		spelled.URL = &target
		next.ServeHTTP(w, &spelled)
	})
}

// IsHealthCheck reports whether a path belongs to a health check, so that no hub
// can be there.
func IsHealthCheck(path string) bool {
	return slices.Contains([]string{"/healthz", "/readyz", "/mercure/health/live", "/mercure/health/ready"}, routable(path))
}
