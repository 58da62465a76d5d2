package httpapi

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// headerIdempotencyKey is of draft-ietf-httpapi-idempotency-key-header.
const headerIdempotencyKey = "Idempotency-Key"

const formMediaType = "application/x-www-form-urlencoded"

// publish answers POST on the hub URL. The order of its checks is P-21.
func (a *api) publish(w http.ResponseWriter, r *http.Request) error {
	hub, grants, err := a.authenticate(r, auth.Publisher)
	if err != nil {
		return err
	}
	if grants == nil {
		return &auth.Error{Kind: auth.NoCredential, Reason: "publish request without a token"}
	}
	if err := requireForm(r); err != nil {
		return err
	}
	key, err := protocol.ParseIdempotencyKey(r.Header.Values(headerIdempotencyKey))
	if err != nil {
		return err
	}
	body, err := a.readBody(w, r)
	if err != nil {
		return err
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	request, err := protocol.ParsePublishRequest(body, hub, a.Limits)
	if err != nil {
		return err
	}
	update := request.Update
	meantPrivate := request.Target && !update.Private
	if meantPrivate && a.RefuseTarget {
		return errTarget
	}
	if !grants.MayPublish(protocol.NewTopics(update.Topics)) {
		return &auth.Error{
			Kind:   auth.InsufficientScope,
			Reason: "the token does not grant publishing on every topic of the update",
		}
	}
	// Not for as long as the client waits: it has sent everything, and one that
	// closes its side of the connection may still read the answer.
	ctx := context.WithoutCancel(r.Context())
	var id protocol.EventID
	if key == "" {
		id, err = a.Log.Append(ctx, update)
	} else {
		id, err = a.Log.AppendOnce(ctx, update, protocol.PublishKey{Issuer: grants.Issuer, Subject: grants.Subject, Key: key})
	}
	if err != nil {
		return err
	}
	if meantPrivate {
		a.noteTarget(r, grants.Subject)
	}
	if update.ID != "" {
		a.noteID(r, grants.Subject, update.ID)
	}
	_ = control.SetWriteDeadline(time.Now().Add(answerTimeout))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8") // Spec: P-15
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, string(id))
	return nil
}

// errTarget is for updates that would be public against their publisher's will.
//
// Spec: Q-10.
var errTarget = &protocol.FieldError{
	Field:   "target",
	Problem: "is of protocol 0.9, where it made updates private, and means nothing now; send the field private instead, or both",
}

func requireForm(r *http.Request) error {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) || mediaType != formMediaType {
		return &problem{status: http.StatusBadRequest, detail: "The Content-Type must be " + formMediaType + "."}
	}
	return nil
}

// readBody reads a body within the limit. A body that does not arrive, or not in
// time, is the client's fault.
func (a *api) readBody(w http.ResponseWriter, r *http.Request) (string, error) {
	reader := r.Body
	if a.Limits.BodyBytes > 0 {
		reader = http.MaxBytesReader(w, r.Body, int64(a.Limits.BodyBytes))
	}
	body, err := io.ReadAll(reader)
	if err == nil {
		return string(body), nil
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return "", err
	}
	w.Header().Set("Connection", "close")
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", &problem{status: http.StatusRequestTimeout, detail: "The request body did not arrive in time.", reason: err.Error()}
	}
	return "", &problem{status: http.StatusBadRequest, detail: "The request body could not be read to its end.", reason: err.Error()}
}
