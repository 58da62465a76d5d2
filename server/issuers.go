package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

// issuerJSON is one element of MERCURE_ISSUERS.
type issuerJSON struct {
	// Issuer is the iss of its tokens, byte for byte.
	Issuer string `json:"issuer"`
	// AuthorizationServer lists the issuer in the hub's metadata (I-1), for
	// clients that can ask it for tokens.
	AuthorizationServer bool `json:"authorization_server"`
	// A role without keys refuses the issuer's tokens.
	Publisher  *issuerKeysJSON `json:"publisher"`
	Subscriber *issuerKeysJSON `json:"subscriber"`
}

// issuerKeysJSON says where the keys of a role come from: any combination of a
// key and a set.
type issuerKeysJSON struct {
	// Key is a secret, or PEM public keys or certificates; KeyFile a file with
	// the same.
	Key     string `json:"key"`
	KeyFile string `json:"key_file"`
	// Alg is the algorithm of the key.
	Alg string `json:"alg"`
	// JWKSURL is a JWK set, https or file. Algs, if not empty, are the only
	// algorithms its keys may be used with.
	JWKSURL string   `json:"jwks_url"`
	Algs    []string `json:"algs"`
}

// parseIssuers reads MERCURE_ISSUERS. Errors hold no key material.
func parseIssuers(text string, sets *keySetResolver) (issuers []auth.Issuer, servers, warnings []string, err error) {
	var list []issuerJSON
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&list); err != nil {
		return nil, nil, nil, describeJSON(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, nil, errors.New("there is something behind the array")
	}
	if len(list) == 0 {
		return nil, nil, nil, errors.New("is an empty array; remove it")
	}
	var problems []error
	for i, element := range list {
		issuer := auth.Issuer{ID: element.Issuer}
		read := func(role string, from *issuerKeysJSON) ([]auth.Key, auth.KeySource) {
			if from == nil {
				return nil, nil
			}
			keys, set, warned, err := from.read(sets)
			if err != nil {
				problems = append(problems, fmt.Errorf("[%d].%s: %w", i, role, err))
			}
			for _, warning := range warned {
				warnings = append(warnings, fmt.Sprintf("[%d].%s: %s", i, role, warning))
			}
			return keys, set
		}
		issuer.Publisher, issuer.PublisherSet = read("publisher", element.Publisher)
		issuer.Subscriber, issuer.SubscriberSet = read("subscriber", element.Subscriber)
		if element.AuthorizationServer {
			servers = append(servers, element.Issuer)
		}
		issuers = append(issuers, issuer)
	}
	return issuers, servers, warnings, errors.Join(problems...)
}

func (k *issuerKeysJSON) read(sets *keySetResolver) (keys []auth.Key, set auth.KeySource, warnings []string, err error) {
	material := k.Key
	switch {
	case k.Key != "" && k.KeyFile != "":
		return nil, nil, nil, errors.New("has a key and a key_file; give one of them")
	case k.Key == "" && k.KeyFile == "" && k.JWKSURL == "":
		return nil, nil, nil, errors.New("needs a key, a key_file or a jwks_url")
	case k.JWKSURL == "" && len(k.Algs) > 0:
		return nil, nil, nil, errors.New("has algs, which belong to a jwks_url; the algorithm of a key is its alg")
	case k.KeyFile != "":
		if material, err = readKeyFile(k.KeyFile); err != nil {
			return nil, nil, nil, err
		}
	}
	if material != "" {
		if keys, err = auth.ParseKeys(material, k.Alg); err != nil {
			return nil, nil, nil, err
		}
		for _, key := range keys {
			warnings = append(warnings, key.Warnings()...)
		}
	}
	if k.JWKSURL != "" {
		if set, err = sets.of(k.JWKSURL, k.Algs); err != nil {
			return nil, nil, nil, fmt.Errorf("jwks_url: %w", err)
		}
	}
	return keys, set, warnings, nil
}

func readKeyFile(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("key_file: %w", err)
	}
	material := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if material == "" {
		return "", fmt.Errorf("key_file: %s is empty", path)
	}
	return material, nil
}

// describeJSON says where JSON is wrong without repeating what is there.
func describeJSON(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("is not JSON: error behind byte %d", syntax.Offset)
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if kind.Field == "" {
			return errors.New(`must be an array of objects such as {"issuer":"https://...","publisher":{"jwks_url":"https://..."}}`)
		}
		return fmt.Errorf("%s is a %s where a %s is expected", kind.Field, kind.Value, kind.Type)
	}
	if field, found := strings.CutPrefix(err.Error(), "json: unknown field "); found {
		return fmt.Errorf("has a member that is not known: %s", field)
	}
	return errors.New("is not complete JSON")
}
