package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

// SigningKey makes tokens of one algorithm. It is for the command line and for
// tests; the hub itself never has one. Formatting it prints no key material.
type SigningKey struct {
	method   jwt.SigningMethod
	material any // []byte, *rsa.PrivateKey, *ecdsa.PrivateKey or ed25519.PrivateKey
	public   any // the same secret, or the public half
}

// ParseSigningKey reads a shared secret or one PEM private key, depending on
// the algorithm. Errors never contain key material.
func ParseSigningKey(material, alg string) (SigningKey, error) {
	method, err := signingMethod(alg)
	if err != nil {
		return SigningKey{}, err
	}

	if material == "" {
		return SigningKey{}, errors.New("the key is empty")
	}

	if slices.Contains(hmacAlgs, alg) {
		if looksLikePEM(material) {
			return SigningKey{}, fmt.Errorf("the key is PEM but %s takes a shared secret: set the algorithm to %s", alg, orList(publicAlgs))
		}

		if d := unmask(material); d != nil {
			return SigningKey{}, d.privateError(alg)
		}

		secret := []byte(material)

		return SigningKey{method: method, material: secret, public: secret}, nil
	}

	blocks, err := pemBlocks(material)
	if err != nil {
		return SigningKey{}, err
	}

	// openssl puts the parameters of a curve in front of its keys.
	blocks = slices.DeleteFunc(blocks, func(b *pem.Block) bool { return b.Type == "EC PARAMETERS" })

	if len(blocks) != 1 {
		return SigningKey{}, fmt.Errorf("there are %d PEM blocks, signing needs exactly one private key", len(blocks))
	}

	signer, err := parsePrivateBlock(blocks[0])
	if err != nil {
		return SigningKey{}, err
	}

	public := publicHalf(signer)
	if err := fits(public, alg); err != nil {
		return SigningKey{}, err
	}

	return SigningKey{method: method, material: signer, public: public}, nil
}

// parsePrivateBlock does not repeat what the parsers say, as nobody promises
// that they never quote their input.
func parsePrivateBlock(block *pem.Block) (any, error) {
	var (
		key any
		err error
	)

	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the private key is encrypted: decrypt it first (openssl pkey -in key.pem -out plain.pem)")
	default:
		if !isPrivateBlock(block) {
			return nil, fmt.Errorf("signing needs the private key, this is %s", quote(block.Type))
		}

		return nil, fmt.Errorf("private keys of the form %s are not supported: convert it (openssl pkey -in key.pem -out pkcs8.pem)",
			quote(block.Type))
	}

	if err != nil {
		return nil, errors.New("the private key cannot be parsed: it is damaged or encrypted")
	}

	return key, nil
}

func publicHalf(private any) any {
	switch key := private.(type) {
	case *rsa.PrivateKey:
		return key.Public()
	case *ecdsa.PrivateKey:
		return key.Public()
	case ed25519.PrivateKey:
		return key.Public()
	case crypto.Signer:
		return key.Public()
	default:
		return nil // such as X25519, which fits refuses
	}
}

// Alg returns the algorithm the key signs with, empty for the zero key.
func (k SigningKey) Alg() string {
	if k.method == nil {
		return ""
	}

	return k.method.Alg()
}

// VerificationKey returns the key that verifies what this one signs.
func (k SigningKey) VerificationKey() Key {
	if k.method == nil {
		return Key{}
	}

	return newKey(k.method, k.public)
}

// Format implements fmt.Formatter so that no verb prints key material.
func (k SigningKey) Format(state fmt.State, _ rune) {
	_, _ = io.WriteString(state, "auth.SigningKey("+k.VerificationKey().id+")")
}
