package keyset

import (
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

func algs(keys []auth.Key) string {
	var list []string
	for _, key := range keys {
		list = append(list, key.Alg())
	}
	return strings.Join(list, " ")
}

// Spec: V-2, V-7, V-15.
func TestParse(t *testing.T) {
	t.Parallel()
	ed := jwkOf(edKey().Public(), "e", false)
	rsaJWK := jwkOf(rsaKey().Public(), "r", false)
	huge := new(big.Int).Lsh(rsaKey().Public().(*rsa.PublicKey).N, maxRSABits)
	even := new(big.Int).Lsh(rsaKey().Public().(*rsa.PublicKey).N, 1)
	encoded := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
	var many []any
	for i := range maxKeys + 1 {
		many = append(many, p256JWK(fmt.Sprint(i)))
	}

	for name, tc := range map[string]struct {
		body    string
		allowed []string
		want    string // algorithms of the keys; empty: an error
		reason  string // why one was left out, or the error
	}{
		"P-256":                    {setOf(p256JWK("a")), nil, "ES256", ""},
		"P-384":                    {setOf(jwkOf(p384().Public(), "a", false)), nil, "ES384", ""},
		"Ed25519":                  {setOf(ed), nil, "EdDSA", ""},
		"RSA without alg":          {setOf(rsaJWK), nil, "RS256 RS384 RS512 PS256 PS384 PS512", ""},
		"RSA with alg":             {setOf(rsaJWK.with(members{"alg": "PS256"})), nil, "PS256", ""},
		"RSA narrowed":             {setOf(rsaJWK), []string{"RS256", "ES256"}, "RS256", ""},
		"alg not allowed":          {setOf(rsaJWK.with(members{"alg": "PS256"})), []string{"RS256"}, "", "allows only RS256"},
		"one of two allowed":       {setOf(rsaJWK, p256JWK("a")), []string{"ES256"}, "ES256", "allows only"},
		"no kid":                   {setOf(p256JWK("")), nil, "ES256", ""},
		"kid twice":                {setOf(p256JWK("a"), jwkOf(p256New().Public(), "a", false)), nil, "ES256 ES256", ""},
		"use sig":                  {setOf(p256JWK("a").with(members{"use": "sig"})), nil, "ES256", ""},
		"key_ops verify":           {setOf(p256JWK("a").with(members{"key_ops": []string{"sign", "verify"}})), nil, "ES256", ""},
		"unknown members":          {setOf(p256JWK("a").with(members{"x5c": []string{"???"}, "x5u": "http://127.0.0.1/", "x5t": 1, "ext": true})), nil, "ES256", ""},
		"unknown members of a set": {`{"next":1,` + setOf(p256JWK("a"))[1:], nil, "ES256", ""},
		"padded base64":            {setOf(rsaJWK.with(members{"n": rsaJWK["n"].(string) + "==", "alg": "RS256"})), nil, "RS256", ""},

		"use enc":                    {setOf(p256JWK("a").with(members{"use": "enc"})), nil, "", "use is not sig"},
		"use empty":                  {setOf(p256JWK("a").with(members{"use": ""})), nil, "", "use is not sig"},
		"use no string":              {setOf(p256JWK("a").with(members{"use": 1})), nil, "", "use is not a string"},
		"key_ops sign":               {setOf(p256JWK("a").with(members{"key_ops": []string{"sign"}})), nil, "", "key_ops"},
		"key_ops no array":           {setOf(p256JWK("a").with(members{"key_ops": "verify"})), nil, "", "key_ops"},
		"kid no string":              {setOf(p256JWK("a").with(members{"kid": 1})), nil, "", "kid is not a string"},
		"kty in capitals":            {setOf(p256JWK("a").with(members{"kty": nil, "KTY": "EC"})), nil, "", "cannot be read"},
		"alg unknown":                {setOf(p256JWK("a").with(members{"alg": "ES256K"})), nil, "", "not supported"},
		"alg none":                   {setOf(p256JWK("a").with(members{"alg": "none"})), nil, "", "not supported"},
		"alg HMAC on a public key":   {setOf(rsaJWK.with(members{"alg": "HS256"})), nil, "", "cannot be used with HS256"},
		"alg of another curve":       {setOf(jwkOf(p384().Public(), "a", false).with(members{"alg": "ES256"})), nil, "", "cannot be used with ES256"},
		"point of another curve":     {setOf(p256JWK("a").with(members{"crv": "P-384"})), nil, "", "cannot be read"},
		"point on no curve":          {setOf(p256JWK("a").with(members{"y": p256JWK("a")["x"]})), nil, "", "cannot be read"},
		"no y":                       {setOf(p256JWK("a").with(members{"y": nil})), nil, "", "cannot be read"},
		"x no string":                {setOf(p256JWK("a").with(members{"x": 1})), nil, "", "x is not a string"},
		"secp256k1":                  {setOf(p256JWK("a").with(members{"crv": "secp256k1"})), nil, "", "cannot be read"},
		"X25519":                     {setOf(ed.with(members{"crv": "X25519", "alg": nil})), nil, "", "verifies no signatures"},
		"Ed25519, short":             {setOf(ed.with(members{"x": "AAAA"})), nil, "", "cannot be read"},
		"RSA 1024":                   {setOf(jwkOf(rsaShort().Public(), "r", false)), nil, "", "at least 2048"},
		"RSA huge":                   {setOf(rsaJWK.with(members{"n": encoded(huge)})), nil, "", "bits, more than"},
		"RSA even modulus":           {setOf(rsaJWK.with(members{"n": encoded(even)})), nil, "", "no RSA key"},
		"RSA exponent 1":             {setOf(rsaJWK.with(members{"e": "AQ"})), nil, "", "cannot be read"},
		"RSA exponent even":          {setOf(rsaJWK.with(members{"e": "BA"})), nil, "", "no RSA key"},
		"RSA exponent of 65 bits":    {setOf(rsaJWK.with(members{"e": "AQAAAAAAAQAB"})), nil, "", "32 bits"},
		"RSA no exponent":            {setOf(rsaJWK.with(members{"e": nil})), nil, "", "cannot be read"},
		"private RSA":                {setOf(jwkOf(rsaKey(), "r", true)), nil, "", "private key"},
		"private P-256":              {setOf(jwkOf(p256(), "a", true)), nil, "", "private key"},
		"private Ed25519":            {setOf(jwkOf(edKey(), "a", true)), nil, "", "private key"},
		"private next to public":     {setOf(jwkOf(p256(), "a", true), ed), nil, "EdDSA", "private key"},
		"shared secret":              {setOf(jwkOf([]byte(strings.Repeat("s", 32)), "a", true)), nil, "", "shared secret"},
		"shared secret as another":   {setOf(p256JWK("a").with(members{"k": "c2Vj"})), nil, "", "shared secret"},
		"unknown kty next to others": {setOf(members{"kty": "AKP", "pub": "AA"}, ed), nil, "EdDSA", "cannot be read"},
		"no object next to others":   {setOf(1, nil, ed), nil, "EdDSA", "not a JSON object"},
		"no object":                  {setOf(nil), nil, "", "not a JSON object"},
		"too many keys":              {setOf(many...), nil, "", "has 101 keys"},
		"as many keys as allowed":    {setOf(many[1:]...), nil, strings.TrimSpace(strings.Repeat("ES256 ", maxKeys)), ""},

		"empty":                  {"", nil, "", "not valid JSON"},
		"HTML":                   {"\n<!doctype html><title>Sign in</title>", nil, "", "web page"},
		"PEM":                    {"-----BEGIN PUBLIC KEY-----", nil, "", "not valid JSON"},
		"two values":             {setOf(ed) + "{}", nil, "", "not valid JSON"},
		"null":                   {"null", nil, "", "not a JSON object"},
		"array":                  {"[]", nil, "", "not a JSON object"},
		"one key instead of set": {strings.TrimSuffix(strings.TrimPrefix(setOf(ed), `{"keys":[`), `]}`), nil, "", "no array named keys"},
		"keys null":              {`{"keys":null}`, nil, "", "no array named keys"},
		"keys an object":         {`{"keys":{}}`, nil, "", "no array named keys"},
		"Keys":                   {strings.Replace(setOf(ed), "keys", "Keys", 1), nil, "", "no array named keys"},
		"keys twice":             {`{"keys":[],` + setOf(ed)[1:], nil, "", "occurs twice"},
		"member of a key twice":  {strings.Replace(setOf(ed), `{"`, `{"kty":"oct","k\u0074y":"OKP","`, 2), nil, "", "occurs twice"},
		"not UTF-8":              {strings.Replace(setOf(p256JWK("abc")), "abc", "\xff", 1), nil, "", "UTF-8"},
		"metadata instead":       {`{"issuer":"https://a.example","jwks_uri":"https://a.example/jwks"}`, nil, "", "no array named keys"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys, unusable, err := parse([]byte(tc.body), tc.allowed)
			if got := algs(keys); got != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
			found := err != nil && strings.Contains(err.Error(), tc.reason) || slices.ContainsFunc(unusable, func(k unusableKey) bool {
				return strings.Contains(k.reason, tc.reason)
			})
			if tc.reason != "" && !found {
				t.Errorf("got %v, %v; want %q", unusable, err, tc.reason)
			}
			if tc.reason == "" && tc.want != "" && len(unusable) > 0 {
				t.Errorf("left out: %v", unusable)
			}
		})
	}
}

// What a reason says about a secret key is not the key.
//
// Spec: Z-22.
func TestReasonsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	for _, private := range []members{
		jwkOf(rsaKey(), "r", true), jwkOf(p256(), "a", true), jwkOf([]byte(strings.Repeat("s", 32)), "s", true),
	} {
		_, unusable, err := parse([]byte(setOf(private)), nil)
		if err == nil || len(unusable) != 1 || !unusable[0].secret {
			t.Fatalf("got %v, %v", unusable, err)
		}
		for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
			if value, ok := private[name].(string); ok && strings.Contains(err.Error()+unusable[0].reason, value) {
				t.Errorf("the reason holds %s", name)
			}
		}
	}
}

// FuzzParse: nothing panics, and whatever comes out is a public key of an
// allowed algorithm.
func FuzzParse(f *testing.F) {
	f.Add([]byte(setOf(p256JWK("a"), jwkOf(rsaKey().Public(), "r", false), jwkOf(edKey().Public(), "e", false))))
	f.Add([]byte(setOf(jwkOf(rsaKey(), "r", true), p256JWK("a").with(members{"crv": "P-521", "use": "sig", "key_ops": []string{"verify"}}))))
	f.Add([]byte(setOf(p256JWK("a").with(members{"x": "", "y": "AA", "alg": "ES256"}), members{"kty": "RSA", "n": "AQ", "e": "AQAB"})))
	f.Add([]byte(setOf()))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"},null,[],{"kty":"OKP","crv":"Ed25519","x":"="}]}`))
	allowed := []string{"RS256", "ES256", "ES512", "EdDSA"}
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, unusable, err := parse(body, allowed)
		silent := err == nil && len(keys) == 0 && len(unusable) > 0 // nothing can be used, and nobody is told
		if silent || err != nil && len(keys) > 0 || len(keys) > maxKeys || len(unusable) > maxKeys {
			t.Errorf("got %d keys, %d unusable, %v", len(keys), len(unusable), err)
		}
		for _, key := range keys {
			if !slices.Contains(allowed, key.Alg()) || len(key.Warnings()) > 0 {
				t.Errorf("got %v", key)
			}
		}
	})
}
