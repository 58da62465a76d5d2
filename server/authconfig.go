package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

// parseAuth makes the Authenticator, with the JWK sets that it needs.
func (c *Config) parseAuth(s *settings, publishOrigins *auth.Origins, sets *keySetResolver) (problems []error) {
	publisher := c.parseRole(s, sets, "MERCURE_PUBLISHER", c.PublisherJWTKey, c.PublisherJWTAlg, c.PublisherJWKSURL)
	subscriber := c.parseRole(s, sets, "MERCURE_SUBSCRIBER", c.SubscriberJWTKey, c.SubscriberJWTAlg, c.SubscriberJWKSURL)
	problems = slices.Concat(publisher.problems, subscriber.problems)

	config := auth.Config{
		Legacy:           auth.LegacyKeys{Publisher: publisher.keys, Subscriber: subscriber.keys},
		CookieName:       c.CookieName,
		LegacyCookieName: c.LegacyCookieName,
		PublishOrigins:   publishOrigins,
		NotBeforeLeeway:  c.NotBeforeLeeway,
		Limits: auth.Limits{
			Entries: c.MaxTokenMatchers, Matchers: c.MaxTokenMatchers,
			Selectors: c.MaxTokenSelectors, PatternBytes: int(c.MaxMatcherBytes),
		},
	}
	if c.JWKSCompat { // Spec: X-4
		config.Legacy.PublisherSet, config.Legacy.SubscriberSet = publisher.set, subscriber.set
	}
	for issuer := range strings.FieldsFuncSeq(c.TrustedIssuers, isListSeparator) {
		config.Issuers = append(config.Issuers, auth.Issuer{
			ID: issuer, Publisher: publisher.keys, Subscriber: subscriber.keys,
			PublisherSet: publisher.set, SubscriberSet: subscriber.set,
		})
	}
	trusted := len(config.Issuers) > 0
	if c.Issuers != "" {
		issuers, servers, warnings, err := parseIssuers(string(c.Issuers), sets)
		if err != nil {
			problems = append(problems, prefixed("MERCURE_ISSUERS: ", err))
		}
		for _, warning := range warnings {
			s.warnings = append(s.warnings, "MERCURE_ISSUERS: "+warning)
		}
		config.Issuers = append(config.Issuers, issuers...)
		s.trust.authorizationServers = servers
	}
	// Spec: Q-45.
	switch c.Compat {
	case "":
		config.Compat = len(config.Issuers) == 0 && c.Issuers == ""
	case "on", "off":
		config.Compat = c.Compat == "on"
	default:
		problems = append(problems, fmt.Errorf("MERCURE_COMPAT: is %q; use on or off", c.Compat))
	}
	problems = append(problems, c.contradictions(publisher, subscriber, trusted, config.Compat)...)
	if len(problems) > 0 {
		return problems
	}
	if config.Compat && c.WriteTimeout == 0 { // Spec: X-7
		s.warnings = append(s.warnings, "MERCURE_WRITE_TIMEOUT: is 0s, so a stream with a 0.x token without exp never ends")
	}
	authenticator, err := auth.New(config)
	if err != nil {
		return []error{err}
	}
	s.trust.auth = authenticator
	return nil
}

// role is what verifies one side's tokens by the settings that are not
// MERCURE_ISSUERS.
type role struct {
	keys     []auth.Key
	set      auth.KeySource
	given    bool
	problems []error
}

func (c *Config) parseRole(s *settings, sets *keySetResolver, prefix string, key Secret, alg, setURL string) (r role) {
	r.given = key != "" || setURL != ""
	if key != "" {
		var err error
		if r.keys, err = auth.ParseKeys(string(key), alg); err != nil {
			r.problems = append(r.problems, fmt.Errorf("%s_JWT_KEY: %w", prefix, err))
		}
		for _, k := range r.keys {
			for _, warning := range k.Warnings() {
				s.warnings = append(s.warnings, prefix+"_JWT_KEY: "+warning)
			}
		}
	}
	if setURL != "" {
		set, err := sets.of(setURL, nil)
		if err != nil {
			r.problems = append(r.problems, fmt.Errorf("%s_JWKS_URL: %w", prefix, err))
		} else {
			r.set = set
		}
	}
	return r
}

// contradictions finds settings that would keep everybody out.
func (c *Config) contradictions(publisher, subscriber role, trusted, compat bool) (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	anyone := publisher.given || subscriber.given
	if !subscriber.given && c.Issuers == "" && !bool(c.Anonymous) {
		problem("MERCURE_SUBSCRIBER_JWT_KEY: is not set, so nobody could subscribe; set it, or MERCURE_ANONYMOUS=on for a hub with public updates only")
	}
	if trusted && !anyone {
		problem("MERCURE_TRUSTED_ISSUERS: needs MERCURE_PUBLISHER_JWT_KEY or MERCURE_SUBSCRIBER_JWT_KEY, or their _JWKS_URL: an issuer is trusted through its keys")
	}
	hasKey := len(publisher.keys)+len(subscriber.keys) > 0
	hasSet := publisher.set != nil || subscriber.set != nil
	if hasKey && !trusted && !compat {
		problem("MERCURE_COMPAT: is off, so tokens must be of protocol 1.0, but the keys belong to no issuer; set MERCURE_TRUSTED_ISSUERS, or MERCURE_COMPAT=on")
	}
	if hasSet && !trusted && (!compat || !bool(c.JWKSCompat)) {
		problem("MERCURE_TRUSTED_ISSUERS: is not set, so nothing is verified with the JWK sets; set it, or MERCURE_JWKS_COMPAT=on for tokens of protocol 0.x")
	}
	return problems
}

// prefixed puts the variable in front of each of several errors.
func prefixed(prefix string, err error) error {
	many, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("%s%w", prefix, err)
	}
	var all []error
	for _, one := range many.Unwrap() {
		all = append(all, fmt.Errorf("%s%w", prefix, one))
	}
	return errors.Join(all...)
}
