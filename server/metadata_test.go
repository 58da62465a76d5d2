package server_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

const metadataPath = "/.well-known/oauth-protected-resource/.well-known/mercure"

// Spec: I-1, I-2, I-3, X-11, E-10, Q-33.
func TestMetadata(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	for name, test := range map[string]struct {
		option func(*server.Config)
		path   string
		fields []string
		want   map[string]any // nil: 404
	}{
		"0.x only": {
			func(*server.Config) {}, metadataPath, nil,
			map[string]any{"resource": "$HUB"},
		},
		"pinned": {
			pinned, metadataPath, nil,
			map[string]any{"resource": publicURL},
		},
		"1.0 only, another cookie": {
			func(c *server.Config) { pinned(c); c.Compat = "off"; c.CookieName = "token" }, metadataPath, nil,
			map[string]any{"resource": publicURL, "mercure_cookie": "token"},
		},
		"behind a trusted proxy": {
			func(c *server.Config) { c.TrustedProxies = "127.0.0.1" }, metadataPath,
			[]string{"X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example"},
			map[string]any{"resource": "https://shop.example/.well-known/mercure"},
		},
		"a proxy nobody trusts": {
			func(*server.Config) {}, metadataPath,
			[]string{"X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example"},
			map[string]any{"resource": "$HUB"},
		},
		"one key is enough": {
			func(c *server.Config) { c.SubscriberJWTKey = "" }, metadataPath, nil,
			map[string]any{"resource": "$HUB"},
		},
		"no keys": {
			func(c *server.Config) { c.SubscriberJWTKey, c.PublisherJWTKey = "", "" }, metadataPath, nil, nil,
		},
		"without the path of the hub": {
			func(*server.Config) {}, "/.well-known/oauth-protected-resource", nil, nil,
		},
		"another identifier, at the hub's place": {
			func(c *server.Config) { pinned(c); c.ResourceIdentifier = "https://hub.example.com/api/" }, metadataPath, nil,
			map[string]any{"resource": "https://hub.example.com/api/"},
		},
		"another identifier, at its own place": {
			func(c *server.Config) { pinned(c); c.ResourceIdentifier = "https://hub.example.com/api/" },
			"/.well-known/oauth-protected-resource/api", nil,
			map[string]any{"resource": "https://hub.example.com/api/"},
		},
		"an identifier without a path": {
			func(c *server.Config) { pinned(c); c.ResourceIdentifier = "https://hub.example.com/" },
			"/.well-known/oauth-protected-resource", nil,
			map[string]any{"resource": "https://hub.example.com/"},
		},
		"an identifier on another host": {
			func(c *server.Config) { pinned(c); c.ResourceIdentifier = "https://other.example/api" },
			"/.well-known/oauth-protected-resource/api", nil, nil,
		},
		"an identifier that is no web URL": {
			func(c *server.Config) { pinned(c); c.ResourceIdentifier = "urn:example:hub" }, metadataPath, nil,
			map[string]any{"resource": "urn:example:hub"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := servertest.Start(t, database, test.option)
			root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
			a := send(t, "GET", root+test.path, "", test.fields...)
			if got := a.header.Get("Access-Control-Allow-Origin"); got != "*" && a.status == 200 {
				t.Errorf("Access-Control-Allow-Origin is %q", got)
			}
			if test.want == nil {
				if a.status != http.StatusNotFound || strings.Contains(a.header.Get("Cache-Control"), "public") {
					t.Fatalf("answered %d %v", a.status, a.header)
				}
				return
			}
			if a.status != 200 || a.header.Get("Content-Type") != "application/json" || a.header.Get("Cache-Control") != "public, max-age=300" {
				t.Fatalf("answered %d %v", a.status, a.header)
			}
			want := map[string]any{
				"authorization_details_types_supported": []any{"https://mercure.rocks/authorization-detail"},
				"bearer_methods_supported":              []any{"header"},
				"mercure_cookie":                        tokenCookie,
			}
			for member, value := range test.want {
				if value == "$HUB" {
					value = hub.URL
				}
				want[member] = value
			}
			var got map[string]any
			if err := json.Unmarshal([]byte(a.body), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if head := send(t, "HEAD", root+test.path, "", test.fields...); head.status != 200 || !cmp.Equal(withoutDate(a.header), withoutDate(head.header)) {
				t.Errorf("HEAD is answered %d %v, GET %v", head.status, head.header, a.header)
			}
			for _, method := range []string{"POST", "QUERY"} {
				if other := send(t, method, root+test.path, ""); other.status != 405 || other.header.Get("Allow") != "GET, HEAD, OPTIONS" {
					t.Errorf("%s is answered %d, Allow %q", method, other.status, other.header.Get("Allow"))
				}
			}
		})
	}
}

// Spec: I-1. RFC 9728 leaves out a slash that is all the path there is; clients
// do so with others, too.
func TestMetadataOfAHubWithASlashAtItsEnd(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/", "/hub/"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.PublicURL = "https://hub.example.com" + path })
			root := strings.TrimSuffix(hub.URL, path)
			for _, end := range []string{path, strings.TrimSuffix(path, "/")} {
				a := send(t, "GET", root+"/.well-known/oauth-protected-resource"+end, "")
				if a.status != 200 || !strings.Contains(a.body, `"resource":"https://hub.example.com`+path+`"`) {
					t.Errorf("at %q: answered %d %s", end, a.status, a.body)
				}
			}
		})
	}
}

// Spec: I-1.
func TestMetadataNamesAuthorizationServers(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) {
		c.PublisherJWTKey, c.SubscriberJWTKey = "", ""
		c.Issuers = `[
			{"issuer": "https://login.example", "authorization_server": true, "subscriber": {"key": "` + servertest.SubscriberSecret + `", "alg": "HS256"}},
			{"issuer": "https://self.example", "publisher": {"key": "` + servertest.PublisherSecret + `", "alg": "HS256"}}]`
	})
	root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
	var document struct {
		AuthorizationServers []string `json:"authorization_servers"`
	}
	a := send(t, "GET", root+metadataPath, "")
	if err := json.Unmarshal([]byte(a.body), &document); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(document.AuthorizationServers, []string{"https://login.example"}) {
		t.Errorf("got %s", a.body)
	}
}

// Spec: I-1, C-4. Whoever else may read, the metadata is for everybody.
func TestMetadataIsReadableEverywhere(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	for name, origins := range map[string]string{"no origins": "", "listed": "https://app.example.com", "all": "*"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub := servertest.Start(t, database, func(c *server.Config) { c.CORSAllowedOrigins = origins })
			target := strings.TrimSuffix(hub.URL, "/.well-known/mercure") + metadataPath
			for _, origin := range []string{"https://app.example.com", "https://evil.example"} {
				get := send(t, "GET", target, "", "Origin: "+origin)
				preflight := send(t, "OPTIONS", target, "", "Origin: "+origin, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: mcp-version")
				for _, a := range []answer{get, preflight} {
					if got := a.header.Values("Access-Control-Allow-Origin"); !slices.Equal(got, []string{"*"}) || a.header.Get("Access-Control-Allow-Credentials") != "" {
						t.Errorf("%s: answered %d %v", origin, a.status, a.header)
					}
					if vary := strings.Join(a.header.Values("Vary"), ", "); origins != "" && !strings.Contains(vary, "Origin") {
						t.Errorf("Vary is %q", vary)
					}
				}
				if preflight.status != 204 || preflight.header.Get("Access-Control-Allow-Methods") != "GET, HEAD" || preflight.header.Get("Access-Control-Allow-Headers") != "mcp-version" {
					t.Errorf("preflight is answered %d %v", preflight.status, preflight.header)
				}
			}
		})
	}
}

// Spec: A-10, section 8.2. The address in a challenge leads to the metadata,
// and its resource is the hub.
func TestChallengeLeadsToTheMetadata(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	challenge := send(t, "POST", hub.URL, "").header.Get("WWW-Authenticate")
	address, ok := strings.CutPrefix(challenge, `Bearer resource_metadata="`)
	if !ok {
		t.Fatalf("challenge is %q", challenge)
	}
	a := send(t, "GET", strings.TrimSuffix(address, `"`), "")
	if a.status != 200 || !strings.Contains(a.body, `"resource":"`+hub.URL+`"`) {
		t.Errorf("answered %d %s", a.status, a.body)
	}
	nobody := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.PublisherJWTKey, c.SubscriberJWTKey = "", "" })
	if got := send(t, "GET", nobody.URL+"?match=a", "", bearer("a.b.c")).header.Get("WWW-Authenticate"); got != `Bearer error="invalid_token"` {
		t.Errorf("without metadata the challenge is %q", got)
	}
}
