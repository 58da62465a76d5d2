package auth_test

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

// sshLine is the public key as OpenSSH writes it; the parts after the type are
// not looked at.
func sshLine(kind string, parts ...[]byte) string {
	var wire []byte
	for _, part := range append([][]byte{[]byte(kind)}, parts...) {
		wire = binary.BigEndian.AppendUint32(wire, uint32(len(part)))
		wire = append(wire, part...)
	}

	return kind + " " + base64.StdEncoding.EncodeToString(wire)
}

func inLines(s string) string {
	var lines strings.Builder
	for len(s) > 64 {
		lines.WriteString(s[:64] + "\n")
		s = s[64:]
	}

	return lines.String() + s + "\n"
}

// Whoever knows a public key could sign with it, if it were taken as a secret.
//
// Spec: V-7, Z-1.
func TestPublicKeyAsSecret(t *testing.T) {
	t.Parallel()

	std, url := base64.StdEncoding.EncodeToString, base64.RawURLEncoding.EncodeToString
	rsaDER, p256DER, edDER := derOf(t, rsaPair().publicPEM), derOf(t, p256Pair().publicPEM), derOf(t, edPair().publicPEM)
	certDER := derOf(t, certificate(t, "a", p256Pair(), "a", p256Pair()))
	pkcs1DER := marshalPKCS1(rsaPair().private.Public())
	jwk := members{"kty": "RSA", "n": url(pkcs1DER), "e": "AQAB"}

	point, err := p256Pair().private.Public().(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}

	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	x25519DER, err := x509.MarshalPKIXPublicKey(x25519.PublicKey())
	if err != nil {
		t.Fatal(err)
	}

	ed := edPair().private.Public().(ed25519.PublicKey)
	sshEd := sshLine("ssh-ed25519", ed)
	sshP256 := sshLine("ecdsa-sha2-nistp256", []byte("nistp256"), point)
	_, sshEdData, _ := strings.Cut(sshEd, " ")

	for name, tc := range map[string]struct{ material, what, algs string }{
		"JWK":                {jwk.json(), "JSON Web Key", "RS256"},
		"JWK, spaces":        {"\n { \"kty\" : \"OKP\" }", "JSON Web Key", "EdDSA"},
		"JWK, quotes lost":   {"{kty:RSA,n:x,e:AQAB}", "JSON Web Key", "RS256"},
		"JWK, base64":        {std([]byte(jwk.json())), "JSON Web Key", "RS256"},
		"JWK Set":            {members{"keys": []members{jwk}}.json(), "JSON Web Key", "RS256"},
		"list of JWKs":       {"[" + jwk.json() + "]", "JSON Web Key", "RS256"},
		"SSH, Ed25519":       {sshEd, "SSH public key", "to EdDSA"},
		"SSH, comment":       {sshEd + " alice@shop.example\n", "SSH public key", "to EdDSA"},
		"SSH, options":       {`no-pty,from="10.0.0.1" ` + sshEd, "SSH public key", "to EdDSA"},
		"SSH, quoted":        {`"` + sshEd + `"`, "SSH public key", "to EdDSA"},
		"SSH, data alone":    {sshEdData, "SSH public key", "to EdDSA"},
		"SSH, RSA":           {sshLine("ssh-rsa", []byte{1, 0, 1}, pkcs1DER), "SSH public key", "RS256"},
		"SSH, P-256":         {sshP256, "SSH public key", "to ES256"},
		"SSH, hardware":      {sshLine("sk-ssh-ed25519@openssh.com", ed), "SSH public key", "EdDSA"},
		"SSH2":               {"---- BEGIN SSH2 PUBLIC KEY ----\n" + sshEdData, "PEM that is damaged", "EdDSA"},
		"DER, RSA":           {std(rsaDER), "an RSA key", "RS256"},
		"DER, RSA in lines":  {inLines(std(rsaDER)), "an RSA key", "RS256"},
		`DER, literal \n`:    {strings.ReplaceAll(inLines(std(rsaDER)), "\n", `\n`), "an RSA key", "RS256"},
		"DER, RSA cut off":   {std(rsaDER)[:101], "a key in DER form", "RS256"},
		"DER, RSA PKCS1":     {std(pkcs1DER), "an RSA key", "RS256"},
		"DER, P-256":         {std(p256DER), "a P-256 key", "to ES256"},
		"DER, two":           {std(p256DER) + "\n" + std(p256DER), "key", "ES256"},
		"DER, P-224":         {std(derOf(t, p224Pair().publicPEM)), "a P-224 key", "ES256"},
		"DER, Ed25519":       {std(edDER), "an Ed25519 key", "to EdDSA"},
		"DER, X25519":        {std(x25519DER), "key", "EdDSA"},
		"DER, base64url":     {url(rsaDER), "an RSA key", "RS256"},
		"DER, no padding":    {strings.TrimRight(std(p256DER), "="), "a P-256 key", "to ES256"},
		"DER, hex":           {hex.EncodeToString(p256DER), "a P-256 key", "to ES256"},
		"DER, binary":        {string(p256DER), "a P-256 key", "to ES256"},
		"DER, certificate":   {std(certDER), "a P-256 key", "to ES256"},
		"DER, private":       {std(derOf(t, p256Pair().privatePEM)), "a key in DER form", "ES256"},
		"DER, private PKCS1": {std(derOf(t, pkcs1(rsaPair()))), "an RSA key", "RS256"},
		"DER, private SEC1":  {std(derOf(t, sec1(t, p256Pair()))), "a P-256 key", "to ES256"},
		"PEM, base64":        {std([]byte(p256Pair().publicPEM)), "PEM that is damaged or encoded", "ES256"},
		"PEM, dashes lost":   {strings.ReplaceAll(p256Pair().publicPEM, "-----", "----"), "PEM that is damaged", "ES256"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			got, err := auth.ParseKeys(tc.material, "HS256")
			if err == nil {
				t.Fatalf("accepted as %v", got)
			}

			for _, want := range []string{"looks like", tc.what, "HS256", "-----BEGIN PUBLIC KEY-----", "set the algorithm to", tc.algs} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q", err, want)
				}
			}

			checkNoMaterial(t, err.Error(), tc.material)

			if _, err := auth.ParseSigningKey(tc.material, "HS256"); err == nil || !strings.Contains(err.Error(), "looks like") {
				t.Errorf("to sign with: got %v", err)
			}
		})
	}
}

func TestSecretsThatLookOdd(t *testing.T) {
	t.Parallel()

	for _, secret := range []string{
		"{", "{}", `{"secret":"x"}`, "[]", "ssh-rsa", "ssh-ed25519 is what I like", "AAAA", "MIIBIjANBgkq", "MIIB",
		"0", "\x30", "\x30\x82\x01\x22", "\x00\x00\x00\x0b", "BEGIN the day with coffee", "public key", "=", "--", "\x00\xff",
		"!ChangeThisMercureHubJWTSecretKey!", "eyJhbGciOiJIUzI1NiJ9",
	} {
		if _, err := auth.ParseKeys(secret, "HS256"); err != nil {
			t.Errorf("%q: %v", secret, err)
		}
	}
}

func TestRandomSecretsAreTaken(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		random := rapid.SliceOfN(rapid.Byte(), 1, 128).Draw(t, "random")

		for _, secret := range []string{
			string(random), hex.EncodeToString(random), base64.StdEncoding.EncodeToString(random),
			base64.RawURLEncoding.EncodeToString(random), base64.StdEncoding.EncodeToString(random) + "\n",
			rapid.StringMatching(`[!-~]{1,64}`).Draw(t, "password"),
		} {
			if _, err := auth.ParseKeys(secret, "HS256"); err != nil {
				t.Errorf("%q: %v", secret, err)
			}
		}
	})
}
