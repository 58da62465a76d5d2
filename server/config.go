package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/httpapi"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Config is every setting of a hub. The tags are read by the command line and
// by the settings table of the README: setting names the environment variable,
// name the flag.
//
// DefaultConfig returns it with the defaults; a Config that was not made from
// it lacks them.
type Config struct {
	DatabaseURL Secret `name:"database-url" setting:"DATABASE_URL" placeholder:"URL" help:"PostgreSQL 15 or later with UTF8 encoding, as a connection string. \"private\" starts a PostgreSQL of its own from the installed binaries and keeps its data in the user's data directory."`
	ListenURL   Secret `name:"database-listen-url" setting:"MERCURE_DATABASE_LISTEN_URL" placeholder:"URL" help:"Direct address of the same database for LISTEN and migrations, when DATABASE_URL goes through a transaction pooler."`
	Migrate     Switch `name:"migrate" setting:"MERCURE_MIGRATE" default:"on" placeholder:"on|off" help:"Migrate the database on start. With off, the hub refuses to start with a schema that does not fit."`
	Addr        string `name:"addr" setting:"MERCURE_ADDR" default:":3000" placeholder:"HOST:PORT" help:"Where the hub listens."`

	PublisherJWTKey  Secret `name:"publisher-jwt-key" setting:"MERCURE_PUBLISHER_JWT_KEY" placeholder:"KEY" help:"Secret, or PEM public keys or certificates, that verifies publishers' tokens. Without it nobody can publish over HTTP."`
	PublisherJWTAlg  string `name:"publisher-jwt-alg" setting:"MERCURE_PUBLISHER_JWT_ALG" default:"HS256" placeholder:"ALG" help:"Algorithm of the publisher key: HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA."`
	SubscriberJWTKey Secret `name:"subscriber-jwt-key" setting:"MERCURE_SUBSCRIBER_JWT_KEY" placeholder:"KEY" help:"The same for subscribers' tokens."`
	SubscriberJWTAlg string `name:"subscriber-jwt-alg" setting:"MERCURE_SUBSCRIBER_JWT_ALG" default:"HS256" placeholder:"ALG" help:"Algorithm of the subscriber key."`
	TrustedIssuers   string `name:"trusted-issuers" setting:"MERCURE_TRUSTED_ISSUERS" placeholder:"ISSUER,..." help:"Issuers (the iss of tokens) that the keys above belong to, separated by spaces or commas. Turns tokens of protocol 1.0 on."`
	Compat           string `name:"compat" setting:"MERCURE_COMPAT" placeholder:"on|off" help:"Accept clients and tokens of protocol 0.x. By default on as long as no issuer is trusted."`
	CookieName       string `name:"cookie-name" setting:"MERCURE_COOKIE_NAME" default:"__Secure-mercure_access_token" placeholder:"NAME" help:"Cookie that may carry the token."`

	PublicURL          string `name:"public-url" setting:"MERCURE_PUBLIC_URL" placeholder:"URL" help:"URL of the hub as the world sees it, such as https://example.com/.well-known/mercure. By default taken from each request."`
	ResourceIdentifier string `name:"resource-identifier" setting:"MERCURE_RESOURCE_IDENTIFIER" placeholder:"URL" help:"Audience (aud) that 1.0 tokens must name. By default the URL of the hub."`
	TrustedProxies     string `name:"trusted-proxies" setting:"MERCURE_TRUSTED_PROXIES" placeholder:"CIDR,..." help:"Addresses of proxies whose X-Forwarded-Proto and X-Forwarded-Host count."`

	Anonymous             Switch `name:"anonymous" setting:"MERCURE_ANONYMOUS" default:"off" placeholder:"on|off" help:"Let subscribers without a token have public updates."`
	CORSAllowedOrigins    string `name:"cors-allowed-origins" setting:"MERCURE_CORS_ALLOWED_ORIGINS" placeholder:"ORIGIN,..." help:"Origins whose pages may subscribe, such as https://app.example.com or https://*.example.com; * allows all, without cookies."`
	PublishAllowedOrigins string `name:"publish-allowed-origins" setting:"MERCURE_PUBLISH_ALLOWED_ORIGINS" placeholder:"ORIGIN,..." help:"Origins whose pages may publish with a cookie."`

	Heartbeat         time.Duration `name:"heartbeat" setting:"MERCURE_HEARTBEAT" default:"40s" placeholder:"DURATION" help:"Send a comment to subscribers after this much silence; 0s turns it off."`
	WriteTimeout      time.Duration `name:"write-timeout" setting:"MERCURE_WRITE_TIMEOUT" default:"600s" placeholder:"DURATION" help:"Longest life of a stream; clients reconnect and miss nothing. 0s: no limit."`
	DispatchTimeout   time.Duration `name:"dispatch-timeout" setting:"MERCURE_DISPATCH_TIMEOUT" default:"5s" placeholder:"DURATION" help:"A subscriber that takes nothing for this long is disconnected; 0s turns it off."`
	MaxRequestBody    Bytes         `name:"max-request-body" setting:"MERCURE_MAX_REQUEST_BODY" default:"1MiB" placeholder:"SIZE" help:"Largest body of a request; 0 means no limit."`
	UnknownCursor     string        `name:"unknown-cursor" setting:"MERCURE_UNKNOWN_CURSOR" default:"replay" placeholder:"replay|live" help:"What a client gets whose last event id is not in the log: everything retained, or what comes from now on."`
	CursorCheckpoints string        `name:"cursor-checkpoints" setting:"MERCURE_CURSOR_CHECKPOINTS" default:"auto" placeholder:"auto|on|off" help:"Send ids without data, so that silent subscribers can resume. auto: to browsers' EventSource."`
	SharedWrites      Switch        `name:"shared-writes" setting:"MERCURE_SHARED_WRITES" default:"on" placeholder:"on|off" help:"Send updates that wait for the same subscriber together; off for clients that take each network chunk for one event."`
	TailBytes         Bytes         `name:"tail-bytes" setting:"MERCURE_TAIL_BYTES" default:"64MiB" placeholder:"SIZE" help:"Memory for the newest updates, from which reconnecting clients are served without the database."`

	// Dev relaxes what a developer's machine needs relaxed: pages of any port
	// of localhost may subscribe and publish with cookies. Not for production.
	Dev bool `kong:"-"`
	// Logger receives everything the hub has to say; nil discards it.
	Logger *slog.Logger `kong:"-"`
}

// PrivateDatabase as DatabaseURL makes the command line start a PostgreSQL and
// put its address here. A Server itself does not understand it.
const PrivateDatabase = "private"

// defaultHubPath is where the hub is found unless MERCURE_PUBLIC_URL says
// otherwise. The database refuses topics under it (mercure.hub_path).
const defaultHubPath = "/.well-known/mercure"

// settings is a Config after Validate: parsed and free of contradictions.
type settings struct {
	hub         httpapi.HubConfig
	auth        *auth.Authenticator
	compat      bool
	corsOrigins *auth.Origins
	warnings    []string
}

// parse checks everything and returns all problems at once, each naming its
// variable.
func (c *Config) parse() (settings, error) {
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
			if hub.Path() != defaultHubPath {
				problem("MERCURE_PUBLIC_URL", fmt.Errorf("the path must be %s for now", defaultHubPath))
			}
		}
	}
	if c.ResourceIdentifier != "" {
		if u, err := url.Parse(c.ResourceIdentifier); err != nil || !u.IsAbs() || strings.Contains(c.ResourceIdentifier, "#") {
			problem("MERCURE_RESOURCE_IDENTIFIER", fmt.Errorf("%q is not an absolute URL without a fragment", c.ResourceIdentifier))
		}
	}
	for proxy := range strings.FieldsFuncSeq(c.TrustedProxies, isListSeparator) {
		prefix, err := parseProxy(proxy)
		problem("MERCURE_TRUSTED_PROXIES", err)
		s.hub.TrustedProxies = append(s.hub.TrustedProxies, prefix)
	}
	cors, err := auth.ParseOrigins(c.CORSAllowedOrigins)
	problem("MERCURE_CORS_ALLOWED_ORIGINS", err)
	publish, err := auth.ParseOrigins(c.PublishAllowedOrigins)
	problem("MERCURE_PUBLISH_ALLOWED_ORIGINS", err)
	if c.Dev && err == nil && cors != nil {
		cors, publish = cors.WithLocalhost(), publish.WithLocalhost()
	}
	s.corsOrigins = cors

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

	problems = append(problems, c.parseAuth(&s, publish)...)
	return s, errors.Join(problems...)
}

func (c *Config) parseAuth(s *settings, publishOrigins *auth.Origins) (problems []error) {
	keys := func(variable string, key Secret, alg string) []auth.Key {
		if key == "" {
			return nil
		}
		parsed, err := auth.ParseKeys(string(key), alg)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", variable, err))
		}
		for _, k := range parsed {
			for _, warning := range k.Warnings() {
				s.warnings = append(s.warnings, variable+": "+warning)
			}
		}
		return parsed
	}
	publisher := keys("MERCURE_PUBLISHER_JWT_KEY", c.PublisherJWTKey, c.PublisherJWTAlg)
	subscriber := keys("MERCURE_SUBSCRIBER_JWT_KEY", c.SubscriberJWTKey, c.SubscriberJWTAlg)
	if len(subscriber) == 0 && c.SubscriberJWTKey == "" && !bool(c.Anonymous) {
		problems = append(problems, errors.New("MERCURE_SUBSCRIBER_JWT_KEY: is not set, so nobody could subscribe; set it, or MERCURE_ANONYMOUS=on for a hub with public updates only"))
	}

	config := auth.Config{
		Legacy:         auth.LegacyKeys{Publisher: publisher, Subscriber: subscriber},
		CookieName:     c.CookieName,
		PublishOrigins: publishOrigins,
	}
	for issuer := range strings.FieldsFuncSeq(c.TrustedIssuers, isListSeparator) {
		config.Issuers = append(config.Issuers, auth.Issuer{ID: issuer, Publisher: publisher, Subscriber: subscriber})
	}
	// Spec: Q-45.
	switch c.Compat {
	case "":
		config.Compat = len(config.Issuers) == 0
	case "on", "off":
		config.Compat = c.Compat == "on"
	default:
		problems = append(problems, fmt.Errorf("MERCURE_COMPAT: is %q; use on or off", c.Compat))
	}
	if len(config.Issuers) > 0 && len(publisher)+len(subscriber) == 0 {
		problems = append(problems, errors.New("MERCURE_TRUSTED_ISSUERS: needs MERCURE_PUBLISHER_JWT_KEY or MERCURE_SUBSCRIBER_JWT_KEY: an issuer is trusted through its keys"))
	}
	s.compat = config.Compat
	if c.Compat == "off" && len(config.Issuers) == 0 && len(publisher)+len(subscriber) > 0 {
		problems = append(problems, errors.New("MERCURE_COMPAT: is off, so tokens must be of protocol 1.0, but no issuer is trusted; set MERCURE_TRUSTED_ISSUERS"))
	}
	if len(problems) > 0 {
		return problems
	}
	authenticator, err := auth.New(config)
	if err != nil {
		return []error{err}
	}
	s.auth = authenticator
	return nil
}

func parseProxy(value string) (netip.Prefix, error) {
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

// Secret is a value that is never printed.
type Secret string

// String implements fmt.Stringer.
func (Secret) String() string { return "[redacted]" }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return "[redacted]" }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Switch is on or off; 1, 0, true and false are understood too.
type Switch bool

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Switch) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "on", "true", "1", "yes":
		*s = true
	case "off", "false", "0", "no":
		*s = false
	default:
		return fmt.Errorf("%q is neither on nor off", text)
	}
	return nil
}

// String implements fmt.Stringer.
func (s Switch) String() string {
	if s {
		return "on"
	}
	return "off"
}

// Bytes is a size, written as a number with an optional unit: B, kB, MB, GB,
// KiB, MiB or GiB.
type Bytes int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	value := strings.TrimSpace(string(text))
	digits := strings.TrimRight(value, "BKMGTkmgtib ")
	number, err := strconv.ParseInt(digits, 10, 64)
	factor, known := map[string]int64{
		"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
	}[strings.ToLower(strings.TrimSpace(value[len(digits):]))]
	if err != nil || !known || number < 0 || number > (1<<62)/factor {
		return fmt.Errorf("%q is not a size such as 64MiB", value)
	}
	*b = Bytes(number * factor)
	return nil
}

// String implements fmt.Stringer.
func (b Bytes) String() string {
	for _, unit := range []struct {
		name string
		size Bytes
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if b >= unit.size && b%unit.size == 0 {
			return strconv.FormatInt(int64(b/unit.size), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}
