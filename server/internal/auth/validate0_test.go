package auth_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Spec: L-1 to L-9, section 16.
func TestLegacyTokens(t *testing.T) {
	t.Parallel()

	const namespaced = "https://mercure.rocks/"

	mercure := func(v any) members { return members{"mercure": v} }
	publish := func(v any) members { return mercure(members{"publish": v}) }
	star, other := []string{"*"}, []string{"https://other.example"}
	many := func(n int) []string { return strings.Split(strings.Repeat("a ", n-1)+"a", " ") }
	const all, some, none = 3, 2, 1 // what may be published, if accepted

	for name, tc := range map[string]struct {
		change members
		want   want
		may    int
	}{
		"plain": {nil, accepted, some},

		"L-2 missing":           {mercure(drop{}), accepted, none},
		"L-2 null":              {mercure(nil), accepted, none},
		"L-2 empty":             {mercure(members{}), accepted, none},
		"L-2 array":             {mercure([]int{}), rejected("not an object"), 0},
		"L-2 string":            {mercure("x"), rejected("not an object"), 0},
		"L-2 namespaced":        {members{"mercure": drop{}, namespaced: members{"publish": star}}, accepted, all},
		"L-2 namespaced wins":   {members{"mercure": members{"publish": star}, namespaced: members{"publish": other}}, accepted, none},
		"L-2 namespaced, empty": {members{"mercure": members{"publish": star}, namespaced: members{}}, accepted, none},
		"L-2 namespaced, null":  {members{"mercure": members{"publish": star}, namespaced: nil}, accepted, all},
		"L-2 namespaced, bad":   {members{"mercure": members{"publish": star}, namespaced: 1}, rejected("not an object"), 0},
		"L-2 case-sensitive":    {members{"mercure": drop{}, "Mercure": members{"publish": star}}, accepted, none},

		"L-3 wildcard":              {publish(star), accepted, all},
		"L-3 template":              {publish([]string{"https://shop.example/orders/{id}"}), accepted, some},
		"L-3 missing":               {mercure(members{"subscribe": star}), accepted, none},
		"L-3 empty":                 {publish([]string{}), accepted, none},
		"L-3 null":                  {publish(nil), accepted, none},
		"L-3 string":                {publish("*"), rejected("not an array"), 0},
		"L-3 object":                {publish(members{}), rejected("not an array"), 0},
		"L-4 string":                {mercure(members{"publish": star, "subscribe": "*"}), rejected("subscribe"), 0},
		"L-7 number":                {publish([]any{"*", 1}), rejected("[1] is not a string"), 0},
		"L-7 null inside":           {publish([]any{nil}), rejected("[0] is not a string"), 0},
		"L-7 1.0 matcher":           {publish([]members{{"match": "*"}}), rejected("[0] is not a string"), 0},
		"L-7 odd text":              {publish([]string{"{", "\u200b", "a\x00b", "*"}), accepted, all},
		"L-7 empty string":          {publish([]string{""}), accepted, none},
		"L-7 exclusion":             {mercure(members{"publish": star, "publish_exclude": other}), rejected("publish_exclude"), 0},
		"L-7 exclusion, subscribe":  {mercure(members{"publish": star, "subscribe_exclude": other}), rejected("subscribe_exclude"), 0},
		"L-7 exclusion, empty":      {mercure(members{"publish": star, "publish_exclude": []string{}}), rejected("publish_exclude"), 0},
		"L-7 exclusion, null":       {mercure(members{"publish": star, "publish_exclude": nil}), rejected("publish_exclude"), 0},
		"L-7 exclusion, namespaced": {members{namespaced: members{"publish": star, "publish_exclude": other}}, rejected("publish_exclude"), 0},

		"L-6 exp future":       {members{"exp": now.Unix() + 1}, accepted, some},
		"L-6 exp now":          {members{"exp": now.Unix()}, rejected("expired"), 0},
		"L-6 exp past":         {members{"exp": now.Unix() - 1}, rejected("expired"), 0},
		"L-6 exp zero":         {members{"exp": 0}, rejected("expired"), 0},
		"L-6 exp string":       {members{"exp": "9999999999"}, rejected("exp is not a number"), 0},
		"L-6 exp null":         {members{"exp": nil}, rejected("exp is not a number"), 0},
		"L-6 nbf future":       {members{"nbf": now.Unix() + 1}, rejected("nbf"), 0},
		"L-6 nbf string":       {members{"nbf": "0"}, rejected("nbf is not a number"), 0},
		"L-6 nbf past":         {members{"nbf": now.Unix()}, accepted, some},
		"L-6 others unchecked": {members{"iss": 1, "aud": "https://elsewhere.example", "sub": []int{}, "iat": "x", "jti": nil}, accepted, some},

		"L-8 most selectors":     {publish(append(many(999), "*")), accepted, all},
		"L-8 too many selectors": {publish(many(1001)), rejected("more than 1000"), 0},
		"L-8 longest":            {publish([]string{strings.Repeat("a", 4096)}), accepted, none},
		"L-8 too long":           {publish([]string{strings.Repeat("a", 4097)}), rejected("longer than 4096"), 0},

		"L-9 details ignored":     {members{"mercure": drop{}, "authorization_details": payload1["authorization_details"]}, accepted, none},
		"L-9 bad details ignored": {members{"authorization_details": 1}, accepted, some},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			token := token0(t, tc.change)
			grants, err := authenticate(t, newAuth(t, compat), token, auth.Publisher, resource)
			tc.want.check(t, grants, err, token)

			if err != nil {
				return
			}

			got := none
			if grants.MayPublish(protocol.NewTopics([]string{"https://shop.example/orders/1"})) {
				got = some
			}

			if got == some && grants.MayPublish(protocol.NewTopics([]string{"anything"})) {
				got = all
			}

			if got != tc.may {
				t.Errorf("may publish: got %d, want %d", got, tc.may)
			}
		})
	}
}

// Spec: L-1, V-7, Z-1.
func TestLegacyKeys(t *testing.T) {
	t.Parallel()

	rs := func(cfg *auth.Config) {
		cfg.Compat = true
		cfg.Legacy.Publisher = keys(t, rsaPair().publicPEM, "RS256")
	}
	noKey := func(cfg *auth.Config) {
		cfg.Compat = true
		cfg.Legacy.Subscriber = nil
	}
	subscriberKey := func(cfg *auth.Config) {
		cfg.Compat = true
		cfg.Legacy.Subscriber = keys(t, "another-secret", "HS256")
	}

	for name, tc := range map[string]struct {
		change func(*auth.Config)
		role   auth.Role
		alg    string // in the header
		sign   string
		key    any
		want   want
	}{
		"own":                   {compat, auth.Publisher, "HS256", "HS256", legacySecret, accepted},
		"other secret":          {compat, auth.Publisher, "HS256", "HS256", publisherSecret, rejected("signature does not fit")},
		"other alg":             {compat, auth.Publisher, "HS512", "HS512", legacySecret, rejected("MERCURE_PUBLISHER_JWT_ALG")},
		"none":                  {compat, auth.Publisher, "none", "none", nil, rejected("alg is")},
		"RSA":                   {rs, auth.Publisher, "RS256", "RS256", rsaPair().private, accepted},
		"public key as secret":  {rs, auth.Publisher, "HS256", "HS256", rsaPair().publicPEM, rejected("alg is")},
		"no key for the role":   {noKey, auth.Subscriber, "HS256", "HS256", legacySecret, rejected("MERCURE_SUBSCRIBER_JWT_KEY")},
		"key of the other role": {subscriberKey, auth.Subscriber, "HS256", "HS256", legacySecret, rejected("signature does not fit")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			token := compact(t, members{"alg": tc.alg, "typ": "JWT"}.json(), payload0.json(), tc.sign, tc.key)
			grants, err := authenticate(t, newAuth(t, tc.change), token, tc.role, resource)
			tc.want.check(t, grants, err, token)
		})
	}
}

// Headers of 0.x tokens are as strict as those of 1.0 tokens where reading
// them twice could give two answers; payloads are not.
//
// Spec: V-4, X-1.
func TestEnvelopeOf0(t *testing.T) {
	t.Parallel()

	sign := func(header, payload string) string { return compact(t, header, payload, "HS256", legacySecret) }

	for name, tc := range map[string]struct {
		token string
		want  want
	}{
		"typ twice":              {sign(`{"alg":"HS256","typ":"at+jwt","typ":"JWT"}`, payload0.json()), rejected("occurs twice")},
		"crit":                   {sign(`{"alg":"HS256","crit":["x"]}`, payload0.json()), rejected("crit")},
		"odd kid":                {sign(`{"alg":"HS256","kid":1}`, payload0.json()), accepted},
		"payload member twice":   {sign(`{"alg":"HS256"}`, twice(payload0.json(), `"x":1,"x":2`)), accepted},
		"payload is text":        {sign(`{"alg":"HS256"}`, "x"), rejected("not valid JSON")},
		"payload is a string":    {sign(`{"alg":"HS256"}`, `"x"`), rejected("not a JSON object")},
		"payload is not UTF-8":   {sign(`{"alg":"HS256"}`, "{\"x\":\"\xff\"}"), rejected("not valid UTF-8")},
		"1.0 payload, no grants": {sign(`{"alg":"HS256"}`, payload1.json()), accepted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			grants, err := authenticate(t, newAuth(t, compat), tc.token, auth.Publisher, resource)
			tc.want.check(t, grants, err, tc.token)
		})
	}
}

// Both claim sets and a key both dialects accept, so that only typ decides.
//
// Spec: V-1, X-1, X-2, X-3, X-4, X-5.
func TestDialects(t *testing.T) {
	t.Parallel()

	both := payload1.with(payload0)
	shared := func(compat bool) func(*auth.Config) {
		return func(cfg *auth.Config) {
			cfg.Compat = compat
			cfg.Legacy.Publisher = cfg.Issuers[0].Publisher
		}
	}
	on, off := shared(true), shared(false)

	for name, tc := range map[string]struct {
		typ     any
		change  func(*auth.Config)
		payload members
		want    want
		dialect auth.Dialect
	}{
		"at+jwt":                     {"at+jwt", on, both, accepted, auth.Dialect1},
		"AT+JWT":                     {"AT+JWT", on, both, accepted, auth.Dialect1},
		"application/at+jwt":         {"application/at+jwt", on, both, accepted, auth.Dialect1},
		"Application/At+Jwt":         {"Application/At+Jwt", on, both, accepted, auth.Dialect1},
		"at+jwt, compat off":         {"at+jwt", off, both, accepted, auth.Dialect1},
		"JWT":                        {"JWT", on, both, accepted, auth.Dialect0},
		"absent":                     {drop{}, on, both, accepted, auth.Dialect0},
		"null":                       {nil, on, both, accepted, auth.Dialect0},
		"number":                     {1, on, both, accepted, auth.Dialect0},
		"empty":                      {"", on, both, accepted, auth.Dialect0},
		"application/JWT":            {"application/JWT", on, both, accepted, auth.Dialect0},
		"prefix twice":               {"application/application/at+jwt", on, both, accepted, auth.Dialect0},
		"trailing space":             {"at+jwt ", on, both, accepted, auth.Dialect0},
		"jwt":                        {"jwt", on, both, accepted, auth.Dialect0},
		"X-3 JWT, compat off":        {"JWT", off, both, rejected("MERCURE_COMPAT is off"), 0},
		"X-3 absent, compat off":     {drop{}, off, both, rejected("MERCURE_COMPAT is off"), 0},
		"X-2 no second try, expired": {"at+jwt", on, both.with(members{"exp": now.Unix()}), rejected("expired"), 0},
		"X-2 no second try, no exp":  {"at+jwt", on, both.with(members{"exp": drop{}}), rejected("exp is missing"), 0},
		"X-2 no second try, aud":     {"at+jwt", on, both.with(members{"aud": "x"}), rejected("aud is"), 0},
		"X-2 no second try, iss":     {"at+jwt", on, both.with(members{"iss": drop{}}), rejected("iss is missing"), 0},
		"X-2 no mercure rights":      {"at+jwt", on, both.with(members{"authorization_details": drop{}}), accepted, auth.Dialect1},
		"X-4 issuer's key alone": {"JWT", func(cfg *auth.Config) {
			cfg.Compat = true
			cfg.Legacy.Publisher = keys(t, legacySecret, "HS256")
		}, both, rejected("signature does not fit"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			token := compact(t, header1.with(members{"typ": tc.typ}).json(), tc.payload.json(), "HS256", publisherSecret)
			grants, err := authenticate(t, newAuth(t, tc.change), token, auth.Publisher, resource)
			tc.want.check(t, grants, err, token)

			if err != nil {
				return
			}

			if grants.Dialect != tc.dialect {
				t.Errorf("got dialect %v, want %v", grants.Dialect, tc.dialect)
			}

			if _, hasDetails := tc.payload["authorization_details"]; !hasDetails && grants.MayPublish(protocol.NewTopics([]string{"https://shop.example/orders/1"})) {
				t.Error("a 1.0 token has rights from its mercure claim")
			}
		})
	}
}

// Tokens as deployed libraries make them.
//
// Spec: section 16.
func TestTokensOfRealClients(t *testing.T) {
	t.Parallel()

	for name, token := range map[string]string{
		"symfony 0.7": compact(t, `{"typ":"JWT","alg":"HS256"}`,
			`{"mercure":{"publish":["*"],"subscribe":[]},"exp":1800003600}`, "HS256", legacySecret),
		"symfony 0.7, float exp": compact(t, `{"typ":"JWT","alg":"HS256"}`,
			`{"mercure":{"publish":["*"],"subscribe":[]},"exp":1800003600.123456}`, "HS256", legacySecret),
		"laravel, no exp": compact(t, `{"typ":"JWT","alg":"HS256"}`, `{"mercure":{"publish":["*"]}}`, "HS256", legacySecret),
		"rust, no typ":    compact(t, `{"alg":"HS256"}`, `{"mercure":{"publish":["*"]}}`, "HS256", legacySecret),
		"symfony 0.8": compact(t, `{"typ":"at+jwt","alg":"HS256"}`, `{"iss":"https://issuer.example",`+
			`"aud":["https:\/\/hub.example.com\/.well-known\/mercure"],"sub":"app","client_id":"app","iat":1800000000.5,"jti":"x",`+
			`"exp":1800003600.5,"authorization_details":[{"type":"https:\/\/mercure.rocks\/authorization-detail",`+
			`"actions":["publish"],"topics":[{"match":"*"}]}]}`, "HS256", publisherSecret),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			grants, err := authenticate(t, newAuth(t, compat), token, auth.Publisher, resource)
			accepted.check(t, grants, err, token)

			if !grants.MayPublish(protocol.NewTopics([]string{"anything"})) {
				t.Error("may not publish")
			}
		})
	}

	// Their "no expiry" setting.
	token := token1(t, members{"exp": drop{}})
	grants, err := newAuth(t, compat).Authenticate(request(http.MethodGet, hubURL, "Cookie", auth.DefaultCookieName+"="+token), auth.Publisher, hub(t), resource)
	rejected("exp is missing").check(t, grants, err, token)
}
