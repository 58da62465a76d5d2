package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

const (
	hubURL   = "https://hub.example.com/.well-known/mercure"
	issuerA  = "https://issuer.example"
	issuerB  = "https://other.example/"
	resource = hubURL

	publisherSecret  = "publisher-secret-0123456789abcdef"
	subscriberSecret = "subscriber-secret-0123456789abcde"
	otherSecret      = "secret-of-the-other-issuer-012345"
	legacySecret     = "legacy-secret"
)

var now = time.Unix(1_800_000_000, 0)

// keyPair is a signing key and its public half in the forms the API takes.
type keyPair struct {
	private    crypto.Signer
	privatePEM string
	publicPEM  string
}

func newKeyPair(private crypto.Signer, err error) keyPair {
	if err != nil {
		panic(err)
	}

	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		panic(err)
	}

	publicDER, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		panic(err)
	}

	return keyPair{
		private:    private,
		privatePEM: pemText("PRIVATE KEY", privateDER),
		publicPEM:  pemText("PUBLIC KEY", publicDER),
	}
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// One pair of each kind for the whole package: RSA keys are slow to make.
var (
	rsaPair   = sync.OnceValue(func() keyPair { return newKeyPair(rsa.GenerateKey(rand.Reader, 2048)) })
	rsaShort  = sync.OnceValue(func() keyPair { return newKeyPair(rsa.GenerateKey(rand.Reader, 1024)) })
	p256Pair  = sync.OnceValue(func() keyPair { return newKeyPair(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p256Other = sync.OnceValue(func() keyPair { return newKeyPair(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p224Pair  = sync.OnceValue(func() keyPair { return newKeyPair(ecdsa.GenerateKey(elliptic.P224(), rand.Reader)) })
	p384Pair  = sync.OnceValue(func() keyPair { return newKeyPair(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521Pair  = sync.OnceValue(func() keyPair { return newKeyPair(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edPair    = sync.OnceValue(func() keyPair {
		_, private, err := ed25519.GenerateKey(rand.Reader)

		return newKeyPair(private, err)
	})
)

func keys(t testing.TB, material, alg string) []auth.Key {
	t.Helper()

	parsed, err := auth.ParseKeys(material, alg)
	if err != nil {
		t.Fatalf("ParseKeys: %v", err)
	}

	return parsed
}

func hub(t testing.TB) *protocol.HubURL {
	t.Helper()

	h, err := protocol.ParseHubURL(hubURL)
	if err != nil {
		t.Fatal(err)
	}

	return h
}

// baseConfig trusts two issuers and has legacy keys that are not in use.
func baseConfig(t testing.TB) auth.Config {
	t.Helper()

	return auth.Config{
		Issuers: []auth.Issuer{
			{ID: issuerA, Publisher: keys(t, publisherSecret, "HS256"), Subscriber: keys(t, subscriberSecret, "HS256")},
			{ID: issuerB, Publisher: keys(t, otherSecret, "HS384")},
		},
		Legacy: auth.LegacyKeys{
			Publisher:  keys(t, legacySecret, "HS256"),
			Subscriber: keys(t, legacySecret, "HS256"),
		},
		Now: func() time.Time { return now },
	}
}

func compat(cfg *auth.Config) { cfg.Compat = true }

func newAuth(t testing.TB, changes ...func(*auth.Config)) *auth.Authenticator {
	t.Helper()

	cfg := baseConfig(t)
	for _, change := range changes {
		change(&cfg)
	}

	a, err := auth.New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}

	return a
}

// members is a JSON object to be changed by test cases.
type members map[string]any

// drop as a value removes the member.
type drop struct{}

func (m members) with(changes members) members {
	merged := members{}
	for _, layer := range []members{m, changes} {
		maps.Copy(merged, layer)
	}

	for name, value := range merged {
		if (value == drop{}) {
			delete(merged, name)
		}
	}

	return merged
}

func (m members) json() string {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}

	return string(b)
}

const detailType = "https://mercure.rocks/authorization-detail"

var (
	header1  = members{"typ": "at+jwt", "alg": "HS256"}
	header0  = members{"alg": "HS256"}
	payload1 = members{
		"iss": issuerA, "aud": resource, "exp": now.Unix() + 60, "sub": "alice",
		"authorization_details": []members{{
			"type": detailType, "actions": []string{"publish", "subscribe"},
			"topics": []members{{"match": "https://shop.example/orders/1"}},
		}},
	}
	payload0 = members{"mercure": members{
		"publish": []string{"https://shop.example/orders/1"}, "subscribe": []string{"https://shop.example/orders/1"},
	}}
)

func encode(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// compact signs header and payload texts, which may be anything. The key is a
// secret string or a private key; alg says how, whatever the header says.
func compact(t testing.TB, header, payload, alg string, key any) string {
	t.Helper()

	signed := encode(header) + "." + encode(payload)
	if alg == "none" {
		return signed + "."
	}

	if secret, ok := key.(string); ok {
		key = []byte(secret)
	}

	signature, err := jwt.GetSigningMethod(alg).Sign(signed, key)
	if err != nil {
		t.Fatalf("sign: %v", err)
	}

	return signed + "." + encode(string(signature))
}

// token1 and token0 make tokens for publishing that are valid but for changes.
func token1(t testing.TB, changes members) string {
	t.Helper()

	return compact(t, header1.json(), payload1.with(changes).json(), "HS256", publisherSecret)
}

func token0(t testing.TB, changes members) string {
	t.Helper()

	return compact(t, header0.json(), payload0.with(changes).json(), "HS256", legacySecret)
}

func request(method, target string, fields ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}

	return r
}

func bearer(token string) *http.Request {
	return request(http.MethodPost, hubURL, "Authorization", "Bearer "+token)
}

// want is the expected outcome: valid grants if kind is zero, and otherwise an
// error of that kind whose reason contains a text.
type want struct {
	kind   auth.Kind
	reason string
}

// check compares and also makes sure that nothing secret gets into the error.
func (w want) check(t *testing.T, grants *auth.Grants, err error, token string) {
	t.Helper()

	if w.kind == 0 {
		if err != nil || grants == nil {
			t.Fatalf("got grants %v, error %v; want grants", grants, err)
		}

		return
	}

	var e *auth.Error
	if !errors.As(err, &e) {
		t.Fatalf("got grants %+v, error %v; want an *auth.Error", grants, err)
	}

	if grants != nil {
		t.Errorf("got grants with an error")
	}

	if e.Kind != w.kind || !strings.Contains(e.Reason, w.reason) {
		t.Errorf("got %v %q, want %v with %q", e.Kind, e.Reason, w.kind, w.reason)
	}

	checkNoSecrets(t, e.Error(), token)
}

func checkNoSecrets(t *testing.T, text, token string) {
	t.Helper()

	secrets := []string{publisherSecret, subscriberSecret, otherSecret, legacySecret}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 3 {
			secrets = append(secrets, part)
		}
	}

	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("%q contains a secret", text)
		}
	}
}

func derOf(t testing.TB, text string) []byte {
	t.Helper()

	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("not PEM")
	}

	return block.Bytes
}

func marshalPKCS1(public any) []byte {
	return x509.MarshalPKCS1PublicKey(public.(*rsa.PublicKey))
}

func sec1(t testing.TB, pair keyPair) string {
	t.Helper()

	der, err := x509.MarshalECPrivateKey(pair.private.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}

	return pemText("EC PRIVATE KEY", der)
}

func pkcs1(pair keyPair) string {
	return pemText("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(pair.private.(*rsa.PrivateKey)))
}
