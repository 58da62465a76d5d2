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

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
	"github.com/cinnabar-hub/cinnabar/server/internal/sse"
)

// Log is where updates are published.
type Log interface {
	// Append returns the update's id once it is durable.
	Append(ctx context.Context, update *protocol.Update) (protocol.EventID, error)
	// AppendOnce is Append, unless an update with the key is there already: then
	// it returns the id of that.
	AppendOnce(ctx context.Context, update *protocol.Update, key protocol.PublishKey) (protocol.EventID, error)
	// Ready returns why updates cannot be appended and heard of now.
	Ready() error
}

// Config is everything the API depends on.
type Config struct {
	Log         Log
	Broadcaster *broadcast.Broadcaster
	// Loop serves the streams on plain HTTP/1.1 connections that WithConn has
	// seen; nil: net/http does, as it does all others.
	Loop *sse.Loop
	// Auth returns what requests are authenticated by now: it is another one
	// after a change of configuration.
	Auth   func() *auth.Authenticator
	Hub    HubConfig
	Logger *slog.Logger

	// Anonymous lets subscribers without a token have public updates (S-14).
	Anonymous bool
	// AnonymousFallback lets those have it, too, who had a token in a cookie
	// before.
	AnonymousFallback bool
	Limits            protocol.Limits
	// RefuseTarget refuses updates that publishers of before 0.10 meant to be
	// private.
	RefuseTarget bool
	// MaxStreams and MaxStreamsPerAddress bound the streams that are open, and
	// the lists of subscriptions that are sent, at a time (S-13); zero: no limit.
	MaxStreams, MaxStreamsPerAddress int
	// AuthorizationServers returns the issuers that the metadata names (I-1);
	// nil: none.
	AuthorizationServers func() []string
	// Presence has the active subscriptions; nil: they are not served.
	Presence Presence
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
	hubs     *hubResolver
	capacity *capacity
	notices  notices
	// Constant after New.
	away          func() bool // made once: each stream keeps it
	metadataPaths []string
	// resourcePath is the one that is for resourceHost only; empty: none.
	resourcePath, resourceHost string
}

// New returns the handler of every route on the hub's main address.
func New(config Config) http.Handler {
	config.Hub.Path = routable(config.Hub.Path)
	a := &api{
		Config:   config,
		hubs:     newHubResolver(config.Hub),
		capacity: newCapacity(config.MaxStreams, config.MaxStreamsPerAddress),
	}
	a.away = func() bool { return a.Log.Ready() != nil }
	r := chi.NewRouter()
	r.Use(a.recoverPanics, a.cors())
	r.NotFound(a.handle(func(http.ResponseWriter, *http.Request) error { return errNotFound }))
	notAllowed := a.methodNotAllowed(r)
	r.MethodNotAllowed(a.handle(notAllowed))
	path := config.Hub.Path
	r.Method(http.MethodGet, path, a.handle(a.subscribe))
	r.Method(http.MethodHead, path, a.handle(a.subscribe))
	r.Method(methodQuery, path, a.handle(a.subscribe))
	r.Method(http.MethodPost, path, a.handle(func(w http.ResponseWriter, r *http.Request) error {
		if !a.hasPublishers() {
			return notAllowed(w, r)
		}
		return a.publish(w, r)
	}))
	r.Method(http.MethodOptions, path, http.HandlerFunc(a.options))
	a.metadataRoutes(r)
	if a.Presence != nil {
		a.subscriptionRoutes(r)
	}
	for _, alive := range []string{"/healthz", "/mercure/health/live"} {
		r.Get(alive, a.alive)
		r.Head(alive, a.alive)
	}
	for _, ready := range []string{"/readyz", "/mercure/health/ready"} {
		r.Method(http.MethodGet, ready, a.handle(a.ready))
		r.Method(http.MethodHead, ready, a.handle(a.ready))
	}
	return spelledAlike(r)
}

// methodQuery is the safe method with a body (RFC 10008, E-2).
const methodQuery = "QUERY"

// chi keeps its methods in a global table, so this cannot wait for New.
func init() { chi.RegisterMethod(methodQuery) }

// hasPublishers: without a key to verify their tokens with there is no publish
// endpoint. Keys may come and go while the hub runs.
//
// Spec: G-4, E-18.
func (a *api) hasPublishers() bool { return a.Auth().HasKeys(auth.Publisher) }

// methodNotAllowed answers with the methods the path has.
//
// Spec: E-11.
func (a *api) methodNotAllowed(routes chi.Routes) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, methodQuery, http.MethodOptions} {
			if method == http.MethodPost && !a.hasPublishers() {
				continue // nothing else takes it
			}
			if routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 {
			return errNotFound // the router does not look at the path if it does not know the method
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		p := &problem{status: http.StatusMethodNotAllowed, detail: "Use one of the methods " + strings.Join(allowed, ", ") + "."}
		if r.Method == http.MethodPost && r.URL.Path == a.Hub.Path {
			p.detail = "This hub takes no updates over HTTP."
			p.reason = "a publish request to a hub without a publisher key; set MERCURE_PUBLISHER_JWT_KEY to take updates over HTTP"
		}
		return p
	}
}

// options answers what is no preflight, or one where no other origin is served.
func (a *api) options(w http.ResponseWriter, _ *http.Request) {
	allowed := "GET, HEAD, POST, QUERY, OPTIONS"
	if !a.hasPublishers() {
		allowed = "GET, HEAD, QUERY, OPTIONS"
	}
	w.Header().Set("Allow", allowed)
	w.WriteHeader(http.StatusNoContent)
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
					"panic", p, "method", r.Method, "path", shortened(r.URL.Path), "stack", string(debug.Stack()))
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
		SpreadReturn:      looksLikeEventSource(r),
		SeparateWrites:    a.SeparateWrites,
		Away:              a.away,
	}
	if grants != nil {
		o.Expires, o.ExpiryEvent = grants.Expires, request.ExpiryEvent
	}
	return o
}
