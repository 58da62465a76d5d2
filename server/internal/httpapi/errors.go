package httpapi

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// problem is an answer that is not a success (RFC 9457).
type problem struct {
	status int
	// code, if not empty, is a stable name of this kind of problem.
	code string
	// detail is a sentence for the client that says what to change.
	detail string
	// reason goes to the log only.
	reason string
	// challenge is the kind of WWW-Authenticate to send; zero: none.
	challenge auth.Kind
	// retry makes a Retry-After of about this many seconds.
	retry int
}

func (p *problem) Error() string {
	if p.reason != "" {
		return p.reason
	}
	return p.detail
}

var errNotFound = &problem{status: http.StatusNotFound, detail: "There is nothing at this address."}

// retrySeconds is when a client that was turned away should try again.
const retrySeconds = 2

// problemOf maps every error to the answer it gets. It is the only place that
// does.
func problemOf(err error) *problem {
	var (
		p      *problem
		denied *auth.Error
		field  *protocol.FieldError
		size   *http.MaxBytesError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &denied) && denied.Kind == auth.Unavailable:
		// Spec: Q-17.
		return unavailable(err, "The keys that tokens are verified with are not at hand. Nothing is wrong with the request; try again later.")
	case errors.As(err, &denied):
		// Spec: A-10. The body repeats neither the code nor the reason.
		detail := "The access token cannot be used for this."
		switch denied.Kind {
		case auth.Malformed, auth.CSRF:
			detail = "The credentials were not presented in a way the hub accepts."
		case auth.NoCredential:
			detail = "An access token is needed."
		}
		return &problem{status: denied.Kind.Status(), detail: detail, reason: denied.Reason, challenge: denied.Kind}
	case errors.As(err, &field):
		status := http.StatusBadRequest
		if field.TooLarge {
			status = http.StatusRequestEntityTooLarge
		}
		return &problem{status: status, detail: "The " + field.Error() + "."}
	case errors.As(err, &size):
		return &problem{
			status: http.StatusRequestEntityTooLarge,
			detail: "The request body is larger than the " + strconv.FormatInt(size.Limit, 10) + " bytes allowed.",
		}
	case errors.Is(err, eventlog.ErrOutcomeUnknown):
		return &problem{
			status: http.StatusServiceUnavailable, code: "outcome-unknown", retry: retrySeconds, reason: err.Error(),
			detail: "The database went away during the commit. The update was published once, or not at all.",
		}
	case errors.Is(err, eventlog.ErrOverloaded):
		return &problem{
			status: http.StatusServiceUnavailable, code: "overloaded", retry: retrySeconds, reason: err.Error(),
			detail: "Too many publishes are waiting. Nothing was published; try again later.",
		}
	case errors.Is(err, eventlog.ErrKeyReused):
		return &problem{
			status: http.StatusUnprocessableEntity, code: "idempotency-key-reused",
			detail: "The Idempotency-Key was used for another update within the last 24 hours. Nothing was published; what is not a retry needs a key of its own.",
		}
	case errors.Is(err, eventlog.ErrRejected):
		return &problem{status: http.StatusInternalServerError, detail: "The database rejected the update; the reason was logged. Nothing was published."}
	case errors.Is(err, eventlog.ErrUnavailable), errors.Is(err, eventlog.ErrClosed):
		return unavailable(err, "The hub cannot publish now. Nothing was published; try again later.")
	}
	return &problem{status: http.StatusInternalServerError, detail: "An internal error occurred; it was logged.", reason: err.Error()}
}

func unavailable(err error, detail string) *problem {
	return &problem{
		status: http.StatusServiceUnavailable, code: "unavailable", retry: retrySeconds, reason: err.Error(), detail: detail,
	}
}

// publicReason is what a health check may show: no address, no query.
func publicReason(err error) string {
	for _, reason := range []error{eventlog.ErrStarting, eventlog.ErrNotListening} {
		if errors.Is(err, reason) {
			return reason.Error()
		}
	}
	return eventlog.ErrUnavailable.Error()
}

// handle turns a handler that returns errors into one that answers them. Each
// is logged once, here; that a client went away is not an error. It is answered
// all the same: the end of a request's context may mean no more than that the
// client has nothing else to send, and no answer would be a 200.
func (a *api) handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil {
			return
		}
		p := problemOf(err)
		attributes := []any{"status", p.status, "method", r.Method, "path", shortened(r.URL.Path), "remote", r.RemoteAddr, "reason", p.Error()}
		switch {
		case r.Context().Err() != nil:
			a.Logger.Debug("client gone", attributes...)
		case p.status == http.StatusInternalServerError:
			a.Logger.Error("request failed", attributes...)
		case p.challenge != 0 && p.challenge != auth.NoCredential:
			// The client is told little about its token, the operator all.
			a.Logger.Warn("request refused", attributes...)
		default: // an outage is logged where it is noticed, once
			a.Logger.Debug("request refused", attributes...)
		}
		if p.challenge != 0 {
			w.Header().Set("WWW-Authenticate", auth.Challenge(p.challenge, a.metadataURL(r)))
		}
		writeProblem(w, p)
	}
}

func writeProblem(w http.ResponseWriter, p *problem) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store") // Spec: P-19
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retry+rand.IntN(p.retry+1)))
	}
	kind := "about:blank"
	if p.code != "" {
		kind = "https://github.com/cinnabar-hub/cinnabar#" + p.code
	}
	w.WriteHeader(p.status)
	_ = json.NewEncoder(w).Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{kind, http.StatusText(p.status), p.status, p.detail})
}
