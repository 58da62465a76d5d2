package auth_test

import (
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

// BenchmarkAuthenticate measures one publish request, with the token known
// from a moment ago (hit) and verified each time (miss).
func BenchmarkAuthenticate(b *testing.B) {
	for name, pair := range map[string]func() (material, alg string){
		"HS256": func() (string, string) { return publisherSecret, "HS256" },
		"ES256": func() (string, string) { return p256Pair().privatePEM, "ES256" },
		"RS256": func() (string, string) { return rsaPair().privatePEM, "RS256" },
	} {
		material, alg := pair()
		key := signingKey(b, material, alg)
		spec := spec1(b)
		spec.Key = key
		spec.Publish = []auth.MatcherSpec{{Match: "https://shop.example/orders/:id", Type: "urlpattern"}, {Match: "a"}}

		token, err := auth.Mint(spec)
		if err != nil {
			b.Fatal(err)
		}

		for _, run := range []struct {
			name    string
			entries int
		}{{"hit", 0}, {"miss", -1}} {
			b.Run(name+"/"+run.name, func(b *testing.B) {
				a := newAuth(b, func(cfg *auth.Config) {
					cfg.Issuers[0].Publisher = []auth.Key{key.VerificationKey()}
					cfg.CacheEntries = run.entries
				})
				h, r := hub(b), bearer(token)

				b.ReportAllocs()

				for b.Loop() {
					if _, err := a.Authenticate(r, auth.Publisher, h, resource); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
