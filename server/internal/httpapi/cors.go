package httpapi

import (
	"net/http"
	"time"

	"github.com/rs/cors"
)

// cors answers preflights and marks answers for the origins that may read
// them, errors included. The metadata is for everybody and marks itself.
//
// Spec: C-1 to C-6.
func (a *api) cors() func(http.Handler) http.Handler {
	if a.CORSOrigins.Empty() {
		return func(next http.Handler) http.Handler { return next }
	}
	o := cors.Options{
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, methodQuery},
		AllowedHeaders: []string{"Authorization", "Cache-Control", "Content-Type", "Last-Event-ID", "If-None-Match", headerIdempotencyKey},
		ExposedHeaders: []string{"Link", headerCursor, headerLegacyCursor, "WWW-Authenticate", "ETag", "Retry-After"},
		MaxAge:         int((24 * time.Hour).Seconds()),
	}
	if a.CORSOrigins.Any() {
		o.AllowedOrigins = []string{"*"} // without credentials: C-2
	} else {
		o.AllowOriginVaryRequestFunc = func(r *http.Request, origin string) (bool, []string) {
			// All of several fields would be repeated, when one was checked.
			return len(r.Header["Origin"]) == 1 && a.CORSOrigins.Match(origin), nil
		}
		o.AllowCredentials = true
	}
	mark := cors.New(o)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if a.isMetadata(r.URL.Path) {
				w.Header().Add("Vary", "Origin") // C-4
				next.ServeHTTP(w, r)
				return
			}
			if isPreflight(r) {
				mark.HandlerFunc(w, r)
				return
			}
			// The library leaves answers to methods that are not allowed
			// unmarked, a 405 for one: a script could not read it.
			marked := *r
			marked.Method = http.MethodGet
			mark.HandlerFunc(w, &marked)
			next.ServeHTTP(w, r)
		})
	}
}

func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
}
