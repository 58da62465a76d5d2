package server_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// jsonOf writes test settings.
func jsonOf(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type object map[string]any

// Spec: V-5, V-6, V-14, Z-2.
func TestIssuersHaveKeysOfTheirOwn(t *testing.T) {
	t.Parallel()
	const inline, inFile = "https://a.example", "https://b.example"
	a, b := newSigner(t), newSigner(t)
	file := filepath.Join(t.TempDir(), "b.pem")
	if err := os.WriteFile(file, []byte(b.public), 0o600); err != nil {
		t.Fatal(err)
	}
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) {
		c.Compat = "off"
		c.PublisherJWTKey, c.SubscriberJWTKey = "", ""
		c.Issuers = server.Secret(jsonOf(t, []object{
			{
				"issuer":     inline,
				"publisher":  object{"key": a.public, "alg": "ES256"},
				"subscriber": object{"key": a.public, "alg": "ES256"},
			},
			{"issuer": inFile, "publisher": object{"key_file": file, "alg": "ES256"}},
		}))
	})
	for name, test := range map[string]struct {
		token              string
		publish, subscribe int
	}{
		"own key":                 {a.token(t, inline, hub.URL), 200, 200},
		"own key, from a file":    {b.token(t, inFile, hub.URL), 200, 401}, // no key for subscribers
		"key of another issuer":   {b.token(t, inline, hub.URL), 401, 401},
		"issuer of another key":   {a.token(t, inFile, hub.URL), 401, 401},
		"issuer nobody has named": {a.token(t, "https://c.example", hub.URL), 401, 401},
		"issuer, almost":          {a.token(t, inline+"/", hub.URL), 401, 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if status, body := hub.Post(t, test.token, "topic=a"); status != test.publish {
				t.Errorf("publish: status %d, want %d: %s", status, test.publish, body)
			}
			got := send(t, http.MethodHead, hub.URL+"?match=a", "", "Authorization: Bearer "+test.token)
			if got.status != test.subscribe {
				t.Errorf("subscribe: status %d, want %d", got.status, test.subscribe)
			}
		})
	}
}

// Spec: Z-20, V-14, Z-19, Q-45, X-4.
func TestContradictoryKeySettings(t *testing.T) {
	t.Parallel()
	const secret = "a secret that is longer than thirty-two bytes"
	role := func(members object) string {
		return jsonOf(t, []object{{"issuer": "https://a.example", "publisher": members}})
	}
	for name, test := range map[string]struct {
		change func(*server.Config)
		want   string // begins with; empty: no problem
	}{
		"issuers: not JSON":     {func(c *server.Config) { c.Issuers = "[{" }, "MERCURE_ISSUERS: is not complete JSON"},
		"issuers: syntax":       {func(c *server.Config) { c.Issuers = "[x]" }, "MERCURE_ISSUERS: is not JSON: error behind byte 2"},
		"issuers: an object":    {func(c *server.Config) { c.Issuers = "{}" }, "MERCURE_ISSUERS: must be an array of objects"},
		"issuers: two arrays":   {func(c *server.Config) { c.Issuers = "[{}][]" }, "MERCURE_ISSUERS: there is something behind the array"},
		"issuers: none":         {func(c *server.Config) { c.Issuers = "[]" }, "MERCURE_ISSUERS: is an empty array"},
		"issuers: a slip":       {func(c *server.Config) { c.Issuers = `[{"isuer":"x"}]` }, `MERCURE_ISSUERS: has a member that is not known: "isuer"`},
		"issuers: a wrong type": {func(c *server.Config) { c.Issuers = `[{"issuer":1}]` }, "MERCURE_ISSUERS: issuer is a number where a string is expected"},
		"issuers: no keys":      {func(c *server.Config) { c.Issuers = `[{"issuer":"https://a.example"}]` }, `issuer "https://a.example" has no keys`},
		"issuers: twice": {func(c *server.Config) {
			c.Issuers = server.Secret(role(object{"key": secret, "alg": "HS256"}))
			c.TrustedIssuers = "https://a.example"
			c.PublisherJWTKey = secret
		}, `issuer "https://a.example" is configured twice`},
		"issuers: weak secret":  {func(c *server.Config) { c.Issuers = server.Secret(role(object{"key": "short", "alg": "HS256"})) }, `the publisher secret of issuer "https://a.example" is shorter than 256 bits`},
		"issuers: no source":    {func(c *server.Config) { c.Issuers = server.Secret(role(object{"alg": "HS256"})) }, "MERCURE_ISSUERS: [0].publisher: needs a key, a key_file or a jwks_url"},
		"issuers: two sources":  {func(c *server.Config) { c.Issuers = server.Secret(role(object{"key": secret, "key_file": "x"})) }, "MERCURE_ISSUERS: [0].publisher: has a key and a key_file"},
		"issuers: no such file": {func(c *server.Config) { c.Issuers = server.Secret(role(object{"key_file": "/nowhere"})) }, "MERCURE_ISSUERS: [0].publisher: key_file: open /nowhere"},
		"issuers: no algorithm": {func(c *server.Config) { c.Issuers = server.Secret(role(object{"key": secret})) }, "MERCURE_ISSUERS: [0].publisher: the algorithm is missing"},
		"issuers: algs of a key": {func(c *server.Config) {
			c.Issuers = server.Secret(role(object{"key": secret, "algs": []string{"HS256"}}))
		}, "MERCURE_ISSUERS: [0].publisher: has algs"},
		"issuers: set without TLS": {func(c *server.Config) { c.Issuers = server.Secret(role(object{"jwks_url": "http://a.example/jwks"})) }, "MERCURE_ISSUERS: [0].publisher: jwks_url: "},
		"issuers: fine":            {func(c *server.Config) { c.Issuers = server.Secret(role(object{"jwks_url": "https://a.example/jwks"})) }, ""},
		"sets: without TLS": {func(c *server.Config) {
			c.PublisherJWKSURL = "http://a.example/jwks"
			c.TrustedIssuers = "https://a.example"
		}, "MERCURE_PUBLISHER_JWKS_URL: "},
		"sets: for nobody": {func(c *server.Config) { c.PublisherJWKSURL = "https://a.example/jwks" }, "MERCURE_TRUSTED_ISSUERS: is not set"},
		"sets: for 0.x":    {func(c *server.Config) { c.PublisherJWKSURL = "https://a.example/jwks"; c.JWKSCompat = true }, ""},
		"sets: for 0.x, which is off": {func(c *server.Config) {
			c.PublisherJWKSURL = "https://a.example/jwks"
			c.JWKSCompat, c.Compat = true, "off"
		}, "MERCURE_TRUSTED_ISSUERS: is not set"},
		"sets: networks":                 {func(c *server.Config) { c.JWKSNetworks = "intranet" }, `MERCURE_JWKS_NETWORKS: "intranet" is neither`},
		"compat: off without an issuer":  {func(c *server.Config) { c.Compat = "off"; c.PublisherJWTKey = secret }, "MERCURE_COMPAT: is off"},
		"compat: neither":                {func(c *server.Config) { c.Compat = "7" }, `MERCURE_COMPAT: is "7"`},
		"trusted issuer without keys":    {func(c *server.Config) { c.TrustedIssuers = "https://a.example" }, "MERCURE_TRUSTED_ISSUERS: needs MERCURE_PUBLISHER_JWT_KEY"},
		"nobody may subscribe":           {func(c *server.Config) { c.Anonymous = false }, "MERCURE_SUBSCRIBER_JWT_KEY: is not set, so nobody could subscribe"},
		"nbf: too much leeway":           {func(c *server.Config) { c.NotBeforeLeeway = 1 << 40 }, "the leeway for nbf is"},
		"limits: more than SQL allows":   {func(c *server.Config) { c.MaxTopics = 1001 }, "MERCURE_MAX_TOPICS: is 1001; it can be at most 1000"},
		"limits: longer than SQL allows": {func(c *server.Config) { c.MaxFieldBytes = 4097 }, "MERCURE_MAX_FIELD_BYTES: is 4097; it can be at most 4096"},
		"limits: none":                   {func(c *server.Config) { c.MaxMatchers = 0 }, "MERCURE_MAX_MATCHERS: is 0; it must be at least 1"},
		"cookie name":                    {func(c *server.Config) { c.LegacyCookieName = "a b" }, `"a b" cannot be the name of a cookie`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := server.DefaultConfig()
			config.DatabaseURL = "postgres://localhost/x"
			config.Anonymous = true
			test.change(&config)
			_, err := server.New(config)
			switch {
			case err == nil && test.want == "":
			case err == nil || test.want == "" || !strings.HasPrefix(err.Error(), test.want):
				t.Errorf("got %v, want %q", err, test.want)
			case strings.Contains(err.Error(), secret):
				t.Errorf("%v has the secret", err)
			}
		})
	}
}
