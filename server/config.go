package server

import (
	"log/slog"
	"time"
)

// Config is every setting of a hub. The tags are read by the command line and
// by the settings table of the README: setting names the environment variable,
// name the flag.
//
// DefaultConfig returns it with the defaults; a Config that was not made from
// it lacks them.
type Config struct {
	DatabaseURL Secret `name:"database-url" setting:"DATABASE_URL" reload:"password" placeholder:"URL" help:"PostgreSQL 15 or later with UTF8 encoding, as a connection string. \"private\" starts a PostgreSQL of its own from the installed binaries and keeps its data in the user's data directory."`
	ListenURL   Secret `name:"database-listen-url" setting:"MERCURE_DATABASE_LISTEN_URL" reload:"password" placeholder:"URL" help:"Direct address of the same database for LISTEN and migrations, when DATABASE_URL goes through a transaction pooler."`
	Migrate     Switch `name:"migrate" setting:"MERCURE_MIGRATE" default:"on" placeholder:"on|off" help:"Migrate the database on start. With off, the hub refuses to start with a schema that does not fit."`
	Addr        string `name:"addr" setting:"MERCURE_ADDR" default:":3000" placeholder:"HOST:PORT" help:"Where the hub listens."`

	PublisherJWTKey   Secret        `name:"publisher-jwt-key" setting:"MERCURE_PUBLISHER_JWT_KEY" reload:"yes" placeholder:"KEY" help:"Secret, or PEM public keys or certificates, that verifies publishers' tokens. Without it nobody can publish over HTTP."`
	PublisherJWTAlg   string        `name:"publisher-jwt-alg" setting:"MERCURE_PUBLISHER_JWT_ALG" reload:"yes" default:"HS256" placeholder:"ALG" help:"Algorithm of the publisher key: HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA."`
	SubscriberJWTKey  Secret        `name:"subscriber-jwt-key" setting:"MERCURE_SUBSCRIBER_JWT_KEY" reload:"yes" placeholder:"KEY" help:"The same for subscribers' tokens."`
	SubscriberJWTAlg  string        `name:"subscriber-jwt-alg" setting:"MERCURE_SUBSCRIBER_JWT_ALG" reload:"yes" default:"HS256" placeholder:"ALG" help:"Algorithm of the subscriber key."`
	PublisherJWKSURL  string        `name:"publisher-jwks-url" setting:"MERCURE_PUBLISHER_JWKS_URL" reload:"yes" placeholder:"URL" help:"JWK set with the public keys of publishers' tokens, https or file. It is read again every few minutes and when a token names a key that is not in it."`
	SubscriberJWKSURL string        `name:"subscriber-jwks-url" setting:"MERCURE_SUBSCRIBER_JWKS_URL" reload:"yes" placeholder:"URL" help:"The same for subscribers' tokens."`
	JWKSNetworks      string        `name:"jwks-networks" setting:"MERCURE_JWKS_NETWORKS" reload:"yes" placeholder:"CIDR,..." help:"Internal networks that JWK sets may be fetched from, such as 10.0.0.0/8. Public addresses always may, internal ones only if listed."`
	JWKSCompat        Switch        `name:"jwks-compat" setting:"MERCURE_JWKS_COMPAT" reload:"yes" default:"off" placeholder:"on|off" help:"Let the JWK sets verify tokens of protocol 0.x too. Every token that their provider signs, for whatever purpose, then authenticates."`
	TrustedIssuers    string        `name:"trusted-issuers" setting:"MERCURE_TRUSTED_ISSUERS" reload:"yes" placeholder:"ISSUER,..." help:"Issuers (the iss of tokens) that the keys above belong to, separated by spaces or commas. Turns tokens of protocol 1.0 on."`
	Issuers           Secret        `name:"issuers" setting:"MERCURE_ISSUERS" reload:"yes" placeholder:"JSON" help:"Several issuers of protocol 1.0 tokens, each with keys of its own; see the README for the form."`
	Compat            string        `name:"compat" setting:"MERCURE_COMPAT" reload:"yes" placeholder:"on|off" help:"Accept clients and tokens of protocol 0.x. By default on as long as no issuer is trusted."`
	CookieName        string        `name:"cookie-name" setting:"MERCURE_COOKIE_NAME" default:"__Secure-mercure_access_token" placeholder:"NAME" help:"Cookie that may carry the token."`
	LegacyCookieName  string        `name:"legacy-cookie-name" setting:"MERCURE_LEGACY_COOKIE_NAME" default:"mercureAuthorization" placeholder:"NAME" help:"Cookie that 0.x clients use instead. Looked at only with MERCURE_COMPAT on."`
	NotBeforeLeeway   time.Duration `name:"nbf-leeway" setting:"MERCURE_NBF_LEEWAY" reload:"yes" default:"0s" placeholder:"DURATION" help:"How far the nbf of a token may lie in the future, at most 60s, for clocks that differ."`

	PublicURL          string `name:"public-url" setting:"MERCURE_PUBLIC_URL" placeholder:"URL" help:"URL of the hub as the world sees it, such as https://example.com/.well-known/mercure. By default taken from each request."`
	ResourceIdentifier string `name:"resource-identifier" setting:"MERCURE_RESOURCE_IDENTIFIER" placeholder:"URL" help:"Audience (aud) that 1.0 tokens must name. By default the URL of the hub."`
	TrustedProxies     string `name:"trusted-proxies" setting:"MERCURE_TRUSTED_PROXIES" placeholder:"CIDR,..." help:"Addresses of proxies whose X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-For count."`

	Anonymous             Switch `name:"anonymous" setting:"MERCURE_ANONYMOUS" default:"off" placeholder:"on|off" help:"Let subscribers without a token have public updates."`
	AnonymousFallback     Switch `name:"anonymous-fallback" setting:"MERCURE_ANONYMOUS_FALLBACK" default:"on" placeholder:"on|off" help:"With off, a browser that had a token in a cookie and comes without one is refused, instead of becoming an anonymous subscriber unnoticed."`
	CORSAllowedOrigins    string `name:"cors-allowed-origins" setting:"MERCURE_CORS_ALLOWED_ORIGINS" placeholder:"ORIGIN,..." help:"Origins whose pages may subscribe, such as https://app.example.com or https://*.example.com; * allows all, without cookies."`
	PublishAllowedOrigins string `name:"publish-allowed-origins" setting:"MERCURE_PUBLISH_ALLOWED_ORIGINS" reload:"yes" placeholder:"ORIGIN,..." help:"Origins whose pages may publish with a cookie."`

	Heartbeat            time.Duration `name:"heartbeat" setting:"MERCURE_HEARTBEAT" default:"40s" placeholder:"DURATION" help:"Send a comment to subscribers after this much silence; 0s turns it off."`
	WriteTimeout         time.Duration `name:"write-timeout" setting:"MERCURE_WRITE_TIMEOUT" default:"600s" placeholder:"DURATION" help:"Longest life of a stream; clients reconnect and miss nothing. 0s: no limit."`
	DrainTimeout         time.Duration `name:"drain-timeout" setting:"MERCURE_DRAIN_TIMEOUT" default:"25s" placeholder:"DURATION" help:"How long the hub takes to end its streams when it is stopped, evenly, so that they do not all return at once; 0s ends them together. Updates are taken until the last one has ended."`
	DispatchTimeout      time.Duration `name:"dispatch-timeout" setting:"MERCURE_DISPATCH_TIMEOUT" default:"5s" placeholder:"DURATION" help:"A subscriber that takes nothing for this long is disconnected; 0s turns it off."`
	MaxRequestBody       Bytes         `name:"max-request-body" setting:"MERCURE_MAX_REQUEST_BODY" default:"1MiB" placeholder:"SIZE" help:"Largest body of a request; 0 means no limit."`
	RefuseTarget         Switch        `name:"refuse-target" setting:"MERCURE_REFUSE_TARGET" default:"off" placeholder:"on|off" help:"Refuse updates with the field target, by which publishers of before 0.10 meant private, if they lack the field private; else they are public, with a warning in the log."`
	MaxStreams           int           `name:"max-streams" setting:"MERCURE_MAX_STREAMS" default:"0" placeholder:"N" help:"Most streams of this process; a list of subscriptions counts as one while it is sent. 0: no limit."`
	MaxStreamsPerAddress int           `name:"max-streams-per-address" setting:"MERCURE_MAX_STREAMS_PER_ADDRESS" default:"0" placeholder:"N" help:"Most streams of one client address; 0: no limit. Behind a proxy it needs MERCURE_TRUSTED_PROXIES."`
	MaxTopics            int           `name:"max-topics" setting:"MERCURE_MAX_TOPICS" default:"1000" placeholder:"N" help:"Most topics of an update, at most 1000."`
	MaxFieldBytes        Bytes         `name:"max-field-bytes" setting:"MERCURE_MAX_FIELD_BYTES" default:"4KiB" placeholder:"SIZE" help:"Longest topic, id and type of an update, at most 4KiB."`
	MaxMatchers          int           `name:"max-matchers" setting:"MERCURE_MAX_MATCHERS" default:"100" placeholder:"N" help:"Most matchers of a subscriber."`
	MaxMatcherBytes      Bytes         `name:"max-matcher-bytes" setting:"MERCURE_MAX_MATCHER_BYTES" default:"4KiB" placeholder:"SIZE" help:"Longest matcher, in requests and in tokens."`
	MaxTokenMatchers     int           `name:"max-token-matchers" setting:"MERCURE_MAX_TOKEN_MATCHERS" reload:"yes" default:"100" placeholder:"N" help:"Most matchers, and most entries, of a 1.0 token."`
	MaxTokenSelectors    int           `name:"max-token-selectors" setting:"MERCURE_MAX_TOKEN_SELECTORS" reload:"yes" default:"1000" placeholder:"N" help:"Most selectors of a 0.x token, for each of publishing and subscribing."`
	MaxUnanchored        int           `name:"max-unanchored-patterns" setting:"MERCURE_MAX_UNANCHORED_PATTERNS" default:"1000" placeholder:"N" help:"Most distinct patterns without a literal scheme and host, such as *://*/news, of all streams of this process. Each of them is tried on every update. 0: no limit."`
	HistoryMaxAge        time.Duration `name:"history-max-age" setting:"MERCURE_HISTORY_MAX_AGE" default:"0s" placeholder:"DURATION" help:"Oldest updates to keep, such as 720h, at least 1m; 0s: of any age. Rows of mercure.policies say otherwise for some topics. All nodes of a cluster need the same."`
	HistoryMaxUpdates    int           `name:"history-max-updates" setting:"MERCURE_HISTORY_MAX_UPDATES" default:"0" placeholder:"N" help:"Most updates to keep; 0: any number. None is removed in its first minute. All nodes of a cluster need the same."`
	HistoryMaxBytes      Bytes         `name:"history-max-bytes" setting:"MERCURE_HISTORY_MAX_BYTES" default:"0" placeholder:"SIZE" help:"Most bytes of updates to keep, counting topics, data, ids and types; the tables take more. 0: any number. None is removed in its first minute. All nodes of a cluster need the same."`
	UnknownCursor        string        `name:"unknown-cursor" setting:"MERCURE_UNKNOWN_CURSOR" default:"replay" placeholder:"replay|live" help:"What a client gets whose last event id is not in the log: everything retained, or what comes from now on."`
	CursorCheckpoints    string        `name:"cursor-checkpoints" setting:"MERCURE_CURSOR_CHECKPOINTS" default:"auto" placeholder:"auto|on|off" help:"Send ids without data, so that silent subscribers can resume. auto: to browsers' EventSource."`
	Subscriptions        Switch        `name:"subscriptions" setting:"MERCURE_SUBSCRIPTIONS" default:"off" placeholder:"on|off" help:"Tell who is subscribed, on all nodes: private updates about each subscription's beginning and end, and lists under the path /subscriptions of the hub. All nodes of a cluster need the same."`
	SharedWrites         Switch        `name:"shared-writes" setting:"MERCURE_SHARED_WRITES" default:"on" placeholder:"on|off" help:"Send updates that wait for the same subscriber together; off for clients that take each network chunk for one event."`
	QueueBytes           Bytes         `name:"queue-bytes" setting:"MERCURE_QUEUE_BYTES" default:"64MiB" placeholder:"SIZE" help:"Memory for updates that wait for the database; when it is full, publishes are refused with 503."`
	PendingBytes         Bytes         `name:"pending-bytes" setting:"MERCURE_PENDING_BYTES" default:"64KiB" placeholder:"SIZE" help:"Memory for updates that wait for one subscriber, of which streams share the text. One for whom more waits reads on from the newest updates or the database at its own pace."`
	TailBytes            Bytes         `name:"tail-bytes" setting:"MERCURE_TAIL_BYTES" default:"64MiB" placeholder:"SIZE" help:"Memory for the newest updates, from which reconnecting clients are served without the database."`

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
// otherwise.
const defaultHubPath = "/.well-known/mercure"
