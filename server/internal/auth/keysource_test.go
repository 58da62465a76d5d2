package auth_test

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

// published is a key set that a test changes. Refresh takes over what was
// prepared.
type published struct {
	mu        sync.Mutex
	keys      []auth.Key
	read      bool
	prepared  []auth.Key
	refreshes int
}

func (p *published) Keys() ([]auth.Key, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.keys, p.read
}

func (p *published) Refresh(context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()

	p.refreshes++

	if p.prepared != nil {
		p.keys, p.read = p.prepared, true
	}
}

func (p *published) replace(keys ...auth.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()

	p.keys, p.read = keys, true
}

func publicKey(t testing.TB, pair keyPair, alg, kid string) auth.Key {
	t.Helper()

	key, err := auth.NewPublicKey(pair.private.Public(), alg, kid)
	if err != nil {
		t.Fatal(err)
	}

	return key
}

// Spec: V-2, V-7, V-15.
func TestNewPublicKey(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		pair keyPair
		alg  string
		want bool
	}{
		"RSA":              {rsaPair(), "PS384", true},
		"P-256":            {p256Pair(), "ES256", true},
		"Ed25519":          {edPair(), "EdDSA", true},
		"RSA 1024":         {rsaShort(), "RS256", false},
		"P-224":            {p224Pair(), "ES256", false},
		"P-384 for ES256":  {p384Pair(), "ES256", false},
		"as shared secret": {rsaPair(), "HS256", false},
		"none":             {rsaPair(), "none", false},
		"no algorithm":     {rsaPair(), "", false},
	} {
		key, err := auth.NewPublicKey(tc.pair.private.Public(), tc.alg, "k")
		if got := err == nil; got != tc.want {
			t.Errorf("%s: %v", name, err)
		}

		if tc.want && (key.ID() != keys(t, tc.pair.publicPEM, tc.alg)[0].ID() || !slices.Contains(auth.AlgsFor(tc.pair.private.Public()), tc.alg)) {
			t.Errorf("%s: got %v", name, key)
		}
	}

	if _, err := auth.NewPublicKey([]byte("secret"), "HS256", ""); err == nil {
		t.Error("took a secret")
	}
}

// When a set is asked, and what is answered if that does not help.
//
// Spec: V-2, V-6, V-15, X-4, Q-17.
func TestKeySets(t *testing.T) {
	t.Parallel()

	unavailable := want{kind: auth.Unavailable, reason: "MERCURE_PUBLISHER_JWKS_URL"}
	old, fresh := p256Pair(), p256Other()

	token := func(dialect auth.Dialect, pair keyPair, changes members) string {
		header, payload := header1, payload1
		if dialect == auth.Dialect0 {
			header, payload = header0, payload0
		}

		return compact(t, header.with(members{"alg": "ES256"}).with(changes).json(), payload.json(), "ES256", pair.private)
	}

	for name, tc := range map[string]struct {
		keys, prepared []auth.Key // nil keys: never read
		token          string
		static         []auth.Key
		role           auth.Role
		legacy         bool // the set is for 0.x too
		want           want
		refreshes      int
	}{
		"in the set":          {keys: []auth.Key{publicKey(t, old, "ES256", "1")}, token: token(auth.Dialect1, old, members{"kid": "1"}), want: accepted},
		"in the set, no kid":  {keys: []auth.Key{publicKey(t, old, "ES256", "1")}, token: token(auth.Dialect1, old, nil), want: accepted},
		"set without kids":    {keys: []auth.Key{publicKey(t, old, "ES256", "")}, token: token(auth.Dialect1, old, members{"kid": "1"}), want: accepted},
		"second of equal kid": {keys: []auth.Key{publicKey(t, fresh, "ES256", "1"), publicKey(t, old, "ES256", "1")}, token: token(auth.Dialect1, old, members{"kid": "1"}), want: accepted},

		"unknown kid, new in the set": {
			keys: []auth.Key{publicKey(t, old, "ES256", "1")}, prepared: []auth.Key{publicKey(t, fresh, "ES256", "2")},
			token: token(auth.Dialect1, fresh, members{"kid": "2"}), want: accepted, refreshes: 1,
		},
		"unknown kid, of another algorithm than all others": {
			keys: []auth.Key{publicKey(t, rsaPair(), "RS256", "1")}, prepared: []auth.Key{publicKey(t, fresh, "ES256", "2")},
			token: token(auth.Dialect1, fresh, members{"kid": "2"}), want: accepted, refreshes: 1,
		},
		"unknown kid, invented": {
			keys: []auth.Key{publicKey(t, old, "ES256", "1")}, token: token(auth.Dialect1, old, members{"kid": "2"}),
			want: rejected(`kid is "2"`), refreshes: 1,
		},
		"known kid, other key": {
			keys: []auth.Key{publicKey(t, old, "ES256", "1")}, prepared: []auth.Key{publicKey(t, fresh, "ES256", "1")},
			token: token(auth.Dialect1, fresh, members{"kid": "1"}), want: rejected("signature does not fit"),
		},
		"no kid, other key": {
			keys: []auth.Key{publicKey(t, old, "ES256", "1")}, prepared: []auth.Key{publicKey(t, fresh, "ES256", "2")},
			token: token(auth.Dialect1, fresh, nil), want: rejected("signature does not fit"),
		},
		"kid of a static key": {
			keys: []auth.Key{publicKey(t, fresh, "ES256", "1")}, static: []auth.Key{publicKey(t, old, "ES256", "s")},
			token: token(auth.Dialect1, fresh, members{"kid": "s"}), want: rejected("signature does not fit"),
		},

		"never read, then read":    {prepared: []auth.Key{publicKey(t, old, "ES256", "1")}, token: token(auth.Dialect1, old, nil), want: accepted, refreshes: 1},
		"never read":               {token: token(auth.Dialect1, old, members{"kid": "1"}), want: unavailable, refreshes: 1},
		"never read, static fits":  {static: []auth.Key{publicKey(t, old, "ES256", "")}, token: token(auth.Dialect1, old, members{"kid": "1"}), want: accepted},
		"never read, static fails": {static: []auth.Key{publicKey(t, fresh, "ES256", "")}, token: token(auth.Dialect1, old, nil), want: unavailable, refreshes: 1},
		"never read, HMAC":         {token: compact(t, header1.json(), payload1.json(), "HS256", otherSecret), want: rejected("alg is")},
		"never read, none":         {token: compact(t, header1.with(members{"alg": "none"}).json(), payload1.json(), "none", nil), want: rejected("alg is")},
		"never read, other issuer": {
			token: compact(t, header1.with(members{"alg": "ES256"}).json(), payload1.with(members{"iss": "https://evil.example"}).json(), "ES256", old.private),
			want:  rejected("no trusted issuer"),
		},
		"never read, issuer without a set": {
			token: compact(t, header1.with(members{"alg": "ES256"}).json(), payload1.with(members{"iss": issuerB}).json(), "ES256", old.private),
			want:  rejected("alg is"),
		},
		"public key as secret": {
			keys:  []auth.Key{publicKey(t, old, "ES256", "1")},
			token: compact(t, header1.json(), payload1.json(), "HS256", old.publicPEM), want: rejected("alg is"),
		},
		"role without a set": {
			keys: []auth.Key{publicKey(t, old, "ES256", "1")}, token: token(auth.Dialect1, old, nil),
			role: auth.Subscriber, want: rejected("there is no subscriber key"),
		},

		"0.x, not enabled": {keys: []auth.Key{publicKey(t, old, "ES256", "1")}, token: token(auth.Dialect0, old, nil), want: rejected("MERCURE_JWKS_COMPAT")},
		"0.x, enabled":     {keys: []auth.Key{publicKey(t, old, "ES256", "1")}, token: token(auth.Dialect0, old, nil), legacy: true, want: accepted},
		"0.x, never read":  {token: token(auth.Dialect0, old, nil), legacy: true, want: unavailable, refreshes: 1},
		"0.x, never read, HMAC": {
			token: compact(t, header0.json(), payload0.json(), "HS256", otherSecret), legacy: true, want: rejected("there is no publisher key"),
		},
		"0.x, not enabled, never read": {token: token(auth.Dialect0, old, nil), want: rejected("MERCURE_JWKS_COMPAT")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			set := &published{keys: tc.keys, read: tc.keys != nil, prepared: tc.prepared}
			a := newAuth(t, compat, func(cfg *auth.Config) {
				cfg.Issuers[0] = auth.Issuer{ID: issuerA, Publisher: tc.static, PublisherSet: set}
				cfg.Legacy = auth.LegacyKeys{}

				if tc.legacy {
					cfg.Legacy.PublisherSet = set
				}
			})

			role := auth.Publisher
			if tc.role != 0 {
				role = tc.role
			}

			grants, err := a.Authenticate(bearer(tc.token), role, hub(t), resource)
			tc.want.check(t, grants, err, tc.token)

			if set.refreshes != tc.refreshes {
				t.Errorf("the set was asked %d times, want %d", set.refreshes, tc.refreshes)
			}

			if grants != nil && !a.Trusts(role, grants) {
				t.Error("the key is not trusted afterwards")
			}
		})
	}
}

// A key that was removed verifies nothing any more, although the token was
// valid a moment ago.
//
// Spec: V-15, Z-22.
func TestRemovedKeyIsForgotten(t *testing.T) {
	t.Parallel()

	set := &published{}
	set.replace(publicKey(t, p256Pair(), "ES256", "1"), publicKey(t, edPair(), "EdDSA", "2"))
	a := newAuth(t, func(cfg *auth.Config) {
		cfg.Issuers[0].PublisherSet, cfg.Issuers[0].SubscriberSet = set, nil
	})

	token := compact(t, header1.with(members{"alg": "ES256", "kid": "1"}).json(), payload1.json(), "ES256", p256Pair().private)
	first, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	accepted.check(t, first, err, token)

	second, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	accepted.check(t, second, err, token)

	if first != second || !a.Trusts(auth.Publisher, first) || a.Trusts(auth.Subscriber, first) {
		t.Error("the token was not remembered, or for the wrong role")
	}

	set.replace(publicKey(t, edPair(), "EdDSA", "2"))

	if a.Trusts(auth.Publisher, first) {
		t.Error("the removed key is still trusted")
	}

	grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	rejected("").check(t, grants, err, token)

	set.replace(publicKey(t, p256Pair(), "ES256", "1"))

	grants, err = a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	accepted.check(t, grants, err, token)
}

// Spec: G-4, V-14.
func TestKeySetsAreKeys(t *testing.T) {
	t.Parallel()

	set := &published{}
	a := newAuth(t, compat, func(cfg *auth.Config) {
		cfg.Issuers = []auth.Issuer{{ID: issuerA, PublisherSet: set}}
		cfg.Legacy = auth.LegacyKeys{SubscriberSet: set}
	})

	if !a.HasKeys(auth.Publisher) || !a.HasKeys(auth.Subscriber) {
		t.Error("a set that was not read yet does not count")
	}

	without := newAuth(t, func(cfg *auth.Config) {
		cfg.Issuers = []auth.Issuer{{ID: issuerA, PublisherSet: set}}
		cfg.Legacy = auth.LegacyKeys{SubscriberSet: set}
	})

	if without.HasKeys(auth.Subscriber) {
		t.Error("the 0.x set counts although the dialect is off")
	}
}

// Spec: Q-17.
func TestUnavailable(t *testing.T) {
	t.Parallel()

	if auth.Unavailable.Status() != http.StatusServiceUnavailable || auth.Unavailable.String() != "unavailable" {
		t.Errorf("got %d %s", auth.Unavailable.Status(), auth.Unavailable)
	}
}

// hanging is a set whose source does not answer.
type hanging struct{ published }

func (*hanging) Refresh(ctx context.Context) { <-ctx.Done() }

// Spec: V-15, Q-17.
func TestWaitingForKeySetsIsBounded(t *testing.T) {
	t.Parallel()

	synctest.Test(t, func(t *testing.T) {
		a := newAuth(t, func(cfg *auth.Config) { cfg.Issuers[0].PublisherSet = &hanging{} })
		token := compact(t, header1.with(members{"alg": "ES256"}).json(), payload1.json(), "ES256", p256Pair().private)
		began := time.Now()

		grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
		want{kind: auth.Unavailable}.check(t, grants, err, token)

		if waited := time.Since(began); waited != 5*time.Second {
			t.Errorf("waited %s", waited)
		}
	})
}
