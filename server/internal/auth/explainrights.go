package auth

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// ExplainRights says what the token is good for in the role. With topics it
// says whether an update with all of them may be published, or received when it
// is private, and which matcher allows it. Without grants nothing is checked.
func (e Explanation) ExplainRights(role Role, topics []string, hub *protocol.HubURL, limits protocol.Limits) []Rule {
	rights := &explainer{Explanation: Explanation{Dialect: e.Dialect, Grants: e.Grants}, role: role, hub: hub}

	switch {
	case e.Grants == nil:
		rights.skip("rights", "the token is not valid")
	case role == Publisher:
		rights.publish(topics, limits)
	default:
		rights.subscribe(topics)
	}

	return rights.Rules
}

// Spec: P-17.
func (e *explainer) publish(topics []string, limits protocol.Limits) {
	matchers := e.Grants.Publish.Matchers()

	var err error
	if len(matchers) == 0 {
		err = fmt.Errorf("%s: whatever is published is answered 403", e.noMatchers(actionPublish))
	}

	e.rule("it may publish something", describeMatchers(matchers), err)

	for _, topic := range topics {
		text := "it may publish to " + quote(topic)
		if _, err := protocol.ParsePublish(url.Values{"topic": {topic}}.Encode(), e.hub, limits); err != nil {
			e.rule(text, "", fmt.Errorf("nobody may: the %w", err))

			continue
		}

		matcher := covering(matchers, topic)
		if matcher == nil {
			e.rule(text, "", errors.New("no matcher covers it, and all topics of an update must be covered"))

			continue
		}

		e.rule(text, "by "+describeMatcher(matcher), nil)
	}
}

// Spec: U-2, U-4.
func (e *explainer) subscribe(topics []string) {
	matchers := e.Grants.Subscribe.Matchers()

	found := "and private ones of " + describeMatchers(matchers)
	if len(matchers) == 0 {
		found = "and no private ones: " + e.noMatchers(actionSubscribe)
	}

	e.rule("it may receive public updates", found, nil)

	if len(topics) == 0 {
		return
	}

	quoted := make([]string, len(topics))
	for i, topic := range topics {
		quoted[i] = quote(topic)
	}

	text := "it may receive private updates with " + strings.Join(quoted, ", ")

	for i, topic := range topics {
		if matcher := covering(matchers, topic); matcher != nil {
			e.rule(text, fmt.Sprintf("%s by %s", quoted[i], describeMatcher(matcher)), nil)

			return
		}
	}

	e.rule(text, "", errors.New("no matcher covers a topic of them; public ones it receives"))
}

func (e *explainer) noMatchers(action string) string {
	if e.Dialect == Dialect0 {
		return fmt.Sprintf("the claim mercure has no %s selectors", action)
	}

	return fmt.Sprintf("no entry of authorization_details has the action %s", action)
}

func covering(matchers []*protocol.Matcher, topic string) *protocol.Matcher {
	own := protocol.NewTopic(topic)

	for _, m := range matchers {
		if m.Match(own) {
			return m
		}
	}

	return nil
}

// shownMatchers bounds a line.
const shownMatchers = 5

func describeMatchers(matchers []*protocol.Matcher) string {
	shown := make([]string, 0, shownMatchers)
	for _, m := range matchers[:min(len(matchers), shownMatchers)] {
		shown = append(shown, describeMatcher(m))
	}

	text := strings.Join(shown, ", ")
	if more := len(matchers) - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}

	return text
}

func describeMatcher(m *protocol.Matcher) string {
	if m.Wildcard() {
		return "*, which covers every topic"
	}

	return m.Kind().String() + " " + quote(m.Value())
}
