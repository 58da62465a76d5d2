package server_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/migrations"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

func at(publicURL string) servertest.Option {
	return func(c *server.Config) { c.PublicURL = publicURL }
}

// A hub works under any path, however clients spell it, and its namespace,
// relative topics and metadata follow it. Spec: E-19, N-2, N-4, M-8.
func TestHubAtAnyURL(t *testing.T) {
	t.Parallel()
	for publicURL, test := range map[string]struct{ directory, last, spelled string }{
		"https://shop.example/push/hub":                {"/push/", "hub", "/push/%68ub"},
		"http://localhost:8080/hub":                    {"/", "hub", "/hu%62"},
		"https://shop.example:8443/a/%7Eb":             {"/a/", "~b", "/a/~b"},
		"https://shop.example/caf%C3%A9/a%2Fb":         {"/caf%C3%A9/", "a%2Fb", "/caf%C3%A9/%61%2Fb"},
		"https://shop.example/push/hub/":               {"/push/hub/", "", "/%70ush/hub/"},
		"https://shop.example/*/{hub}*":                {"/*/", "%7Bhub%7D*", "/*/%7B%68ub%7D*"},
		"https://hub.example.com/.well-known/mercure":  {"/.well-known/", "mercure", "/%2Ewell-known/mercure"},
		"https://hub.example.com/.well-known/mercure2": {"/.well-known/", "mercure2", "/.well-known/mercure2"},
	} {
		t.Run(publicURL, func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			hub := servertest.Start(t, database, at(publicURL))
			other, err := url.Parse(publicURL)
			if err != nil {
				t.Fatal(err)
			}
			root := strings.TrimSuffix(hub.URL, other.EscapedPath())

			// A relative pattern matches a relative and an absolute topic.
			patterns := hub.Subscribe(t, servertest.Request{Query: url.Values{"match_urlpattern": {"books/:id"}}})
			spelled := *hub
			spelled.URL = root + test.spelled
			exact := spelled.Subscribe(t, servertest.Request{Query: url.Values{"match": {"books/1"}}})
			hub.Publish(t, url.Values{"topic": {"books/1"}, "data": {"relative"}})
			spelled.Publish(t, url.Values{"topic": {other.Scheme + "://" + other.Host + test.directory + "books/2"}, "data": {"absolute"}})
			for _, want := range []string{"relative", "absolute"} {
				if got := patterns.Next(t).Data; got != want {
					t.Errorf("the pattern got %q, want %q", got, want)
				}
			}
			if got := exact.Next(t).Data; got != "relative" {
				t.Errorf("the exact matcher got %q", got)
			}

			// Publishing under the hub's path is refused over HTTP and in SQL.
			pool := database.Pool(t)
			for _, topic := range []string{
				test.directory + test.last, test.spelled, "https://elsewhere.example" + test.directory + test.last + "/subscriptions/x",
				test.last + "/x", "?x",
			} {
				if test.last == "" && topic == "/x" {
					continue // an absolute path
				}
				if status, body := hub.Post(t, servertest.PublisherToken(t), url.Values{"topic": {topic}}.Encode()); status != 400 {
					t.Errorf("topic %q over HTTP: status %d %s, want 400", topic, status, body)
				}
				if _, err := pool.Exec(t.Context(), "SELECT mercure.publish($1::text)", topic); err == nil || !strings.Contains(err.Error(), "namespace reserved for the hub") {
					t.Errorf("topic %q in SQL: %v, want a refusal", topic, err)
				}
			}
			if a := send(t, "GET", root+"/.well-known/oauth-protected-resource"+other.EscapedPath(), ""); a.status != 200 || !strings.Contains(a.body, `"resource":"`) {
				t.Errorf("metadata: %d %s", a.status, a.body)
			}
			if other.Path == "/.well-known/mercure" {
				return
			}
			if a := send(t, "GET", root+"/.well-known/mercure?match=a", ""); a.status != 404 {
				t.Errorf("the default path answers %d, want 404", a.status)
			}
			hub.Publish(t, url.Values{"topic": {"/.well-known/mercure"}})
			if _, err := pool.Exec(t.Context(), "SELECT mercure.publish('/.well-known/mercure/x')"); err != nil {
				t.Errorf("the default path is reserved in SQL: %v", err)
			}
		})
	}
}

// run starts a hub that is not expected to start, and returns its error.
func run(t *testing.T, database *dbtest.DB, options ...servertest.Option) error {
	t.Helper()
	config := server.DefaultConfig()
	config.DatabaseURL, config.Addr, config.Anonymous = server.Secret(database.URL), "127.0.0.1:0", true
	for _, option := range options {
		option(&config)
	}
	hub, err := server.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Deadline)
	defer cancel()
	return hub.Run(ctx)
}

// Two hubs of one database cannot have different paths: each would let
// publishers speak in the other's name. Spec: N-2.
func TestHubsOfOneDatabaseHaveOnePath(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hub := servertest.Start(t, database, at("https://shop.example/push/hub"))
	servertest.Start(t, database, at("https://elsewhere.example/push/h%75b")) // the same path

	err := run(t, database, at("https://shop.example/other"))
	var wrong *migrations.HubPathError
	if !errors.As(err, &wrong) || !wrong.InUse || wrong.Found != "/push/hub" || wrong.Wanted != "/other" {
		t.Errorf("a hub with another path ended with %v", err)
	}
	if _, err := (migrations.Runner{DatabaseURL: database.URL}).SetHubPath(t.Context(), "/other"); !errors.As(err, &wrong) {
		t.Errorf("moving the namespace under the hubs: %v", err)
	}
	if status, _ := hub.Post(t, servertest.PublisherToken(t), "topic=/push/hub/x"); status != 400 {
		t.Errorf("status %d", status)
	}
}

func TestHubThatMayNotMigrate(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	off := func(c *server.Config) { c.Migrate = false }
	err := run(t, database, at("https://shop.example/push/hub"), off)
	var wrong *migrations.HubPathError
	if !errors.As(err, &wrong) || wrong.InUse || !strings.Contains(err.Error(), "cinnabar migrate up") {
		t.Errorf("got %v", err)
	}
	if changed, err := (migrations.Runner{DatabaseURL: database.URL}).SetHubPath(t.Context(), "/push/hub"); err != nil || !changed {
		t.Fatalf("%v, %v", changed, err)
	}
	servertest.Start(t, database, at("https://shop.example/push/hub"), off)
}
