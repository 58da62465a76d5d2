package server_test

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// Spec: S-12, S-20. Patterns that every update is tried on are bounded: distinct
// ones, as long as somebody has them, in both dialects.
func TestUnanchoredPatternsAreBounded(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), bothDialects, func(c *server.Config) { c.MaxUnanchored = 2 })
	query := func(pairs ...string) url.Values {
		values := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			values.Add(pairs[i], pairs[i+1])
		}
		return values
	}
	first := hub.Subscribe(t, servertest.Request{Query: query("match_urlpattern", "*://*/a")})
	hub.Subscribe(t, servertest.Request{Query: query("topic", "{+everything}")})
	for name, test := range map[string]struct {
		query url.Values
		want  int
	}{
		"another one":              {query("match_urlpattern", "*://*/b"), http.StatusTooManyRequests},
		"any host":                 {query("match_urlpattern", "https://*.example.com/b"), http.StatusTooManyRequests},
		"a template for any host":  {query("topic", "https://{host}/b"), http.StatusTooManyRequests},
		"a template for any path":  {query("topic", "https:{+x}"), http.StatusTooManyRequests},
		"a template for any of h":  {query("topic", "h{+x}"), http.StatusTooManyRequests},
		"beside one that is known": {query("match_urlpattern", "*://*/a", "topic", "{x}"), http.StatusTooManyRequests},
		"one that is known":        {query("match_urlpattern", "*://*/a"), http.StatusOK},
		"the wildcard":             {query("match_urlpattern", "*"), http.StatusOK},
		"a host":                   {query("match_urlpattern", "https://example.com/*", "match_urlpattern", "/books/:id"), http.StatusOK},
		"an opaque scheme":         {query("match_urlpattern", `urn\:uuid\:*`, "topic", "urn:{x}", "topic", "https://h{x}"), http.StatusOK},
		"an exact topic":           {query("match", "*://*/b"), http.StatusOK},
	} {
		if a := send(t, "HEAD", hub.URL+"?"+test.query.Encode(), ""); a.status != test.want {
			t.Errorf("%s: answered %d, want %d", name, a.status, test.want)
		}
	}
	first.Close()
	openSoon(t, hub, servertest.Request{Query: query("match_urlpattern", "*://*/b")})
}
