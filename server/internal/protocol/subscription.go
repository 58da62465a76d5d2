package protocol

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Subscription is one matcher of one connected subscriber, as its events and
// the subscription API show it (section 11). It appears in those of its own
// dialect only.
type Subscription struct {
	// Selector says that it is a 0.x selector, not a 1.0 matcher.
	Selector bool
	// Topic is that of its events and its path in the API:
	// {hub}/subscriptions/{match_type}/{match}/{subscriber}, in 0.x
	// {hub}/subscriptions/{topic}/{subscriber}, each segment percent-encoded.
	// Spec
	Topic string
	// Collection is Topic without its last segment.
	Collection string
	// Document is the data of its creation event: compact JSON on one line, in
	// which "active":true occurs before anything a client has sent unescaped.
	// Spec
	Document string
}

// SubscriptionFilter says which subscriptions are asked for, of one dialect.
type SubscriptionFilter struct {
	// Selector asks for those of 0.x selectors, else for those of 1.0 matchers.
	Selector bool
	// Collection and Topic, if not empty, are what those of a subscription must
	// equal.
	Collection, Topic string
}

// NewSubscription describes the subscription of a matcher by a subscriber at a
// hub. A nil payload is none; else it is one valid JSON value.
//
// Spec
func NewSubscription(hub *HubURL, m *Matcher, subscriber string, payload json.RawMessage) Subscription {
	s := Subscription{Selector: m.kind == Selector}
	d := document{Subscriber: subscriber, Active: true}
	if s.Selector {
		s.Collection = SubscriptionPath(hub, m.value)
		d.Context, d.Type, d.Topic = JSONLDContext, "Subscription", m.value
	} else {
		// The wildcard, too, has the type it was asked for with.
		matchType := m.kind.String()
		s.Collection = SubscriptionPath(hub, matchType, m.value)
		d.Type, d.MatchType, d.Match = "subscription", matchType, m.value
	}
	s.Topic = s.Collection + "/" + EncodeSegment(subscriber)
	d.ID, d.Payload = s.Topic, payload
	s.Document = d.encode()
	return s
}

// JSONLDContext is the context of 0.x documents. Spec: R-5
const JSONLDContext = "https://mercure.rocks/"

// document holds the members of both dialects, in order.
type document struct {
	Context    string          `json:"@context,omitempty"`
	ID         string          `json:"id"`
	Type       string          `json:"type"`
	Topic      string          `json:"topic,omitempty"`
	MatchType  string          `json:"match_type,omitempty"`
	Match      string          `json:"match,omitempty"`
	Subscriber string          `json:"subscriber"`
	Active     bool            `json:"active"`
	Payload    json.RawMessage `json:"payload,omitempty"`
}

func (d *document) encode() string {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(d); err != nil {
		panic("protocol: a payload is not JSON: " + err.Error()) // tokens are checked
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// SubscriptionPath is the path of subscriptions at a hub, or what lies under it.
//
// Spec: E-5 to E-9, R-5
func SubscriptionPath(hub *HubURL, segments ...string) string {
	var path strings.Builder
	path.WriteString(hub.path + SubscriptionsSegment)
	for _, segment := range segments {
		path.WriteString("/" + EncodeSegment(segment))
	}
	return path.String()
}

// SubscriptionsSegment follows the path of the hub in those of subscriptions.
const SubscriptionsSegment = "/subscriptions"

// EncodeSegment percent-encodes the bytes of a path segment that are not
// unreserved.
//
// Spec: R-6
func EncodeSegment(s string) string {
	const hex = "0123456789ABCDEF"
	var out strings.Builder
	for i := range len(s) {
		if c := s[i]; isUnreserved(c) {
			out.WriteByte(c)
		} else {
			out.Write([]byte{'%', hex[c>>4], hex[c&0xF]})
		}
	}
	return out.String()
}
