package auth_test

import (
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

func origins(t testing.TB, list string) *auth.Origins {
	t.Helper()

	o, err := auth.ParseOrigins(list)
	if err != nil {
		t.Fatal(err)
	}

	return o
}

// Spec: A-8.
func TestOriginsMatch(t *testing.T) {
	t.Parallel()

	for _, tc := range []struct {
		list string
		yes  []string
		no   []string
	}{
		{"", nil, []string{"", "null", "https://a.example", "*"}},
		{"*", []string{"https://a.example", "null", "capacitor://"}, nil},
		{"null", []string{"null"}, []string{"", "https://a.example", "NULL"}},
		{
			"https://a.example",
			[]string{"https://a.example", "https://A.example", "https://a.example:443"},
			[]string{
				"", "null", "http://a.example", "https://a.example:8443", "https://b.a.example", "https://a.example.evil",
				"https://a.example/", "https://a.example?", "a.example", "https://x@a.example", "https://a.example, https://b.example",
				"https://", "://a.example", "https:a.example", "https://a.example.",
			},
		},
		{"https://A.Example:443", []string{"https://a.example"}, nil},
		{"http://a.example:8080", []string{"http://a.example:8080"}, []string{"http://a.example", "http://a.example:80800"}},
		{"http://a.example:80", []string{"http://a.example", "http://a.example:80"}, nil},
		{"http://[::1]:3000 http://127.0.0.1", []string{"http://[::1]:3000", "http://127.0.0.1"}, []string{"http://[::1]"}},
		{
			"http://[0:0:0:0:0:0:0:1]:3000 https://[2001:DB8:0:0:1:0:0:0] http://[::ffff:192.0.2.1] http://[::192.0.2.1]",
			[]string{
				"http://[::1]:3000", "http://[0::1]:3000", "https://[2001:db8:0:0:1::]", "https://[2001:db8::1:0:0:0]:443",
				"http://[::ffff:c000:201]", "http://[::c000:201]",
			},
			[]string{"http://[::1]", "http://[::2]:3000", "http://192.0.2.1"},
		},
		{"http://[::1]:3000", []string{"http://[0:0:0:0:0:0:0:1]:3000"}, nil},
		{
			"https://*.example.com",
			[]string{"https://a.example.com", "https://a.b.example.com", "https://A.EXAMPLE.com:443"},
			[]string{"https://example.com", "https://.example.com", "https://aexample.com", "http://a.example.com", "https://a.example.com:8443", "https://a.example.com.evil", "https://evil/.example.com"},
		},
		{"https://*.example.com:8443", []string{"https://a.example.com:8443"}, []string{"https://a.example.com"}},
		{"https://*.localhost", []string{"https://app.localhost"}, []string{"https://localhost"}},
		{"capacitor:// ionic://localhost", []string{"capacitor://", "Ionic://localhost"}, []string{"capacitor://localhost", "ionic://"}},
		{"https://a.example,http://b.example , null", []string{"https://a.example", "http://b.example", "null"}, []string{"https://b.example"}},
	} {
		t.Run(tc.list, func(t *testing.T) {
			t.Parallel()

			o := origins(t, tc.list)
			for _, origin := range tc.yes {
				if !o.Match(origin) {
					t.Errorf("%q does not match %q", tc.list, origin)
				}
			}

			for _, origin := range tc.no {
				if o.Match(origin) {
					t.Errorf("%q matches %q", tc.list, origin)
				}
			}

			if got, want := o.Any(), tc.list == "*"; got != want {
				t.Errorf("Any: got %v", got)
			}

			if got, want := o.Empty(), tc.list == ""; got != want {
				t.Errorf("Empty: got %v", got)
			}
		})
	}

	var none *auth.Origins
	if none.Match("https://a.example") || none.Any() || !none.Empty() {
		t.Error("the nil list matches something")
	}
}

// Spec: A-8, Z-20.
func TestParseOriginsErrors(t *testing.T) {
	t.Parallel()

	for entry, reason := range map[string]string{
		"https://a.example/":       "trailing slash",
		"https://a.example/path":   "no path",
		"https://a.example?x":      "no query",
		"https://a.example#x":      "no query and no fragment",
		"https://user@a.example":   "no user name",
		"https://a.example:http":   "port",
		"https://a.example:":       "port",
		"https://a.example:0":      "port",
		"https://a.example:65536":  "port",
		"https://a.example:*":      "port",
		"a.example":                "scheme://host",
		"localhost:3000":           "scheme://host",
		"*.example.com":            "scheme://host",
		"Null":                     "scheme://host",
		"https://":                 "host is missing",
		"http://:80":               "host is not valid",
		"://a.example":             "not a scheme",
		"1http://a.example":        "not a scheme",
		"https://*":                "host is not valid",
		"https://*.":               "host is missing",
		"https://a.*.example":      "only as a whole first label",
		"https://*a.example":       "only as a whole first label",
		"https://*.*.example":      "only as a whole first label",
		"https://*.[::1]":          "domain name",
		"https://*.127.0.0.1:80":   "domain name",
		"app://*.":                 "domain name",
		"https://a..example":       "host is not valid",
		"https://bücher.example":   "xn--",
		"https://[::1":             "host is not valid",
		"https://[fe80::1%25eth0]": "host is not valid",
		"https://[127.0.0.1]":      "host is not valid",
	} {
		t.Run(entry, func(t *testing.T) {
			t.Parallel()

			o, err := auth.ParseOrigins("https://fine.example " + entry + ",bareword")
			if err == nil || o != nil {
				t.Fatalf("accepted")
			}

			if !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), "bareword") {
				t.Errorf("got %q, want %q and the other bad entry", err, reason)
			}
		})
	}
}

func TestOriginsWithLocalhost(t *testing.T) {
	t.Parallel()

	var none *auth.Origins

	local := []string{
		"http://localhost", "https://localhost", "http://localhost:3000", "https://LOCALHOST:8443", "http://127.0.0.1",
		"http://127.0.0.1:65535", "https://127.0.0.1:1", "http://[::1]", "https://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000",
	}
	foreign := []string{
		"", "null", "localhost", "http://", "http://localhost.evil.example", "http://localhost.evil.example:3000",
		"http://evil.example:3000", "http://evil.localhost", "http://localhost.", "http://localhost@evil.example",
		"http://localhost:x", "http://localhost/", "http://127.0.0.1.evil.example", "http://127.0.0.2", "http://[::2]:3000",
		"http://[::1].evil.example", "ws://localhost", "capacitor://localhost", "ionic://127.0.0.1", "://localhost",
	}

	for name, tc := range map[string]struct {
		before *auth.Origins
		listed []string
	}{
		"nil":   {none, nil},
		"empty": {origins(t, ""), nil},
		"list": {
			origins(t, "https://a.example https://*.b.example app://"),
			[]string{"https://a.example", "https://x.b.example", "app://"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			after := tc.before.WithLocalhost()
			if after.Any() || after.Empty() {
				t.Errorf("Any: got %v, Empty: got %v", after.Any(), after.Empty())
			}

			for _, origin := range append(tc.listed, local...) {
				if !after.Match(origin) {
					t.Errorf("%q does not match", origin)
				}
			}

			for _, origin := range foreign {
				if after.Match(origin) {
					t.Errorf("%q matches", origin)
				}
			}

			// The list itself is what it was.
			if tc.before.Match("http://localhost:3000") {
				t.Error("the old list has changed")
			}
		})
	}
}
