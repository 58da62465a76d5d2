package httpapi

import (
	"errors"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
	"github.com/cinnabar-hub/cinnabar/server/internal/sse"
)

// Response fields with the cursor (H-4): 1.0 and 0.x.
const (
	headerCursor       = "Mercure-Last-Event-ID"
	headerLegacyCursor = "Last-Event-ID"
)

// subscribe answers GET, HEAD and QUERY on the hub URL. The order of its checks
// is in section 5.2.
func (a *api) subscribe(w http.ResponseWriter, r *http.Request) error {
	hub, resource, err := a.hubs.of(r)
	if err != nil {
		return err
	}
	grants, err := a.Auth.Authenticate(r, auth.Subscriber, hub, resource)
	if err != nil {
		return err
	}
	if grants == nil && !a.Anonymous {
		return &auth.Error{
			Kind:   auth.NoCredential,
			Reason: "subscribe request without a token; set MERCURE_ANONYMOUS=on to let such subscribers have public updates",
		}
	}
	request, err := a.parseSubscribe(w, r, hub)
	if err != nil {
		return err
	}
	subscription := broadcast.Subscription{
		Matchers:      protocol.NewMatcherSet(request.Matchers),
		Cursor:        request.Cursor,
		LiveIfUnknown: a.LiveIfUnknown,
	}
	if grants != nil {
		subscription.Receiver = grants
	}
	// A stream is open for as long as it lives.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if a.isDraining() {
		return a.refuse(w, r, request, broadcast.ErrEnded)
	}
	stream, err := a.Broadcaster.Subscribe(r.Context(), subscription)
	if err != nil {
		return a.refuse(w, r, request, err)
	}
	defer stream.Close()

	streamHeaders(w, request, stream.PrecedingID())
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil // Spec: E-15
	}
	options := a.sseOptions(r, request, grants)
	conn := sse.NewResponseConn(w, a.DispatchTimeout, options.Expires)
	reason := sse.Serve(r.Context(), conn, stream, options)
	a.Logger.Debug("stream ended", "reason", reason, "remote", r.RemoteAddr)
	return nil
}

func (a *api) parseSubscribe(w http.ResponseWriter, r *http.Request, hub *protocol.HubURL) (*protocol.SubscribeRequest, error) {
	// Also that of a GET, which means nothing (S-7): net/http would wait for it
	// before it sends the first byte of the stream.
	body, err := a.readBody(w, r)
	if err != nil {
		return nil, err
	}
	if r.Method != methodQuery {
		body = ""
	} else {
		mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if body != "" && (err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || mediaType != formMediaType) {
			return nil, &problem{status: http.StatusBadRequest, detail: "The Content-Type of the body must be " + formMediaType + "."} // S-7
		}
	}
	return protocol.ParseSubscribe(r.URL.RawQuery, body, r.Header.Values(headerLegacyCursor), protocol.SubscribeOptions{
		Compat: a.Compat, Hub: hub, Limits: a.Limits,
	})
}

func streamHeaders(w http.ResponseWriter, request *protocol.SubscribeRequest, preceding protocol.EventID) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "private, no-cache, no-store, must-revalidate, max-age=0")
	h.Set("X-Accel-Buffering", "no")
	if request.HasCursor {
		h.Set(headerCursor, string(preceding))
		if request.LegacyField {
			h.Set(headerLegacyCursor, string(preceding))
		}
	}
}

// refuse turns away a subscriber that cannot be served now. A browser's
// EventSource gives up for good on an error status, so it gets a stream that
// ends at once: its cursor stays as it was.
//
// Spec: S-20.
func (a *api) refuse(w http.ResponseWriter, r *http.Request, request *protocol.SubscribeRequest, reason error) error {
	if !looksLikeEventSource(r) {
		return unavailable(reason, "The hub cannot open a stream now; try again later.")
	}
	a.Logger.Debug("stream refused softly", "reason", reason, "remote", r.RemoteAddr)
	streamHeaders(w, request, request.Cursor)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		delay := time.Second + time.Duration(rand.Int64N(int64(2*time.Second)))
		_, _ = w.Write([]byte("retry: " + strconv.FormatInt(delay.Milliseconds(), 10) + "\n\n"))
	}
	return nil
}

// looksLikeEventSource recognizes requests of browsers' EventSource (S-26).
func looksLikeEventSource(r *http.Request) bool {
	return r.Header.Get("Accept") == "text/event-stream" &&
		strings.EqualFold(r.Header.Get("Cache-Control"), "no-cache") &&
		r.Header.Get("Authorization") == ""
}
