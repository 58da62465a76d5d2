package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// part decodes the header (0) or the payload (1) of a token.
func part(t *testing.T, token string, n int) map[string]any {
	t.Helper()
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		t.Fatalf("not a token: %q", token)
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[n])
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(err)
	}
	return members
}

func TestTokenClaims(t *testing.T) {
	t.Parallel()
	began := time.Now().Unix()
	secret := file(t, "the-secret-of-this-test-0123456789abcdef\n")

	r := invoke(t, nil, "token", "--key-file", secret, "--issuer=https://a.example", "--audience=https://hub.example/h", "--subject=me", "--kid=k1", "--alg=HS512",
		"--expires=2h", "--publish=https://e/a,b", "--publish=exact:https://e/c", "--subscribe=urlpattern:https://e/:x", "--subscribe=*", `--payload={"a":1}`).want(t, exitOK)
	if diff := cmp.Diff(map[string]any{"alg": "HS512", "kid": "k1", "typ": "at+jwt"}, part(t, r.stdout, 0)); diff != "" {
		t.Errorf("header, -want +got:\n%s", diff)
	}
	claims := part(t, r.stdout, 1)
	if exp, _ := claims["exp"].(float64); int64(exp)-began < 7200 || int64(exp)-began > 7200+int64(patience.Seconds()) {
		t.Errorf("expires at %v, it is %d", claims["exp"], began)
	}
	for _, volatile := range []string{"exp", "iat", "jti"} {
		delete(claims, volatile)
	}
	const detail = "https://mercure.rocks/authorization-detail"
	want := map[string]any{
		"iss": "https://a.example", "aud": "https://hub.example/h", "sub": "me", "client_id": "me",
		"authorization_details": []any{
			map[string]any{"type": detail, "actions": []any{"publish"}, "topics": []any{
				map[string]any{"match": "https://e/a,b"}, map[string]any{"match": "https://e/c", "match_type": "exact"},
			}},
			map[string]any{"type": detail, "actions": []any{"subscribe"}, "topics": []any{
				map[string]any{"match": "https://e/:x", "match_type": "urlpattern"}, map[string]any{"match": "*"},
			}, "payload": map[string]any{"a": 1.0}},
		},
	}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Errorf("1.0 claims, -want +got:\n%s", diff)
	}

	r = invoke(t, []string{"MERCURE_TRUSTED_ISSUERS=https://a.example"}, "token", "--protocol=0.x", "--key-file", secret,
		"--expires=0", "--publish=*", "--subscribe=exact:a", "--subscribe=https://e/{x}", "--payload=7").want(t, exitOK)
	if diff := cmp.Diff(map[string]any{"alg": "HS256", "typ": "JWT"}, part(t, r.stdout, 0)); diff != "" {
		t.Errorf("header, -want +got:\n%s", diff)
	}
	want = map[string]any{"mercure": map[string]any{"publish": []any{"*"}, "subscribe": []any{"exact:a", "https://e/{x}"}, "payload": 7.0}}
	if diff := cmp.Diff(want, part(t, r.stdout, 1)); diff != "" {
		t.Errorf("0.x claims, -want +got:\n%s", diff)
	}
}

func TestTokenErrors(t *testing.T) {
	t.Parallel()
	public := "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"
	key := "--key=the-secret-of-this-test-0123456789abcdef"
	for _, test := range []struct {
		name string
		env  []string
		args []string
		want string
	}{
		{"no key to publish", nil, []string{"--publish=*"}, `^cinnabar: there is no key to sign with: give --key-file, or set MERCURE_PUBLISHER_JWT_KEY, or use --dev`},
		{"no key to subscribe", []string{"MERCURE_PUBLISHER_JWT_KEY=x"}, []string{"--publish=*", "--subscribe=*"}, `^cinnabar: there is no key to sign with: give --key-file, or set MERCURE_SUBSCRIBER_JWT_KEY`},
		{"no such file", nil, []string{"--key-file=/missing"}, `^cinnabar: --key-file: open /missing: no such file or directory\n$`},
		{"public key", []string{"MERCURE_PUBLISHER_JWT_KEY=" + public, "MERCURE_PUBLISHER_JWT_ALG=ES256"}, []string{"--publish=*"}, `^cinnabar: MERCURE_PUBLISHER_JWT_KEY: signing needs the private key, this is "PUBLIC KEY"\n$`},
		{"unknown algorithm", nil, []string{key, "--alg=none"}, `^cinnabar: --key: algorithm "none" is not supported: set one of HS256,`},
		{"no issuer and audience", nil, []string{key}, `^cinnabar: mint token: .*issuer.*; .*audience.*\n$`},
		{"payload that is no object", nil, []string{"--dev", "--subscribe=*", "--payload=7"}, `^cinnabar: mint token: the payload of a 1.0 token must be a JSON object`},
		{"pattern that is none", nil, []string{"--dev", "--subscribe=urlpattern:https://h/[("}, `^cinnabar: mint token: subscribe: matcher `},
		{"key and file", []string{"MERCURE_SUBSCRIBER_JWT_KEY=x", "MERCURE_SUBSCRIBER_JWT_KEY_FILE=x"}, nil, `^cinnabar: MERCURE_SUBSCRIBER_JWT_KEY: is set, and so is MERCURE_SUBSCRIBER_JWT_KEY_FILE`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := invoke(t, test.env, append([]string{"token"}, test.args...)...).want(t, exitFailure)
			if !regexp.MustCompile(test.want).MatchString(r.stderr) || strings.Contains(r.stderr, "the-secret") || strings.Count(r.stderr, "\n") != 1 || r.stdout != "" {
				t.Errorf("got %q, want %s", r.stderr, test.want)
			}
		})
	}
}

// TestTokenRoundTrip: tokens made in the environment of a hub are good for it.
func TestTokenRoundTrip(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	privateFile := file(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})))
	database := "DATABASE_URL=" + dbtest.New(t).URL

	modern := []string{
		database, "MERCURE_PUBLISHER_JWT_KEY=publishers-secret-0123456789abcdef", "MERCURE_SUBSCRIBER_JWT_KEY_FILE=" + file(t, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER}))),
		"MERCURE_SUBSCRIBER_JWT_ALG=ES256", "MERCURE_TRUSTED_ISSUERS=https://a.example", "MERCURE_PUBLIC_URL=https://hub.example/.well-known/mercure",
	}
	hub := startHub(t, modern...)
	publisher := strings.TrimSpace(invoke(t, modern, "token", "--publish=exact:https://e/1").want(t, exitOK).stdout)
	invoke(t, nil, "publish", "--hub", hub, "--token", publisher, "--topic=https://e/1", "--private", "--id=first", "one").want(t, exitOK)
	subscriber := strings.TrimSpace(invoke(t, modern, "token", "--subscribe=urlpattern:https://e/*", "--key-file", privateFile, "--alg=ES256").want(t, exitOK).stdout)
	r := invoke(t, []string{"CINNABAR_HUB_URL=" + hub, "CINNABAR_TOKEN_FILE=" + file(t, subscriber+"\n")}, "subscribe", "--match=*", "--last-event-id=earliest", "--count=1").want(t, exitOK)
	if r.stdout != "one\n" {
		t.Errorf("received %q", r.stdout)
	}
	check := func(code int, args ...string) {
		t.Helper()
		invoke(t, modern, append([]string{"token", "check"}, args...)...).want(t, code)
	}
	check(exitOK, "--as=publisher", "--topic=https://e/1", publisher)
	check(exitOK, "--as=subscriber", "--topic=https://e/1", subscriber)
	check(exitFailure, "--as=publisher", "--topic=https://e/1", subscriber)
	check(exitFailure, "--as=publisher", "--topic=https://e/2", publisher)
	// The keys of one role are no good for the other, nor is the grant.
	r = invoke(t, nil, "publish", "--hub", hub, "--token", subscriber, "--topic=https://e/1", "x").want(t, exitFailure)
	if !strings.HasPrefix(r.stderr, "cinnabar: the hub answered 401 Unauthorized") {
		t.Errorf("got %q", r.stderr)
	}
	r = invoke(t, nil, "publish", "--hub", hub, "--token", publisher, "--topic=https://e/2", "x").want(t, exitFailure)
	if !strings.HasPrefix(r.stderr, "cinnabar: the hub answered 403 Forbidden") {
		t.Errorf("got %q", r.stderr)
	}

	legacy := []string{database, "MERCURE_PUBLISHER_JWT_KEY=short", "MERCURE_SUBSCRIBER_JWT_KEY=other"}
	hub = startHub(t, legacy...)
	publisher = strings.TrimSpace(invoke(t, legacy, "token", "--protocol=0.x", "--publish=*", "--expires=0").want(t, exitOK).stdout)
	r = invokeWith(t, nil, "two\n", false, "publish", "--hub", hub, "--token", publisher, "--topic=https://e/2", "--private", "--type=t", "--retry=5", "--id=second").want(t, exitOK)
	if r.stdout != "second\n" {
		t.Errorf("publish printed %q", r.stdout)
	}
	var ids [3]string
	for i, key := range []string{`one "key" \`, `one "key" \`, "two"} {
		ids[i] = invoke(t, nil, "publish", "--hub", hub, "--token", publisher, "--topic=a", "--idempotency-key", key, "x").want(t, exitOK).stdout
	}
	if ids[0] != ids[1] || ids[0] == ids[2] {
		t.Errorf("publish with two keys printed %q", ids)
	}
	both := invoke(t, legacy, "token", "--protocol=0.x", "--publish=*", "--subscribe=*").want(t, exitOK)
	if both.stderr != "cinnabar: warning: publishers have another key here, so this token can be used to subscribe only; make two\n" {
		t.Errorf("got %q", both.stderr)
	}
	r = invoke(t, nil, "subscribe", "--hub", hub, "--token", strings.TrimSpace(both.stdout), "--topic=https://e/{x}", "--last-event-id=first", "--count=1", "--output=json").want(t, exitOK)
	if want := `{"id":"second","type":"t","data":"two","retry":5}` + "\n"; r.stdout != want {
		t.Errorf("received %q, want %q", r.stdout, want)
	}
}
