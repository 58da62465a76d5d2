package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Presence keeps the subscriptions of all nodes.
type Presence interface {
	// Join announces the subscriptions of one subscriber. It returns when their
	// creation events are in the log, or an error: then nothing is announced, or
	// its end will be. leave never blocks and may be called more than once.
	Join(ctx context.Context, subscriptions []protocol.Subscription) (leave func(), err error)
	// List reads the subscriptions of all nodes. It calls begin with the id of the
	// newest update, protocol.Earliest if there is none, and then each for every
	// document. The events of what changes meanwhile come behind that id. Errors
	// of begin and each end it.
	List(ctx context.Context, filter protocol.SubscriptionFilter, begin func(cursor protocol.EventID) error, each func(document string) error) error
}

// join announces a subscriber.
//
// Spec.
func (a *api) join(ctx context.Context, subscriptions []protocol.Subscription) (leave func(), err error) {
	if a.Presence == nil {
		return func() {}, nil
	}
	leave, err = a.Presence.Join(ctx, subscriptions)
	if err != nil {
		return nil, fmt.Errorf("announce the subscriptions: %w", err)
	}
	return leave, nil
}

// maxPayloadBytes bounds the payloads that one stream announces: a token has
// one copy, its subscriptions have one each.
const maxPayloadBytes = 1 << 20

// subscriptionsOf describes those of one connection; none if nobody is to know
// of them. Its subscriber is nobody's but the hub's to choose.
//
// Spec: R-7, S-11, S-12, Z-11, D-25, L-5.
func (a *api) subscriptionsOf(hub *protocol.HubURL, matchers []*protocol.Matcher, grants *auth.Grants) ([]protocol.Subscription, error) {
	if a.Presence == nil {
		return nil, nil
	}
	subscriber := "urn:uuid:" + uuid.NewString()
	list, payloadBytes := make([]protocol.Subscription, len(matchers)), 0
	for i, m := range matchers {
		payload := grants.PayloadFor(m)
		if payloadBytes += len(payload); payloadBytes > maxPayloadBytes {
			return nil, &problem{
				status: http.StatusBadRequest,
				detail: "The payload of the token is too long to be shown with each of these subscriptions; shorten it, or open several streams.",
			}
		}
		list[i] = protocol.NewSubscription(hub, m, subscriber, payload)
	}
	return list, nil
}

// encodeString makes a JSON string.
func encodeString(s string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s) // strings have no errors
	return strings.TrimSuffix(b.String(), "\n")
}
