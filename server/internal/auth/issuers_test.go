package auth_test

import (
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

// Spec: V-6, V-7, V-14, Z-2.
func TestKeysOfIssuersAndRoles(t *testing.T) {
	t.Parallel()

	rotating := func(cfg *auth.Config) {
		old, fresh := keys(t, "old-secret-0123456789abcdef-01234", "HS256"), keys(t, "new-secret-0123456789abcdef-01234", "HS256")
		cfg.Issuers[0].Publisher = []auth.Key{old[0].WithKeyID("old"), fresh[0].WithKeyID("new")}
	}

	for name, tc := range map[string]struct {
		header members
		issuer string
		secret string
		role   auth.Role
		change func(*auth.Config)
		want   want
	}{
		"publisher":                       {header1, issuerA, publisherSecret, auth.Publisher, nil, accepted},
		"subscriber":                      {header1, issuerA, subscriberSecret, auth.Subscriber, nil, accepted},
		"publisher's key for subscribing": {header1, issuerA, publisherSecret, auth.Subscriber, nil, rejected("signature does not fit")},
		"subscriber's key for publishing": {header1, issuerA, subscriberSecret, auth.Publisher, nil, rejected("signature does not fit")},
		"other issuer's key":              {header1.with(members{"alg": "HS384"}), issuerA, otherSecret, auth.Publisher, nil, rejected("alg is")},
		"other issuer's key, same alg": {header1, issuerA, otherSecret, auth.Publisher, func(cfg *auth.Config) {
			cfg.Issuers[1].Publisher = keys(t, otherSecret, "HS256")
		}, rejected("signature does not fit")},
		"other issuer":            {header1.with(members{"alg": "HS384"}), issuerB, otherSecret, auth.Publisher, nil, accepted},
		"issuer without the role": {header1.with(members{"alg": "HS384"}), issuerB, otherSecret, auth.Subscriber, nil, rejected("there is no subscriber key")},
		"legacy key":              {header1, issuerA, legacySecret, auth.Publisher, compat, rejected("signature does not fit")},

		"kid narrows":           {header1.with(members{"kid": "new"}), issuerA, "new-secret-0123456789abcdef-01234", auth.Publisher, rotating, accepted},
		"kid absent, all tried": {header1, issuerA, "new-secret-0123456789abcdef-01234", auth.Publisher, rotating, accepted},
		"kid of the other key":  {header1.with(members{"kid": "old"}), issuerA, "new-secret-0123456789abcdef-01234", auth.Publisher, rotating, rejected("(1 tried)")},
		"kid unknown":           {header1.with(members{"kid": "k9"}), issuerA, "new-secret-0123456789abcdef-01234", auth.Publisher, rotating, rejected(`kid is "k9"`)},
		"kid does not widen":    {header1.with(members{"kid": "new"}), issuerA, otherSecret, auth.Publisher, rotating, rejected("signature does not fit")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			var changes []func(*auth.Config)
			if tc.change != nil {
				changes = append(changes, tc.change)
			}

			token := compact(t, tc.header.json(), payload1.with(members{"iss": tc.issuer}).json(), tc.header["alg"].(string), tc.secret)
			grants, err := authenticate(t, newAuth(t, changes...), token, tc.role, resource)
			tc.want.check(t, grants, err, token)

			if grants != nil && (grants.Issuer != tc.issuer || grants.Dialect != auth.Dialect1 || grants.Subject != "alice") {
				t.Errorf("got %+v", grants)
			}
		})
	}
}

// Every algorithm verifies what it should, and a public key is never a secret.
//
// Spec: V-2, V-7, Z-1.
func TestAlgorithms(t *testing.T) {
	t.Parallel()

	pairs := map[string]func() keyPair{
		"RS256": rsaPair, "RS384": rsaPair, "RS512": rsaPair, "PS256": rsaPair, "PS384": rsaPair, "PS512": rsaPair,
		"ES256": p256Pair, "ES384": p384Pair, "ES512": p521Pair, "EdDSA": edPair,
	}

	for alg, pair := range pairs {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()

			pair := pair()
			a := newAuth(t, func(cfg *auth.Config) { cfg.Issuers[0].Publisher = keys(t, pair.publicPEM, alg) })

			check := func(name, headerAlg, signAlg string, key any, want want) {
				t.Helper()
				t.Log(name)

				token := compact(t, header1.with(members{"alg": headerAlg}).json(), payload1.json(), signAlg, key)
				grants, err := authenticate(t, a, token, auth.Publisher, resource)
				want.check(t, grants, err, token)
			}

			check("own", alg, alg, pair.private, accepted)
			check("public key as secret", "HS256", "HS256", pair.publicPEM, rejected("alg is"))
			check("public key as secret, claiming alg", alg, "HS256", pair.publicPEM, rejected("signature does not fit"))
			check("none", "none", "none", nil, rejected("alg is"))
			check("none, claiming alg", alg, "none", nil, rejected("signature does not fit"))

			// One RSA key serves six algorithms; it is configured with one.
			for _, sibling := range []string{"RS256", "RS384", "PS256"} {
				if (alg[0] == 'R' || alg[0] == 'P') && sibling != alg {
					check("sibling "+sibling, sibling, sibling, pair.private, rejected("alg is"))
					check("sibling, claiming alg", alg, sibling, pair.private, rejected("signature does not fit"))
				}
			}
		})
	}
}
