package main

// What the reference hub is configured with, and what that corresponds to.

// applicationVariables configure those who talk to a hub. They often share a
// file with the hub's own settings.
//
// Spec: section 15.2.
var applicationVariables = map[string]string{ //nolint:gosec // explains credentials, holds none
	"MERCURE_URL":        "tells applications where the hub is",
	"MERCURE_JWT_SECRET": "is what applications sign tokens with; the hub reads MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY",
}

// referenceVariables are settings of the reference hub with another meaning or
// none here, and what to do about each.
//
// Spec: section 15.2.
var referenceVariables = map[string]string{
	"MERCURE_TRANSPORT_URL": "history is kept in PostgreSQL; set DATABASE_URL to the address of a database instead",
	"MERCURE_LICENSE":       "no licence key is needed; remove it",
}

// extraDirectives is handled apart: it holds settings.
const extraDirectives = "MERCURE_EXTRA_DIRECTIVES"

// unprefixedVariables were read by the reference hub before it had a prefix, or
// by the server it is built into. The values say what to do instead. They only
// warn, since they may be somebody else's.
//
// Spec: sections 15.1 and 15.2.
var unprefixedVariables = map[string]string{
	"JWT_KEY":                 "set MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY instead",
	"JWT_ALGORITHM":           "set MERCURE_PUBLISHER_JWT_ALG and MERCURE_SUBSCRIBER_JWT_ALG instead",
	"PUBLISHER_JWT_KEY":       "set MERCURE_PUBLISHER_JWT_KEY instead",
	"PUBLISHER_JWT_ALGORITHM": "set MERCURE_PUBLISHER_JWT_ALG instead",
	"SUBSCRIBER_JWT_KEY":      "set MERCURE_SUBSCRIBER_JWT_KEY instead",

	"SUBSCRIBER_JWT_ALGORITHM": "set MERCURE_SUBSCRIBER_JWT_ALG instead",
	"ALLOW_ANONYMOUS":          "set MERCURE_ANONYMOUS instead",
	"CORS_ALLOWED_ORIGINS":     "set MERCURE_CORS_ALLOWED_ORIGINS instead",
	"PUBLISH_ALLOWED_ORIGINS":  "set MERCURE_PUBLISH_ALLOWED_ORIGINS instead",
	"DISPATCH_SUBSCRIPTIONS":   "set MERCURE_SUBSCRIPTIONS instead",
	"SUBSCRIPTIONS_INCLUDE_IP": "the addresses of subscribers are shown to nobody",
	"HEARTBEAT_INTERVAL":       "set MERCURE_HEARTBEAT instead",
	"DISPATCH_TIMEOUT":         "set MERCURE_DISPATCH_TIMEOUT instead",
	"TRANSPORT_URL":            "history is kept in PostgreSQL; set DATABASE_URL instead",
	"USE_FORWARDED_HEADERS":    "set MERCURE_TRUSTED_PROXIES instead, to the addresses of the proxies",
	"EXTRA_DIRECTIVES":         "`cinnabar serve --help` lists the settings",

	"CADDY_EXTRA_CONFIG":            "`cinnabar serve --help` lists the settings",
	"CADDY_SERVER_EXTRA_DIRECTIVES": "`cinnabar serve --help` lists the settings",
}

const (
	useProxy = "the hub speaks plain HTTP; TLS belongs to a proxy in front of it"
	useAdmin = "set MERCURE_ADMIN_ADDR instead"
)

// genericVariables are further ones, whose names anybody may use. They are
// mentioned only next to a variable that is the reference hub's in all
// likelihood.
//
// Spec: sections 15.1 and 15.2.
var genericVariables = map[string]string{
	"ADDR":                      "set MERCURE_ADDR instead",
	"SUBSCRIPTIONS":             "set MERCURE_SUBSCRIPTIONS instead",
	"DB_PATH":                   "history is kept in PostgreSQL; set DATABASE_URL instead",
	"HISTORY_SIZE":              "set MERCURE_HISTORY_MAX_UPDATES instead",
	"HISTORY_CLEANUP_FREQUENCY": "nothing corresponds to it",
	"READ_TIMEOUT":              "the time a client has for its request is fixed",
	"READ_HEADER_TIMEOUT":       "the time a client has for its request is fixed",
	"WRITE_TIMEOUT":             "set MERCURE_WRITE_TIMEOUT instead",
	"CERT_FILE":                 useProxy,
	"KEY_FILE":                  useProxy,
	"ACME_HOSTS":                useProxy,
	"ACME_CERT_DIR":             useProxy,
	"ACME_HTTP01_ADDR":          useProxy,
	"COMPRESS":                  "compression belongs to a proxy in front of the hub",
	"METRICS":                   useAdmin,
	"METRICS_ENABLED":           useAdmin,
	"METRICS_ADDR":              useAdmin,
	"METRICS_LOGIN":             useAdmin + ", to an address that only you reach",
	"METRICS_PASSWORD":          useAdmin + ", to an address that only you reach",
	"LOG_FORMAT":                "set MERCURE_LOG_FORMAT instead",
	"DEBUG":                     "set MERCURE_LOG_LEVEL=debug instead",
	"DEMO":                      "for trying things out there is `cinnabar serve --dev`",
	"SERVER_NAME":               "set MERCURE_ADDR and MERCURE_PUBLIC_URL instead; " + useProxy,
	"GLOBAL_OPTIONS":            "`cinnabar serve --help` lists the settings; instead of debug set MERCURE_LOG_LEVEL=debug",
}

// directives says which setting stands for a directive of the reference hub.
// The second field is its value, %s for what the directive is given, %1 for the
// first word of that; empty: nothing is shown, since it may hold a key.
//
// Spec: section 15.3.
var directives = map[string][2]string{
	"anonymous":                      {"MERCURE_ANONYMOUS", "on"},
	"cors_origins":                   {"MERCURE_CORS_ALLOWED_ORIGINS", "%s"},
	"publish_origins":                {"MERCURE_PUBLISH_ALLOWED_ORIGINS", "%s"},
	"cookie_name":                    {"MERCURE_COOKIE_NAME", "%s"},
	"subscriptions":                  {"MERCURE_SUBSCRIPTIONS", "on"},
	"heartbeat":                      {"MERCURE_HEARTBEAT", "%s"},
	"write_timeout":                  {"MERCURE_WRITE_TIMEOUT", "%s"},
	"dispatch_timeout":               {"MERCURE_DISPATCH_TIMEOUT", "%s"},
	"max_request_body_size":          {"MERCURE_MAX_REQUEST_BODY", "%s"},
	"resource_identifier":            {"MERCURE_RESOURCE_IDENTIFIER", "%s"},
	"public_urls":                    {"MERCURE_PUBLIC_URL", "%1"},
	"protocol_version_compatibility": {"MERCURE_COMPAT", "on"},
	"issuer":                         {"MERCURE_ISSUERS", ""},
	"publisher_jwt":                  {"MERCURE_PUBLISHER_JWT_KEY", ""},
	"subscriber_jwt":                 {"MERCURE_SUBSCRIBER_JWT_KEY", ""},
	"publisher_jwks_url":             {"MERCURE_PUBLISHER_JWKS_URL", "%s"},
	"subscriber_jwks_url":            {"MERCURE_SUBSCRIBER_JWKS_URL", "%s"},
	"transport":                      {"DATABASE_URL", ""},
	"transport_url":                  {"DATABASE_URL", ""},
}
