package auth

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// TokenSpec describes a token to make. Fields that do not belong to the
// dialect must be left empty.
type TokenSpec struct {
	Dialect Dialect
	Key     SigningKey
	// KeyID becomes kid, if not empty.
	KeyID string

	// Issuer, Audience and Expires are required for 1.0. Without Expires a 0.x
	// token never expires. Times are cut to seconds.
	Issuer, Audience, Subject string
	Expires                   time.Time
	// ClientID, IssuedAt and JTI: 1.0 tokens should have them all, so there
	// the subject, now, and a random string are filled in. Subject itself
	// becomes the issuer.
	ClientID string
	IssuedAt time.Time
	JTI      string

	Publish, Subscribe []MatcherSpec
	// Payload goes with the Subscribe matchers. A JSON object for 1.0, any
	// JSON value for 0.x.
	Payload json.RawMessage
}

// MatcherSpec is one matcher to grant. In 0.x tokens Match is a selector and
// Type is empty; in 1.0 tokens the empty Type is exact.
type MatcherSpec struct {
	Match, Type string
}

// Mint makes a token. It refuses a spec that would make a token no hub
// accepts; the error names every problem and no key material.
func Mint(spec TokenSpec) (string, error) {
	if spec.Key.method == nil {
		return "", errors.New("mint token: the signing key is missing")
	}

	var (
		payload map[string]any
		err     error
	)

	switch spec.Dialect {
	case Dialect1:
		payload, err = spec.claims1()
	case Dialect0:
		payload, err = spec.claims0()
	default:
		err = errors.New("the dialect is neither 1.0 nor 0.x")
	}

	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}

	token := jwt.NewWithClaims(spec.Key.method, jwt.MapClaims(payload)) // sets alg, and JWT as typ
	if spec.Dialect == Dialect1 {
		token.Header["typ"] = "at+jwt"
	}

	if spec.KeyID != "" {
		token.Header["kid"] = spec.KeyID
	}

	signed, err := token.SignedString(spec.Key.material)
	if err != nil {
		return "", fmt.Errorf("mint token: sign with %s: %w", spec.Key.Alg(), err)
	}

	return signed, nil
}

// registered holds the claims that both dialects write alike.
func (s TokenSpec) registered() map[string]any {
	members := map[string]any{}

	for name, value := range map[string]string{
		"iss": s.Issuer, "aud": s.Audience, "sub": s.Subject, "client_id": s.ClientID, "jti": s.JTI,
	} {
		if value != "" {
			members[name] = value
		}
	}

	for name, value := range map[string]time.Time{"exp": s.Expires, "iat": s.IssuedAt} {
		if !value.IsZero() {
			members[name] = value.Unix()
		}
	}

	return members
}

type matcherJSON struct {
	Match     string `json:"match"`
	MatchType string `json:"match_type,omitempty"`
}

type detailJSON struct {
	Type    string          `json:"type"`
	Actions []string        `json:"actions"`
	Topics  []matcherJSON   `json:"topics"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

func (s TokenSpec) claims1() (map[string]any, error) {
	var problems []error

	if s.Issuer == "" {
		problems = append(problems, errors.New("a 1.0 token needs an issuer"))
	}

	if s.Audience == "" {
		problems = append(problems, errors.New("a 1.0 token needs an audience: the resource identifier of the hub, normally its URL"))
	}

	if s.Expires.IsZero() {
		problems = append(problems, errors.New("a 1.0 token needs an expiry"))
	}

	if s.Payload != nil && (len(s.Subscribe) == 0 || checkStrict(s.Payload) != nil || firstByte(s.Payload) != '{') {
		problems = append(problems, errors.New("the payload of a 1.0 token must be a JSON object and go with subscribe matchers"))
	}

	var entries []detailJSON

	for _, grant := range []struct {
		action   string
		matchers []MatcherSpec
		payload  json.RawMessage
	}{{actionPublish, s.Publish, nil}, {actionSubscribe, s.Subscribe, s.Payload}} {
		topics, err := s.topics(grant.matchers)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", grant.action, err))
		}

		if len(topics) > 0 {
			entries = append(entries, detailJSON{
				Type: DetailType, Actions: []string{grant.action}, Topics: topics, Payload: grant.payload,
			})
		}
	}

	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}

	s.Subject = orDefault(s.Subject, s.Issuer)
	s.ClientID = orDefault(s.ClientID, s.Subject)
	s.JTI = orDefault(s.JTI, rand.Text())

	if s.IssuedAt.IsZero() {
		s.IssuedAt = time.Now()
	}

	members := s.registered()
	if len(entries) > 0 {
		members["authorization_details"] = entries
	}

	return members, nil
}

func (s TokenSpec) topics(matchers []MatcherSpec) ([]matcherJSON, error) {
	var problems []error

	topics := make([]matcherJSON, 0, len(matchers))

	// Relative patterns need the hub URL, and the audience nearly always is it.
	hub, hubErr := protocol.ParseHubURL(s.Audience)

	for _, m := range matchers {
		matchType := orDefault(m.Type, matchExact)
		if matchType == matchURLPattern && hubErr != nil {
			matchType = matchExact // cannot be tried; the hub will
		}

		if _, err := newMatcher(matchType, m.Match, hub); err != nil {
			problems = append(problems, fmt.Errorf("matcher %s: %w", quote(m.Match), err))
		}

		topics = append(topics, matcherJSON{Match: m.Match, MatchType: m.Type})
	}

	return topics, errors.Join(problems...)
}

type legacyJSON struct {
	Publish   []string        `json:"publish,omitempty"`
	Subscribe []string        `json:"subscribe,omitempty"`
	Payload   json.RawMessage `json:"payload,omitempty"`
}

func (s TokenSpec) claims0() (map[string]any, error) {
	if s.Payload != nil && !json.Valid(s.Payload) {
		return nil, errors.New("the payload is not valid JSON")
	}

	claim := legacyJSON{Payload: s.Payload}

	for _, grant := range []struct {
		matchers []MatcherSpec
		list     *[]string
	}{{s.Publish, &claim.Publish}, {s.Subscribe, &claim.Subscribe}} {
		for _, m := range grant.matchers {
			if m.Type != "" {
				return nil, fmt.Errorf("selector %s has a type: 0.x knows none", quote(m.Match))
			}

			*grant.list = append(*grant.list, m.Match)
		}
	}

	members := s.registered()
	members[claimMercure] = claim

	return members, nil
}
