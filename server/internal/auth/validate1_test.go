package auth_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
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
			grants, err := authenticate(t, newAuth(t), token, auth.Publisher, resource)
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
			grants, err := authenticate(t, a, token, auth.Publisher, resource)
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

		"V-7 unused bits set":      {valid[:len(valid)-1] + string(valid[len(valid)-1]+1), rejected("signature is not base64url")},
		"V-7 no signature":         {valid[:dot+1], rejected("signature does not fit")},
		"V-7 short signature":      {valid[:dot] + ".AAAA", rejected("signature does not fit")},
		"V-7 long signature":       {valid + "AAAA", rejected("signature does not fit")},
		"V-7 signature not base64": {valid + "AA", rejected("signature is not base64url")},
		"V-7 other payload":        {strings.Split(valid, ".")[0] + "." + encode(payload1.with(members{"sub": "root"}).json()) + valid[dot:], rejected("signature does not fit")},
		"V-7 other header":         {encode(header(members{"kid": "x"})) + "." + encode(payload) + valid[dot:], rejected("signature does not fit")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			grants, err := authenticate(t, newAuth(t), tc.token, auth.Publisher, resource)
			tc.want.check(t, grants, err, tc.token)
		})
	}
}

// twice adds members to the end of an object, without looking.
func twice(object, more string) string {
	return strings.TrimSuffix(object, "}") + "," + more + "}"
}

// Spec: V-10, V-17.
func TestWithoutResourceIdentifier(t *testing.T) {
	t.Parallel()

	token := token1(t, members{"aud": ""})
	grants, err := authenticate(t, newAuth(t), token, auth.Publisher, "")
	rejected("no resource identifier").check(t, grants, err, token)
}
