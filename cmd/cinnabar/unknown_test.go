package main

import (
	"strings"
	"testing"
)

// Every name of the reference hub's configuration is a setting here, or is
// answered with what to do instead.
//
// Spec: sections 15.1 to 15.3.
func TestNamesOfTheReferenceHub(t *testing.T) {
	t.Parallel()
	const (
		nothing = "" // it is a setting, and it works
		notRead = "cinnabar: warning: NAME: is not read; "
		refused = "cinnabar: NAME: is a setting of the reference hub: "
		proxy   = notRead + "the hub speaks plain HTTP; TLS belongs to a proxy in front of it"
		admin   = notRead + "set MERCURE_ADMIN_ADDR"
		long    = "a secret that is longer than it has to be"
	)
	for _, test := range []struct {
		variable, value string
		// generic: left alone unless something else is the reference hub's.
		generic bool
		want    string // stderr begins with it
	}{
		// 15.1
		{"ADDR", ":80", true, notRead + "set MERCURE_ADDR instead"},
		{"JWT_KEY", long, false, notRead + "set MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY instead"},
		{"JWT_ALGORITHM", "HS512", false, notRead + "set MERCURE_PUBLISHER_JWT_ALG and MERCURE_SUBSCRIBER_JWT_ALG instead"},
		{"PUBLISHER_JWT_KEY", long, false, notRead + "set MERCURE_PUBLISHER_JWT_KEY instead"},
		{"PUBLISHER_JWT_ALGORITHM", "RS256", false, notRead + "set MERCURE_PUBLISHER_JWT_ALG instead"},
		{"SUBSCRIBER_JWT_KEY", long, false, notRead + "set MERCURE_SUBSCRIBER_JWT_KEY instead"},
		{"SUBSCRIBER_JWT_ALGORITHM", "RS256", false, notRead + "set MERCURE_SUBSCRIBER_JWT_ALG instead"},
		{"JWT_KEY_FILE", "/run/secrets/key", false, notRead + "set MERCURE_PUBLISHER_JWT_KEY_FILE and MERCURE_SUBSCRIBER_JWT_KEY_FILE instead"},
		{"ALLOW_ANONYMOUS", "1", false, notRead + "set MERCURE_ANONYMOUS instead"},
		{"CORS_ALLOWED_ORIGINS", "*", false, notRead + "set MERCURE_CORS_ALLOWED_ORIGINS instead"},
		{"PUBLISH_ALLOWED_ORIGINS", "*", false, notRead + "set MERCURE_PUBLISH_ALLOWED_ORIGINS instead"},
		{"SUBSCRIPTIONS", "1", true, notRead + "set MERCURE_SUBSCRIPTIONS"},
		{"DISPATCH_SUBSCRIPTIONS", "1", false, notRead + "set MERCURE_SUBSCRIPTIONS"},
		{"SUBSCRIPTIONS_INCLUDE_IP", "1", false, notRead + "the addresses of subscribers are shown to nobody"},
		{"HEARTBEAT_INTERVAL", "15s", false, notRead + "set MERCURE_HEARTBEAT instead"},
		{"TRANSPORT_URL", "bolt://x", false, notRead + "history is kept in PostgreSQL; set DATABASE_URL instead"},
		{"DB_PATH", "x", true, notRead + "history is kept in PostgreSQL; set DATABASE_URL instead"},
		{"HISTORY_SIZE", "10", true, notRead + "set MERCURE_HISTORY_MAX_UPDATES"},
		{"HISTORY_CLEANUP_FREQUENCY", "0.3", true, notRead + "nothing corresponds to it"},
		{"DISPATCH_TIMEOUT", "5s", false, notRead + "set MERCURE_DISPATCH_TIMEOUT instead"},
		{"READ_TIMEOUT", "5s", true, notRead + "the time a client has for its request is fixed"},
		{"READ_HEADER_TIMEOUT", "5s", true, notRead + "the time a client has for its request is fixed"},
		{"WRITE_TIMEOUT", "60s", true, notRead + "set MERCURE_WRITE_TIMEOUT instead"},
		{"USE_FORWARDED_HEADERS", "1", false, notRead + "set MERCURE_TRUSTED_PROXIES instead, to the addresses of the proxies"},
		{"CERT_FILE", "x", true, proxy},
		{"KEY_FILE", "x", true, proxy},
		{"ACME_HOSTS", "hub.example", true, proxy},
		{"ACME_CERT_DIR", "x", true, proxy},
		{"ACME_HTTP01_ADDR", ":80", true, proxy},
		{"COMPRESS", "1", true, notRead + "compression belongs to a proxy in front of the hub"},
		{"METRICS", "1", true, admin},
		{"METRICS_LOGIN", "x", true, admin},
		{"METRICS_PASSWORD", "x", true, admin},
		{"METRICS_ENABLED", "1", true, admin},
		{"METRICS_ADDR", ":9764", true, admin},
		{"LOG_FORMAT", "JSON", true, notRead + "set MERCURE_LOG_FORMAT instead"},
		{"DEBUG", "1", true, notRead + "set MERCURE_LOG_LEVEL=debug instead"},
		{"DEMO", "1", true, notRead + "for trying things out there is `cinnabar serve --dev`"},

		// 15.2
		{"SERVER_NAME", ":80", true, notRead + "set MERCURE_ADDR and MERCURE_PUBLIC_URL instead; the hub speaks plain HTTP"},
		{"MERCURE_PUBLISHER_JWT_KEY", long, false, nothing},
		{"MERCURE_PUBLISHER_JWT_ALG", "HS512", false, nothing},
		{"MERCURE_SUBSCRIBER_JWT_KEY", long, false, nothing},
		{"MERCURE_SUBSCRIBER_JWT_ALG", "HS512", false, nothing},
		{"MERCURE_TRANSPORT_URL", "bolt://x", false, refused + "history is kept in PostgreSQL; set DATABASE_URL"},
		{"MERCURE_TRANSPORT_URL_FILE", "/x", false, refused + "history is kept in PostgreSQL; set DATABASE_URL"},
		{"MERCURE_EXTRA_DIRECTIVES", "anonymous", false, "cinnabar: NAME: directives of the reference hub are not read; set MERCURE_ANONYMOUS=on for anonymous instead"},
		{"MERCURE_EXTRA_DIRECTIVES_FILE", "/x/anonymous", false, "cinnabar: NAME: directives of the reference hub are not read\n"},
		{"MERCURE_LICENSE", "x", false, refused + "no licence key is needed; remove it"},
		{"GLOBAL_OPTIONS", "debug", true, notRead + "`cinnabar serve --help` lists the settings; instead of debug set MERCURE_LOG_LEVEL=debug"},
		{"EXTRA_DIRECTIVES", "x", false, notRead + "`cinnabar serve --help` lists the settings"},
		{"CADDY_EXTRA_CONFIG", "x", false, notRead + "`cinnabar serve --help` lists the settings"},
		{"CADDY_SERVER_EXTRA_DIRECTIVES", "x", false, notRead + "`cinnabar serve --help` lists the settings"},
		{"MERCURE_CORS_ALLOWED_ORIGINS", "https://a.example", false, nothing},
		{"MERCURE_PUBLISH_ALLOWED_ORIGINS", "https://a.example", false, nothing},
		{"MERCURE_URL", "https://hub.example", false, "cinnabar: warning: NAME: is ignored: it tells applications where the hub is"},
		{"MERCURE_PUBLIC_URL", "https://hub.example/.well-known/mercure", false, nothing},
		{"MERCURE_JWT_SECRET", long, false, "cinnabar: warning: NAME: is ignored: it is what applications sign tokens with; the hub reads"},
	} {
		t.Run(test.variable, func(t *testing.T) {
			t.Parallel()
			base := []string{"DATABASE_URL=postgres://127.0.0.1:1/db", "MERCURE_ANONYMOUS=on", test.variable + "=" + test.value}
			if test.generic {
				if r := invoke(t, base, "config").want(t, exitOK); r.stderr != "" {
					t.Errorf("somebody else's variable is mentioned: %q", r.stderr)
				}
				base = append(base, "PUBLISH_ALLOWED_ORIGINS=*")
			}
			r := invoke(t, base, "config")
			want := strings.ReplaceAll(test.want, "NAME", test.variable)
			if want == nothing {
				if r.stderr != "" || !strings.Contains(r.stdout, "$"+test.variable) {
					t.Errorf("got %q", r.stderr)
				}
				return
			}
			if !strings.Contains("\n"+r.stderr, "\n"+want) {
				t.Errorf("got %q, want %q", r.stderr, want)
			}
			if fatal := !strings.Contains(want, "warning"); fatal != (r.code == exitFailure) {
				t.Errorf("exit code %d", r.code)
			}
			if strings.Contains(r.stderr, long) {
				t.Errorf("a key is shown: %q", r.stderr)
			}
		})
	}
}

// MERCURE_TRUSTED_ISSUERS apart, since it needs a key.
//
// Spec: section 15.2.
func TestKeysWithAnIssuer(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("k", 32)
	r := invoke(t, []string{
		"DATABASE_URL=postgres://127.0.0.1:1/db", "MERCURE_TRUSTED_ISSUERS=https://localhost",
		"MERCURE_PUBLISHER_JWT_KEY=" + key, "MERCURE_SUBSCRIBER_JWT_KEY=" + key,
	}, "config").want(t, exitOK)
	if r.stderr != "" {
		t.Errorf("got %q", r.stderr)
	}
}

// Spec: section 15.3.
func TestDirectivesOfTheReferenceHub(t *testing.T) {
	t.Parallel()
	known := []string{
		"DATABASE_URL", "MERCURE_ANONYMOUS", "MERCURE_CORS_ALLOWED_ORIGINS", "MERCURE_PUBLISH_ALLOWED_ORIGINS", "MERCURE_COOKIE_NAME",
		"MERCURE_HEARTBEAT", "MERCURE_WRITE_TIMEOUT", "MERCURE_DISPATCH_TIMEOUT", "MERCURE_MAX_REQUEST_BODY", "MERCURE_RESOURCE_IDENTIFIER",
		"MERCURE_PUBLIC_URL", "MERCURE_COMPAT", "MERCURE_ISSUERS", "MERCURE_PUBLISHER_JWT_KEY", "MERCURE_SUBSCRIBER_JWT_KEY",
		"MERCURE_PUBLISHER_JWKS_URL", "MERCURE_SUBSCRIBER_JWKS_URL", "MERCURE_SUBSCRIPTIONS",
	}
	set := func(text string) string {
		return "directives of the reference hub are not read; set " + text + " instead"
	}
	none := func(name string) string {
		return "directives of the reference hub are not read; nothing corresponds to " + name
	}
	for text, want := range map[string]string{
		"publisher_jwt not-to-be-shown RS256":             set("MERCURE_PUBLISHER_JWT_KEY for publisher_jwt"),
		"subscriber_jwt not-to-be-shown":                  set("MERCURE_SUBSCRIBER_JWT_KEY for subscriber_jwt"),
		"publisher_jwks_url https://a.example/jwks":       set("MERCURE_PUBLISHER_JWKS_URL=https://a.example/jwks for publisher_jwks_url"),
		"subscriber_jwks_url file:///jwks.json":           set("MERCURE_SUBSCRIBER_JWKS_URL=file:///jwks.json for subscriber_jwks_url"),
		"issuer https://a {\n publisher {\n jwt x\n }\n}": set("MERCURE_ISSUERS for issuer"),
		"issuer https://a {\n}\nissuer https://b {\n}":    set("MERCURE_ISSUERS for issuer"),
		"resource_identifier https://hub.example/":        set("MERCURE_RESOURCE_IDENTIFIER=https://hub.example/ for resource_identifier"),
		"public_urls https://a.example https://b":         set("MERCURE_PUBLIC_URL=https://a.example for public_urls"),
		"public_urls":                            set("MERCURE_PUBLIC_URL='' for public_urls"),
		"anonymous":                              set("MERCURE_ANONYMOUS=on for anonymous"),
		"cors_origins `https://a` \"https://b\"": set("MERCURE_CORS_ALLOWED_ORIGINS='https://a https://b' for cors_origins"),
		"publish_origins *":                      set("MERCURE_PUBLISH_ALLOWED_ORIGINS='*' for publish_origins"),
		"cookie_name token":                      set("MERCURE_COOKIE_NAME=token for cookie_name"),
		"subscriptions":                          set("MERCURE_SUBSCRIPTIONS=on for subscriptions"),
		"heartbeat 15s":                          set("MERCURE_HEARTBEAT=15s for heartbeat"),
		"write_timeout 0s":                       set("MERCURE_WRITE_TIMEOUT=0s for write_timeout"),
		"dispatch_timeout 5s":                    set("MERCURE_DISPATCH_TIMEOUT=5s for dispatch_timeout"),
		"max_request_body_size 1MB":              set("MERCURE_MAX_REQUEST_BODY=1MB for max_request_body_size"),
		"transport bolt {\n path /data/x.db\n size 10\n}": set("DATABASE_URL for transport"),
		"transport local":                  set("DATABASE_URL for transport"),
		"transport_url bolt://x?size=10":   set("DATABASE_URL for transport_url"),
		"protocol_version_compatibility 7": set("MERCURE_COMPAT=on for protocol_version_compatibility"),
		"ui":                               none("ui"),
		"demo":                             none("demo"),
		"debugger":                         none("debugger"),
		"playground":                       none("playground"),
		"topic_selector_cache 100 10":      none("topic_selector_cache"),
		"topic_matcher_cache 100":          none("topic_matcher_cache"),
		"subscriber_list_cache_size 100":   none("subscriber_list_cache_size"),
		"cache 100":                        none("cache"),
	} {
		if got := refuseDirectives(text, known); got != want {
			t.Errorf("%q: got\n%s\nwant\n%s", text, got, want)
		}
	}
}
