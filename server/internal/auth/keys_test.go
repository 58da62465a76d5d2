package auth_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

// certificate signs the public key of subject with the key of issuer.
func certificate(t testing.TB, name string, subject keyPair, parentName string, parent keyPair) string {
	t.Helper()

	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0), // dates do not matter
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
	}

	der, err := x509.CreateCertificate(rand.Reader, template(name), template(parentName), subject.private.Public(), parent.private)
	if err != nil {
		t.Fatal(err)
	}

	return pemText("CERTIFICATE", der)
}

func TestParseKeys(t *testing.T) {
	t.Parallel()

	rsaPKCS1, err := x509.ParsePKIXPublicKey(derOf(t, rsaPair().publicPEM))
	if err != nil {
		t.Fatal(err)
	}

	p256 := p256Pair().publicPEM
	selfSigned := certificate(t, "a", p256Pair(), "a", p256Pair())
	sameName := certificate(t, "a", p256Other(), "a", p256Other())
	issued := certificate(t, "leaf", p256Other(), "a", p256Pair())

	for name, tc := range map[string]struct {
		material, alg string
		count         int
		err           string // contained in the error
	}{
		"HS256":               {publisherSecret, "HS256", 1, ""},
		"HS384":               {publisherSecret, "HS384", 1, ""},
		"HS512":               {publisherSecret, "HS512", 1, ""},
		"short secret":        {"x", "HS256", 1, ""},
		"RS256":               {rsaPair().publicPEM, "RS256", 1, ""},
		"PS512":               {rsaPair().publicPEM, "PS512", 1, ""},
		"RS256, PKCS1":        {pemText("RSA PUBLIC KEY", marshalPKCS1(rsaPKCS1)), "RS256", 1, ""},
		"ES256":               {p256, "ES256", 1, ""},
		"ES384":               {p384Pair().publicPEM, "ES384", 1, ""},
		"ES512":               {p521Pair().publicPEM, "ES512", 1, ""},
		"EdDSA":               {edPair().publicPEM, "EdDSA", 1, ""},
		"certificate":         {selfSigned, "ES256", 1, ""},
		"two keys":            {p256 + p256Other().publicPEM, "ES256", 2, ""},
		"same key twice":      {p256 + p256, "ES256", 1, ""},
		"text around":         {"current:\n" + p256 + "\nnext:\n" + p256Other().publicPEM + "\n", "ES256", 2, ""},
		"key and certificate": {p256 + selfSigned, "ES256", 1, ""},
		"two certificates":    {selfSigned + sameName, "ES256", 2, ""},
		"CRLF":                {strings.ReplaceAll(p256, "\n", "\r\n"), "ES256", 1, ""},
		`literal \n`:          {strings.ReplaceAll(p256, "\n", `\n`), "ES256", 1, ""},
		`literal \r\n`:        {strings.ReplaceAll(p256, "\n", `\r\n`), "ES256", 1, ""},

		"empty":                  {"", "HS256", 0, "empty"},
		"no algorithm":           {"x", "", 0, "missing: set one of HS256"},
		"none":                   {"x", "none", 0, "not supported: set one of HS256"},
		"unknown algorithm":      {"x", "HS1", 0, "EdDSA"},
		"lower case":             {"x", "hs256", 0, "write it HS256"},
		"ES256K":                 {p256, "ES256K", 0, "not supported"},
		"PEM as secret":          {rsaPair().publicPEM, "HS256", 0, "set the algorithm to RS256, RS384, RS512, PS256, PS384 or PS512"},
		"PEM as secret, P-384":   {p384Pair().publicPEM, "HS256", 0, "set the algorithm to ES384"},
		"PEM as secret, damaged": {"-----BEGIN PUBLIC KEY-----", "HS256", 0, "cannot be read"},
		"private PEM as secret":  {rsaPair().privatePEM, "HS256", 0, "private key, which the hub must not hold"},
		"secret as PEM":          {publisherSecret, "RS256", 0, "not in PEM form"},
		"wrong kind":             {p256, "RS256", 0, "a P-256 key cannot be used with RS256: set the algorithm to ES256"},
		"wrong kind, EdDSA":      {edPair().publicPEM, "ES256", 0, "set the algorithm to EdDSA"},
		"wrong curve":            {p256, "ES512", 0, "set the algorithm to ES256"},
		"unsupported curve":      {p224Pair().publicPEM, "ES256", 0, "P-224 key is not supported"},
		"short RSA":              {rsaShort().publicPEM, "RS256", 0, "1024 bits, at least 2048"},
		"private key":            {p256Pair().privatePEM, "ES256", 0, "openssl pkey -in private.pem -pubout"},
		"private after public":   {p256 + p256Pair().privatePEM, "ES256", 0, "must not hold"},
		"second is wrong":        {p256 + p384Pair().publicPEM, "ES256", 0, "PEM block 2"},
		"second is cut off":      {p256 + p256Other().publicPEM[:80], "ES256", 0, "1 of 2 PEM blocks cannot be read"},
		"line breaks lost":       {strings.ReplaceAll(p256, "\n", " "), "ES256", 0, "line breaks"},
		"damaged DER":            {pemText("PUBLIC KEY", []byte("x")), "ES256", 0, "PEM block 1: parse PUBLIC KEY"},
		"other block":            {pemText("CERTIFICATE REQUEST", []byte("x")), "ES256", 0, "neither a public key nor a certificate"},
		"certificate chain":      {issued + selfSigned, "ES256", 0, "chain of certificates"},
		"chain, authority first": {selfSigned + issued, "ES256", 0, "chain of certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			got, err := auth.ParseKeys(tc.material, tc.alg)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("got error %v, want %q", err, tc.err)
				}

				checkNoMaterial(t, err.Error(), tc.material)

				return
			}

			if err != nil {
				t.Fatal(err)
			}

			if len(got) != tc.count {
				t.Errorf("got %d keys, want %d", len(got), tc.count)
			}

			for _, key := range got {
				if key.Alg() != tc.alg || !strings.HasPrefix(key.ID(), tc.alg+":") {
					t.Errorf("got %s, ID %s", key.Alg(), key.ID())
				}
			}
		})
	}
}

// checkNoMaterial looks for any longer piece of the material.
func checkNoMaterial(t *testing.T, text, material string) {
	t.Helper()

	for line := range strings.SplitSeq(material, "\n") {
		if len(line) >= 12 && !strings.HasPrefix(line, "--") && strings.Contains(text, line[:12]) {
			t.Errorf("%q contains key material", text)
		}
	}
}

// Spec: Z-3, Z-22 (key material never logged).
func TestKeysDoNotPrint(t *testing.T) {
	t.Parallel()

	signing, err := auth.ParseSigningKey(publisherSecret, "HS256")
	if err != nil {
		t.Fatal(err)
	}

	key := keys(t, publisherSecret, "HS256")[0]
	cfg := auth.Config{Legacy: auth.LegacyKeys{Publisher: []auth.Key{key}}}

	for _, value := range []any{key, &key, []auth.Key{key}, cfg, signing, auth.TokenSpec{Key: signing}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
			text := fmt.Sprintf(verb, value)
			for _, form := range []string{publisherSecret, fmt.Sprintf("%x", publisherSecret), fmt.Sprint([]byte(publisherSecret))[1:40]} {
				if strings.Contains(text, form) {
					t.Errorf("%s of %T prints the secret: %s", verb, value, text)
				}
			}
		}

		encoded, err := json.Marshal(value)
		if err == nil && strings.Contains(string(encoded), publisherSecret) {
			t.Errorf("JSON of %T has the secret", value)
		}
	}

	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", key, "config", cfg)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", key, "config", cfg)

	if strings.Contains(log.String(), publisherSecret) {
		t.Errorf("logged: %s", log.String())
	}
}

// Fingerprints tell keys apart and do not depend on how a key was given.
//
// Spec: Z-22.
func TestKeyIDs(t *testing.T) {
	t.Parallel()

	id := func(material, alg string) string { return keys(t, material, alg)[0].ID() }

	if first, again := id(publisherSecret, "HS256"), id(publisherSecret, "HS256"); first != again {
		t.Error("the same secret has two IDs")
	}

	if id(p256Pair().publicPEM, "ES256") != id(certificate(t, "a", p256Pair(), "a", p256Pair()), "ES256") {
		t.Error("a key and its certificate have different IDs")
	}

	seen := map[string]bool{}
	for _, one := range []string{
		id(publisherSecret, "HS256"), id(publisherSecret, "HS384"), id(subscriberSecret, "HS256"),
		id(p256Pair().publicPEM, "ES256"), id(p256Other().publicPEM, "ES256"),
		id(rsaPair().publicPEM, "RS256"), id(rsaPair().publicPEM, "PS256"),
	} {
		if seen[one] {
			t.Errorf("ID %s occurs twice", one)
		}

		seen[one] = true
	}
}

// Spec: Z-19.
func TestKeyWarnings(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		material, alg string
		want          []string
	}{
		"256 bits":           {strings.Repeat("x", 32), "HS256", nil},
		"248 bits":           {strings.Repeat("x", 31), "HS256", []string{"248 bits"}},
		"sample":             {"!ChangeThisMercureHubJWTSecretKey!", "HS256", []string{"well-known sample"}},
		"short sample":       {"!ChangeMe!", "HS256", []string{"well-known sample", "80 bits"}},
		"jwt.io sample":      {"your-256-bit-secret", "HS256", []string{"well-known sample", "152 bits"}},
		"newline at the end": {strings.Repeat("x", 32) + "\n", "HS256", []string{"white space"}},
		"public key":         {p256Pair().publicPEM, "ES256", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			got := keys(t, tc.material, tc.alg)[0].Warnings()
			if len(got) != len(tc.want) {
				t.Fatalf("got %q, want %q", got, tc.want)
			}

			for i := range got {
				if !strings.Contains(got[i], tc.want[i]) || strings.Contains(got[i], tc.material) {
					t.Errorf("got %q, want %q", got[i], tc.want[i])
				}
			}
		})
	}
}
