package auth

import (
	"context"
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
// Authenticate does not read the body. It does no I/O but may wait, until the
// request's context ends and at most refreshTimeout, for a key set to be read.
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

	grants, err := a.verifyCached(r.Context(), cred.token, role, hub, resource)
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
// ago. Times are checked on every hit, and that the key is still enrolled, as
// key sets change (Z-22); limits cannot have changed, as the cache is this
// Authenticator's own.
func (a *Authenticator) verifyCached(
	ctx context.Context, token string, role Role, hub *protocol.HubURL, resource string,
) (*Grants, error) {
	now := a.now()
	key := newCacheKey(token, role, hub.String(), resource)

	if hit, ok := a.cache.get(key); ok {
		switch {
		case expired(hit.grants.Expires, now), !a.Trusts(role, hit.grants):
			a.cache.remove(key)
		case a.early(hit.notBefore, now): // the clock was set back
		default:
			return hit.grants, nil
		}
	}

	fresh, err := a.verify(ctx, token, role, hub, resource, now)
	if err != nil {
		return nil, err
	}

	a.cache.put(key, fresh)

	return fresh.grants, nil
}

// verify applies the rules of the token's own dialect and of no other.
func (a *Authenticator) verify(
	ctx context.Context, token string, role Role, hub *protocol.HubURL, resource string, now time.Time,
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
		c, issuer, keyID, err = a.verify1(ctx, t, role, hub, resource, now)
	} else {
		c, keyID, err = a.verify0(ctx, t, role, now)
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
	ctx context.Context, t *jws, role Role, hub *protocol.HubURL, resource string, now time.Time,
) (c claims, issuer, keyID string, err error) {
	if err := a.checkAlg1(t.alg); err != nil { // V-2
		return c, "", "", err
	}

	if issuer, err = a.trustedIssuer(t.payload); err != nil { // V-5
		return c, "", "", err
	}

	keyID, err = a.verifySignature(ctx, t, issuer, role) // V-6, V-7
	if err != nil {
		return c, "", "", err
	}

	members, err := payloadMembers(t.payload, checkStrict) // V-4
	if err != nil {
		return c, "", "", err
	}

	// It is the only iss, now that V-4 holds. Should the quick look ever differ
	// from the real reading, the keys were another issuer's.
	if read, ok := text(members["iss"]); !ok || read != issuer {
		return c, "", "", invalid("iss can be read in two ways")
	}

	if err := requireExpiry(members); err != nil { // V-8
		return c, "", "", err
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
func (a *Authenticator) verify0(ctx context.Context, t *jws, role Role, now time.Time) (c claims, keyID string, err error) {
	if err := a.checkCompat(); err != nil {
		return c, "", err
	}

	if keyID, err = a.verifySignature(ctx, t, "", role); err != nil { // L-1
		return c, "", err
	}

	members, err := payloadMembers(t.payload, checkJSON)
	if err != nil {
		return c, "", err
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
// configured with, and what key sets may hold if there is one. checkSignature
// narrows it to the candidates.
//
// Spec: V-2.
func (a *Authenticator) checkAlg1(alg string) error {
	for _, issuer := range a.issuers {
		for _, role := range []Role{Publisher, Subscriber} {
			if slices.ContainsFunc(issuer.keys(role), func(k Key) bool { return k.Alg() == alg }) {
				return nil
			}

			if issuer.set(role) != nil && slices.Contains(publicAlgs, alg) {
				return nil
			}
		}
	}

	return invalid("alg is %s, which no key of a trusted issuer is configured with", quote(alg))
}

// trustedIssuer returns the issuer that chooses the keys.
//
// Spec: V-5.
func (a *Authenticator) trustedIssuer(payload []byte) (string, error) {
	issuer, err := peekIssuer(payload)
	if err != nil {
		return "", err
	}

	if _, trusted := a.issuers[issuer]; !trusted {
		return "", a.unknownIssuer(issuer)
	}

	return issuer, nil
}

func (a *Authenticator) checkCompat() error {
	if !a.compat {
		return invalid("the token's typ is not at+jwt, so it is a 0.x token, and MERCURE_COMPAT is off")
	}

	return nil
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
	keySetting := setting + "_JWT_KEY (or " + setting + "_JWKS_URL, if MERCURE_JWKS_COMPAT is on)"

	if t.dialect == Dialect1 {
		keySetting = setting + "_JWT_KEY, " + setting + "_JWKS_URL or MERCURE_ISSUERS"
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
		return "", invalid("alg is %s, the %s key for %s is for %s: set %s_JWT_ALG, or let the key set have a key for it",
			quote(t.alg), role, owner, orList(algsOf(keys)), setting)
	case tried == 0:
		return "", invalid("kid is %s, which no %s key for %s has: the signer's key is not the one in %s",
			quote(t.kid), role, owner, keySetting)
	default:
		return "", invalid("the signature does not fit the %s key for %s (%d tried): the signer's key is not the one in %s",
			role, owner, tried, keySetting)
	}
}

func algsOf(keys []Key) []string {
	var algs []string

	for _, key := range keys {
		if !slices.Contains(algs, key.Alg()) {
			algs = append(algs, key.Alg())
		}
	}

	return algs
}
