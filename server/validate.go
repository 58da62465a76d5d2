package server

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/httpapi"
	"github.com/cinnabar-hub/cinnabar/server/internal/keyset"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// trust is what Reload replaces: whose tokens count.
type trust struct {
	auth *auth.Authenticator
	// authorizationServers can be asked for tokens (I-1).
	authorizationServers []string
}

// settings is a Config after Validate: parsed and free of contradictions.
type settings struct {
	hub   httpapi.HubConfig
	trust trust
	// keySets are what auth verifies with besides fixed keys.
	keySets     map[setID]*keyset.Set
	corsOrigins *auth.Origins
	warnings    []string
}

// parse checks everything and returns all problems at once, each naming its
// variable. JWK sets are taken from sets if they are there already.
func (c *Config) parse(sets *keySets) (settings, error) {
	var (
		s        settings
		problems []error
	)
	problem := func(variable string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", variable, err))
		}
	}
	if c.DatabaseURL == "" {
		problem("DATABASE_URL", errors.New("is not set; give the address of a PostgreSQL database, such as postgres://app@localhost/app, or \"private\", or use --dev"))
	}
	if c.DatabaseURL != "" && c.DatabaseURL != PrivateDatabase {
		problem("DATABASE_URL", eventlog.CheckURL(string(c.DatabaseURL)))
	}
	if c.ListenURL != "" {
		problem("MERCURE_DATABASE_LISTEN_URL", eventlog.CheckURL(string(c.ListenURL)))
	}
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		problem("MERCURE_ADDR", fmt.Errorf("%q is not of the form host:port; the host may be left out, as in :3000", c.Addr))
	}
	s.hub = httpapi.HubConfig{Path: defaultHubPath, Resource: c.ResourceIdentifier}
	if c.PublicURL != "" {
		hub, err := protocol.ParseHubURL(c.PublicURL)
		problem("MERCURE_PUBLIC_URL", err)
		if err == nil {
			s.hub.PublicURL, s.hub.Path = hub, hub.Path()
			if httpapi.IsHealthCheck(hub.Path()) {
				problem("MERCURE_PUBLIC_URL", fmt.Errorf("the path %s is that of a health check; choose another one for the hub", hub.Path()))
			}
		}
	}
	if hub := s.hub.PublicURL; bool(c.Subscriptions) && hub != nil && !hub.Reserved(protocol.SubscriptionPath(hub, "x", "x")) {
		// Somebody else could publish what only the hub may say.
		problem("MERCURE_SUBSCRIPTIONS", fmt.Errorf("cannot be on with the hub at the path %s; give MERCURE_PUBLIC_URL a path such as %s", hub.Path(), defaultHubPath))
	}
	if c.ResourceIdentifier != "" {
		if u, err := url.Parse(c.ResourceIdentifier); err != nil || !u.IsAbs() || strings.Contains(c.ResourceIdentifier, "#") {
			problem("MERCURE_RESOURCE_IDENTIFIER", fmt.Errorf("%q is not an absolute URL without a fragment", c.ResourceIdentifier))
		}
	}
	proxies, err := parseNetworks(c.TrustedProxies)
	problem("MERCURE_TRUSTED_PROXIES", err)
	s.hub.TrustedProxies = proxies
	networks, err := parseNetworks(c.JWKSNetworks)
	problem("MERCURE_JWKS_NETWORKS", err)
	cors, err := auth.ParseOrigins(c.CORSAllowedOrigins)
	problem("MERCURE_CORS_ALLOWED_ORIGINS", err)
	publish, err := auth.ParseOrigins(c.PublishAllowedOrigins)
	problem("MERCURE_PUBLISH_ALLOWED_ORIGINS", err)
	if c.Dev && err == nil && cors != nil {
		cors, publish = cors.WithLocalhost(), publish.WithLocalhost()
	}
	s.corsOrigins = cors
	if cors != nil && cors.Any() { // Spec: C-2
		s.warnings = append(s.warnings, "MERCURE_CORS_ALLOWED_ORIGINS: is *, so pages of other origins cannot use cookies; list the origins to let them")
	}
	if c.ResourceIdentifier != "" && c.PublicURL != "" && c.ResourceIdentifier != c.PublicURL { // Spec: I-2, Q-33
		s.warnings = append(s.warnings, "MERCURE_RESOURCE_IDENTIFIER: is not MERCURE_PUBLIC_URL, so clients that look for the hub's metadata may not accept it")
	}

	oneOf := func(variable, value string, allowed ...string) {
		if slices.Contains(allowed, value) {
			return
		}
		problem(variable, fmt.Errorf("is %q; use one of %s", value, strings.Join(allowed, ", ")))
	}
	oneOf("MERCURE_UNKNOWN_CURSOR", c.UnknownCursor, "replay", "live")
	oneOf("MERCURE_CURSOR_CHECKPOINTS", c.CursorCheckpoints, "auto", "on", "off")
	notNegative := func(variable string, d time.Duration) {
		if d < 0 {
			problem(variable, fmt.Errorf("is %s, which is negative; 0s turns it off", d))
		}
	}
	notNegative("MERCURE_HEARTBEAT", c.Heartbeat)
	notNegative("MERCURE_WRITE_TIMEOUT", c.WriteTimeout)
	notNegative("MERCURE_DISPATCH_TIMEOUT", c.DispatchTimeout)
	notNegative("MERCURE_DRAIN_TIMEOUT", c.DrainTimeout)
	if age := c.HistoryMaxAge; age != 0 && age < time.Minute {
		problem("MERCURE_HISTORY_MAX_AGE", fmt.Errorf("is %s; it must be at least 1m, so that hubs that lag find what they have not delivered, or 0s for no limit", age))
	}
	if !c.Dev && c.HistoryMaxAge == 0 && c.HistoryMaxUpdates == 0 && c.HistoryMaxBytes == 0 {
		s.warnings = append(s.warnings, "MERCURE_HISTORY_MAX_AGE: is not set, nor are MERCURE_HISTORY_MAX_UPDATES and MERCURE_HISTORY_MAX_BYTES, so updates that no policy governs are kept for ever")
	}
	problems = append(problems, c.checkLimits()...)

	resolver := sets.resolver(networks)
	problems = append(problems, c.parseAuth(&s, publish, resolver)...)
	s.keySets = resolver.found
	return s, errors.Join(problems...)
}

// What the schema allows an update to have.
const (
	maxTopics     = 1000
	maxFieldBytes = 4096
)

func (c *Config) checkLimits() (problems []error) {
	for _, limit := range []struct {
		variable           string
		value, least, most int64
	}{
		{"MERCURE_MAX_STREAMS", int64(c.MaxStreams), 0, math.MaxInt64},
		{"MERCURE_MAX_STREAMS_PER_ADDRESS", int64(c.MaxStreamsPerAddress), 0, math.MaxInt64},
		{"MERCURE_MAX_UNANCHORED_PATTERNS", int64(c.MaxUnanchored), 0, math.MaxInt64},
		{"MERCURE_QUEUE_BYTES", int64(c.QueueBytes), 1, math.MaxInt64},
		{"MERCURE_PENDING_BYTES", int64(c.PendingBytes), 1, math.MaxInt64},
		{"MERCURE_HISTORY_MAX_UPDATES", int64(c.HistoryMaxUpdates), 0, math.MaxInt64},
		{"MERCURE_HISTORY_MAX_BYTES", int64(c.HistoryMaxBytes), 0, math.MaxInt64},
		{"MERCURE_MAX_TOPICS", int64(c.MaxTopics), 1, maxTopics},
		{"MERCURE_MAX_FIELD_BYTES", int64(c.MaxFieldBytes), 1, maxFieldBytes},
		{"MERCURE_MAX_MATCHERS", int64(c.MaxMatchers), 1, 10_000},
		{"MERCURE_MAX_MATCHER_BYTES", int64(c.MaxMatcherBytes), 1, 64 << 10},
		{"MERCURE_MAX_TOKEN_MATCHERS", int64(c.MaxTokenMatchers), 1, 10_000},
		{"MERCURE_MAX_TOKEN_SELECTORS", int64(c.MaxTokenSelectors), 1, 100_000},
	} {
		switch {
		case limit.value < limit.least:
			problems = append(problems, fmt.Errorf("%s: is %d; it must be at least %d", limit.variable, limit.value, limit.least))
		case limit.value > limit.most:
			problems = append(problems, fmt.Errorf("%s: is %d; it can be at most %d", limit.variable, limit.value, limit.most))
		}
	}
	return problems
}

func parseNetworks(list string) (networks []netip.Prefix, err error) {
	var problems []error
	for entry := range strings.FieldsFuncSeq(list, isListSeparator) {
		network, err := parseNetwork(entry)
		if err != nil {
			problems = append(problems, err)
		}
		networks = append(networks, network)
	}
	return networks, errors.Join(problems...)
}

func parseNetwork(value string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(value); err == nil {
		if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
		}
		return prefix.Masked(), nil
	}
	address, err := netip.ParseAddr(value)
	if err != nil || address.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address without a zone nor a network such as 10.0.0.0/8", value)
	}
	address = address.Unmap()
	return netip.PrefixFrom(address, address.BitLen()), nil
}

func isListSeparator(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' }
