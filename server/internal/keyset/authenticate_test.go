package keyset

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

const (
	issuer = "https://issuer.example"
	hubURL = "https://hub.example.com/.well-known/mercure"
)

func token(t testing.TB, dialect auth.Dialect, private crypto.Signer, alg, kid string) string {
	t.Helper()
	der := must(x509.MarshalPKCS8PrivateKey(private))
	key, err := auth.ParseSigningKey(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), alg)
	if err != nil {
		t.Fatal(err)
	}
	spec := auth.TokenSpec{Dialect: dialect, Key: key, KeyID: kid, Publish: []auth.MatcherSpec{{Match: "*"}}}
	if dialect == auth.Dialect1 {
		spec.Issuer, spec.Audience, spec.Expires = issuer, hubURL, time.Now().Add(time.Hour)
		spec.Publish = []auth.MatcherSpec{{Match: "https://a.example/"}}
	}
	minted, err := auth.Mint(spec)
	if err != nil {
		t.Fatal(err)
	}
	return minted
}

func newAuth(t testing.TB, set *Set, legacy auth.LegacyKeys) *auth.Authenticator {
	t.Helper()
	a, err := auth.New(auth.Config{
		Issuers: []auth.Issuer{{ID: issuer, PublisherSet: set}}, Legacy: legacy, Compat: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// publish returns what the token is answered: zero is success.
func publish(t testing.TB, a *auth.Authenticator, token string) (auth.Kind, *auth.Grants) {
	t.Helper()
	hub := must(protocol.ParseHubURL(hubURL))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, hubURL, http.NoBody)
	r.Header.Set("Authorization", "Bearer "+token)
	grants, err := a.Authenticate(r, auth.Publisher, hub, hubURL)
	if refused, ok := errors.AsType[*auth.Error](err); ok {
		return refused.Kind, nil
	}
	if err != nil {
		t.Errorf("got %v", err)
	}
	return 0, grants
}

// A provider adds a key, signs with it, and removes the old one.
//
// Spec: V-15, Z-22.
func TestRotation(t *testing.T) {
	t.Parallel()
	p := newProvider(t, setOf(p256JWK("old")))
	changed := make(chan struct{}, 10)
	config := p.config()
	config.OnChange = func() { changed <- struct{}{} }
	set := newSet(t, config)
	run(t, set)
	a := newAuth(t, set, auth.LegacyKeys{})
	old := token(t, auth.Dialect1, p256(), "ES256", "old")
	fresh := token(t, auth.Dialect1, p256New(), "ES256", "new")
	<-changed

	kind, grants := publish(t, a, old)
	if kind != 0 || !a.Trusts(auth.Publisher, grants) {
		t.Fatalf("the first key: %v", kind)
	}
	p.serve(setOf(jwkOf(p256New().Public(), "new", false), p256JWK("old")))
	if kind, _ := publish(t, a, fresh); kind != 0 {
		t.Errorf("the new key is not found at once: %v", kind)
	}
	<-changed

	p.serve(setOf(jwkOf(p256New().Public(), "new", false)))
	if err := set.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-changed
	if kind, _ := publish(t, a, old); kind != auth.InvalidToken || a.Trusts(auth.Publisher, grants) {
		t.Errorf("the removed key: %v, trusted %v", kind, a.Trusts(auth.Publisher, grants))
	}
	if kind, _ := publish(t, a, fresh); kind != 0 {
		t.Errorf("the new key: %v", kind)
	}
}

// Spec: V-15, Q-17.
func TestOutage(t *testing.T) {
	t.Parallel()
	p := newProvider(t, "")
	p.fail()
	set := newSet(t, p.config())
	a := newAuth(t, set, auth.LegacyKeys{})
	valid := token(t, auth.Dialect1, p256(), "ES256", "a")
	run(t, set)

	if kind, _ := publish(t, a, valid); kind != auth.Unavailable {
		t.Errorf("without a set: %v", kind)
	}
	p.serve(setOf(p256JWK("a")))
	if err := set.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.fail()
	if err := set.Reload(t.Context()); err == nil {
		t.Fatal("no outage")
	}
	if kind, _ := publish(t, a, valid); kind != 0 {
		t.Errorf("with the last good set: %v", kind)
	}
	if kind, _ := publish(t, a, token(t, auth.Dialect1, p256New(), "ES256", "b")); kind != auth.InvalidToken {
		t.Errorf("an unknown key during an outage: %v", kind)
	}
}

// Invented identifiers do not make the hub hammer the provider.
//
// Spec: V-15.
func TestInventedKeyIDs(t *testing.T) {
	t.Parallel()
	p := newProvider(t, setOf(p256JWK("a")))
	set := newSet(t, p.config())
	if err := set.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, set)
	a := newAuth(t, set, auth.LegacyKeys{})
	for range 100 {
		if kind, _ := publish(t, a, token(t, auth.Dialect1, p256New(), "ES256", inventedID())); kind != auth.InvalidToken {
			t.Fatalf("got %v", kind)
		}
	}
	if n := p.asked(); n != 2 {
		t.Errorf("%d requests, want the first one and one more", n)
	}
}

var counter atomic.Int64 // of invented identifiers

func inventedID() string { return "k" + strconv.FormatInt(counter.Add(1), 10) }

// Spec: X-4.
func TestSetsServeOldTokensOnlyIfTheyShall(t *testing.T) {
	t.Parallel()
	set := newSet(t, Config{URL: "file://" + newFile(t, setOf(p256JWK("a")))})
	idToken := token(t, auth.Dialect0, p256(), "ES256", "a")
	if kind, _ := publish(t, newAuth(t, set, auth.LegacyKeys{}), idToken); kind != auth.InvalidToken {
		t.Errorf("not enabled: %v", kind)
	}
	if kind, _ := publish(t, newAuth(t, set, auth.LegacyKeys{PublisherSet: set}), idToken); kind != 0 {
		t.Errorf("enabled: %v", kind)
	}
}

// A key that stays in the set is valid at every moment of its rotation.
//
// Spec: V-15.
func TestAuthenticateWhileRotating(t *testing.T) {
	t.Parallel()
	one, other := setOf(p256JWK("stays"), jwkOf(edKey().Public(), "a", false)), setOf(jwkOf(p384().Public(), "b", false), p256JWK("stays"))
	p := newProvider(t, one)
	set := newSet(t, p.config())
	if err := set.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	run(t, set)
	a := newAuth(t, set, auth.LegacyKeys{})
	valid := token(t, auth.Dialect1, p256(), "ES256", "stays")
	comes := token(t, auth.Dialect1, p384(), "ES384", "b")
	forged := token(t, auth.Dialect1, p256New(), "ES256", "stays")

	done := make(chan struct{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if kind, _ := publish(t, a, valid); kind != 0 {
					t.Errorf("the key that stays: %v", kind)
				}
				if kind, _ := publish(t, a, forged); kind != auth.InvalidToken {
					t.Errorf("the forged token: %v", kind)
				}
				if kind, _ := publish(t, a, comes); kind != 0 && kind != auth.InvalidToken {
					t.Errorf("the key that comes and goes: %v", kind)
				}
			}
		})
	}
	for range 10 {
		for _, body := range []string{other, one} {
			p.serve(body)
			if err := set.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	close(done)
	group.Wait()
}
