package auth_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

func signingKey(t testing.TB, material, alg string) auth.SigningKey {
	t.Helper()

	key, err := auth.ParseSigningKey(material, alg)
	if err != nil {
		t.Fatal(err)
	}

	return key
}

func spec1(t testing.TB) auth.TokenSpec {
	return auth.TokenSpec{
		Dialect: auth.Dialect1, Key: signingKey(t, publisherSecret, "HS256"),
		Issuer: issuerA, Audience: resource, Expires: now.Add(time.Minute),
	}
}

// decode returns header and payload of a token.
func decode(t testing.TB, token string) (header, payload map[string]any) {
	t.Helper()

	for i, into := range []*map[string]any{&header, &payload} {
		raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
		if err != nil {
			t.Fatal(err)
		}

		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatal(err)
		}
	}

	return header, payload
}

func TestMintedTokens(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		spec            auth.TokenSpec
		header, payload string
	}{
		"1.0, everything": {auth.TokenSpec{
			Dialect: auth.Dialect1, Key: signingKey(t, publisherSecret, "HS256"), KeyID: "k1",
			Issuer: issuerA, Audience: resource, Subject: "alice", ClientID: "app", JTI: "j1",
			IssuedAt: now, Expires: now.Add(time.Minute),
			Publish:   []auth.MatcherSpec{{Match: "*"}},
			Subscribe: []auth.MatcherSpec{{Match: "a"}, {Match: "/orders/:id", Type: "urlpattern"}},
			Payload:   json.RawMessage(`{"n":1}`),
		}, `{"alg":"HS256","typ":"at+jwt","kid":"k1"}`, `{
			"iss":"https://issuer.example","aud":"https://hub.example.com/.well-known/mercure","sub":"alice",
			"client_id":"app","jti":"j1","iat":1800000000,"exp":1800000060,"authorization_details":[
			{"type":"https://mercure.rocks/authorization-detail","actions":["publish"],"topics":[{"match":"*"}]},
			{"type":"https://mercure.rocks/authorization-detail","actions":["subscribe"],
			 "topics":[{"match":"a"},{"match":"/orders/:id","match_type":"urlpattern"}],"payload":{"n":1}}]}`},
		"1.0, no rights": {auth.TokenSpec{
			Dialect: auth.Dialect1, Key: signingKey(t, publisherSecret, "HS256"),
			Issuer: issuerA, Audience: resource, JTI: "j1", IssuedAt: now, Expires: now.Add(time.Minute),
		}, `{"alg":"HS256","typ":"at+jwt"}`, `{"iss":"https://issuer.example","aud":"https://hub.example.com/.well-known/mercure",
			"sub":"https://issuer.example","client_id":"https://issuer.example","jti":"j1","iat":1800000000,"exp":1800000060}`},
		"0.x, everything": {auth.TokenSpec{
			Dialect: auth.Dialect0, Key: signingKey(t, legacySecret, "HS256"), Subject: "bob", Expires: now,
			Publish: []auth.MatcherSpec{{Match: "*"}}, Subscribe: []auth.MatcherSpec{{Match: "a/{b}"}},
			Payload: json.RawMessage(`"x"`),
		}, `{"alg":"HS256","typ":"JWT"}`, `{"sub":"bob","exp":1800000000,"mercure":{"publish":["*"],"subscribe":["a/{b}"],"payload":"x"}}`},
		"0.x, nothing": {
			auth.TokenSpec{Dialect: auth.Dialect0, Key: signingKey(t, legacySecret, "HS256")},
			`{"alg":"HS256","typ":"JWT"}`, `{"mercure":{}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			token, err := auth.Mint(tc.spec)
			if err != nil {
				t.Fatal(err)
			}

			header, payload := decode(t, token)

			var wantHeader, wantPayload map[string]any
			if err := json.Unmarshal([]byte(tc.header), &wantHeader); err != nil {
				t.Fatal(err)
			}

			if err := json.Unmarshal([]byte(tc.payload), &wantPayload); err != nil {
				t.Fatal(err)
			}

			if diff := cmp.Diff(wantHeader, header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}

			if diff := cmp.Diff(wantPayload, payload); diff != "" {
				t.Errorf("payload (-want +got):\n%s", diff)
			}
		})
	}
}

// Spec: V-12 (issuers provide iat and jti).
func TestMintFillsIn(t *testing.T) {
	t.Parallel()

	jti := map[any]bool{}

	for range 2 {
		token, err := auth.Mint(spec1(t))
		if err != nil {
			t.Fatal(err)
		}

		_, payload := decode(t, token)
		jti[payload["jti"]] = true

		if iat, ok := payload["iat"].(float64); !ok || iat < 1_700_000_000 {
			t.Errorf("iat is %v", payload["iat"])
		}
	}

	if len(jti) != 2 || jti[nil] || jti[""] {
		t.Errorf("got jti %v", jti)
	}
}

// What Mint makes is what Authenticate takes, with every kind of key.
func TestMintAndAuthenticate(t *testing.T) {
	t.Parallel()

	for alg, material := range map[string]string{
		"HS256": publisherSecret, "HS384": publisherSecret, "HS512": publisherSecret,
		"RS256": rsaPair().privatePEM, "RS384": rsaPair().privatePEM, "RS512": rsaPair().privatePEM,
		"PS256": rsaPair().privatePEM, "PS384": rsaPair().privatePEM, "PS512": rsaPair().privatePEM,
		"ES256": p256Pair().privatePEM, "ES384": p384Pair().privatePEM, "ES512": p521Pair().privatePEM,
		"EdDSA": edPair().privatePEM,
	} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()

			key := signingKey(t, material, alg)
			a := newAuth(t, func(cfg *auth.Config) {
				cfg.Compat = true
				cfg.Issuers[0].Publisher = []auth.Key{key.VerificationKey()}
				cfg.Legacy.Publisher = cfg.Issuers[0].Publisher
			})

			one := spec1(t)
			one.Key = key
			one.Publish = []auth.MatcherSpec{{Match: "https://shop.example/:id", Type: "urlpattern"}}

			zero := auth.TokenSpec{
				Dialect: auth.Dialect0, Key: key, Publish: []auth.MatcherSpec{{Match: "https://shop.example/{id}"}},
			}

			for _, spec := range []auth.TokenSpec{one, zero} {
				token, err := auth.Mint(spec)
				if err != nil {
					t.Fatal(err)
				}

				grants, err := authenticate(t, a, token, auth.Publisher, resource)
				accepted.check(t, grants, err, token)

				if grants.Dialect != spec.Dialect || grants.KeyID != key.VerificationKey().ID() ||
					!grants.MayPublish(protocol.NewTopics([]string{"https://shop.example/1"})) {
					t.Errorf("got %+v", grants)
				}
			}
		})
	}
}

func TestMintRefuses(t *testing.T) {
	t.Parallel()

	payload := func(s string) func(*auth.TokenSpec) {
		return func(spec *auth.TokenSpec) {
			spec.Subscribe, spec.Payload = []auth.MatcherSpec{{Match: "*"}}, json.RawMessage(s)
		}
	}
	publish := func(match, matchType string) func(*auth.TokenSpec) {
		return func(spec *auth.TokenSpec) { spec.Publish = []auth.MatcherSpec{{Match: match, Type: matchType}} }
	}
	legacy := func(change func(*auth.TokenSpec)) func(*auth.TokenSpec) {
		return func(spec *auth.TokenSpec) {
			spec.Dialect = auth.Dialect0
			change(spec)
		}
	}

	for name, tc := range map[string]struct {
		change func(*auth.TokenSpec)
		want   string // empty: accepted
	}{
		"base":                     {func(*auth.TokenSpec) {}, ""},
		"no dialect":               {func(s *auth.TokenSpec) { s.Dialect = 0 }, "neither 1.0 nor 0.x"},
		"no key":                   {func(s *auth.TokenSpec) { s.Key = auth.SigningKey{} }, "signing key is missing"},
		"no issuer":                {func(s *auth.TokenSpec) { s.Issuer = "" }, "needs an issuer"},
		"no audience":              {func(s *auth.TokenSpec) { s.Audience = "" }, "needs an audience"},
		"no expiry":                {func(s *auth.TokenSpec) { s.Expires = time.Time{} }, "needs an expiry"},
		"empty match":              {publish("", ""), "empty"},
		"control in match":         {publish("a\x00", ""), "publish: matcher"},
		"unknown type":             {publish("a", "regexp"), "match_type"},
		"bad pattern":              {publish("https://h/[(", "urlpattern"), "publish: matcher"},
		"relative pattern":         {publish("/a/:b", "urlpattern"), ""},
		"pattern, other audience":  {func(s *auth.TokenSpec) { publish("/a/:b", "urlpattern")(s); s.Audience = "hub" }, ""},
		"payload":                  {payload(`{"a":1}`), ""},
		"payload is an array":      {payload(`[]`), "JSON object"},
		"payload, member twice":    {payload(`{"a":1,"a":1}`), "JSON object"},
		"payload alone":            {func(s *auth.TokenSpec) { s.Payload = json.RawMessage(`{}`) }, "go with subscribe"},
		"0.x, type":                {legacy(publish("a", "exact")), "0.x knows none"},
		"0.x, payload is an array": {legacy(payload(`[]`)), ""},
		"0.x, payload is not JSON": {legacy(payload(`{`)), "not valid JSON"},
		"0.x, odd selector":        {legacy(publish("{", "")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			spec := spec1(t)
			tc.change(&spec)

			_, err := auth.Mint(spec)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestParseSigningKey(t *testing.T) {
	t.Parallel()

	ec := p256Pair()

	for name, tc := range map[string]struct {
		material, alg, want string
	}{
		"secret":           {publisherSecret, "HS256", ""},
		"PKCS8":            {ec.privatePEM, "ES256", ""},
		"SEC1":             {sec1(t, ec), "ES256", ""},
		"SEC1, parameters": {pemText("EC PARAMETERS", []byte{1}) + sec1(t, ec), "ES256", ""},
		"PKCS1":            {pkcs1(rsaPair()), "RS256", ""},
		`literal \n`:       {strings.ReplaceAll(ec.privatePEM, "\n", `\n`), "ES256", ""},
		"empty":            {"", "HS256", "empty"},
		"unknown alg":      {"x", "none", "not supported"},
		"PEM as secret":    {ec.privatePEM, "HS256", "takes a shared secret"},
		"secret as PEM":    {publisherSecret, "ES256", "not in PEM form"},
		"public key":       {ec.publicPEM, "ES256", "needs the private key"},
		"two keys":         {ec.privatePEM + ec.privatePEM, "ES256", "2 PEM blocks"},
		"wrong kind":       {ec.privatePEM, "RS256", "set the algorithm to ES256"},
		"short RSA":        {rsaShort().privatePEM, "RS256", "at least 2048"},
		"damaged":          {pemText("PRIVATE KEY", []byte("some private bytes")), "ES256", "damaged or encrypted"},
		"encrypted":        {pemText("ENCRYPTED PRIVATE KEY", []byte("x")), "ES256", "decrypt it first"},
		"OpenSSH":          {pemText("OPENSSH PRIVATE KEY", []byte("x")), "EdDSA", "convert it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			key, err := auth.ParseSigningKey(tc.material, tc.alg)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("got %v, want %q", err, tc.want)
				}

				checkNoMaterial(t, err.Error(), tc.material)

				return
			}

			if err != nil {
				t.Fatal(err)
			}

			if key.Alg() != tc.alg || key.VerificationKey().Alg() != tc.alg {
				t.Errorf("got %s", key.Alg())
			}
		})
	}
}
