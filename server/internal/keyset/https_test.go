package keyset

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Each of these answers is a failure, and whatever was there before stays.
//
// Spec: V-15, Z-14.
func TestAnswersThatAreNoSet(t *testing.T) {
	t.Parallel()
	good := setOf(p256JWK("a"))
	elsewhere := newProvider(t, good)
	redirectTo := func(location string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Location"] = []string{location}
			w.WriteHeader(http.StatusFound)
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			if code != http.StatusNoContent {
				_, _ = w.Write([]byte(good))
			}
		}
	}
	text := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"201":               {status(http.StatusCreated), "status 201"},
		"204":               {status(http.StatusNoContent), "status 204"},
		"304":               {status(http.StatusNotModified), "status 304"},
		"404":               {status(http.StatusNotFound), "status 404"},
		"500":               {status(http.StatusInternalServerError), "status 500"},
		"HTML":              {text("<html>"), "web page"},
		"JSON, but no set":  {text(`{"error":"x"}`), "no array named keys"},
		"duplicate members": {text(`{"keys":[],` + good[1:]), "occurs twice"},
		"oversize":          {text(good + strings.Repeat(" ", maxBytes)), "longer than 524288 bytes"},
		"endless header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeaderBytes))
		}, "header"},
		"body cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9999")
			_, _ = w.Write([]byte(good))
		}, "EOF"},
		"redirect to another port":    {redirectTo(elsewhere.URL + "/jwks.json?secret=1"), "another origin"},
		"redirect to another host":    {redirectTo("https://127.0.0.2/"), "another origin"},
		"redirect to plain HTTP":      {redirectTo("http://127.0.0.1/"), "another origin"},
		"redirect to a file":          {redirectTo("file:///etc/passwd"), "another origin"},
		"redirect nowhere":            {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusFound) }, "no usable Location"},
		"redirect to nonsense":        {redirectTo("https://[secret=1"), "no usable Location"},
		"redirect in a circle":        {redirectTo("/jwks.json"), "more than 3 times"},
		"redirect with a scheme only": {redirectTo("https:"), "another origin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, good)
			set := newSet(t, p.config())
			if err := set.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.handle(tc.answer)
			err := set.Reload(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if keys, ok := set.Keys(); !ok || len(keys) != 1 {
				t.Errorf("the last keys are gone: %v, %v", keys, ok)
			}
		})
	}
	if elsewhere.asked() > 0 {
		t.Error("a redirect to another origin was followed")
	}
}

// Spec: V-15.
func TestRedirectsWithinTheOrigin(t *testing.T) {
	t.Parallel()
	p := newProvider(t, "")
	p.handle(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case user != "hub" || password != "pass word":
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("Accept") != "application/jwk-set+json, application/json" || r.Method != http.MethodGet:
			w.WriteHeader(http.StatusNotAcceptable)
		case r.URL.Path == "/d" && r.URL.RawQuery == "q=1":
			_, _ = w.Write([]byte(setOf(p256JWK("a"))))
		case r.URL.Path == "/d":
			w.WriteHeader(http.StatusNotFound)
		default:
			next := map[string]string{"/jwks.json": "/b", "/b": p.URL + "/c", "/c": "d?q=1"}[r.URL.Path]
			http.Redirect(w, r, next, http.StatusPermanentRedirect)
		}
	})
	config := p.config()
	config.URL = strings.Replace(config.URL, "https://", "https://hub:pass%20word@", 1)
	if err := newSet(t, config).Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Spec: V-15, Z-14.
func TestInternalAddresses(t *testing.T) {
	t.Parallel()
	p := newProvider(t, setOf(p256JWK("a")))
	_, port, _ := strings.Cut(strings.TrimPrefix(p.URL, "https://"), ":")
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"} {
		config := p.config()
		config.Networks = nil
		config.URL = "https://" + host + ":" + port + "/jwks.json"
		err := newSet(t, config).Reload(t.Context())
		if err == nil || !strings.Contains(err.Error(), "MERCURE_JWKS_NETWORKS") {
			t.Errorf("%s: got %v", host, err)
		}
	}
	if p.asked() > 0 {
		t.Error("an internal address was contacted")
	}
	if err := newSet(t, p.config()).Reload(t.Context()); err != nil {
		t.Errorf("an internal address that is allowed: %v", err)
	}
}

// A proxy would do the dialling, past the guard.
func TestNoProxyFromTheEnvironment(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	p := newProvider(t, setOf(p256JWK("a")))
	if p := newSet(t, p.config()).source.(*httpsSource).transport.Proxy; p != nil {
		t.Error("there is a proxy")
	}
}

// Spec: Z-14.
func TestCertificatesAreVerified(t *testing.T) {
	t.Parallel()
	p := newProvider(t, setOf(p256JWK("a")))
	config := p.config()
	config.RootCAs = nil
	if err := newSet(t, config).Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown authority: got %v", err)
	}
	config = p.config()
	config.URL = strings.Replace(config.URL, "127.0.0.1", "localhost", 1)
	if err := newSet(t, config).Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("other name: got %v", err)
	}
}

// Spec: Z-14.
func TestSlowSource(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{"no answer": "", "endless answer": `{"keys":[`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t, "")
			p.handle(func(w http.ResponseWriter, r *http.Request) {
				if begin != "" {
					_, _ = w.Write([]byte(begin))
					_ = http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			})
			set := newSet(t, p.config())
			if got := set.source.(*httpsSource).timeout; got != 10*time.Second {
				t.Errorf("it may take %s", got)
			}
			set.source.(*httpsSource).timeout = 100 * time.Millisecond
			if err := set.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "longer than 100ms") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Spec: Z-22.
func TestSecretsOfURLsStayOut(t *testing.T) {
	t.Parallel()
	var out logs
	p := newProvider(t, "")
	p.handle(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	for _, change := range []func(*Config){
		func(*Config) {},
		func(c *Config) { c.Networks = nil },
		func(c *Config) { c.RootCAs = nil },
		func(c *Config) { c.URL = strings.Replace(c.URL, "127.0.0.1", "no.such.host.invalid", 1) },
		func(c *Config) { c.URL = strings.Replace(c.URL, "https:", "http:", 1) },
		func(c *Config) { c.URL = strings.Replace(c.URL, "https:", "gopher:", 1) },
		func(c *Config) { c.URL += "%zz\x7f" },
		func(c *Config) { c.Algs = []string{"HS256"} },
		func(c *Config) { c.URL = "file:///no/such/file?token=hunter2" },
	} {
		config := p.config()
		config.URL = strings.Replace(config.URL, "https://", "https://hub:hunter2@", 1) + "?token=hunter2#hunter2"
		config.Logger = out.logger()
		change(&config)
		set, err := New(config)
		if err == nil {
			err = set.Reload(t.Context())
		}
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
		for ; err != nil; err = errors.Unwrap(err) {
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("inside: %v", err)
			}
		}
	}
	if text := out.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, "jwks.json") {
		t.Errorf("the log:\n%s", text)
	}
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		control, age string
		want         time.Duration
	}{
		{"", "", -1},
		{"no-store", "", -1},
		{"public, max-age=120", "", 2 * time.Minute},
		{"public,MAX-AGE=\"120\"", "20", 100 * time.Second},
		{"max-age=120, must-revalidate", "500", 0},
		{"max-age=0", "", 0},
		{"max-age=-1", "", -1},
		{"max-age=99999999999999999999", "", -1},
		{"s-maxage=5", "", -1},
		{"max-age", "", -1},
	} {
		header := http.Header{"Cache-Control": {tc.control}, "Age": {tc.age}}
		if got := maxAge(header); got != tc.want {
			t.Errorf("%q: got %s, want %s", tc.control, got, tc.want)
		}
	}
}
