package auth

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// disguise says what a supposed secret is instead.
type disguise struct {
	what   string
	advice string   // how to get PEM
	algs   []string // to choose from
}

func (d *disguise) publicError(alg string) error {
	return fmt.Errorf("the key looks like %s but %s takes a shared secret, and everybody who knows a public key could sign with it: "+
		"give it in PEM form, starting with -----BEGIN PUBLIC KEY----- (%s), and set the algorithm to %s",
		d.what, alg, d.advice, orList(d.algs))
}

func (d *disguise) privateError(alg string) error {
	return fmt.Errorf("the key looks like %s but %s takes a shared secret: give the private key in PEM form and set the algorithm to %s",
		d.what, alg, orList(d.algs))
}

// unmask recognizes keys of public-key algorithms that are not PEM, and PEM
// that has been encoded once more or damaged. It returns nil for everything
// else; no form it knows comes up in random bytes, whatever their encoding. A
// bare Ed25519 key has no form at all and passes.
//
// Spec: V-7, Z-1.
func unmask(material string) *disguise {
	text := strings.Trim(material, " \t\r\n\"'")

	if d := unmaskText(text); d != nil {
		return d
	}

	// White space at the ends of a binary form is part of it.
	for _, decoded := range [][]byte{[]byte(material), []byte(text), lenientBase64(text), lenientHex(text)} {
		d := unmaskText(string(decoded))
		if d == nil {
			d = unmaskBinary(decoded)
		}

		if d != nil {
			return d
		}
	}

	return nil
}

func unmaskText(text string) *disguise {
	if strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
		// The quotes are gone when a shell has had its way.
		if strings.Contains(text, "kty") {
			return &disguise{"a JSON Web Key", "libraries for JSON Web Keys export it", publicAlgs}
		}
	}

	if strings.Contains(text, "BEGIN ") {
		for _, label := range []string{"PUBLIC KEY", "PRIVATE KEY", "CERTIFICATE"} {
			if strings.Contains(text, label) {
				return &disguise{"PEM that is damaged or encoded once more", "the file as it is", publicAlgs}
			}
		}
	}

	words := strings.Fields(text)
	for i, word := range words {
		if algs := sshAlgs(word); algs != nil && i+1 < len(words) && strings.HasPrefix(words[i+1], "AAAA") {
			return sshDisguise(algs)
		}
	}

	return nil
}

func sshDisguise(algs []string) *disguise {
	return &disguise{"an SSH public key", "ssh-keygen -e -m PKCS8 -f key.pub prints it for RSA and ECDSA", algs}
}

// sshAlgs returns what a type of SSH key can be used with, nil for other words.
func sshAlgs(word string) []string {
	for _, known := range []struct {
		prefix string
		algs   []string
	}{
		{"ssh-ed25519", []string{"EdDSA"}},
		{"ssh-rsa", rsaAlgs},
		{"ecdsa-sha2-nistp256", []string{"ES256"}},
		{"ecdsa-sha2-nistp384", []string{"ES384"}},
		{"ecdsa-sha2-nistp521", []string{"ES512"}},
		{"ecdsa-sha2-", publicAlgs},
		{"ssh-dss", publicAlgs}, // no key of this type will do
		{"sk-ssh-", publicAlgs},
		{"sk-ecdsa-", publicAlgs},
	} {
		if strings.HasPrefix(word, known.prefix) {
			return known.algs
		}
	}

	return nil
}

// keyOIDs are in the DER form of every key in PKIX, PKCS #8 or a certificate:
// rsaEncryption and its relatives, ecPublicKey, and X25519 to Ed448 with the
// sequence they stand in.
var keyOIDs = [][]byte{
	{0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01},
	{0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01},
	{0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e},
	{0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6f},
	{0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70},
	{0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x71},
}

func unmaskBinary(b []byte) *disguise {
	const derAdvice = "openssl pkey -pubin -inform DER or openssl x509 -inform DER prints it"

	// The type of an SSH key has its length in front, as 32 bits.
	if len(b) > 4 && bytes.HasPrefix(b, []byte{0, 0, 0}) {
		if algs := sshAlgs(string(b[4:])); algs != nil {
			return sshDisguise(algs)
		}
	}

	if len(b) == 0 || b[0] != 0x30 { // SEQUENCE
		return nil
	}

	if public := parseDER(b); public != nil {
		name, algs := describePublic(public)
		if len(algs) == 0 {
			algs = publicAlgs
		}

		return &disguise{name + " in DER form without the lines around it", derAdvice, algs}
	}

	// Cut off, with something behind it, or on a curve nobody parses.
	if slices.ContainsFunc(keyOIDs, func(oid []byte) bool { return bytes.Contains(b, oid) }) {
		return &disguise{"a key in DER form without the lines around it", derAdvice, publicAlgs}
	}

	return nil
}

// parseDER returns the public key of a DER form that has one, or nil.
func parseDER(der []byte) any {
	if public, err := x509.ParsePKIXPublicKey(der); err == nil {
		return public
	}

	if public, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return public
	}

	if cert, err := x509.ParseCertificate(der); err == nil {
		return cert.PublicKey
	}

	if private, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return private.Public()
	}

	if private, err := x509.ParseECPrivateKey(der); err == nil {
		return private.Public()
	}

	return nil
}

// lenientBase64 decodes as much as is base64 of either alphabet, with or
// without padding, in one line or many.
func lenientBase64(text string) []byte {
	text = strings.NewReplacer("-", "+", "_", "/", " ", "", "\t", "", "\r", "", "\n", "", `\r`, "", `\n`, "").Replace(text)
	decoded := make([]byte, base64.RawStdEncoding.DecodedLen(len(text)))
	n, _ := base64.RawStdEncoding.Decode(decoded, []byte(strings.TrimRight(text, "=")))

	return decoded[:n]
}

func lenientHex(text string) []byte {
	text = strings.NewReplacer(":", "", " ", "", "\r", "", "\n", "").Replace(text)
	decoded := make([]byte, hex.DecodedLen(len(text))+1)
	n, _ := hex.Decode(decoded, []byte(text))

	return decoded[:n]
}
