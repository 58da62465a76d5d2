package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

const (
	checkKey      = "the-secret-of-this-test-0123456789abcdef"
	checkOtherKey = "another-secret-of-this-test-0123456789ab"
)

// checkEnv is the environment of a hub, whose database is out of reach.
func checkEnv(t *testing.T, more ...string) []string {
	t.Helper()
	return append([]string{
		"DATABASE_URL_FILE=/missing/secret", "MERCURE_PUBLISHER_JWT_KEY=" + checkKey, "MERCURE_SUBSCRIBER_JWT_KEY=" + checkOtherKey,
		"MERCURE_TRUSTED_ISSUERS=https://a.example", "MERCURE_PUBLIC_URL=https://hub.example/.well-known/mercure",
	}, more...)
}

// minted is a token made in that environment.
func minted(t *testing.T, args ...string) string {
	t.Helper()
	return strings.TrimSpace(invoke(t, checkEnv(t), append([]string{"token"}, args...)...).want(t, exitOK).stdout)
}

func TestTokenCheck(t *testing.T) {
	t.Parallel()
	publisher := minted(t, "--publish=urlpattern:https://e/:x")
	subscriber := minted(t, "--subscribe=https://e/1")
	legacy := minted(t, "--protocol=0.x", "--publish=*", "--expires=0")
	for _, test := range []struct {
		name  string
		env   []string
		stdin string
		args  []string
		code  int
		want  []string // expressions for lines of stdout
	}{
		{"publisher", checkEnv(t), "", []string{"--as=publisher", publisher}, exitOK, []string{
			`  typ is at\+jwt: a token of protocol 1\.0 +pass`, `  iss is a trusted issuer +pass +"https://a\.example"`,
			`  the signature fits a key of the issuer for the role +pass +by the shared secret`,
			`  it may publish something +pass +urlpattern "https://e/:x"`, `publisher: usable`,
		}},
		{"in the other role", checkEnv(t), "", []string{"--as=subscriber", publisher}, exitFailure, []string{
			`  the signature fits .* FAIL +.*MERCURE_SUBSCRIBER_JWT_KEY.*; it fits the publisher key, so this is a token for a publisher`,
			`  rights +not checked +the token is not valid`, `subscriber: not usable`,
		}},
		{"both", checkEnv(t), "", []string{subscriber}, exitOK, []string{
			`As a publisher:`, `As a subscriber:`, `  it may receive public updates +pass +and private ones of exact "https://e/1"`,
			`publisher: not usable, subscriber: usable`,
		}},
		{"topic", checkEnv(t), "", []string{"--as=publisher", "--topic=https://e/1", "--topic=https://e/2", publisher}, exitOK, []string{
			`  it may publish to "https://e/2" +pass +by urlpattern "https://e/:x"`,
		}},
		{"topic that is not covered", checkEnv(t), "", []string{"--as=publisher", "--topic=https://e/1", "--topic=a", publisher}, exitFailure, []string{
			`  it may publish to "https://e/1" +pass .*`, `  it may publish to "a" +FAIL +no matcher covers it, and all topics .*`,
		}},
		{"private updates", checkEnv(t), "", []string{"--as=subscriber", "--topic=x", "--topic=https://e/1", subscriber}, exitOK, []string{
			`  it may receive private updates with "x", "https://e/1" +pass +"https://e/1" by exact "https://e/1"`,
		}},
		{"several failures", checkEnv(t, "MERCURE_TRUSTED_ISSUERS=https://b.example", "MERCURE_PUBLIC_URL=https://other.example/.well-known/mercure"), "", []string{"--as=publisher", publisher}, exitFailure, []string{
			`  iss is a trusted issuer +FAIL +.* add it to MERCURE_TRUSTED_ISSUERS.*`, `  the signature .* not checked +the issuer decides on the keys`,
			`  exp is there .* pass .*`, `  aud is the hub.* FAIL +.*MERCURE_PUBLIC_URL.*`,
		}},
		{"0.x", checkEnv(t), "", []string{"--as=publisher", legacy}, exitFailure, []string{
			`  typ is not at\+jwt: a token of protocol 0\.x +FAIL +.*MERCURE_COMPAT is off`,
		}},
		{"0.x with a flag of serve", checkEnv(t), "", []string{"--as=publisher", "--compat=on", legacy}, exitOK, []string{
			`  exp is in the future, or absent +pass +absent, it never expires`, `  it may publish something +pass +\*, which .*`,
		}},
		{"on stdin", checkEnv(t), publisher + "\n", []string{"-"}, exitOK, []string{`publisher: usable, .*`}},
		{"from a file", checkEnv(t), "", []string{"--token-file", file(t, publisher+"\n")}, exitOK, []string{`publisher: usable, .*`}},
		{"from a variable", checkEnv(t, "CINNABAR_TOKEN="+publisher), "", nil, exitOK, []string{`publisher: usable, .*`}},
		{"from the file of a variable", checkEnv(t, "CINNABAR_TOKEN_FILE="+file(t, publisher)), "", nil, exitOK, []string{`publisher: usable, .*`}},
		{"no token at all", checkEnv(t), "", []string{"nonsense-as-a-token"}, exitFailure, []string{
			`  the token is a compact JWS.* FAIL .*`, `  everything else +not checked +.*`, `publisher: not usable, subscriber: not usable`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := invokeWith(t, test.env, test.stdin, false, append([]string{"token", "check"}, test.args...)...).want(t, test.code)
			for _, line := range test.want {
				if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(r.stdout) {
					t.Errorf("no line %s in:\n%s", line, r.stdout)
				}
			}
			if r.stderr != "" {
				t.Errorf("stderr is %q", r.stderr)
			}
			checkNothingSecret(t, r.stdout, publisher, subscriber, legacy)
		})
	}
}

func checkNothingSecret(t *testing.T, text string, tokens ...string) {
	t.Helper()
	secrets := []string{checkKey, checkOtherKey, "nonsense-as-a-token"}
	for _, token := range tokens {
		secrets = append(secrets, strings.Split(token, ".")[1:]...)
	}
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Errorf("a token or a key is shown:\n%s", text)
		}
	}
}

// TestTokenCheckErrors: what is wrong with the question, not with the token.
func TestTokenCheckErrors(t *testing.T) {
	t.Parallel()
	token := minted(t, "--publish=*")
	for _, test := range []struct {
		name string
		env  []string
		args []string
		code int
		want string // stderr begins with it
	}{
		{"none", nil, nil, exitUsage, "cinnabar: the token is missing: "},
		{"empty stdin", nil, []string{"-"}, exitUsage, "cinnabar: the token is missing: "},
		{"two", nil, []string{token, token}, exitUsage, "cinnabar: there is more than one token; give one\n"},
		{"two ways", nil, []string{"--token-file=x", token}, exitUsage, "cinnabar: the token and --token-file exclude each other\n"},
		{"unknown role", nil, []string{"--as=" + token, token}, exitUsage, "cinnabar: --as must be one of"},
		{"missing file", nil, []string{"--token-file=/missing"}, exitFailure, "cinnabar: --token-file: open /missing: no such file"},
		{"settings that serve refuses", checkEnv(t, "MERCURE_COMPAT=maybe"), []string{token}, exitFailure, `cinnabar: MERCURE_COMPAT: is "maybe"`},
		{"no keys", nil, []string{token}, exitFailure, "cinnabar: warning: there are no keys here: "},
		{"no URL", []string{"MERCURE_TRUSTED_ISSUERS=https://a.example", "MERCURE_PUBLISHER_JWT_KEY=" + checkKey}, []string{token}, exitFailure, "cinnabar: warning: aud cannot be checked, since the hub takes its URL from each request: give --public-url"},
		{"the token in the wrong place", nil, []string{"--json", "--", "-", token}, exitUsage, "cinnabar: there is more than one token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := invoke(t, test.env, append([]string{"token", "check"}, test.args...)...).want(t, test.code)
			if !strings.HasPrefix(r.stderr, test.want) {
				t.Errorf("got %q, want %q", r.stderr, test.want)
			}
			checkNothingSecret(t, r.stdout+r.stderr, token)
		})
	}
	// Where the word check was forgotten.
	r := invoke(t, nil, "token", token).want(t, exitUsage)
	if checkNothingSecret(t, r.stderr, token); !strings.HasPrefix(r.stderr, "cinnabar: unexpected argument [redacted]\n") {
		t.Errorf("got %q", r.stderr)
	}
}

func TestTokenCheckJSON(t *testing.T) {
	t.Parallel()
	token := minted(t, "--publish=*")
	r := invoke(t, checkEnv(t), "token", "check", "--json", token).want(t, exitOK)
	var got struct {
		Usable   bool
		Protocol string
		Roles    []struct {
			Role   string
			Usable bool
			Rules  []struct{ Rule, Outcome, Detail string }
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatal(err)
	}
	if !got.Usable || got.Protocol != "1.0" || len(got.Roles) != 2 || !got.Roles[0].Usable || got.Roles[1].Usable ||
		got.Roles[0].Rules[0].Outcome != "pass" || got.Roles[1].Rules[6].Outcome != "fail" {
		t.Errorf("got %s", r.stdout)
	}
	checkNothingSecret(t, r.stdout, token)
}

// TestTokenCheckDev: the tokens for --dev are good for it, at any address.
func TestTokenCheckDev(t *testing.T) {
	t.Parallel()
	token := strings.TrimSpace(invoke(t, nil, "token", "--dev", "--publish=*").want(t, exitOK).stdout)
	if r := invoke(t, nil, "token", "check", "--dev", token).want(t, exitOK); !strings.HasSuffix(r.stdout, "publisher: usable, subscriber: usable\n") {
		t.Errorf("got %s", r.stdout)
	}
	r := invoke(t, nil, "token", "check", "--dev", "--addr=127.0.0.1:4000", token).want(t, exitFailure)
	if !regexp.MustCompile(`aud is the hub.* FAIL +aud is .*127\.0\.0\.1:3000.*127\.0\.0\.1:4000`).MatchString(r.stdout) {
		t.Errorf("got %s", r.stdout)
	}
}

// The sets of keys are read for the occasion.
//
// Spec: V-15.
func TestTokenCheckReadsKeySets(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	point, err := private.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	set := file(t, fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","x":%q,"y":%q}]}`, encode(point[1:33]), encode(point[33:])))
	key := file(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	env := []string{"MERCURE_TRUSTED_ISSUERS=https://a.example", "MERCURE_PUBLIC_URL=https://hub.example/.well-known/mercure"}

	token := minted(t, "--publish=*", "--kid=k1", "--alg=ES256", "--key-file", key)
	r := invoke(t, append(env, "MERCURE_PUBLISHER_JWKS_URL=file://"+set), "token", "check", "--as=publisher", token).want(t, exitOK)
	if !strings.Contains(r.stdout, "by the key ES256:") || r.stderr != "" {
		t.Errorf("got %s%s", r.stdout, r.stderr)
	}
	other := minted(t, "--publish=*", "--kid=k2", "--alg=ES256", "--key-file", key)
	r = invoke(t, append(env, "MERCURE_PUBLISHER_JWKS_URL=file://"+set), "token", "check", "--as=publisher", other).want(t, exitFailure)
	if !strings.Contains(r.stdout, `kid is "k2", which no publisher key`) {
		t.Errorf("got %s", r.stdout)
	}
	r = invoke(t, append(env, "MERCURE_PUBLISHER_JWKS_URL=https://user:hunter2@127.0.0.1:1/jwks?token=hunter3"), "token", "check", "--as=publisher", token).want(t, exitFailure)
	if strings.Contains(r.stdout+r.stderr, "hunter") || !strings.HasPrefix(r.stderr, "cinnabar: warning: key set https://127.0.0.1:1/jwks: ") ||
		!strings.Contains(r.stdout, "could not be read") {
		t.Errorf("got %s%s", r.stdout, r.stderr)
	}
}

// What config says about MERCURE_COMPAT left open is what the hub does.
//
// Spec: Q-45.
func TestComputedSettings(t *testing.T) {
	t.Parallel()
	legacy := minted(t, "--protocol=0.x", "--publish=*")
	const issuers = `MERCURE_ISSUERS=[{"issuer":"https://a.example","publisher":{"key":"` + checkKey + `","alg":"HS256"}}]`
	for _, test := range []struct {
		env  []string
		want string
		code int
	}{
		{[]string{"MERCURE_PUBLISHER_JWT_KEY=" + checkKey}, `on \(no issuer is trusted\)`, exitOK},
		{[]string{"MERCURE_PUBLISHER_JWT_KEY=" + checkKey, "MERCURE_TRUSTED_ISSUERS=https://a.example"}, `off \(an issuer is trusted\)`, exitFailure},
		{[]string{"MERCURE_PUBLISHER_JWT_KEY=" + checkKey, issuers, "MERCURE_COMPAT=on"}, `on`, exitOK},
		{[]string{issuers}, `off \(an issuer is trusted\)`, exitFailure},
	} {
		env := append([]string{"DATABASE_URL=private", "MERCURE_ANONYMOUS=on"}, test.env...)
		r := invoke(t, env, "config").want(t, exitOK)
		if !regexp.MustCompile(`(?m)^MERCURE_COMPAT +` + test.want + `  `).MatchString(r.stdout) {
			t.Errorf("want %s in:\n%s", test.want, r.stdout)
		}
		invoke(t, env, "token", "check", "--as=publisher", legacy).want(t, test.code)
	}
	r := invokeWith(t, nil, "", true, "config", "--dev").want(t, exitOK)
	if !regexp.MustCompile(`(?m)^MERCURE_LOG_FORMAT +text \(stderr is a terminal\) +default$`).MatchString(r.stdout) ||
		!regexp.MustCompile(`(?m)^MERCURE_DATA_DIR +(/\S*cinnabar|-) +default$`).MatchString(r.stdout) {
		t.Errorf("got:\n%s", r.stdout)
	}
}

func TestHelpCommand(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"", "serve", "migrate up", "token", "token check", "help"} {
		words := strings.Fields(command)
		want := invoke(t, nil, append(words, "--help")...).want(t, exitOK)
		if got := invoke(t, nil, append([]string{"help"}, words...)...).want(t, exitOK); got != want {
			t.Errorf("help %s:\n%s\nwant:\n%s", command, got.stdout, want.stdout)
		}
	}
	r := invoke(t, nil, "help", "sevre").want(t, exitUsage)
	if !strings.HasPrefix(r.stderr, "cinnabar: unexpected argument sevre") || r.stdout != "" {
		t.Errorf("got %q and %q", r.stderr, r.stdout)
	}
}
