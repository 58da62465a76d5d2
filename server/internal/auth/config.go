package auth

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Defaults of Config.
const (
	DefaultCookieName       = "__Secure-mercure_access_token"
	DefaultLegacyCookieName = "mercureAuthorization"

	maxNotBeforeLeeway = 60 * time.Second // V-9
)

// Config says whose tokens count and where they are looked for.
type Config struct {
	// Issuers are trusted for 1.0 tokens, each with its own keys. A role
	// without keys refuses that issuer's tokens.
	Issuers []Issuer
	// Legacy are the keys of 0.x tokens. A key that shall serve both dialects
	// is listed here and under its issuer.
	Legacy LegacyKeys
	// Compat turns on 0.x tokens, the authorization query parameter and the
	// legacy cookie. Off, the Legacy keys are not used.
	Compat bool

	// CookieName and LegacyCookieName are where cookies are looked for.
	// Empty means the default.
	CookieName, LegacyCookieName string
	// PublishOrigins may publish with a cookie, besides the hub's own origin.
	// Nil means nobody else.
	PublishOrigins *Origins

	// NotBeforeLeeway is how far nbf may lie in the future, at most 60 s.
	// There is no such thing for exp.
	NotBeforeLeeway time.Duration
	Limits          Limits

	// CacheEntries and CacheBytes bound the cache of verified tokens. Zero
	// means the default, a negative value turns the cache off.
	CacheEntries, CacheBytes int

	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// Issuer is a source of 1.0 tokens. ID is compared to iss byte for byte.
type Issuer struct {
	ID                    string
	Publisher, Subscriber []Key
	// PublisherSet and SubscriberSet are further keys, that may change. Nil:
	// none.
	PublisherSet, SubscriberSet KeySource
}

// LegacyKeys verify 0.x tokens.
type LegacyKeys struct {
	Publisher, Subscriber []Key
	// Nil unless key sets shall verify 0.x tokens.
	PublisherSet, SubscriberSet KeySource
}

// Limits bound what one token may carry; a token beyond one is invalid. Zero
// means the default.
//
// From them follows how long a whole token may be: as long as a 1.0 token with
// the most matchers of the full length, written without JSON escapes, plus
// 64 KiB of other things; 652 KiB with the defaults. That holds for 0.x tokens as well, although 1000 selectors of the
// full length would need six times as much: those do not fit into a request.
//
// Spec: D-4, L-8.
type Limits struct {
	Entries      int // Mercure entries of a 1.0 token; 100
	Matchers     int // matchers of a 1.0 token, over all entries; 100
	Selectors    int // selectors in each array of a 0.x token; 1000
	PatternBytes int // each matcher and selector; 4096
}

// Authenticator authenticates requests. It is safe for concurrent use.
type Authenticator struct {
	// Fixed by New.
	issuers          map[string]Issuer
	legacy           LegacyKeys
	compat           bool
	cookieName       string
	legacyCookieName string
	publishOrigins   *Origins
	notBeforeLeeway  time.Duration
	limits           Limits
	maxTokenBytes    int
	now              func() time.Time

	// Locks itself; nil when turned off.
	cache *cache
}

// New checks the configuration, whose slices must not be changed afterwards.
// The error names every problem.
func New(cfg Config) (*Authenticator, error) {
	a := &Authenticator{
		issuers:          make(map[string]Issuer, len(cfg.Issuers)),
		legacy:           cfg.Legacy,
		compat:           cfg.Compat,
		cookieName:       orDefault(cfg.CookieName, DefaultCookieName),
		legacyCookieName: orDefault(cfg.LegacyCookieName, DefaultLegacyCookieName),
		publishOrigins:   cfg.PublishOrigins,
		notBeforeLeeway:  cfg.NotBeforeLeeway,
		limits: Limits{
			Entries:      orDefault(cfg.Limits.Entries, 100),
			Matchers:     orDefault(cfg.Limits.Matchers, 100),
			Selectors:    orDefault(cfg.Limits.Selectors, 1000),
			PatternBytes: orDefault(cfg.Limits.PatternBytes, 4096),
		},
		now:   cfg.Now,
		cache: newCache(orDefault(cfg.CacheEntries, defaultCacheEntries), orDefault(cfg.CacheBytes, defaultCacheBytes)),
	}

	a.maxTokenBytes = a.limits.tokenBytes()

	if a.now == nil {
		a.now = time.Now
	}

	var problems []error

	for _, issuer := range cfg.Issuers {
		if _, twice := a.issuers[issuer.ID]; twice {
			problems = append(problems, fmt.Errorf("issuer %s is configured twice", quote(issuer.ID)))
		}

		problems = append(problems, checkIssuer(issuer)...)
		a.issuers[issuer.ID] = issuer
	}

	for _, name := range []string{a.cookieName, a.legacyCookieName} {
		if !isCookieName(name) {
			problems = append(problems, fmt.Errorf("%s cannot be the name of a cookie: set MERCURE_COOKIE_NAME to one word", quote(name)))
		}
	}

	if a.notBeforeLeeway < 0 || a.notBeforeLeeway > maxNotBeforeLeeway {
		problems = append(problems, fmt.Errorf("the leeway for nbf is %s, it must be between 0s and %s",
			a.notBeforeLeeway, maxNotBeforeLeeway))
	}

	if min(a.limits.Entries, a.limits.Matchers, a.limits.Selectors, a.limits.PatternBytes) < 0 {
		problems = append(problems, errors.New("a token limit is negative"))
	}

	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}

	return a, nil
}

// tokenBytes is the length of the longest token worth reading.
func (l Limits) tokenBytes() int {
	const (
		// All that is not matchers: header, signature, other claims, payloads.
		rest = 64 << 10
		// What is around a matcher, at most an entry of its own.
		perMatcher = 256
	)

	size := rest + float64(l.Matchers)*(float64(l.PatternBytes)+perMatcher)

	return int(min(size*4/3, math.MaxInt32)) // base64
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}

	return value
}

func checkIssuer(issuer Issuer) []error {
	if issuer.ID == "" {
		return []error{errors.New("an issuer has no identifier: set it to the iss of its tokens")}
	}

	var problems []error

	// An identifier may be any string, but one that looks like a URL and is
	// none will never be equal to what a library puts into iss.
	if _, err := url.Parse(issuer.ID); err != nil || strings.TrimSpace(issuer.ID) != issuer.ID || len(issuer.ID) > maxIssuerBytes {
		problems = append(problems, fmt.Errorf("issuer %s is not a usable identifier: use its URL", quote(issuer.ID)))
	}

	if len(issuer.Publisher)+len(issuer.Subscriber) == 0 && issuer.PublisherSet == nil && issuer.SubscriberSet == nil {
		problems = append(problems, fmt.Errorf("issuer %s has no keys: every trusted issuer needs its own (V-14)", quote(issuer.ID)))
	}

	// Spec: Z-19.
	for _, role := range []Role{Publisher, Subscriber} {
		if slices.ContainsFunc(issuer.keys(role), Key.weak) {
			problems = append(problems, fmt.Errorf(
				"the %s secret of issuer %s is shorter than 256 bits: use a random one (openssl rand -hex 32)",
				role, quote(issuer.ID)))
		}
	}

	return problems
}

func (i Issuer) keys(role Role) []Key {
	if role == Publisher {
		return i.Publisher
	}

	return i.Subscriber
}

func isCookieName(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}

	return name != ""
}

// staticKeys are the keys that are enrolled as long as this Authenticator
// lives; see keys.
//
// Spec: V-6, V-14, X-4.
func (a *Authenticator) staticKeys(dialect Dialect, issuer string, role Role) []Key {
	switch {
	case dialect == Dialect1:
		return a.issuers[issuer].keys(role) // none for unknown issuers
	case !a.compat:
		return nil
	case role == Publisher:
		return a.legacy.Publisher
	default:
		return a.legacy.Subscriber
	}
}

// Compat reports whether the 0.x dialect is accepted.
func (a *Authenticator) Compat() bool { return a.compat }

// HasKeys reports whether any token at all could be valid for the role, now or
// once a key set has been read. Without
// a publisher key there is no publish endpoint (G-4).
func (a *Authenticator) HasKeys(role Role) bool {
	for id := range a.issuers {
		if a.enrolls(Dialect1, id, role) {
			return true
		}
	}

	return a.enrolls(Dialect0, "", role)
}

// Trusts reports whether the key that verified the grants is still enrolled
// for their dialect, issuer and role. After a change of configuration the new
// Authenticator is asked about the streams that were opened under the old one;
// after a change of a key set, the same one. The keys of a set that was never
// read are not enrolled: read it before asking.
//
// Spec: Z-22.
func (a *Authenticator) Trusts(role Role, g *Grants) bool {
	if g == nil {
		return false
	}

	same := func(k Key) bool { return k.id == g.KeyID }
	if slices.ContainsFunc(a.staticKeys(g.Dialect, g.Issuer, role), same) {
		return true
	}

	set := a.keySet(g.Dialect, g.Issuer, role)
	if set == nil {
		return false
	}

	keys, _ := set.Keys()

	return slices.ContainsFunc(keys, same)
}
