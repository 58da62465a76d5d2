package keyset

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

const (
	// maxKeys bounds what one token without a kid is compared to.
	maxKeys = 100
	// maxRSABits bounds what a comparison costs: half a millisecond.
	maxRSABits = 8192
	// maxExponentChars holds 32 bits in base64url. The library would cut a
	// longer exponent down to 64 bits.
	maxExponentChars = 6
	// shownKidBytes bounds what a log line repeats.
	shownKidBytes = 120
)

// unusableKey is an element of a set that was left out.
type unusableKey struct {
	position    int // from 1
	kid, reason string
	secret      bool // it should not be in a set at all
}

// jwk is an element of a set. It is not a struct because encoding/json does not
// tell "KTY" from "kty" then.
type jwk map[string]json.RawMessage

// errSecret marks keys that are no longer secret if everybody may read the set.
var errSecret = errors.New("whoever can read the set can sign tokens: replace the key, and publish public keys only")

// parse reads a JWK set (RFC 7517). A key that cannot be used is left out and
// said to be so; a set without any usable one is an error. The keys of an
// element that names no algorithm are one for each it is good for.
//
// Spec: V-2, V-7, V-15.
func parse(body []byte, algs []string) ([]auth.Key, []unusableKey, error) {
	elements, err := elementsOf(body)
	if err != nil {
		return nil, nil, err
	}
	var (
		keys     []auth.Key
		unusable []unusableKey
	)
	for i, element := range elements {
		kid, parsed, err := parseKey(element, algs)
		if err != nil {
			unusable = append(unusable, unusableKey{
				position: i + 1, kid: kid[:min(len(kid), shownKidBytes)], reason: err.Error(), secret: errors.Is(err, errSecret),
			})
		}
		keys = append(keys, parsed...)
	}
	// A set that was emptied takes its keys back (Z-22); one whose keys cannot be
	// used is more likely a slip, and the keys from before stay.
	if len(keys) == 0 && len(elements) > 0 {
		return nil, unusable, noneUsable(unusable)
	}
	return keys, unusable, nil
}

func elementsOf(body []byte) ([]json.RawMessage, error) {
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("<")) {
		return nil, errors.New("it is not a JWK set but looks like a web page: check the URL")
	}
	if err := auth.StrictJSON(body); err != nil {
		return nil, fmt.Errorf("it is not a JWK set: %w", err)
	}
	var set map[string]json.RawMessage
	if json.Unmarshal(body, &set) != nil || set == nil {
		return nil, errors.New("it is not a JWK set: not a JSON object")
	}
	var elements []json.RawMessage
	if json.Unmarshal(set["keys"], &elements) != nil || elements == nil {
		return nil, errors.New("it is not a JWK set: it has no array named keys")
	}
	if len(elements) > maxKeys {
		return nil, fmt.Errorf("it has %d keys, more than the %d that are read", len(elements), maxKeys)
	}
	return elements, nil
}

// noneUsable shows the first reason: more often than not it is the only one.
func noneUsable(unusable []unusableKey) error {
	return fmt.Errorf("none of its %d keys can be used; key %d: %s", len(unusable), unusable[0].position, unusable[0].reason)
}

func parseKey(raw json.RawMessage, algs []string) (kid string, keys []auth.Key, err error) {
	var k jwk
	if json.Unmarshal(raw, &k) != nil || k == nil {
		return "", nil, errors.New("it is not a JSON object")
	}
	if kid, err = k.text("kid"); err != nil {
		return "", nil, err
	}
	if err := k.checkPurpose(); err != nil {
		return kid, nil, err
	}
	public, err := k.publicKey()
	if err != nil {
		return kid, nil, err
	}
	alg, err := k.text("alg")
	if err != nil {
		return kid, nil, err
	}
	keys, err = keysOf(public, kid, alg, algs)
	return kid, keys, err
}

// keysOf makes the key of the algorithm that the element names, or one for each
// that it may be used with, as far as the configuration allows them.
func keysOf(public crypto.PublicKey, kid, alg string, allowed []string) ([]auth.Key, error) {
	algs := []string{alg}
	if alg == "" {
		algs = auth.AlgsFor(public)
	}
	if len(allowed) > 0 {
		named := algs
		algs = slices.DeleteFunc(algs, func(alg string) bool { return !slices.Contains(allowed, alg) })
		if len(algs) == 0 && len(named) > 0 {
			return nil, fmt.Errorf("the configuration allows only %s", strings.Join(allowed, ", "))
		}
	}
	var keys []auth.Key
	for _, alg := range algs {
		key, err := auth.NewPublicKey(public, alg, kid)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("this kind of key verifies no signatures")
	}
	return keys, nil
}

// text returns a member that is a string, empty if it is absent.
func (k jwk) text(name string) (string, error) {
	raw, present := k[name]
	if !present {
		return "", nil
	}
	var value *string
	if json.Unmarshal(raw, &value) != nil || value == nil {
		return "", fmt.Errorf("%s is not a string", name)
	}
	return *value, nil
}

// checkPurpose refuses keys that are not for everybody to verify signatures
// with.
func (k jwk) checkPurpose() error {
	kty, err := k.text("kty")
	if err != nil {
		return err
	}
	if _, secret := k["k"]; secret || kty == "oct" {
		return fmt.Errorf("it is a shared secret; %w", errSecret)
	}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth"} {
		if _, private := k[name]; private {
			return fmt.Errorf("it is a private key; %w", errSecret)
		}
	}
	use, err := k.text("use")
	if err != nil {
		return err
	}
	if _, present := k["use"]; present && use != "sig" {
		return errors.New("its use is not sig")
	}
	raw, present := k["key_ops"]
	if !present {
		return nil
	}
	var operations []string
	if json.Unmarshal(raw, &operations) != nil || !slices.Contains(operations, "verify") {
		return errors.New("its key_ops do not include verify")
	}
	return nil
}

// publicKey hands the library the members that make the key and no others, so
// certificates in it are not looked at and URLs not followed (V-3).
func (k jwk) publicKey() (crypto.PublicKey, error) {
	var texts [6]string
	for i, name := range []string{"kty", "crv", "x", "y", "n", "e"} {
		var err error
		if texts[i], err = k.text(name); err != nil {
			return nil, err
		}
	}
	if len(strings.TrimRight(texts[5], "=")) > maxExponentChars {
		return nil, errors.New("its exponent is longer than 32 bits")
	}
	parsed, err := jwkset.NewJWKFromMarshal(jwkset.JWKMarshal{
		KTY: jwkset.KTY(texts[0]), CRV: jwkset.CRV(texts[1]), X: texts[2], Y: texts[3], N: texts[4], E: texts[5],
	}, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	key, ok := parsed.Key().(*rsa.PublicKey)
	if !ok {
		return parsed.Key(), nil
	}
	switch {
	case key.N.BitLen() > maxRSABits:
		return nil, fmt.Errorf("it has %d bits, more than %d", key.N.BitLen(), maxRSABits)
	case key.N.Bit(0) == 0, key.E < 3, key.E > math.MaxInt32, key.E%2 == 0:
		return nil, errors.New("it is no RSA key: modulus and exponent must be odd, and the exponent between 3 and 2^31")
	}
	return key, nil
}
