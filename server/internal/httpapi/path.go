package httpapi

import (
	"net/http"
	"net/url"
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
		path := routable(escapedPath(r.URL))
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

// escapedPath is the path as it was sent, but for characters that should have
// been percent-encoded. URL.EscapedPath decodes everything if there is one, and
// with it slashes that belong to a segment.
//
// Spec: R-11.
func escapedPath(u *url.URL) string {
	decoded, err := url.PathUnescape(u.RawPath)
	if u.RawPath == "" || err != nil || decoded != u.Path {
		return u.EscapedPath()
	}
	const hex = "0123456789ABCDEF"
	var path strings.Builder
	for i := range len(u.RawPath) {
		if c := u.RawPath[i]; c > ' ' && c < 0x7F && strings.IndexByte(`"<>\^`+"`"+`{|}`, c) < 0 {
			path.WriteByte(c)
		} else {
			path.Write([]byte{'%', hex[c>>4], hex[c&0xF]})
		}
	}
	return path.String()
}

// IsHealthCheck reports whether a path belongs to a health check, so that no hub
// can be there.
func IsHealthCheck(path string) bool {
	return slices.Contains([]string{"/healthz", "/readyz", "/mercure/health/live", "/mercure/health/ready"}, routable(path))
}
