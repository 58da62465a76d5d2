package auth

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// DetailType is the type of the authorization_details entries that are ours.
const DetailType = "https://mercure.rocks/authorization-detail"

// Names in authorization_details.
const (
	actionPublish   = "publish"
	actionSubscribe = "subscribe"

	matchExact      = "exact"
	matchURLPattern = "urlpattern"
)

// details collects the rights of the authorization_details claim. One bad
// entry spoils the token (D-2), so its errors name the place.
type details struct {
	limits Limits
	hub    *protocol.HubURL

	entries, matchers  int // counted over the whole claim
	publish, subscribe []*protocol.Matcher
	payloads           []PayloadEntry
}

// read takes the whole claim.
//
// Spec: D-1 to D-5.
func (d *details) read(claim json.RawMessage) error {
	if claim == nil {
		return nil
	}

	elements, ok := array(claim)
	if !ok {
		return errors.New("authorization_details is not an array")
	}

	for i, element := range elements {
		if err := d.readElement(element); err != nil {
			return fmt.Errorf("authorization_details[%d]: %w", i, err)
		}
	}

	return nil
}

func (d *details) readElement(raw json.RawMessage) error {
	entry, ok := object(raw)
	if !ok {
		return errors.New("not an object")
	}

	typ, ok := text(entry["type"])
	if !ok {
		return errors.New("type is missing or not a string")
	}

	if typ != DetailType {
		return nil // for another resource, whatever its shape
	}

	if d.entries++; d.entries > d.limits.Entries {
		return fmt.Errorf("more than %d entries", d.limits.Entries)
	}

	publish, subscribe, err := readActions(entry["actions"])
	if err != nil {
		return err
	}

	matchers, err := d.readTopics(entry["topics"])
	if err != nil {
		return err
	}

	// A payload of the wrong type is a defect even where it has no meaning.
	payload, present := entry["payload"]
	if present && firstByte(payload) != '{' {
		return errors.New("payload is not an object")
	}

	if publish {
		d.publish = append(d.publish, matchers...)
	}

	if subscribe {
		d.subscribe = append(d.subscribe, matchers...)
		d.payloads = append(d.payloads, PayloadEntry{Matchers: matchers, Payload: payload})
	}

	return nil
}

func readActions(raw json.RawMessage) (publish, subscribe bool, err error) {
	actions, ok := array(raw)
	if !ok || len(actions) == 0 {
		return false, false, errors.New("actions is missing, empty or not an array")
	}

	for _, element := range actions {
		action, ok := text(element)
		if !ok {
			return false, false, errors.New("actions holds something that is not a string")
		}

		// Unknown actions grant nothing and do no harm.
		publish = publish || action == actionPublish
		subscribe = subscribe || action == actionSubscribe
	}

	return publish, subscribe, nil
}

func (d *details) readTopics(raw json.RawMessage) ([]*protocol.Matcher, error) {
	topics, ok := array(raw)
	if !ok || len(topics) == 0 {
		return nil, errors.New("topics is missing, empty or not an array")
	}

	// Counted before anything is compiled, and over all entries together, so
	// that splitting a list does not evade the limit.
	//
	// Spec: D-4.
	if d.matchers += len(topics); d.matchers > d.limits.Matchers {
		return nil, fmt.Errorf("more than %d matchers in the token", d.limits.Matchers)
	}

	matchers := make([]*protocol.Matcher, 0, len(topics))

	for i, element := range topics {
		m, err := d.readMatcher(element)
		if err != nil {
			return nil, fmt.Errorf("topics[%d]: %w", i, err)
		}

		matchers = append(matchers, m)
	}

	return matchers, nil
}

func (d *details) readMatcher(raw json.RawMessage) (*protocol.Matcher, error) {
	members, ok := object(raw)
	if !ok {
		return nil, errors.New("not an object with match and match_type")
	}

	match, ok := text(members["match"])
	if !ok {
		return nil, errors.New("match is missing or not a string")
	}

	matchType := matchExact

	if raw, present := members["match_type"]; present {
		if matchType, ok = text(raw); !ok {
			return nil, errors.New("match_type is not a string")
		}
	}

	if len(match) > d.limits.PatternBytes {
		return nil, fmt.Errorf("match is longer than %d bytes", d.limits.PatternBytes)
	}

	return newMatcher(matchType, match, d.hub)
}

// newMatcher applies the rules of 1.0 matchers in tokens. The type is looked
// at before the wildcard: {"match":"*","match_type":"regexp"} is refused.
//
// The constructors refuse the empty string and forbidden characters.
//
// Spec: M-3, TP-5.
func newMatcher(matchType, match string, hub *protocol.HubURL) (*protocol.Matcher, error) {
	if matchType != matchExact && matchType != matchURLPattern {
		return nil, fmt.Errorf("match_type is neither %s nor %s", matchExact, matchURLPattern)
	}

	if matchType == matchExact {
		return protocol.NewExact(match)
	}

	return protocol.NewURLPattern(match, hub)
}
