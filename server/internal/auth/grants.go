package auth

import (
	"encoding/json"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Grants is what a verified token allows. It is shared between requests with
// the same token: treat it as read-only.
type Grants struct {
	// Dialect of the token, and so of its matchers.
	Dialect Dialect
	// Issuer is the verified iss of a 1.0 token. It is empty for 0.x tokens,
	// whose iss nobody checks.
	Issuer string
	// Subject is sub as the token has it, empty if absent. It is a claim of
	// the issuer's and not an identifier of the hub's.
	Subject string
	// Expires ends streams (S-21). Zero means never, in the 0.x dialect only.
	Expires time.Time
	// Publish and Subscribe hold the matchers for each action.
	Publish, Subscribe *protocol.MatcherSet
	// Payloads are the subscribe entries in the order of the token.
	Payloads []PayloadEntry
	// KeyID is the ID of the key that verified the token (Z-22).
	KeyID string
}

// PayloadEntry is one token entry that grants subscribe, with the payload for
// the subscriptions it covers. A nil Payload is none.
type PayloadEntry struct {
	Matchers []*protocol.Matcher
	Payload  json.RawMessage
}

// MayPublish reports whether an update with these topics may be published:
// every topic must be covered.
//
// Spec: P-17.
func (g *Grants) MayPublish(topics []*protocol.Topic) bool {
	return g != nil && len(topics) > 0 && g.Publish.MatchAll(topics)
}

// MayReceive reports whether a private update with these topics may be
// delivered: one covered topic is enough.
//
// Spec: U-2, U-4.
func (g *Grants) MayReceive(topics []*protocol.Topic) bool {
	return g != nil && g.Subscribe.MatchAny(topics)
}

// PayloadFor returns the payload of a subscription, or nil.
//
// The first entry decides that matches the subscription's own string taken as
// a topic, or that has a matcher of the same kind and string. If that
// entry has no payload there is none, whatever later entries say. A
// 0.x token has one entry that covers everything (L-5).
//
// Spec: D-25.
func (g *Grants) PayloadFor(subscription *protocol.Matcher) json.RawMessage {
	if g == nil || len(g.Payloads) == 0 {
		return nil
	}

	own := protocol.NewTopic(subscription.Value())

	for _, entry := range g.Payloads {
		for _, m := range entry.Matchers {
			same := m.Kind() == subscription.Kind() && m.Value() == subscription.Value()
			if same || m.Match(own) {
				return entry.Payload
			}
		}
	}

	return nil
}
