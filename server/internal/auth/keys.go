package auth

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/golang-jwt/jwt/v5"
)

// minSecretBytes is 256 bits.
//
// Spec: Z-19.
const minSecretBytes = 32

// sampleSecrets are printed in documentation and sample configurations, so
// everybody can sign with them.
var sampleSecrets = []string{
	"!ChangeMe!",
	"!ChangeThisMercureHubJWTSecretKey!",
	"!ChangeThisMercureHubJWTSecretKey",
	"ChangeMe",
	"changeme",
	"a-string-secret-at-least-256-bits-long",
	"your-256-bit-secret",
	"your-384-bit-secret",
	"your-512-bit-secret",
}

// hmacAlgs and publicAlgs are all we implement. none is not among them, and
// neither is anything the JWT library may learn later.
//
// Spec: V-2.
var (
	hmacAlgs   = []string{"HS256", "HS384", "HS512"}
	rsaAlgs    = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	publicAlgs = slices.Concat(rsaAlgs, []string{"ES256", "ES384", "ES512", "EdDSA"})
)

// Key verifies signatures of exactly one algorithm. Make one with ParseKeys or
// NewPublicKey; the zero Key verifies nothing. Formatting a Key prints its ID only.
type Key struct {
	method   jwt.SigningMethod
	material any // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
	id       string
	kid      string
}

// ParseKeys reads key material for one algorithm: a shared secret for HS256,
// HS384 and HS512, taken byte for byte, or PEM public keys and certificates
// for the others, several while keys rotate. What looks like the key of another
// algorithm is refused as a secret, in PEM and in other common forms. Validity dates and chains of
// certificates are not looked at: configuring a key is what makes it trusted.
//
// A private key is refused: the hub has no use for it, and what the hub does
// not hold cannot leak from it. Errors never contain key material.
func ParseKeys(material, alg string) ([]Key, error) {
	method, err := signingMethod(alg)
	if err != nil {
		return nil, err
	}

	if material == "" {
		return nil, errors.New("the key is empty")
	}

	if slices.Contains(hmacAlgs, alg) {
		if looksLikePEM(material) {
			return nil, pemAsSecretError(material, alg)
		}

		if d := unmask(material); d != nil {
			return nil, d.publicError(alg)
		}

		return []Key{newKey(method, []byte(material))}, nil
	}

	publics, err := parsePublicPEM(material)
	if err != nil {
		return nil, err
	}

	var keys []Key

	for i, public := range publics {
		if err := fits(public, alg); err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", i+1, err)
		}

		key := newKey(method, public)
		if !slices.ContainsFunc(keys, func(k Key) bool { return k.id == key.id }) {
			keys = append(keys, key)
		}
	}

	return keys, nil
}

// NewPublicKey returns the key for one algorithm and, unless kid is empty, with
// an identifier as WithKeyID gives it. public is what crypto/x509 would return;
// an elliptic curve point must be on its curve. What ParseKeys refuses for the
// algorithm is refused here too, shared secrets always.
//
// Spec: V-2, V-7.
func NewPublicKey(public crypto.PublicKey, alg, kid string) (Key, error) {
	method, err := signingMethod(alg)
	if err != nil {
		return Key{}, err
	}

	if err := fits(public, alg); err != nil {
		return Key{}, err
	}

	return newKey(method, public).WithKeyID(kid), nil
}

// PublicAlgs returns all algorithms of public keys.
func PublicAlgs() []string { return slices.Clone(publicAlgs) }

// AlgsFor returns the algorithms that a public key may be used with, none for
// kinds of keys that are not supported.
func AlgsFor(public crypto.PublicKey) []string {
	_, algs := describePublic(public)

	return slices.Clone(algs)
}

// signingMethod returns the implementation of an algorithm we allow.
func signingMethod(alg string) (jwt.SigningMethod, error) {
	all := slices.Concat(hmacAlgs, publicAlgs)
	if slices.Contains(all, alg) {
		return jwt.GetSigningMethod(alg), nil
	}

	for _, known := range all {
		if strings.EqualFold(known, alg) {
			return nil, fmt.Errorf("algorithm %s is unknown: write it %s", quote(alg), known)
		}
	}

	if alg == "" {
		return nil, fmt.Errorf("the algorithm is missing: set one of %s", strings.Join(all, ", "))
	}

	return nil, fmt.Errorf("algorithm %s is not supported: set one of %s", quote(alg), strings.Join(all, ", "))
}

func newKey(method jwt.SigningMethod, material any) Key {
	return Key{method: method, material: material, id: method.Alg() + ":" + fingerprint(material)}
}

// secretSalt keeps the fingerprints of shared secrets useless to whoever reads
// a log and would like to guess a weak secret. They are stable as long as the
// process lives, which is as long as they are compared.
var secretSalt = sync.OnceValue(func() []byte {
	salt := make([]byte, sha256.Size)
	_, _ = rand.Read(salt) // never fails, by its documentation

	return salt
})

func fingerprint(material any) string {
	secret, ok := material.([]byte)
	if !ok {
		sum := sha256.Sum256(publicDER(material))

		return hex.EncodeToString(sum[:16])
	}

	mac := hmac.New(sha256.New, secretSalt())
	mac.Write(secret)

	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// WithKeyID returns the key with an identifier as key sets have it. A token
// that names another identifier is then not tried with this key; a token that
// names none, or a key that has none, is not affected (V-6).
func (k Key) WithKeyID(kid string) Key {
	k.kid = kid

	return k
}

// ID names the key for logs and for Grants.KeyID: its algorithm and a
// fingerprint. For public keys that is the start of the SHA-256 of the DER
// form; for secrets it says nothing about them and changes with each process.
func (k Key) ID() string {
	return k.id
}

// Alg returns the one algorithm the key is used with.
func (k Key) Alg() string {
	if k.method == nil {
		return ""
	}

	return k.method.Alg()
}

// Format implements fmt.Formatter so that no verb prints key material.
func (k Key) Format(state fmt.State, _ rune) {
	_, _ = io.WriteString(state, "auth.Key("+k.id+")")
}

// verify checks a signature. The algorithm is the key's own, so a token cannot
// choose it.
//
// Spec: V-7.
func (k Key) verify(signed string, signature []byte) bool {
	return k.method != nil && k.method.Verify(signed, signature, k.material) == nil
}

// weak reports a shared secret of less than 256 bits.
//
// Spec: Z-19.
func (k Key) weak() bool {
	secret, ok := k.material.([]byte)

	return ok && len(secret) < minSecretBytes
}

// Warnings returns what an operator should be told about the key at start.
// Callers put the name of the setting in front.
//
// Spec: Z-19.
func (k Key) Warnings() []string {
	secret, ok := k.material.([]byte)
	if !ok {
		return nil
	}

	var warnings []string

	if slices.Contains(sampleSecrets, string(secret)) {
		warnings = append(warnings,
			"the secret is a well-known sample: everybody can sign tokens with it; use a random one (openssl rand -hex 32)")
	}

	if k.weak() {
		warnings = append(warnings, fmt.Sprintf(
			"the secret has %d bits, %s needs at least 256: use a random one (openssl rand -hex 32)",
			8*len(secret), k.Alg()))
	}

	if trimmed := strings.TrimSpace(string(secret)); len(trimmed) != len(secret) {
		warnings = append(warnings, "the secret starts or ends with white space, which counts as part of it")
	}

	return warnings
}
