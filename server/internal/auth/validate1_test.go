package auth_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

var (
	accepted = want{}
	rejected = func(reason string) want { return want{auth.InvalidToken, reason} }
)

// Spec: V-5, V-8, V-9, V-10, V-12.
func TestClaimsOf1(t *testing.T) {
	t.Parallel()

	exp := func(v any) members { return members{"exp": v} }
	nbf := func(v any) members { return members{"nbf": v} }
	aud := func(v any) members { return members{"aud": v} }
	iss := func(v any) members { return members{"iss": v} }

	for name, tc := range map[string]struct {
		change members
		want   want
	}{
		"plain": {nil, accepted},

		"V-5 missing":             {iss(drop{}), rejected("iss is missing")},
		"V-5 number":              {iss(1), rejected("iss is missing or not a string")},
		"V-5 null":                {iss(nil), rejected("iss is missing or not a string")},
		"V-5 empty":               {iss(""), rejected("no trusted issuer")},
		"V-5 unknown":             {iss("https://evil.example"), rejected("MERCURE_TRUSTED_ISSUERS")},
		"V-5 added slash":         {iss(issuerA + "/"), rejected("to the last slash")},
		"V-5 removed slash":       {iss(strings.TrimSuffix(issuerB, "/")), rejected("to the last slash")},
		"V-5 other case":          {iss(strings.ToUpper(issuerA)), rejected("to the last slash")},
		"V-5 in other case alone": {members{"iss": drop{}, "ISS": issuerA}, rejected("iss is missing")},

		"V-8 missing":              {exp(drop{}), rejected("exp is missing")},
		"V-8 string":               {exp("1800000060"), rejected("exp is not a number")},
		"V-8 null":                 {exp(nil), rejected("exp is not a number")},
		"V-8 zero":                 {exp(0), rejected("expired")},
		"V-8 negative":             {exp(-62135596800), rejected("expired")},
		"V-8 far negative":         {exp(-1e300), rejected("expired")},
		"V-8 expired a second ago": {exp(now.Unix() - 1), rejected("expired 1s ago")},
		"V-8 expired exactly now":  {exp(now.Unix()), rejected("expired")},
		"V-8 in half a second":     {exp(float64(now.Unix()) + 0.5), accepted},
		"V-8 half a second ago":    {exp(float64(now.Unix()) - 0.5), rejected("expired")},
		"V-8 milliseconds":         {exp(now.UnixMilli()), accepted},
		"V-8 beyond time":          {exp(1e300), accepted},
		"V-8 in other case alone":  {members{"exp": drop{}, "Exp": now.Unix() + 60}, rejected("exp is missing")},

		"V-9 now":        {nbf(now.Unix()), accepted},
		"V-9 past":       {nbf(0), accepted},
		"V-9 future":     {nbf(now.Unix() + 1), rejected("nbf is 1s in the future")},
		"V-9 far future": {nbf(1e300), rejected("in the future")},
		"V-9 string":     {nbf("0"), rejected("nbf is not a number")},
		"V-9 null":       {nbf(nil), rejected("nbf is not a number")},

		"V-10 array":             {aud([]string{"https://other.example", resource}), accepted},
		"V-10 missing":           {aud(drop{}), rejected("aud is missing")},
		"V-10 null":              {aud(nil), rejected("aud is neither")},
		"V-10 number":            {aud(1), rejected("aud is neither")},
		"V-10 object":            {aud(members{resource: true}), rejected("aud is neither")},
		"V-10 other":             {aud("https://other.example"), rejected("MERCURE_RESOURCE_IDENTIFIER")},
		"V-10 trailing slash":    {aud(resource + "/"), rejected("aud is")},
		"V-10 prefix":            {aud("https://hub.example.com"), rejected("aud is")},
		"V-10 array without it":  {aud([]string{"https://other.example"}), rejected("aud does not contain")},
		"V-10 empty array":       {aud([]string{}), rejected("aud does not contain")},
		"V-10 array with number": {aud([]any{resource, 1}), rejected("aud is neither")},

		"V-12 nothing optional": {members{"sub": drop{}}, accepted},
		"V-12 odd types":        {members{"sub": 1, "iat": "x", "jti": nil, "client_id": []int{}}, accepted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			token := token1(t, tc.change)
			grants, err := newAuth(t).Authenticate(bearer(token), auth.Publisher, hub(t), resource)
			tc.want.check(t, grants, err, token)
		})
	}
}

// The leeway is for nbf and not for exp.
//
// Spec: V-8, V-9, Q-32.
func TestNotBeforeLeeway(t *testing.T) {
	t.Parallel()

	a := newAuth(t, func(cfg *auth.Config) { cfg.NotBeforeLeeway = time.Minute })

	for name, tc := range map[string]struct {
		change members
		want   want
	}{
		"nbf within":   {members{"nbf": now.Unix() + 60}, accepted},
		"nbf beyond":   {members{"nbf": now.Unix() + 61}, rejected("in the future")},
		"exp has none": {members{"exp": now.Unix() - 1}, rejected("expired")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			token := token1(t, tc.change)
			grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
			tc.want.check(t, grants, err, token)
		})
	}
}

// Spec: V-1 to V-4, V-7, V-13, Z-1.
func TestEnvelopeOf1(t *testing.T) {
	t.Parallel()

	header := func(changes members) string { return header1.with(changes).json() }
	payload := payload1.json()
	evil := p256Pair()
	point, err := evil.private.Public().(interface{ Bytes() ([]byte, error) }).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	jwk := members{"kty": "EC", "crv": "P-256", "x": encode(string(point[1:33])), "y": encode(string(point[33:]))}

	sign := func(header, payload string) string {
		return compact(t, header, payload, "HS256", publisherSecret)
	}
	valid := sign(header(nil), payload)
	dot := strings.LastIndexByte(valid, '.')

	for name, tc := range map[string]struct {
		token string
		want  want
	}{
		"plain": {valid, accepted},

		"V-1 header is text":        {sign("x", payload), rejected("not valid JSON")},
		"V-1 header is an array":    {sign(`["at+jwt"]`, payload), rejected("not a JSON object")},
		"V-1 header is null":        {sign(`null`, payload), rejected("not a JSON object")},
		"V-1 header is not base64":  {"A" + valid, rejected("header is not base64url")},
		"V-1 header has a tail":     {sign(header(nil)+"{}", payload), rejected("not valid JSON")},
		"V-1 header is not UTF-8":   {sign(`{"alg":"HS256","typ":"at+jwt","x":"`+"\xff"+`"}`, payload), rejected("not valid UTF-8")},
		"V-1 payload is not base64": {encode(header(nil)) + ".A.A", rejected("payload is not base64url")},

		"V-2 none":               {compact(t, header(members{"alg": "none"}), payload, "none", nil), rejected(`alg is "none"`)},
		"V-2 None":               {compact(t, header(members{"alg": "None"}), payload, "none", nil), rejected(`alg is "None"`)},
		"V-2 none, signed":       {sign(header(members{"alg": "none"}), payload), rejected(`alg is "none"`)},
		"V-2 missing":            {sign(header(members{"alg": drop{}}), payload), rejected("alg is missing")},
		"V-2 number":             {sign(header(members{"alg": 256}), payload), rejected("alg is missing or not a string")},
		"V-2 lower case":         {sign(header(members{"alg": "hs256"}), payload), rejected("which no key")},
		"V-2 not configured":     {compact(t, header(members{"alg": "HS512"}), payload, "HS512", publisherSecret), rejected("which no key")},
		"V-7 other issuer's alg": {compact(t, header(members{"alg": "HS384"}), payload, "HS384", publisherSecret), rejected("MERCURE_PUBLISHER_JWT_ALG")},
		"V-7 signed otherwise":   {compact(t, header(nil), payload, "HS384", publisherSecret), rejected("signature does not fit")},

		"V-3 crit":                     {sign(header(members{"crit": []string{"exp"}}), payload), rejected("crit")},
		"V-3 crit empty":               {sign(header(members{"crit": []string{}}), payload), rejected("crit")},
		"V-3 crit null":                {sign(header(members{"crit": nil}), payload), rejected("crit")},
		"V-3 own jwk":                  {compact(t, header(members{"alg": "ES256", "jwk": jwk}), payload, "ES256", evil.private), rejected("which no key")},
		"V-3 key hints ignored":        {sign(header(members{"jwk": jwk, "jku": "https://evil.example", "x5u": 1, "x5c": nil, "x5t": "x"}), payload), accepted},
		"V-6 kid is not a string":      {sign(header(members{"kid": 1}), payload), rejected("kid is not a string")},
		"V-6 kid of a key without one": {sign(header(members{"kid": "k"}), payload), accepted},

		"V-4 payload is text":             {sign(header(nil), "x"), rejected("not valid JSON")},
		"V-4 payload is empty":            {encode(header(nil)) + "." + encode(" ") + ".", rejected("not valid JSON")},
		"V-4 payload is an array":         {sign(header(nil), "["+payload+"]"), rejected("not a JSON object")},
		"V-4 payload is null":             {sign(header(nil), "null"), rejected("not a JSON object")},
		"V-4 payload has a tail":          {sign(header(nil), payload+payload), rejected("not valid JSON")},
		"V-4 spaces around":               {sign(header(nil), " \n"+payload+" "), accepted},
		"V-4 member twice":                {sign(header(nil), twice(payload, `"exp":9999999999`)), rejected("occurs twice")},
		"V-4 equal members":               {sign(header(nil), twice(payload, `"x":1,"x":1`)), rejected("occurs twice")},
		"V-4 member twice, escaped":       {sign(header(nil), twice(payload, `"\u0069ss":"https://issuer.example"`)), rejected("occurs twice")},
		"V-4 member twice, nested":        {sign(header(nil), twice(payload, `"x":[{"y":{"a":1,"b":2,"a":3}}]`)), rejected("occurs twice")},
		"V-4 header member twice":         {sign(twice(header(nil), `"alg":"HS256"`), payload), rejected("occurs twice")},
		"V-4 header member twice, nested": {sign(twice(header(nil), `"jwk":{"a":1,"a":1}`), payload), rejected("occurs twice")},
		"V-4 names repeat across objects": {sign(header(nil), twice(payload, `"x":{"exp":1},"y":[{"exp":1},{"exp":1}]`)), accepted},
		"V-4 half a surrogate":            {sign(header(nil), twice(payload, `"x":"\ud800"`)), rejected("surrogate")},
		"V-4 not UTF-8":                   {sign(header(nil), twice(payload, "\"x\":\"\xc0\x80\"")), rejected("not valid UTF-8")},

		"V-7 no signature":         {valid[:dot+1], rejected("signature does not fit")},
		"V-7 short signature":      {valid[:dot] + ".AAAA", rejected("signature does not fit")},
		"V-7 long signature":       {valid + "AAAA", rejected("signature does not fit")},
		"V-7 signature not base64": {valid + "AA", rejected("signature is not base64url")},
		"V-7 other payload":        {strings.Split(valid, ".")[0] + "." + encode(payload1.with(members{"sub": "root"}).json()) + valid[dot:], rejected("signature does not fit")},
		"V-7 other header":         {encode(header(members{"kid": "x"})) + "." + encode(payload) + valid[dot:], rejected("signature does not fit")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			grants, err := newAuth(t).Authenticate(bearer(tc.token), auth.Publisher, hub(t), resource)
			tc.want.check(t, grants, err, tc.token)
		})
	}
}

// twice adds members to the end of an object, without looking.
func twice(object, more string) string {
	return strings.TrimSuffix(object, "}") + "," + more + "}"
}

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
			grants, err := newAuth(t, changes...).Authenticate(bearer(token), tc.role, hub(t), resource)
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
				grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
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

// Spec: D-1 to D-24.
func TestAuthorizationDetails(t *testing.T) {
	t.Parallel()

	const (
		head = `{"type":"` + detailType + `",`
		star = `"topics":[{"match":"*"}]`
		full = head + `"actions":["publish"],` + star + `}`
	)

	topics := func(v string) string { return `[` + head + `"actions":["publish"],"topics":` + v + `}]` }
	actions := func(v string) string { return `[` + head + `"actions":` + v + `,` + star + `}]` }
	payload := func(v string) string {
		return `[` + head + `"actions":["subscribe"],` + star + `,"payload":` + v + `}]`
	}
	many := func(n int, element string) string { return strings.TrimSuffix(strings.Repeat(element+",", n), ",") }
	long := strings.Repeat("a", 4096)

	grantsAll := want{}
	const all, some, none = 3, 2, 1 // what may be published, if accepted

	for name, tc := range map[string]struct {
		claim string // "" for absent
		want  want
		may   int
	}{
		"D-6 wildcard":                   {`[` + full + `]`, grantsAll, all},
		"D-7 known and unknown action":   {actions(`["publish","delete"]`), grantsAll, all},
		"D-8 unknown action":             {actions(`["delete"]`), accepted, none},
		"D-8 unknown action, bad topics": {`[` + head + `"actions":["delete"],"topics":[]}]`, rejected("topics"), 0},
		"D-9 upper-case action":          {actions(`["Publish"]`), accepted, none},
		"D-10 empty":                     {actions(`[]`), rejected("actions"), 0},
		"D-10 missing":                   {`[` + head + star + `}]`, rejected("actions"), 0},
		"D-10 string":                    {actions(`"publish"`), rejected("actions"), 0},
		"D-10 number inside":             {actions(`["publish",1]`), rejected("actions"), 0},
		"D-10 null":                      {actions(`null`), rejected("actions"), 0},
		"D-11 empty":                     {topics(`[]`), rejected("topics"), 0},
		"D-11 missing":                   {`[` + head + `"actions":["publish"]}]`, rejected("topics"), 0},
		"D-11 null":                      {topics(`null`), rejected("topics"), 0},
		"D-11 string":                    {topics(`"a"`), rejected("topics"), 0},
		"D-11 bare strings":              {topics(`["https://h/a"]`), rejected("topics[0]"), 0},
		"D-11 null inside":               {topics(`[null]`), rejected("topics[0]"), 0},
		"D-12 no match":                  {topics(`[{"match_type":"exact"}]`), rejected("match is missing"), 0},
		"D-12 number":                    {topics(`[{"match":1}]`), rejected("match is missing or not"), 0},
		"D-12 empty":                     {topics(`[{"match":""}]`), rejected("empty"), 0},
		"D-12 empty pattern":             {topics(`[{"match":"","match_type":"urlpattern"}]`), rejected("empty"), 0},
		"D-13 upper case":                {topics(`[{"match":"a","match_type":"Exact"}]`), rejected("match_type"), 0},
		"D-13 unknown":                   {topics(`[{"match":"a","match_type":"regexp"}]`), rejected("match_type"), 0},
		"D-13 empty":                     {topics(`[{"match":"a","match_type":""}]`), rejected("match_type"), 0},
		"D-13 null":                      {topics(`[{"match":"a","match_type":null}]`), rejected("match_type"), 0},
		"D-13 second is bad":             {topics(`[{"match":"a"},{"match":"a","match_type":"regexp"}]`), rejected("topics[1]"), 0},
		"D-14 malformed pattern":         {topics(`[{"match":"https://h/[(","match_type":"urlpattern"}]`), rejected("topics[0]"), 0},
		"D-14 same text, exact":          {topics(`[{"match":"https://h/[("}]`), accepted, none},
		"D-15 control":                   {topics(`[{"match":"a\u0000b"}]`), rejected("topics[0]"), 0},
		"D-15 format":                    {topics(`[{"match":"a\u200bb"}]`), rejected("topics[0]"), 0},
		"D-15 format in pattern":         {topics(`[{"match":"https://h/\u200b:x","match_type":"urlpattern"}]`), rejected("topics[0]"), 0},
		"D-16 wildcard pattern":          {topics(`[{"match":"*","match_type":"urlpattern"}]`), grantsAll, all},
		"D-17 wildcard, unknown type":    {topics(`[{"match":"*","match_type":"regexp"}]`), rejected("match_type"), 0},
		"D-18 string":                    {payload(`"x"`), rejected("payload"), 0},
		"D-18 array":                     {payload(`[]`), rejected("payload"), 0},
		"D-18 null":                      {payload(`null`), rejected("payload"), 0},
		"D-18 object":                    {payload(`{}`), accepted, none},
		"D-18 publish entry":             {`[` + head + `"actions":["publish"],` + star + `,"payload":1}]`, rejected("payload"), 0},
		"D-19 foreign entry":             {`[{"type":"payment","topics":"acme","actions":{"x":1}},` + full + `]`, accepted, all},
		"D-20 almost our type":           {`[{"type":"` + detailType + `/","actions":["publish"],` + star + `}]`, accepted, none},
		"D-20 almost our type, bad":      {`[{"type":"` + detailType + `/","actions":1}]`, accepted, none},
		"D-21 empty":                     {`[]`, accepted, none},
		"D-21 absent":                    {``, accepted, none},
		"D-22 object":                    {`{}`, rejected("not an array"), 0},
		"D-22 string":                    {`"x"`, rejected("not an array"), 0},
		"D-22 null":                      {`null`, rejected("not an array"), 0},
		"D-22 number inside":             {`[1]`, rejected("not an object"), 0},
		"D-22 no type":                   {`[{"actions":[]}]`, rejected("type"), 0},
		"D-22 type is a number":          {`[{"type":1}]`, rejected("type"), 0},
		"D-23 second entry bad":          {`[` + full + `,` + head + `"actions":["publish"],"topics":[]}]`, rejected("authorization_details[1]"), 0},
		"D-24 extra members":             {`[` + head + `"foo":1,"actions":["publish"],"topics":[{"match":"*","bar":2}]}]`, accepted, all},

		"names are case-sensitive": {`[{"Type":"` + detailType + `","actions":["publish"],` + star + `}]`, rejected("type"), 0},
		"exact matcher":            {topics(`[{"match":"https://shop.example/orders/1"}]`), accepted, some},
		"exact matcher, named":     {topics(`[{"match":"https://shop.example/orders/1","match_type":"exact"}]`), accepted, some},
		"pattern":                  {topics(`[{"match":"https://shop.example/orders/:id","match_type":"urlpattern"}]`), accepted, some},
		"pattern text, exact":      {topics(`[{"match":"https://shop.example/orders/:id"}]`), accepted, none},
		"entries add up":           {`[` + head + `"actions":["subscribe"],` + star + `},` + full + `]`, accepted, all},

		"D-4 most entries":         {`[` + many(100, full) + `]`, accepted, all},
		"D-4 too many entries":     {`[` + many(101, full) + `]`, rejected("entries"), 0},
		"D-4 foreign do not count": {`[` + many(101, `{"type":"x"}`) + `,` + full + `]`, accepted, all},
		"D-4 most matchers":        {topics(`[` + many(100, `{"match":"*"}`) + `]`), accepted, all},
		"D-4 too many matchers":    {topics(`[` + many(101, `{"match":"*"}`) + `]`), rejected("matchers"), 0},
		"D-4 too many matchers, split": {
			`[` + head + `"actions":["publish"],"topics":[` + many(60, `{"match":"*"}`) + `]},` +
				head + `"actions":["delete"],"topics":[` + many(41, `{"match":"*"}`) + `]}]`, rejected("matchers"), 0,
		},
		"D-4 longest":           {topics(`[{"match":"` + long + `"}]`), accepted, none},
		"D-4 too long":          {topics(`[{"match":"` + long + `a"}]`), rejected("longer than 4096"), 0},
		"D-4 too long in bytes": {topics(`[{"match":"` + strings.Repeat("é", 2049) + `"}]`), rejected("longer than 4096"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			payload := payload1.with(members{"authorization_details": drop{}}).json()
			if tc.claim != "" {
				payload = twice(payload, `"authorization_details":`+tc.claim)
			}

			token := compact(t, header1.json(), payload, "HS256", publisherSecret)
			grants, err := newAuth(t).Authenticate(bearer(token), auth.Publisher, hub(t), resource)
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

// Spec: D-4 (configurable upwards).
func TestLimitsAreConfigurable(t *testing.T) {
	t.Parallel()

	var topics []members
	for i := range 150 {
		topics = append(topics, members{"match": fmt.Sprintf("topic-%d", i)})
	}

	token := token1(t, members{"authorization_details": []members{
		{"type": detailType, "actions": []string{"publish"}, "topics": topics},
	}})

	a := newAuth(t, func(cfg *auth.Config) { cfg.Limits.Matchers = 150 })
	grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	accepted.check(t, grants, err, token)
}
