package auth

import (
	"context"
	"slices"
	"time"
)

// KeySource is a set of keys that somebody else publishes and changes while
// the hub runs, such as a JWK set. It is safe for concurrent use.
//
// Spec: V-15.
type KeySource interface {
	// Keys returns the keys as they were last read. They are not changed
	// afterwards. ok is false as long as the set could not be read even once.
	Keys() (keys []Key, ok bool)
	// Refresh reads the set again unless that was done a moment ago, and
	// returns when that is over or ctx has ended. For tokens that name a key
	// which is not in the set.
	Refresh(ctx context.Context)
}

// refreshTimeout is how long a request waits for a key set. Longer than a slow
// provider needs, shorter than the patience of clients, which would take an
// answer for a failure of the network.
const refreshTimeout = 5 * time.Second

func (i Issuer) set(role Role) KeySource {
	if role == Publisher {
		return i.PublisherSet
	}

	return i.SubscriberSet
}

// keySet is the set enrolled for a dialect, issuer and role; nil: none.
//
// Spec: V-14, X-4. That an issuer has a set enrols it for 1.0 only.
func (a *Authenticator) keySet(dialect Dialect, issuer string, role Role) KeySource {
	switch {
	case dialect == Dialect1:
		return a.issuers[issuer].set(role) // none for unknown issuers
	case !a.compat:
		return nil
	case role == Publisher:
		return a.legacy.PublisherSet
	default:
		return a.legacy.SubscriberSet
	}
}

// keys returns the keys that are enrolled for a dialect, issuer and role at
// this moment, and nothing else is ever tried.
//
// Spec: V-6, V-14, X-4.
func (a *Authenticator) keys(dialect Dialect, issuer string, role Role) []Key {
	static := a.staticKeys(dialect, issuer, role)

	set := a.keySet(dialect, issuer, role)
	if set == nil {
		return static
	}

	published, _ := set.Keys()

	return slices.Concat(static, published)
}

func (a *Authenticator) enrolls(dialect Dialect, issuer string, role Role) bool {
	return len(a.staticKeys(dialect, issuer, role)) > 0 || a.keySet(dialect, issuer, role) != nil
}

// verifySignature is checkSignature with the keys enrolled for the token. If
// none fits although the key set may have one by now, it waits for the set to
// be read and looks again. issuer is empty for 0.x tokens.
//
// Spec: V-6, V-7, V-15, L-1, Q-17.
func (a *Authenticator) verifySignature(ctx context.Context, t *jws, issuer string, role Role) (string, error) {
	owner := "0.x tokens"
	if t.dialect == Dialect1 {
		owner = "issuer " + quote(issuer)
	}

	id, err := checkSignature(t, a.keys(t.dialect, issuer, role), role, owner)
	if err == nil {
		return id, nil
	}

	set := a.keySet(t.dialect, issuer, role)
	if set == nil || !a.mayBeNew(t, set, issuer, role) {
		return "", err
	}

	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()

	set.Refresh(ctx)

	if id, err = checkSignature(t, a.keys(t.dialect, issuer, role), role, owner); err == nil {
		return id, nil
	}

	if _, read := set.Keys(); !read {
		return "", refuse(Unavailable, "the %s key set for %s could not be read yet, so the token cannot be judged: "+
			"see what the log says about it, and whether the URL in %s_JWKS_URL or MERCURE_ISSUERS is right",
			role, owner, role.setting())
	}

	return "", err
}

// mayBeNew reports whether reading the set again could help a token that no
// key fits: it names a key that we do not have, or we have none at all. One
// that names no key waits for the set to be read in its own time, or everybody
// could make us read it.
func (a *Authenticator) mayBeNew(t *jws, set KeySource, issuer string, role Role) bool {
	if !slices.Contains(publicAlgs, t.alg) {
		return false // never in a set
	}

	if _, read := set.Keys(); !read {
		return true
	}

	return t.kid != "" && !slices.ContainsFunc(a.keys(t.dialect, issuer, role), func(k Key) bool { return k.kid == t.kid })
}
