package server

import "github.com/cinnabar-hub/cinnabar/server/internal/auth"

// What applications and the command line need to make tokens for a hub.
type (
	// TokenSpec describes a token.
	TokenSpec = auth.TokenSpec
	// MatcherSpec is one matcher to grant.
	MatcherSpec = auth.MatcherSpec
	// SigningKey makes tokens of one algorithm.
	SigningKey = auth.SigningKey
)

// The dialects of tokens.
const (
	Dialect1 = auth.Dialect1
	Dialect0 = auth.Dialect0
)

// MintToken makes a token. The error names everything that a hub would refuse.
func MintToken(spec TokenSpec) (string, error) { return auth.Mint(spec) }

// ParseSigningKey reads a shared secret or a PEM private key, depending on the
// algorithm.
func ParseSigningKey(material, alg string) (SigningKey, error) {
	return auth.ParseSigningKey(material, alg)
}
