package main

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cinnabar-hub/cinnabar/server"
)

// parse reads the settings of serve as the command does.
func parse(t *testing.T, env []string, args ...string) *serveCmd {
	t.Helper()
	a := &app{env: newEnvironment(env)}
	parser, err := a.parser()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(append([]string{"serve"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range a.env.problems {
		t.Error(p.err)
	}
	a.parsed = parsed
	cmd, ok := reflect.TypeAssert[*serveCmd](parsed.Selected().Target.Addr())
	if !ok {
		t.Fatalf("serve is a %T", parsed.Selected().Target.Interface())
	}
	return cmd
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreThoseOfTheHub(t *testing.T) {
	t.Parallel()
	got, want := parse(t, nil).Config, server.DefaultConfig()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable()); diff != "" {
		t.Errorf("-server.DefaultConfig +command line:\n%s", diff)
	}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	pem := "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----"
	for _, test := range []struct {
		name  string
		env   []string
		args  []string
		value func(c *serveCmd) any
		want  any
	}{
		{"default", nil, nil, func(c *serveCmd) any { return c.Addr }, ":3000"},
		{"variable", []string{"MERCURE_ADDR=:1"}, nil, func(c *serveCmd) any { return c.Addr }, ":1"},
		{"file", []string{"MERCURE_ADDR_FILE=" + file(t, ":2\n")}, nil, func(c *serveCmd) any { return c.Addr }, ":2"},
		{"flag wins over variable", []string{"MERCURE_ADDR=:1"}, []string{"--addr", ":3"}, func(c *serveCmd) any { return c.Addr }, ":3"},
		{"flag wins over file", []string{"MERCURE_ADDR_FILE=/missing"}, []string{"--addr=:3"}, func(c *serveCmd) any { return c.Addr }, ":3"},
		{"empty variable is none", []string{"MERCURE_ADDR="}, nil, func(c *serveCmd) any { return c.Addr }, ":3000"},
		{"empty variable beside a file", []string{"MERCURE_ADDR=", "MERCURE_ADDR_FILE=" + file(t, ":2")}, nil, func(c *serveCmd) any { return c.Addr }, ":2"},
		{"one newline is trimmed", []string{"MERCURE_PUBLISHER_JWT_KEY_FILE=" + file(t, "a\n\n")}, nil, func(c *serveCmd) any { return string(c.PublisherJWTKey) }, "a\n"},
		{"CRLF is a newline", []string{"MERCURE_PUBLISHER_JWT_KEY_FILE=" + file(t, "a\r\n")}, nil, func(c *serveCmd) any { return string(c.PublisherJWTKey) }, "a"},
		{"PEM in a variable", []string{"MERCURE_PUBLISHER_JWT_KEY=" + pem}, nil, func(c *serveCmd) any { return string(c.PublisherJWTKey) }, pem},
		{"PEM in a flag", nil, []string{"--publisher-jwt-key=" + pem}, func(c *serveCmd) any { return string(c.PublisherJWTKey) }, pem},
		{"equals sign in a value", []string{"DATABASE_URL=host=a user=b"}, nil, func(c *serveCmd) any { return string(c.DatabaseURL) }, "host=a user=b"},
		{"duration", []string{"MERCURE_HEARTBEAT=10s"}, nil, func(c *serveCmd) any { return c.Heartbeat }, 10 * time.Second},
		{"size", []string{"MERCURE_TAIL_BYTES=1KiB"}, nil, func(c *serveCmd) any { return c.TailBytes }, server.Bytes(1024)},
		{"switch on", []string{"MERCURE_ANONYMOUS=1"}, nil, func(c *serveCmd) any { return c.Anonymous }, server.Switch(true)},
		{"switch off over on", []string{"MERCURE_ANONYMOUS=on"}, []string{"--anonymous=off"}, func(c *serveCmd) any { return c.Anonymous }, server.Switch(false)},
		{"switch alone", nil, []string{"--anonymous", "--dev"}, func(c *serveCmd) any { return c.Anonymous }, server.Switch(true)},
		{"switch and word", nil, []string{"--migrate", "off"}, func(c *serveCmd) any { return c.Migrate }, server.Switch(false)},
		{"log level", []string{"MERCURE_LOG_LEVEL=warn"}, nil, func(c *serveCmd) any { return c.LogLevel.String() }, "warn"},
		{"log format", []string{"MERCURE_LOG_FORMAT=JSON"}, nil, func(c *serveCmd) any { return string(c.LogFormat) }, "json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := test.value(parse(t, test.env, test.args...)); got != test.want {
				t.Errorf("got %#v, want %#v", got, test.want)
			}
		})
	}
}

func TestSettingsThatAreRefused(t *testing.T) {
	t.Parallel()
	const directives = "anonymous\ncors_origins \"https://a.example https://b.example\"\nsubscriptions\npublisher_jwt not-to-be-shown HS256\n" +
		"transport bolt {\n  path /data/x.db\n}\ndemo"
	for _, test := range []struct {
		name string
		env  []string
		args []string
		want string // a line of stderr, without what comes before a problem
	}{
		{"misspelt", []string{"MERCURE_ADR=:1"}, nil, "MERCURE_ADR: is not a setting; did you mean MERCURE_ADDR?"},
		{"letters swapped", []string{"MERCURE_HAERTBEAT=1s"}, nil, "MERCURE_HAERTBEAT: is not a setting; did you mean MERCURE_HEARTBEAT?"},
		{"compat off without issuers", []string{"MERCURE_COMPAT=off", "MERCURE_PUBLISHER_JWT_KEY=a secret that is longer than it has to be"}, nil, "MERCURE_COMPAT: is off, so tokens must be of protocol 1.0, but the keys belong to no issuer; set MERCURE_TRUSTED_ISSUERS, or MERCURE_COMPAT=on"},
		{"a resource with a fragment", []string{"MERCURE_RESOURCE_IDENTIFIER=foo#bar"}, nil, `MERCURE_RESOURCE_IDENTIFIER: "foo#bar" is not an absolute URL without a fragment`},
		{"a proxy with a zone", []string{"MERCURE_TRUSTED_PROXIES=fe80::1%eth0"}, nil, `MERCURE_TRUSTED_PROXIES: "fe80::1%eth0" is neither an address without a zone nor a network such as 10.0.0.0/8`},
		{"a private listen address", []string{"MERCURE_DATABASE_LISTEN_URL=private"}, nil, "MERCURE_DATABASE_LISTEN_URL: is not a PostgreSQL connection string such as postgres://app@localhost/app; special characters in the password must be percent-encoded"},
		{"misspelt file", []string{"MERCURE_PUBLISHR_JWT_KEY_FILE=x"}, nil, "MERCURE_PUBLISHR_JWT_KEY_FILE: is not a setting; did you mean MERCURE_PUBLISHER_JWT_KEY_FILE?"},
		{"nothing like it", []string{"MERCURE_BREAKFAST_MENU=x"}, nil, "MERCURE_BREAKFAST_MENU: is not a setting; `cinnabar serve --help` lists them all"},
		{"a port is no service", []string{"MERCURE_PORT=3000"}, nil, "MERCURE_PORT: is not a setting; `cinnabar serve --help` lists them all"},
		{"reference: transport", []string{"MERCURE_TRANSPORT_URL=bolt://x"}, nil, "MERCURE_TRANSPORT_URL: is a setting of the reference hub: history is kept in PostgreSQL; set DATABASE_URL to the address of a database instead"},
		{"reference: licence", []string{"MERCURE_LICENSE=x"}, nil, "MERCURE_LICENSE: is a setting of the reference hub: no licence key is needed; remove it"},
		{
			"reference: directives",
			[]string{"MERCURE_EXTRA_DIRECTIVES=" + directives},
			nil,
			"MERCURE_EXTRA_DIRECTIVES: directives of the reference hub are not read; set MERCURE_ANONYMOUS=on for anonymous, " +
				"MERCURE_CORS_ALLOWED_ORIGINS='https://a.example https://b.example' for cors_origins, MERCURE_SUBSCRIPTIONS=on for subscriptions" +
				notSupported("MERCURE_SUBSCRIPTIONS") + ", MERCURE_PUBLISHER_JWT_KEY for publisher_jwt, DATABASE_URL for transport instead; nothing corresponds to demo",
		},
		{"value and file", []string{"MERCURE_ADDR=:1", "MERCURE_ADDR_FILE=x"}, nil, "MERCURE_ADDR: is set, and so is MERCURE_ADDR_FILE; set only one of them"},
		{"missing file", []string{"MERCURE_ADDR_FILE=/missing/file"}, nil, "MERCURE_ADDR_FILE: cannot read /missing/file: no such file or directory"},
		{"empty file", []string{"MERCURE_ADDR_FILE=" + os.DevNull}, nil, "MERCURE_ADDR_FILE: the file " + os.DevNull + " is empty"},
		{"bad duration", []string{"MERCURE_HEARTBEAT=forty"}, nil, `MERCURE_HEARTBEAT: "forty" is not a duration such as 90s, 10m or 24h`},
		{"bad size", []string{"MERCURE_TAIL_BYTES=big"}, nil, `MERCURE_TAIL_BYTES: "big" is not a size such as 64MiB`},
		{"bad switch", []string{"MERCURE_MIGRATE=maybe"}, nil, `MERCURE_MIGRATE: "maybe" is neither on nor off`},
		{"bad level", []string{"MERCURE_LOG_LEVEL=loud"}, nil, `MERCURE_LOG_LEVEL: "loud" is none of debug, info, warn, error`},
		{"bad format", []string{"MERCURE_LOG_FORMAT=xml"}, nil, `MERCURE_LOG_FORMAT: "xml" is neither text nor json`},
		{"key that is none", []string{"MERCURE_PUBLISHER_JWT_KEY=secret", "MERCURE_PUBLISHER_JWT_ALG=RS256"}, nil, "MERCURE_PUBLISHER_JWT_KEY: "},
		{"unknown algorithm", []string{"MERCURE_PUBLISHER_JWT_KEY=secret", "MERCURE_PUBLISHER_JWT_ALG=none"}, nil, "MERCURE_PUBLISHER_JWT_KEY: algorithm"},
		{"development key", []string{"MERCURE_PUBLISHER_JWT_KEY=" + devSecret}, nil, "MERCURE_PUBLISHER_JWT_KEY: is the development key, which everybody knows; make one of your own (openssl rand -hex 32), or use --dev"},
		{"listen address of a private database", []string{"DATABASE_URL=private", "MERCURE_DATABASE_LISTEN_URL=postgres://x"}, nil, "MERCURE_DATABASE_LISTEN_URL: cannot be used with a private PostgreSQL; remove it"},
		{"no database", []string{"DATABASE_URL="}, nil, "DATABASE_URL: is not set"},
		{"nobody could subscribe", []string{"MERCURE_ANONYMOUS=off"}, nil, "MERCURE_SUBSCRIBER_JWT_KEY: is not set"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// What the case does not set itself is fine.
			env := append([]string{"DATABASE_URL=postgres://127.0.0.1:1/db", "MERCURE_ANONYMOUS=on"}, test.env...)
			r := invoke(t, env, append([]string{"serve"}, test.args...)...).want(t, exitFailure)
			if !strings.HasPrefix(r.stderr, "cinnabar: "+test.want) || strings.Count(r.stderr, "\n") != 1 || r.stdout != "" {
				t.Errorf("got %q, want %q", r.stderr, test.want)
			}
		})
	}
}

// notSupported is what is said about a setting that does not exist yet.
func notSupported(variable string) string {
	for _, s := range server.Settings() {
		if s.Variable == variable {
			return ""
		}
	}
	return notYet
}

func TestPlannedSettingsAreRefused(t *testing.T) {
	t.Parallel()
	for _, variable := range plannedVariables {
		if notSupported(variable) == "" {
			continue
		}
		r := invoke(t, []string{"DATABASE_URL=postgres://127.0.0.1:1/db", "MERCURE_ANONYMOUS=on", variable + "=on"}, "serve").want(t, exitFailure)
		if want := "cinnabar: " + variable + ": is not supported yet; remove it\n"; r.stderr != want {
			t.Errorf("got %q, want %q", r.stderr, want)
		}
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	r := invoke(t, []string{
		"MERCURE_ADR=:1", "MERCURE_HEARTBEAT=x", "MERCURE_ANONYMOUS=maybe", "MERCURE_TRANSPORT_URL=bolt://x",
		"MERCURE_UNKNOWN_CURSOR=forget", "DATABASE_URL=a", "DATABASE_URL_FILE=b",
		"MERCURE_PUBLISHER_JWT_KEY_FILE=/missing", "JWT_KEY=hidden-from-view",
	}, "serve").want(t, exitFailure)
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	if lines[0] != "cinnabar: there are 7 problems with the settings:" {
		t.Errorf("first line is %q", lines[0])
	}
	var got []string
	for _, line := range lines[1:] {
		variable, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "warning: "), ":")
		got = append(got, variable)
	}
	want := []string{
		"MERCURE_ADR", "MERCURE_TRANSPORT_URL", "DATABASE_URL", "MERCURE_PUBLISHER_JWT_KEY_FILE", "MERCURE_ANONYMOUS",
		"MERCURE_HEARTBEAT", "MERCURE_UNKNOWN_CURSOR", "JWT_KEY",
	}
	if diff := cmp.Diff(want, got, cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("-want +got:\n%s\n%s", diff, r.stderr)
	}
	if strings.Contains(r.stderr, "hidden") {
		t.Errorf("a key is shown:\n%s", r.stderr)
	}
}

func TestVariablesOfOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	r := invoke(t, []string{
		"DATABASE_URL=postgres://127.0.0.1:1/db", "MERCURE_ANONYMOUS=on",
		"MERCURE_URL=http://hub", "MERCURE_PUBLIC_URL=https://hub.example.com/.well-known/mercure", "MERCURE_JWT_SECRET=hidden-from-view",
		"MERCURE_SERVICE_HOST=10.0.0.1", "MERCURE_SERVICE_PORT=80", "MERCURE_SERVICE_PORT_HTTP=80", "MERCURE_PORT=tcp://10.0.0.1:80",
		"MERCURE_PORT_80_TCP=tcp://10.0.0.1:80", "MERCURE_PORT_80_TCP_ADDR=10.0.0.1", "MERCURE_PORT_80_TCP_PORT=80", "MERCURE_PORT_80_TCP_PROTO=tcp",
		"MERCURE_HUB_SERVICE_HOST=10.0.0.1", "MERCURE_HUB_SERVICE_PORT=80", "MERCURE_HUB_PORT=tcp://10.0.0.1:80", "MERCURE_HUB_PORT_80_TCP_PORT=80",
		"CINNABAR_TOKEN=x", "CINNABAR_HUB_URL=http://x", "MERCURE_LICENSE=",
	}, "config").want(t, exitOK)
	want := "cinnabar: warning: MERCURE_JWT_SECRET: is ignored: it is what applications sign tokens with; the hub reads MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY\n" +
		"cinnabar: warning: MERCURE_URL: is ignored: it tells applications where the hub is\n"
	if r.stderr != want {
		t.Errorf("got\n%s\nwant\n%s", r.stderr, want)
	}
}

func TestConfigShowsOriginsAndNoSecrets(t *testing.T) {
	t.Parallel()
	key := file(t, "the-secret-of-the-subscribers-0123456789")
	r := invoke(t, []string{
		"DATABASE_URL=postgres://app:hunter2secret@db.example:5433/app?sslmode=require&password=hunter3secret",
		"MERCURE_DATABASE_LISTEN_URL=host=db user=app password=hunter4secret",
		"MERCURE_PUBLISHER_JWT_KEY=the-secret-of-the-publishers-0123456789", "MERCURE_SUBSCRIBER_JWT_KEY_FILE=" + key,
		"MERCURE_PUBLISHER_JWKS_URL=https://hunter5:hunter6@keys.example/set?key=hunter7", "MERCURE_SUBSCRIBER_JWKS_URL=https://a:1/hunter8@keys.example",
		"MERCURE_ANONYMOUS=1", "MERCURE_JWKS_COMPAT=on", "MERCURE_HEARTBEAT=oops",
	}, "config", "--addr", "127.0.0.1:4000").want(t, exitFailure)
	for _, want := range []string{
		`DATABASE_URL +postgres://app@db\.example:5433/app +\$DATABASE_URL\n`,
		`MERCURE_DATABASE_LISTEN_URL +\[redacted\] +\$MERCURE_DATABASE_LISTEN_URL\n`,
		`MERCURE_ADDR +127\.0\.0\.1:4000 +--addr\n`,
		`MERCURE_PUBLISHER_JWT_KEY +\[redacted\] +\$MERCURE_PUBLISHER_JWT_KEY\n`,
		`MERCURE_SUBSCRIBER_JWT_KEY +\[redacted\] +\$MERCURE_SUBSCRIBER_JWT_KEY_FILE ` + regexp.QuoteMeta(key) + `\n`,
		`MERCURE_PUBLISHER_JWKS_URL +https://keys\.example/set +\$MERCURE_PUBLISHER_JWKS_URL\n`,
		`MERCURE_SUBSCRIBER_JWKS_URL +\[redacted\] +\$MERCURE_SUBSCRIBER_JWKS_URL\n`,
		`MERCURE_ANONYMOUS +on +\$MERCURE_ANONYMOUS\n`,
		`MERCURE_WRITE_TIMEOUT +10m0s +default\n`,
		`MERCURE_HEARTBEAT +40s +not usable\n`,
	} {
		if !regexp.MustCompile(want).MatchString(r.stdout) {
			t.Errorf("no %s in:\n%s", want, r.stdout)
		}
	}
	for _, secret := range []string{"hunter", "the-secret-of"} {
		if strings.Contains(r.stdout+r.stderr, secret) {
			t.Errorf("%s is shown:\n%s%s", secret, r.stdout, r.stderr)
		}
	}
	if want := "cinnabar: MERCURE_HEARTBEAT: \"oops\" is not a duration such as 90s, 10m or 24h\n"; r.stderr != want {
		t.Errorf("got %q, want %q", r.stderr, want)
	}
}

func TestDevSettings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		env  []string
		args []string
		want map[string]string // variable to value and origin
	}{
		{"nothing given", nil, nil, map[string]string{
			"DATABASE_URL": "private --dev", "MERCURE_ADDR": "127.0.0.1:3000 --dev", "MERCURE_ANONYMOUS": "on --dev", "MERCURE_COMPAT": "on --dev",
			"MERCURE_PUBLIC_URL": "http://127.0.0.1:3000/.well-known/mercure --dev", "MERCURE_TRUSTED_ISSUERS": devIssuer + " --dev",
			"MERCURE_PUBLISHER_JWT_KEY": "[redacted] --dev", "MERCURE_SUBSCRIBER_JWT_KEY": "[redacted] --dev",
		}},
		{"the operator's choice stays", []string{"DATABASE_URL=postgres://db/app", "MERCURE_ANONYMOUS=off", "MERCURE_PUBLIC_URL=https://hub.example/.well-known/mercure"}, []string{"--addr=:4000"}, map[string]string{
			"DATABASE_URL": "postgres://db/app $DATABASE_URL", "MERCURE_ADDR": ":4000 --addr", "MERCURE_ANONYMOUS": "off $MERCURE_ANONYMOUS",
			"MERCURE_PUBLIC_URL": "https://hub.example/.well-known/mercure $MERCURE_PUBLIC_URL",
		}},
		{"address without a host", nil, []string{"--addr=:4000"}, map[string]string{"MERCURE_PUBLIC_URL": "http://127.0.0.1:4000/.well-known/mercure --dev"}},
		{"address of the network", nil, []string{"--addr=192.0.2.1:4000"}, map[string]string{"MERCURE_PUBLIC_URL": "http://192.0.2.1:4000/.well-known/mercure --dev"}},
		{"own keys do not get the known issuer", []string{"MERCURE_PUBLISHER_JWT_KEY=the-secret-of-the-publishers-0123456789"}, nil, map[string]string{
			"MERCURE_TRUSTED_ISSUERS": "- default", "MERCURE_SUBSCRIBER_JWT_KEY": "- default",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := invoke(t, test.env, append([]string{"config", "--dev"}, test.args...)...).want(t, exitOK)
			got := map[string]string{}
			for line := range strings.Lines(r.stdout) {
				if words := strings.Fields(line); test.want[words[0]] != "" {
					got[words[0]] = strings.Join(words[1:], " ")
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestFreePort(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:3000", ":0", "nonsense", "256.0.0.1:0"} {
		if got := freePort(context.Background(), addr); got != addr {
			t.Errorf("freePort(%q) = %q", addr, got)
		}
	}
	if got := freePort(context.Background(), "127.0.0.1:0"); strings.HasSuffix(got, ":0") || !strings.HasPrefix(got, "127.0.0.1:") {
		t.Errorf("freePort(127.0.0.1:0) = %q", got)
	}
}

func TestEditDistance(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"a", "", 1},
		{"", "ab", 2},
		{"ADR", "ADDR", 1},
		{"HAERT", "HEART", 1},
		{"kitten", "sitting", 3},
	} {
		if got := editDistance(test.a, test.b); got != test.want {
			t.Errorf("editDistance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestShellQuote(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                    "''",
		"http://a:1/b":        "http://a:1/b",
		"two words":           "'two words'",
		"it's":                `'it'\''s'`,
		"$HOME`x`\"!\\":       `'$HOME` + "`x`" + `"!\'`,
		"http://a/?b=c&d=e#f": "'http://a/?b=c&d=e#f'",
		"~user":               "'~user'",
	} {
		if got := shellQuote(text); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", text, got, want)
		}
	}
}
