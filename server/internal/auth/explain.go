package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Outcome is what became of a rule.
type Outcome uint8

// The outcomes. A rule that depends on one that failed is NotChecked.
const (
	Passed Outcome = iota + 1
	Failed
	NotChecked
)

// String returns "pass", "FAIL" or "not checked".
func (o Outcome) String() string {
	switch o {
	case Passed:
		return "pass"
	case Failed:
		return "FAIL"
	case NotChecked:
		return "not checked"
	default:
		return "unknown outcome"
	}
}

// MarshalText implements encoding.TextMarshaler.
func (o Outcome) MarshalText() ([]byte, error) {
	return []byte(strings.ToLower(o.String())), nil
}

// Rule is one rule that a token is judged by.
type Rule struct {
	// Text says in plain words what is asked of the token.
	Text    string  `json:"rule"`
	Outcome Outcome `json:"outcome"`
	// Detail is what was found, for a failure the reason and what to change.
	// It never holds a token or key material.
	Detail string `json:"detail,omitempty"`
}

// Explanation is what Explain found.
type Explanation struct {
	// Dialect is zero if the token does not even say.
	Dialect Dialect
	Rules   []Rule
	// Grants and Err are the answer of Authenticate: it decides, the rules
	// only say why.
	Grants *Grants
	Err    error
}

// Explain presents a token in an Authorization field and goes through the
// rules one by one, in the order of section 8.3. Rules are checked after a
// failure too, as far as they do not depend on what failed.
//
// The checks are those of Authenticate, called one at a time, and nothing is
// let in by this way: Authenticate has to stop at the first failure, and must
// not be made to be able to go on.
func (a *Authenticator) Explain(ctx context.Context, token string, role Role, hub *protocol.HubURL, resource string) Explanation {
	token = strings.TrimLeft(strings.TrimRight(token, " \t"), " ") // as fields are

	e := &explainer{a: a, role: role, hub: hub, resource: resource, now: a.now()}

	r := (&http.Request{Method: http.MethodGet, Header: http.Header{"Authorization": {"Bearer " + token}}}).WithContext(ctx)
	e.Grants, e.Err = a.Authenticate(r, role, hub, resource)

	e.explain(ctx, token)

	if e.Err != nil && !e.failed {
		e.rule("the hub accepts the token", "", e.Err)
	}

	return e.Explanation
}

type explainer struct {
	Explanation

	a        *Authenticator
	role     Role
	hub      *protocol.HubURL
	resource string
	now      time.Time
	failed   bool
}

// rule notes the outcome and reports whether it is a pass. found is shown then.
func (e *explainer) rule(text, found string, err error) bool {
	if err == nil {
		e.Rules = append(e.Rules, Rule{Text: text, Outcome: Passed, Detail: found})

		return true
	}

	e.failed = true
	detail := err.Error()

	if refused, ok := errors.AsType[*Error](err); ok {
		detail = refused.Reason
	}

	e.Rules = append(e.Rules, Rule{Text: text, Outcome: Failed, Detail: detail})

	return false
}

func (e *explainer) skip(text, missing string) {
	e.Rules = append(e.Rules, Rule{Text: text, Outcome: NotChecked, Detail: missing})
}

const (
	ruleForm      = "the token is a compact JWS: three base64url parts"
	ruleHeader    = "its header is a JSON object with alg and without crit"
	ruleRemaining = "everything else"
)

// explain takes the token apart as parseJWS does.
//
// Spec: V-1, V-3, V-13, X-1.
func (e *explainer) explain(ctx context.Context, token string) {
	size := fmt.Sprintf("%d bytes", len(token))
	t, err := parseJWS(token)
	_, headerErr := classify(token)

	switch {
	case len(token) > e.a.maxTokenBytes:
		e.rule(ruleForm, "", e.Err)
		e.skip(ruleRemaining, "the token is too long to be read")

		return
	case !isCompactJWS(token):
		e.rule(ruleForm, "", headerErr)
		e.skip(ruleRemaining, "there is nothing to read")

		return
	case headerErr != nil:
		e.rule(ruleForm, size, nil)
	default:
		e.rule(ruleForm, size, err)
	}

	found := "alg is " + quote(t.alg)
	if t.kid != "" {
		found += ", kid is " + quote(t.kid)
	}

	e.rule(ruleHeader, found, headerErr)

	e.Dialect = t.dialect

	switch {
	case t.dialect == Dialect0:
		e.rule("typ is not at+jwt: a token of protocol 0.x", "", e.a.checkCompat())
	case t.dialect == Dialect1:
		e.rule("typ is at+jwt: a token of protocol 1.0", "", nil)
	}

	switch {
	case err != nil:
		e.skip(ruleRemaining, "the parts of the token cannot be read")
	case t.dialect == Dialect1:
		e.explain1(ctx, t)
	default:
		e.explain0(ctx, t)
	}
}

// explain1 is verify1, rule by rule.
func (e *explainer) explain1(ctx context.Context, t *jws) {
	algFits := e.rule("alg is one that a trusted issuer's key is configured with", t.alg, e.a.checkAlg1(t.alg)) // V-2

	members, err := payloadMembers(t.payload, checkStrict)
	readable := e.rule("the payload is a JSON object without a member twice", "", err) // V-4

	issuer, err := e.a.trustedIssuer(t.payload)
	trusted := e.rule("iss is a trusted issuer", quote(issuer), err) // V-5

	const text = "the signature fits a key of the issuer for the role"

	switch { // V-6, V-7
	case !trusted:
		e.skip(text, "the issuer decides on the keys")
	case !algFits:
		e.skip(text, "no key has this alg")
	default:
		e.signature(ctx, text, t, issuer)
	}

	if !readable {
		e.skip("exp, nbf, aud and authorization_details", "the payload cannot be read")

		return
	}

	e.expiry("exp is there and in the future", members, requireExpiry(members)) // V-8
	e.notBefore(members)                                                        // V-9
	e.rule("aud is the hub, or a list with it", quote(e.resource), checkAudience(members["aud"], e.resource))

	d := details{limits: e.a.limits, hub: e.hub}

	err = d.read(members["authorization_details"]) // V-11
	e.rule("authorization_details is absent or well-formed",
		fmt.Sprintf("matchers: %d to publish, %d to receive", len(d.publish), len(d.subscribe)), err)

	e.rule("sub, client_id, iat and jti should be there; nobody insists", missing(members), nil) // V-12
}

// explain0 is verify0, rule by rule.
//
// Spec: L-1 to L-9.
func (e *explainer) explain0(ctx context.Context, t *jws) {
	const text = "the signature fits the key of the role"

	if e.a.compat {
		e.signature(ctx, text, t, "")
	} else {
		e.skip(text, "no key verifies 0.x tokens while MERCURE_COMPAT is off")
	}

	members, err := payloadMembers(t.payload, checkJSON)
	if !e.rule("the payload is a JSON object", "", err) {
		e.skip("the claim mercure, exp and nbf", "the payload cannot be read")

		return
	}

	var c claims

	err = c.readLegacyClaim(members, e.a.limits)
	e.rule("the claim mercure is absent or well-formed",
		fmt.Sprintf("selectors: %d to publish, %d to receive", len(c.publish), len(c.subscribe)), err)

	e.expiry("exp is in the future, or absent", members, nil)
	e.notBefore(members)
}

// signature tells a token of the other role from one that nobody here signed.
func (e *explainer) signature(ctx context.Context, text string, t *jws, issuer string) {
	id, err := e.a.verifySignature(ctx, t, issuer, e.role)
	if e.rule(text, describeKey(id), err) {
		return
	}

	other := Publisher
	if e.role == Publisher {
		other = Subscriber
	}

	if _, err := e.a.verifySignature(ctx, t, issuer, other); err == nil {
		e.Rules[len(e.Rules)-1].Detail += fmt.Sprintf("; it fits the %s key, so this is a token for a %s", other, other)
	}
}

// describeKey leaves out what is another number in each process.
func describeKey(id string) string {
	if alg, _, _ := strings.Cut(id, ":"); slices.Contains(hmacAlgs, alg) {
		return "by the shared secret"
	}

	return "by the key " + id
}

func (e *explainer) expiry(text string, members map[string]json.RawMessage, err error) {
	found := "absent, it never expires"

	if err == nil {
		var c claims
		if c, err = e.a.readTimes(only("exp", members), e.now); !c.expires.IsZero() {
			found = fmt.Sprintf("%s, in %s", c.expires.UTC().Format(time.RFC3339), c.expires.Sub(e.now).Round(time.Second))
		}
	}

	e.rule(text, found, err)
}

func (e *explainer) notBefore(members map[string]json.RawMessage) {
	found := "absent"

	c, err := e.a.readTimes(only("nbf", members), e.now)
	if !c.notBefore.IsZero() {
		found = c.notBefore.UTC().Format(time.RFC3339)
	}

	e.rule("nbf is absent or not in the future", found, err)
}

// only makes readTimes look at one of its two claims.
func only(name string, members map[string]json.RawMessage) map[string]json.RawMessage {
	value, present := members[name]
	if !present {
		return nil
	}

	return map[string]json.RawMessage{name: value}
}

func missing(members map[string]json.RawMessage) string {
	var absent []string

	for _, name := range []string{"sub", "client_id", "iat", "jti"} {
		if members[name] == nil {
			absent = append(absent, name)
		}
	}

	if len(absent) == 0 {
		return ""
	}

	return "absent: " + strings.Join(absent, ", ")
}
