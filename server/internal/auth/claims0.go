package auth

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

const (
	claimMercure    = "mercure"
	claimNamespaced = "https://mercure.rocks/"
)

// readLegacyClaim applies the mercure claim of a 0.x token. An
// authorization_details next to it has no meaning there (L-9).
//
// Spec: L-2 to L-5, L-7.
func (c *claims) readLegacyClaim(members map[string]json.RawMessage, limits Limits) error {
	name, raw := claimMercure, members[claimMercure]

	// the namespaced claim replaces the plain one. A null counts as
	// missing in both places.
	if namespaced, ok := members[claimNamespaced]; ok && !isNull(namespaced) {
		name, raw = claimNamespaced, namespaced
	}

	if raw == nil || isNull(raw) {
		return nil // authenticated, without rights
	}

	claim, ok := object(raw)
	if !ok {
		return fmt.Errorf("the claim %s is not an object", name)
	}

	// Another hub's denylists. Reading past them would widen rights.
	for _, exclusion := range []string{"publish_exclude", "subscribe_exclude"} {
		if _, present := claim[exclusion]; present {
			return fmt.Errorf("%s is not supported by this hub: issue tokens without it", exclusion)
		}
	}

	var err error

	if c.publish, err = readSelectors(claim["publish"], limits); err != nil {
		return fmt.Errorf("publish: %w", err)
	}

	if c.subscribe, err = readSelectors(claim["subscribe"], limits); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}

	if payload, ok := claim["payload"]; ok && !isNull(payload) {
		everything, err := protocol.NewSelector("*")
		if err != nil {
			return fmt.Errorf("payload: %w", err)
		}

		c.payloads = []PayloadEntry{{Matchers: []*protocol.Matcher{everything}, Payload: payload}}
	}

	return nil
}

// readSelectors reads one array of selectors. Missing, null and empty all mean
// no rights.
//
// Spec: L-3, L-4, L-7, L-8.
func readSelectors(raw json.RawMessage, limits Limits) ([]*protocol.Matcher, error) {
	if raw == nil || isNull(raw) {
		return nil, nil
	}

	elements, ok := array(raw)
	if !ok {
		return nil, errors.New("not an array")
	}

	if len(elements) > limits.Selectors {
		return nil, fmt.Errorf("more than %d selectors", limits.Selectors)
	}

	selectors := make([]*protocol.Matcher, 0, len(elements))

	for i, element := range elements {
		value, ok := text(element)
		if !ok {
			return nil, fmt.Errorf("[%d] is not a string", i)
		}

		if len(value) > limits.PatternBytes {
			return nil, fmt.Errorf("[%d] is longer than %d bytes", i, limits.PatternBytes)
		}

		if value == "" {
			continue // no topic is empty, so it can grant nothing
		}

		selector, err := protocol.NewSelector(value)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}

		selectors = append(selectors, selector)
	}

	return selectors, nil
}
