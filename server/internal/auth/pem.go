package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// minRSABits is the smallest RSA modulus we take.
//
// Spec: V-2.
const minRSABits = 2048

const pemBegin = "-----BEGIN "

var (
	errPrivateKey = errors.New("this is a private key, which the hub must not hold: " +
		"give it the public key (openssl pkey -in private.pem -pubout) and keep the private one where tokens are made")
	errChain = errors.New("this is a chain of certificates: " +
		"give only the certificate of the key that signs tokens, not the ones of its authorities")
)

func looksLikePEM(material string) bool {
	return strings.Contains(material, pemBegin)
}

// pemBlocks splits the material and insists that every block that begins also
// decodes: the decoder of the standard library skips a damaged one silently,
// which would drop a key. Line breaks written as \n, as .env files have them,
// are accepted; a backslash occurs nowhere in PEM.
func pemBlocks(material string) ([]*pem.Block, error) {
	if !looksLikePEM(material) {
		return nil, errors.New("the key is not in PEM form: it should start with -----BEGIN PUBLIC KEY----- " +
			"(a shared secret needs one of the algorithms HS256, HS384, HS512)")
	}

	material = strings.ReplaceAll(material, `\r`, "")
	material = strings.ReplaceAll(material, `\n`, "\n")
	count := strings.Count(material, pemBegin)
	rest := []byte(material)

	var blocks []*pem.Block

	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}

		blocks = append(blocks, block)
	}

	if len(blocks) != count {
		return nil, fmt.Errorf("%d of %d PEM blocks cannot be read: check that line breaks survived and nothing is cut off",
			count-len(blocks), count)
	}

	return blocks, nil
}

func isPrivateBlock(block *pem.Block) bool {
	return strings.Contains(block.Type, "PRIVATE KEY")
}

func parsePublicPEM(material string) ([]any, error) {
	blocks, err := pemBlocks(material)
	if err != nil {
		return nil, err
	}

	if slices.ContainsFunc(blocks, isPrivateBlock) {
		return nil, errPrivateKey
	}

	var (
		publics      []any
		certificates []*x509.Certificate
	)

	for i, block := range blocks {
		public, cert, err := parsePublicBlock(block)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", i+1, err)
		}

		publics = append(publics, public)

		if cert != nil {
			certificates = append(certificates, cert)
		}
	}

	if isChain(certificates) {
		return nil, errChain
	}

	return publics, nil
}

func parsePublicBlock(block *pem.Block) (public any, cert *x509.Certificate, err error) {
	switch block.Type {
	case "PUBLIC KEY":
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		public, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			public = cert.PublicKey
		}
	default:
		return nil, nil, fmt.Errorf("%s is neither a public key nor a certificate", quote(block.Type))
	}

	if err != nil {
		return nil, nil, fmt.Errorf("parse %s: %w", block.Type, err)
	}

	return public, cert, nil
}

// isChain reports whether one certificate signed another one. Taking both
// would make the authority's key a token key, which nobody means.
func isChain(certificates []*x509.Certificate) bool {
	for i, cert := range certificates {
		for j, parent := range certificates {
			if i != j && !cert.Equal(parent) && cert.CheckSignatureFrom(parent) == nil {
				return true
			}
		}
	}

	return false
}

// fits checks a public key against the algorithm it is configured with. The
// JWT library would accept a P-256 key under ES512 and RSA keys of any size.
//
// Spec: V-2, V-7.
func fits(public any, alg string) error {
	name, algs := describePublic(public)
	if len(algs) == 0 {
		return fmt.Errorf("%s is not supported: use RSA, ECDSA on P-256, P-384 or P-521, or Ed25519", name)
	}

	if !slices.Contains(algs, alg) {
		return fmt.Errorf("%s cannot be used with %s: set the algorithm to %s", name, alg, orList(algs))
	}

	if key, ok := public.(*rsa.PublicKey); ok && key.N.BitLen() < minRSABits {
		return fmt.Errorf("%s has %d bits, at least %d are needed", name, key.N.BitLen(), minRSABits)
	}

	return nil
}

func describePublic(public any) (name string, algs []string) {
	switch key := public.(type) {
	case *rsa.PublicKey:
		return "an RSA key", rsaAlgs
	case *ecdsa.PublicKey:
		switch curve := key.Curve.Params().Name; curve {
		case "P-256":
			return "a P-256 key", []string{"ES256"}
		case "P-384":
			return "a P-384 key", []string{"ES384"}
		case "P-521":
			return "a P-521 key", []string{"ES512"}
		default:
			return "a " + curve + " key", nil
		}
	case ed25519.PublicKey:
		return "an Ed25519 key", []string{"EdDSA"}
	default:
		return "this kind of key", nil
	}
}

// pemAsSecretError explains PEM material under an HMAC algorithm. Accepting it
// would let everybody who knows the public key sign tokens.
func pemAsSecretError(material, alg string) error {
	publics, err := parsePublicPEM(material)
	if err != nil {
		return fmt.Errorf("the key is PEM but %s takes a shared secret: %w", alg, err)
	}

	name, algs := describePublic(publics[0])
	if len(algs) == 0 {
		algs = publicAlgs
	}

	return fmt.Errorf("the key is PEM (%s) but %s takes a shared secret: set the algorithm to %s", name, alg, orList(algs))
}

func orList(words []string) string {
	if len(words) == 1 {
		return words[0]
	}

	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func publicDER(public any) []byte {
	// Cannot fail for the kinds that pass fits; an empty form of others only
	// makes their fingerprints equal.
	der, _ := x509.MarshalPKIXPublicKey(public)

	return der
}
