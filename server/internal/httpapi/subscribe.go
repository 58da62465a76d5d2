package httpapi

import (
	"errors"
	"mime"
	"net/http"
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
	hub, grants, err := a.admit(r)
	if err != nil {
		return a.postpone(w, r, hub, err)
	}
	request, err := a.parseSubscribe(w, r, hub)
	if err != nil {
		return err
	}
	if grants == nil && request.NoAnonymous {
		return &auth.Error{Kind: auth.NoCredential, Reason: "subscribe request without a token, that says anonymous=off"}
	}
	announced, err := a.subscriptionsOf(hub, request.Matchers, grants)
	if err != nil {
		return err
	}
	a.noteLegacyParameters(r, request.Legacy)
	subscription := broadcast.Subscription{
		Matchers:      protocol.NewMatcherSet(request.Matchers),
		Cursor:        request.Cursor,
		LiveIfUnknown: a.LiveIfUnknown,
	}
	if grants != nil {
		subscription.Receiver = grants
	}
	release, full := a.capacity.take(a.hubs.clientAddress(r))
	if full != nil {
		return a.refuse(w, r, request, full)
	}
	end := release
	defer func() { end() }()
	// A stream is open for as long as it lives.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if a.isDraining() {
		return a.refuse(w, r, request, broadcast.ErrEnded)
	}
	stream, err := a.Broadcaster.Subscribe(r.Context(), subscription)
	if errors.Is(err, broadcast.ErrTooManyPatterns) {
		err = errTooManyPatterns
	}
	if err != nil {
		return a.refuse(w, r, request, err)
	}
	end = func() {
		stream.Close()
		release()
	}
	// The key may have been removed meanwhile, after the streams that were
	// there had been ended (Z-22).
	if grants != nil && !a.Auth().Trusts(auth.Subscriber, grants) {
		return &auth.Error{Kind: auth.InvalidToken, Reason: "the key that verified the token was removed a moment ago"}
	}
	// Announced when it has been registered, so that it hears of itself.
	if r.Method != http.MethodHead {
		leave, err := a.join(r.Context(), announced)
		if err != nil {
			return a.refuse(w, r, request, err)
		}
		end = func() {
			leave()
			stream.Close()
			release()
		}
	}

	streamHeaders(w, request, stream.PrecedingID())
	if grants != nil {
		a.mark(w, r, hub)
	}
	options := a.sseOptions(r, request, grants)
	options.Gap = gapOf(request, stream.PrecedingID())
	if a.suitsLoop(r) {
		over := end
		end = func() {}
		remote := r.RemoteAddr
		err := a.leaveToLoop(w, sse.Hijacked{Stream: stream, Options: options, Done: func(reason sse.Reason) {
			over()
			a.Logger.Debug("stream ended", "reason", reason, "remote", remote)
		}})
		if err != nil {
			over()
			a.Logger.Debug("stream not begun", "error", err, "remote", remote)
			panic(http.ErrAbortHandler) // nothing can be answered any more
		}
		return nil
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil // Spec: E-15
	}
	conn := sse.NewResponseConn(w, a.DispatchTimeout, options.Expires)
	reason := sse.Serve(r.Context(), conn, stream, options)
	a.Logger.Debug("stream ended", "reason", reason, "remote", r.RemoteAddr)
	return nil
}

// admit finds out who subscribes; nil grants stand for anybody.
//
// Spec: S-14, S-15, S-16.
func (a *api) admit(r *http.Request) (*protocol.HubURL, *auth.Grants, error) {
	hub, grants, err := a.authenticate(r, auth.Subscriber)
	switch {
	case err != nil || grants != nil:
		return hub, grants, err
	case !a.Anonymous:
		return hub, nil, &auth.Error{
			Kind:   auth.NoCredential,
			Reason: "subscribe request without a token; set MERCURE_ANONYMOUS=on to let such subscribers have public updates",
		}
	case a.refusesFallback(r):
		return hub, nil, &auth.Error{
			Kind:   auth.NoCredential,
			Reason: "subscribe request without a token from a browser that had one, and MERCURE_ANONYMOUS_FALLBACK is off",
		}
	}
	return hub, nil, nil
}

// authenticate returns what the credential of a request allows at the hub URL
// it was made to.
func (a *api) authenticate(r *http.Request, role auth.Role) (*protocol.HubURL, *auth.Grants, error) {
	hub, resource, err := a.hubs.of(r)
	if err != nil {
		return nil, nil, err
	}
	grants, err := a.Auth().Authenticate(r, role, hub, resource)
	if err != nil {
		return hub, nil, a.explain(r, hub, err)
	}
	a.noteLegacyCredential(r, grants)
	return hub, grants, nil
}

// postpone turns a browser away softly if it was not judged, because the keys
// to do so with cannot be had now.
//
// Spec: Q-17, S-20.
func (a *api) postpone(w http.ResponseWriter, r *http.Request, hub *protocol.HubURL, reason error) error {
	if problemOf(reason).status != http.StatusServiceUnavailable {
		return reason
	}
	request, err := a.parseSubscribe(w, r, hub)
	if err != nil {
		return reason
	}
	return a.refuse(w, r, request, reason)
}

// gapOf: a cursor that is none of the things that mean the beginning, and was
// not found, since what precedes the stream is the beginning.
func gapOf(request *protocol.SubscribeRequest, preceding protocol.EventID) sse.Gap {
	if request.Cursor == "" || request.Cursor == preceding {
		return sse.Gap{}
	}
	return sse.Gap{Event: request.GapEvent, Requested: request.Cursor}
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
		Compat: a.Auth().Compat(), Hub: hub, Limits: a.Limits,
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
		var (
			full   *problem
			denied *auth.Error
		)
		if errors.As(reason, &full) || errors.As(reason, &denied) {
			return reason
		}
		return unavailable(reason, "The hub cannot open a stream now; try again later.")
	}
	a.Logger.Debug("stream refused softly", "reason", reason, "remote", r.RemoteAddr)
	streamHeaders(w, request, request.Cursor)
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(sse.RetryBlock())
	}
	return nil
}

// looksLikeEventSource recognizes requests of browsers' EventSource (S-26).
func looksLikeEventSource(r *http.Request) bool {
	return r.Header.Get("Accept") == "text/event-stream" &&
		strings.EqualFold(r.Header.Get("Cache-Control"), "no-cache") &&
		r.Header.Get("Authorization") == ""
}
