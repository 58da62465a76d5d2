package server

import (
	"context"
	"slices"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// TokenRole is what a token is used for.
type TokenRole = auth.Role

// The roles.
const (
	Publisher  = auth.Publisher
	Subscriber = auth.Subscriber
)

// TokenRule is one rule that a token was judged by.
type TokenRule = auth.Rule

// The outcomes of a rule.
const (
	RulePassed     = auth.Passed
	RuleFailed     = auth.Failed
	RuleNotChecked = auth.NotChecked
)

// TokenQuestion is a token and what somebody wants to do with it.
type TokenQuestion struct {
	Token string
	Roles []TokenRole
	// Topics of an update to publish, or to receive although it is private.
	// Empty: anything.
	Topics []string
}

// TokenAnswer is what a hub makes of a token. It holds neither the token nor
// key material.
type TokenAnswer struct {
	// Usable in one role at least.
	Usable bool `json:"usable"`
	// Protocol is that of the token, empty if the token does not even say.
	Protocol string            `json:"protocol,omitempty"`
	Roles    []TokenRoleAnswer `json:"roles"`
	// Warnings are about the JWK sets that could not be read.
	Warnings []string `json:"warnings,omitempty"`
}

// TokenRoleAnswer is the part of a TokenAnswer for one role.
type TokenRoleAnswer struct {
	Role   string      `json:"role"`
	Usable bool        `json:"usable"`
	Rules  []TokenRule `json:"rules"`
}

// ExplainToken says rule by rule what a hub with these settings makes of a
// token. It reads the JWK sets of the settings and connects to nothing else;
// the database is not needed. The error is about the settings.
func ExplainToken(ctx context.Context, config Config, question TokenQuestion) (*TokenAnswer, error) {
	// Neither has a say here, and both would have to be given.
	config.DatabaseURL, config.ListenURL, config.Anonymous = PrivateDatabase, "", true

	s, err := New(config)
	if err != nil {
		return nil, err
	}
	hub, resource, err := s.settings.tokenTarget()
	if err != nil {
		return nil, err
	}
	answer := &TokenAnswer{Warnings: s.keySets.read(ctx)}
	defer s.keepSetsFresh(ctx)()
	for _, role := range question.Roles {
		e := s.authenticator().Explain(ctx, question.Token, role, hub, resource)
		rules := slices.Concat(e.Rules, e.ExplainRights(role, question.Topics, hub, config.limits()))
		failed := slices.ContainsFunc(rules, func(r TokenRule) bool { return r.Outcome == auth.Failed })
		part := TokenRoleAnswer{Role: role.String(), Usable: e.Err == nil && !failed, Rules: rules}
		answer.Roles = append(answer.Roles, part)
		answer.Usable = answer.Usable || part.Usable
		if e.Dialect != 0 {
			answer.Protocol = e.Dialect.String()
		}
	}
	return answer, nil
}

// keepSetsFresh lets the rules ask for a set to be read again. The function
// that it returns ends that.
func (s *Server) keepSetsFresh(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		s.keySets.run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// tokenTarget is the hub that a token is presented to, and the audience it must
// name: empty if that depends on the request.
func (s *settings) tokenTarget() (hub *protocol.HubURL, resource string, err error) {
	hub, resource = s.hub.PublicURL, s.hub.Resource
	if hub != nil {
		if resource == "" {
			resource = hub.String()
		}
		return hub, resource, nil
	}
	// Only relative patterns and topics depend on it.
	hub, err = protocol.ParseHubURL("http://localhost" + s.hub.Path)
	return hub, resource, err
}

// read reads every set now and says which cannot be read.
func (k *keySets) read(ctx context.Context) (problems []string) {
	for _, set := range k.current() {
		if err := set.Reload(ctx); err != nil {
			problems = append(problems, err.Error())
		}
	}
	slices.Sort(problems)
	return problems
}
