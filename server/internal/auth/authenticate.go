package auth

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Authenticate returns what the credential of the request allows in a role,
// or nil grants and a nil error if the request has none. Every failure is an
// *Error.
//
// hub is the base of the token's patterns and the hub's own origin; it must
// not be nil. resource is the identifier that 1.0 tokens must name in aud.
// Authenticate does not read the body and does no I/O.
func (a *Authenticator) Authenticate(r *http.Request, role Role, hub *protocol.HubURL, resource string) (*Grants, error) {
	cred, present, err := a.credential(r)
	if err != nil || !present {
		return nil, err
	}

	if cred.source == fromQuery {
		if err := checkQueryToken(cred.token); err != nil {
			return nil, err
		}
	}

	// Before anything else reads all of it.
	if len(cred.token) > a.maxTokenBytes {
		return nil, invalid("the token has %d bytes, more than the %d that the limits on its matchers leave room for",
			len(cred.token), a.maxTokenBytes)
	}

	grants, err := a.verifyCached(cred.token, role, hub, resource)
	if err != nil {
		return nil, err
	}

	// The token first, then where it came from (P-21).
	if cred.source == fromCookie && !isSafe(r.Method) {
		if err := a.checkOrigin(r, hub); err != nil {
			return nil, err
		}
	}

	return grants, nil
}

// checkQueryToken keeps 1.0 tokens out of URLs. It comes before verification
// and before the cache, which may know the token from a header.
//
// Spec.
func checkQueryToken(token string) error {
	t, err := classify(token)
	if t.dialect == Dialect1 {
		return refuse(Malformed, "a 1.0 token came in the URL: send it in the Authorization field or a cookie")
	}

	return err
}

// verifyCached is verify with a memory for tokens that were valid a moment
// ago. Times are checked on every hit; keys and limits cannot have changed,
// as the cache is this Authenticator's own.
func (a *Authenticator) verifyCached(token string, role Role, hub *protocol.HubURL, resource string) (*Grants, error) {
	now := a.now()
	key := newCacheKey(token, role, hub.String(), resource)

	if hit, ok := a.cache.get(key); ok {
		switch {
		case expired(hit.grants.Expires, now):
			a.cache.remove(key)
		case a.early(hit.notBefore, now): // the clock was set back
		default:
			return hit.grants, nil
		}
	}

	fresh, err := a.verify(token, role, hub, resource, now)
	if err != nil {
		return nil, err
	}

	a.cache.put(key, fresh)

	return fresh.grants, nil
}

// verify applies the rules of the token's own dialect and of no other.
func (a *Authenticator) verify(
	token string, role Role, hub *protocol.HubURL, resource string, now time.Time,
) (cached, error) {
	t, err := parseJWS(token)
	if err != nil {
		return cached{}, err
	}

	var (
		c      claims
		issuer string
		keyID  string
	)

	if t.dialect == Dialect1 {
		c, issuer, keyID, err = a.verify1(t, role, hub, resource, now)
	} else {
		c, keyID, err = a.verify0(t, role, now)
	}

	if err != nil {
		return cached{}, err
	}

	grants := &Grants{
		Dialect:   t.dialect,
		Issuer:    issuer,
		Subject:   c.subject,
		Expires:   c.expires,
		Publish:   protocol.NewMatcherSet(c.publish),
		Subscribe: protocol.NewMatcherSet(c.subscribe),
		Payloads:  c.payloads,
		KeyID:     keyID,
	}

	return cached{
		grants:    grants,
		notBefore: c.notBefore,
		cost:      cacheCost(token, c.publish, c.subscribe),
	}, nil
}

// verify1 runs the checks of section 8.3 in their order, but for V-4: before
// the signature nothing is read of the payload but the issuer that chooses the
// keys, because anybody can make us do that. That typ is at+jwt (V-1) is why we
// are here.
func (a *Authenticator) verify1(
	t *jws, role Role, hub *protocol.HubURL, resource string, now time.Time,
) (c claims, issuer, keyID string, err error) {
	if err := a.checkAlg1(t.alg); err != nil { // V-2
		return c, "", "", err
	}

	if issuer, err = peekIssuer(t.payload); err != nil {
		return c, "", "", err
	}

	if _, trusted := a.issuers[issuer]; !trusted { // V-5
		return c, "", "", a.unknownIssuer(issuer)
	}

	owner := "issuer " + quote(issuer)

	keyID, err = checkSignature(t, a.keys(Dialect1, issuer, role), role, owner) // V-6, V-7
	if err != nil {
		return c, "", "", err
	}

	if err := checkStrict(t.payload); err != nil { // V-4
		return c, "", "", invalid("the token's payload: %v", err)
	}

	members, ok := object(t.payload)
	if !ok {
		return c, "", "", invalid("the token's payload is not a JSON object")
	}

	// It is the only iss, now that V-4 holds. Should the quick look ever differ
	// from the real reading, the keys were another issuer's.
	if read, ok := text(members["iss"]); !ok || read != issuer {
		return c, "", "", invalid("iss can be read in two ways")
	}

	if members["exp"] == nil { // V-8
		return c, "", "", invalid("exp is missing: every 1.0 token needs one")
	}

	if c, err = a.readTimes(members, now); err != nil { // V-8, V-9
		return c, "", "", err
	}

	if err := checkAudience(members["aud"], resource); err != nil { // V-10
		return c, "", "", err
	}

	d := details{limits: a.limits, hub: hub}
	if err := d.read(members["authorization_details"]); err != nil { // V-11
		return c, "", "", invalid("%v", err)
	}

	c.subject, _ = text(members["sub"]) // V-12: not insisted on
	c.publish, c.subscribe, c.payloads = d.publish, d.subscribe, d.payloads

	return c, issuer, keyID, nil
}

// verify0 applies section 8.5.
func (a *Authenticator) verify0(t *jws, role Role, now time.Time) (c claims, keyID string, err error) {
	if !a.compat {
		return c, "", invalid("the token's typ is not at+jwt, so it is a 0.x token, and MERCURE_COMPAT is off")
	}

	if keyID, err = checkSignature(t, a.keys(Dialect0, "", role), role, "0.x tokens"); err != nil { // L-1
		return c, "", err
	}

	if err := checkJSON(t.payload); err != nil {
		return c, "", invalid("the token's payload: %v", err)
	}

	members, ok := object(t.payload)
	if !ok {
		return c, "", invalid("the token's payload is not a JSON object")
	}

	if c, err = a.readTimes(members, now); err != nil { // L-6
		return c, "", err
	}

	if err := c.readLegacyClaim(members, a.limits); err != nil { // L-2 to L-5
		return c, "", invalid("0.x token: %v", err)
	}

	c.subject, _ = text(members["sub"])

	return c, keyID, nil
}

// checkAlg1 is the allowlist of 1.0 tokens: what some issuer's key is
// configured with. checkSignature narrows it to the candidates.
//
// Spec: V-2.
func (a *Authenticator) checkAlg1(alg string) error {
	for _, issuer := range a.issuers {
		for _, role := range []Role{Publisher, Subscriber} {
			if slices.ContainsFunc(issuer.keys(role), func(k Key) bool { return k.Alg() == alg }) {
				return nil
			}
		}
	}

	return invalid("alg is %s, which no key of a trusted issuer is configured with", quote(alg))
}

func (a *Authenticator) unknownIssuer(issuer string) error {
	for known := range a.issuers {
		if strings.EqualFold(strings.TrimRight(known, "/"), strings.TrimRight(issuer, "/")) {
			return invalid("iss is %s, the trusted issuer is %s: they must be equal to the last slash and letter (MERCURE_TRUSTED_ISSUERS)",
				quote(issuer), quote(known))
		}
	}

	return invalid("iss is %s, which is no trusted issuer: add it to MERCURE_TRUSTED_ISSUERS or MERCURE_ISSUERS", quote(issuer))
}

// checkSignature tries the candidates among the keys: those configured with
// the token's algorithm and, if both have one, its key identifier. It returns
// the ID of the key that fits. owner is for the reason.
//
// Spec: V-6, V-7, L-1.
func checkSignature(t *jws, keys []Key, role Role, owner string) (string, error) {
	setting := role.setting()
	keySetting := setting + "_KEY"

	if t.dialect == Dialect1 {
		keySetting += " or MERCURE_ISSUERS"
	}

	if len(keys) == 0 {
		return "", invalid("there is no %s key for %s: set %s", role, owner, keySetting)
	}

	algFits, tried := false, 0

	for _, key := range keys {
		if key.Alg() != t.alg {
			continue
		}

		algFits = true

		if t.kid != "" && key.kid != "" && key.kid != t.kid {
			continue
		}

		tried++

		if key.verify(t.signed, t.signature) {
			return key.id, nil
		}
	}

	switch {
	case !algFits:
		return "", invalid("alg is %s, the %s key for %s is configured with %s: set %s_ALG",
			quote(t.alg), role, owner, keys[0].Alg(), setting)
	case tried == 0:
		return "", invalid("kid is %s, which no %s key for %s has", quote(t.kid), role, owner)
	default:
		return "", invalid("the signature does not fit the %s key for %s (%d tried): the signer's key is not the one in %s",
			role, owner, tried, keySetting)
	}
}
