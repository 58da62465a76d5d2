// Package auth turns the credential of a request into grants: it picks the one
// credential that counts, verifies it, and says what its bearer may publish
// and receive.
//
// Promises:
//   - Exactly one credential is looked at. One that fails is never replaced by
//     another one, nor by anonymous access (A-1, S-16).
//   - The signed typ header decides between the two dialects before anything
//     is verified; a token of one dialect is never tried under the rules of
//     the other.
//   - Keys come from configuration and from the key sets it names
//     ([KeySource]), each together with the one algorithm it is used with and
//     the issuer and role it is good for. Nothing in a token can add, replace
//     or widen a key; at most it makes a set be read before its time (V-2, V-3,
//     V-6, V-15).
//   - Until a signature has been checked the work is linear in the length of
//     the token, with a handful of allocations, and the length is bounded
//     ([Limits], Z-10).
//   - Errors and formatted keys hold neither tokens nor key material and may be
//     logged. What the client is told is only [Kind] (A-10, Z-3, Z-13).
//
// An [Authenticator] is fixed once made, but for the keys in its key sets. A
// new configuration, say with a key less, means a new Authenticator. Then, and
// when a key set has changed, [Authenticator.Trusts] tells which running
// streams have lost their key (Z-22).
package auth

// Role is the side of the hub a credential is presented to. Publishers and
// subscribers are verified with different keys.
type Role uint8

// The two roles. Publisher is for POST to the hub; everything else, the
// subscription API included, is Subscriber (section 2).
const (
	Publisher Role = iota + 1
	Subscriber
)

// String returns "publisher" or "subscriber".
func (r Role) String() string {
	switch r {
	case Publisher:
		return "publisher"
	case Subscriber:
		return "subscriber"
	default:
		return "unknown role"
	}
}

// setting is the part of the key settings' names that stands for the role.
func (r Role) setting() string {
	if r == Publisher {
		return "MERCURE_PUBLISHER"
	}

	return "MERCURE_SUBSCRIBER"
}

// Dialect is the protocol revision a token is written in.
type Dialect uint8

// The two dialects.
const (
	// Dialect1 is 1.0: typ at+jwt, rights in authorization_details.
	Dialect1 Dialect = iota + 1
	// Dialect0 is 0.x: any other typ, rights in the mercure claim.
	Dialect0
)

// String returns "1.0" or "0.x".
func (d Dialect) String() string {
	switch d {
	case Dialect1:
		return "1.0"
	case Dialect0:
		return "0.x"
	default:
		return "unknown dialect"
	}
}
