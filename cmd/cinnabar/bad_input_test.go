package main

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		args []string
		want string // stderr begins with it
	}{
		{"no command", nil, "cinnabar: expected one of"},
		{"unknown command", []string{"sevre"}, "cinnabar: unexpected argument sevre"},
		{"unknown flag", []string{"serve", "--adr=:1"}, "cinnabar: unknown flag --adr, did you mean \"--addr\"?\nRun cinnabar serve --help"},
		{"bad duration", []string{"serve", "--heartbeat", "x"}, `cinnabar: --heartbeat: "x" is not a duration such as 90s, 10m or 24h` + "\nRun cinnabar serve --help"},
		{"bad switch", []string{"serve", "--anonymous=x"}, `cinnabar: --anonymous: "x" is neither on nor off`},
		{"bad size", []string{"serve", "--tail-bytes=x"}, `cinnabar: --tail-bytes: "x" is not a size such as 64MiB`},
		{"password in an argument", []string{"migrate", "up", "postgres://u:hunter2@db/app"}, "cinnabar: unexpected argument postgres://u:[redacted]@db/app\nRun cinnabar migrate up --help"},
		{"migrate without a command", []string{"migrate"}, "cinnabar: expected one of"},
		{"publish without a topic", []string{"publish", "data"}, "cinnabar: missing flags: --topic=TOPIC"},
		{"publish to nowhere", []string{"publish", "--topic=a", "--hub=localhost:3000", "data"}, `cinnabar: --hub: "localhost:3000" is not the http or https URL of a hub`},
		{"publish without data", []string{"publish", "--topic=a"}, "cinnabar: the data is missing: give it as an argument ('' for none) or on stdin\nRun cinnabar publish --help"},
		{"subscribe to nothing", []string{"subscribe"}, "cinnabar: nothing to subscribe to: give --match, --pattern or --topic\nRun cinnabar subscribe --help"},
		{"negative count", []string{"subscribe", "--match=*", "--count=-1"}, "cinnabar: --count: must be 1 or more"},
		{"unknown output", []string{"subscribe", "--match=*", "--output=xml"}, "cinnabar: --output must be one of"},
		{"expired token", []string{"token", "--dev", "--expires=-1s"}, "cinnabar: --expires: the token would have expired already"},
		{"immortal token", []string{"token", "--dev", "--expires=0"}, "cinnabar: --expires: a 1.0 token cannot live for ever; only --protocol 0.x may have 0"},
		{"two keys", []string{"token", "--key=a", "--key-file=b"}, "cinnabar: --key and --key-file exclude each other"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := invokeWith(t, nil, "", true, test.args...).want(t, exitUsage)
			if !strings.HasPrefix(r.stderr, test.want) || strings.Count(r.stderr, "\n") != 2 || r.stdout != "" {
				t.Errorf("got %q, want %q", r.stderr, test.want)
			}
		})
	}
}

func TestServeErrors(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t).URL
	missing, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	missing.Path = "/no_such_database"
	wrongPassword := *missing
	wrongPassword.User = url.UserPassword("cinnabar", "hunter2secret")
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	for _, test := range []struct {
		name string
		env  []string
		want string // expression that stderr matches
	}{
		{
			"port in use",
			[]string{"DATABASE_URL=" + database, "MERCURE_ADDR=" + taken.Addr().String()},
			`^cinnabar: listen on MERCURE_ADDR ` + regexp.QuoteMeta(taken.Addr().String()) + `: .*address already in use: another program uses this address; stop it, or choose another one with --addr or MERCURE_ADDR\n$`,
		},
		{
			"address that is none",
			[]string{"DATABASE_URL=" + database, "MERCURE_ADDR=nonsense"},
			`^cinnabar: MERCURE_ADDR: "nonsense" is not of the form host:port; the host may be left out, as in :3000\n$`,
		},
		{
			"no database there",
			[]string{"DATABASE_URL=postgres://app:hunter2secret@127.0.0.1:1/app"},
			`^cinnabar: .* 127\.0\.0\.1:1/app: .*connection refused\n$`,
		},
		{
			"no such database",
			[]string{"DATABASE_URL=" + missing.String()},
			`^cinnabar: .*database "no_such_database" does not exist \(SQLSTATE 3D000\)\n$`,
		},
		{
			"wrong password",
			[]string{"DATABASE_URL=" + wrongPassword.String()},
			`^cinnabar: .*password authentication failed for user "cinnabar" \(SQLSTATE 28P01\)\n$`,
		},
		{
			"not an address of a database",
			[]string{"DATABASE_URL=postgres://app:hunter2 secret@127.0.0.1:port/app"},
			`^cinnabar: DATABASE_URL: is not a PostgreSQL connection string such as .*\n$`,
		},
		{
			"database without the schema",
			[]string{"DATABASE_URL=" + dbtest.NewEmpty(t).URL, "MERCURE_MIGRATE=off"},
			"^cinnabar: the database has no mercure schema, version \\d+ is needed: run `cinnabar migrate up` with the same DATABASE_URL, or start with --migrate=on\n$",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := append([]string{"MERCURE_ADDR=127.0.0.1:0", "MERCURE_ANONYMOUS=on", "MERCURE_LOG_LEVEL=error"}, test.env...)
			r := invoke(t, env, "serve").want(t, exitFailure)
			if !regexp.MustCompile(test.want).MatchString(r.stderr) || strings.Contains(r.stderr, "hunter2") || r.stdout != "" {
				t.Errorf("got %q, want %s", r.stderr, test.want)
			}
		})
	}
}

func TestPostgreSQLIsNotInstalled(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	p := startProcess(t, []string{"CINNABAR_PG_BINDIR=" + dir}, "serve", "--dev", "--addr=127.0.0.1:0", "--data-dir", dir)
	if code := p.wait(t); code != exitFailure {
		t.Errorf("exit code %d", code)
	}
	const want = `^cinnabar: start a private PostgreSQL: no PostgreSQL 15 or later was found on this machine .*set DATABASE_URL to the address of a running one\n$`
	if got := p.stderr.String(); !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("got %q", got)
	}
}

// dataDir is a directory the account of PostgreSQL can reach, too.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cinnabar-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "data")
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"", "serve", "config", "migrate", "migrate up", "migrate down", "migrate status", "token", "token check", "publish", "subscribe", "version", "help"} {
		r := invoke(t, nil, append(strings.Fields(command), "--help")...).want(t, exitOK)
		if !strings.HasPrefix(r.stdout, "Usage: cinnabar") || command != "" && !strings.Contains(r.stdout, "Example") || r.stderr != "" {
			t.Errorf("help of %q:\n%s%s", command, r.stdout, r.stderr)
		}
	}
	r := invoke(t, []string{"MERCURE_ADDR=x"}, "serve", "--help").want(t, exitOK)
	if !strings.Contains(strings.Join(strings.Fields(r.stdout), " "), "Where the hub listens. [:3000] ($MERCURE_ADDR)") {
		t.Errorf("no default and variable of --addr in:\n%s", r.stdout)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if r := invoke(t, nil, "version").want(t, exitOK); !strings.HasPrefix(r.stdout, "cinnabar ") {
		t.Errorf("got %q", r.stdout)
	}
	for _, test := range []struct {
		info debug.BuildInfo
		want string
	}{
		{debug.BuildInfo{}, "cinnabar (devel)"},
		{debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v1.2.3"}}, "cinnabar v1.2.3 (go1.26.8)"},
		{
			debug.BuildInfo{GoVersion: "go1.26.8", Settings: []debug.BuildSetting{
				{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"},
			}},
			"cinnabar (devel) (commit 0123456789ab, modified, go1.26.8)",
		},
	} {
		if got := describeBuild(&test.info); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestScrub(t *testing.T) {
	t.Parallel()
	env := newEnvironment([]string{"MERCURE_PUBLISHER_JWT_KEY=a-long-secret", "OTHER=ordinary-value", "SHORT_KEY=key"})
	for text, want := range map[string]string{
		"key a-long-secret is bad":                      "key [redacted] is bad",
		"an ordinary-value stays, and the word key":     "an ordinary-value stays, and the word key",
		"dial postgres://u:p@ss:w@host/db?x=1":          "dial postgres://u:[redacted]@host/db?x=1",
		"host=a password=b user=c":                      "host=a password=[redacted] user=c",
		"host=a password='b c' user=d":                  "host=a password=[redacted] user=d",
		"postgres://h/db?sslmode=off&password=b&x=y":    "postgres://h/db?sslmode=off&password=[redacted]&x=y",
		"http://127.0.0.1:3000/.well-known/mercure: no": "http://127.0.0.1:3000/.well-known/mercure: no",
	} {
		if got := env.scrub(text); got != want {
			t.Errorf("scrub(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestStoppedWhileStarting(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	log := newTranscript()
	env := []string{"DATABASE_URL=" + dbtest.New(t).URL, "MERCURE_ANONYMOUS=on", "MERCURE_ADDR=127.0.0.1:0"}
	if code := run(ctx, []string{"serve"}, env, strings.NewReader(""), log, log); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, log)
	}
}
