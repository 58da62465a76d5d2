// Package httpapi is the hub's HTTP interface: it parses and authorizes
// requests, hands them to the log and the broadcaster, and turns every error
// into a status and a sentence. It holds no state of its own and no SQL.
//
// Promises:
//   - A publish is answered 200 only when the update is durable (P-16).
//   - Refusals about tokens never say which check failed; the log does,
//     with the setting to change.
//   - A browser's EventSource is never refused in a way that makes it give up
//     when trying again would help (S-20).
package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/rs/cors"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
	"github.com/cinnabar-hub/cinnabar/server/internal/sse"
)

// Log is where updates are published.
type Log interface {
	// Append returns the update's id once it is durable.
	Append(ctx context.Context, update *protocol.Update) (protocol.EventID, error)
	// Ready returns why updates cannot be appended and heard of now.
	Ready() error
}

// Config is everything the API depends on.
type Config struct {
	Log         Log
	Broadcaster *broadcast.Broadcaster
	Auth        *auth.Authenticator
	Hub         HubConfig
	Logger      *slog.Logger

	// Anonymous lets subscribers without a token have public updates (S-14).
	Anonymous bool
	// Compat accepts the 0.x dialect.
	Compat bool
	Limits protocol.Limits
	// CORSOrigins may read from scripts; nil: none.
	CORSOrigins *auth.Origins
	// LiveIfUnknown starts streams with an unknown cursor at the present.
	LiveIfUnknown bool
	// Checkpoints says to which subscribers ids without data are sent (S-26).
	Checkpoints CheckpointMode

	Heartbeat       time.Duration
	Lifetime        time.Duration
	DispatchTimeout time.Duration
	SeparateWrites  bool
	// Draining is closed when the hub is about to stop.
	Draining <-chan struct{}
}

// CheckpointMode is the setting of S-26.
type CheckpointMode string

// The modes. Auto means requests that look like a browser's EventSource or ask.
const (
	CheckpointsAuto CheckpointMode = "auto"
	CheckpointsOn   CheckpointMode = "on"
	CheckpointsOff  CheckpointMode = "off"
)

// answerTimeout is how long a client may take to take an answer that is not a
// stream. How long it may take to send a request is up to the http.Server; that
// deadline is lifted once the request has been read, since net/http takes it
// for the end of the client otherwise.
const answerTimeout = 10 * time.Second

type api struct {
	Config
	hubs *hubResolver
}

// New returns the handler of every route on the hub's main address.
func New(config Config) http.Handler {
	a := &api{Config: config, hubs: newHubResolver(config.Hub)}
	r := chi.NewRouter()
	r.Use(a.recoverPanics, a.cors())
	r.NotFound(a.handle(func(http.ResponseWriter, *http.Request) error { return errNotFound }))
	r.MethodNotAllowed(a.handle(methodNotAllowed(r)))
	path := config.Hub.Path
	r.Method(http.MethodGet, path, a.handle(a.subscribe))
	r.Method(http.MethodHead, path, a.handle(a.subscribe))
	r.Method(methodQuery, path, a.handle(a.subscribe))
	r.Method(http.MethodPost, path, a.handle(a.publish))
	r.Method(http.MethodOptions, path, http.HandlerFunc(options))
	for _, alive := range []string{"/healthz", "/mercure/health/live"} {
		r.Get(alive, a.alive)
		r.Head(alive, a.alive)
	}
	for _, ready := range []string{"/readyz", "/mercure/health/ready"} {
		r.Method(http.MethodGet, ready, a.handle(a.ready))
		r.Method(http.MethodHead, ready, a.handle(a.ready))
	}
	return r
}

// methodQuery is the safe method with a body (RFC 10008, E-2).
const methodQuery = "QUERY"

// chi keeps its methods in a global table, so this cannot wait for New.
func init() { chi.RegisterMethod(methodQuery) }

// methodNotAllowed answers with the methods the path has.
//
// Spec: E-11.
func methodNotAllowed(routes chi.Routes) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, methodQuery, http.MethodOptions} {
			if routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
				allowed = append(allowed, method)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return &problem{status: http.StatusMethodNotAllowed, detail: "Use one of the methods " + strings.Join(allowed, ", ") + "."}
	}
}

func options(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

// cors answers preflights and marks answers for the origins that may read
// them, errors included.
//
// Spec: C-1 to C-5.
func (a *api) cors() func(http.Handler) http.Handler {
	if a.CORSOrigins.Empty() {
		return func(next http.Handler) http.Handler { return next }
	}
	o := cors.Options{
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, methodQuery},
		AllowedHeaders: []string{"Authorization", "Cache-Control", "Content-Type", "Last-Event-ID", "If-None-Match"},
		ExposedHeaders: []string{"Link", headerCursor, headerLegacyCursor, "WWW-Authenticate", "ETag", "Retry-After"},
		MaxAge:         int((24 * time.Hour).Seconds()),
	}
	if a.CORSOrigins.Any() {
		o.AllowedOrigins = []string{"*"} // without credentials: C-2
	} else {
		o.AllowOriginFunc = a.CORSOrigins.Match
		o.AllowCredentials = true
	}
	return cors.New(o).Handler
}

// recoverPanics keeps one broken request from ending the hub. Its connection is
// cut: what was answered so far may be half an event.
func (a *api) recoverPanics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				a.Logger.Error("request handler panicked; please report this",
					"panic", p, "method", r.Method, "path", r.URL.Path, "stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}

func (a *api) alive(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte("ok\n"))
}

func (a *api) ready(w http.ResponseWriter, _ *http.Request) error {
	if a.isDraining() {
		return &problem{status: http.StatusServiceUnavailable, detail: "The hub is shutting down."}
	}
	if err := a.Log.Ready(); err != nil {
		return &problem{status: http.StatusServiceUnavailable, detail: "Not ready: " + publicReason(err) + ".", reason: "not ready: " + err.Error()}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write([]byte("ok\n"))
	return nil
}

func (a *api) isDraining() bool {
	select {
	case <-a.Draining:
		return true
	default:
		return false
	}
}

func (a *api) sseOptions(r *http.Request, request *protocol.SubscribeRequest, grants *auth.Grants) sse.Options {
	wanted := request.Checkpoints || looksLikeEventSource(r)
	o := sse.Options{
		Heartbeat:         a.Heartbeat,
		Lifetime:          a.Lifetime,
		Checkpoints:       a.Checkpoints == CheckpointsOn || a.Checkpoints == CheckpointsAuto && wanted,
		InitialCheckpoint: !request.HasCursor,
		SeparateWrites:    a.SeparateWrites,
		Away:              func() bool { return a.Log.Ready() != nil },
	}
	if grants != nil {
		o.Expires = grants.Expires
	}
	return o
}
