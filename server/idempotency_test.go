package server_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

func keyed(key string) string { return "Idempotency-Key: " + key }

// A retry gets the id of the first publish, from whatever node, and subscribers
// get one update. The same key for another update is refused.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hubs := []*servertest.Hub{servertest.Start(t, database), servertest.Start(t, database)}
	publisher := bearer(servertest.PublisherToken(t))
	stream := hubs[1].Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}})
	first := send(t, "POST", hubs[0].URL, "topic=a&data=1", form, publisher, keyed(`"k"`))
	if first.status != 200 {
		t.Fatalf("answered %d %s", first.status, first.body)
	}
	for _, hub := range hubs {
		for _, key := range []string{`"k"`, "k"} {
			if again := send(t, "POST", hub.URL, "data=1&topic=a", form, publisher, keyed(key)); again.status != 200 || again.body != first.body {
				t.Errorf("a retry is answered %d %s, want %s", again.status, again.body, first.body)
			}
		}
		for _, other := range []string{"topic=a&data=2", "topic=b&data=1", "topic=a&data=1&private=on", "topic=a&data=1&id=x", "topic=a&data=1&type=t", "topic=a&data=1&retry=1"} {
			a := send(t, "POST", hub.URL, other, form, publisher, keyed(`"k"`))
			if a.status != 422 || !strings.Contains(a.body, "#idempotency-key-reused") || a.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s is answered %d %s", other, a.status, a.body)
			}
		}
	}
	for _, other := range []string{keyed(`"K"`), "X-Other: 1"} {
		if a := send(t, "POST", hubs[0].URL, "topic=a&data=1", form, publisher, other); a.status != 200 || a.body == first.body {
			t.Errorf("with %s: answered %d %s", other, a.status, a.body)
		}
	}
	end := hubs[0].Publish(t, url.Values{"topic": {"a"}, "data": {"end"}})
	var got []string
	for event := (servertest.Event{}); event.ID != end; {
		event = stream.Next(t)
		got = append(got, event.Data)
	}
	if strings.Join(got, " ") != "1 1 1 end" {
		t.Errorf("received %q", got)
	}
}

// Spec: P-13. An id that the publisher gives stays, and is part of what a retry
// must repeat.
func TestIdempotencyKeyWithAnID(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	publisher := bearer(servertest.PublisherToken(t))
	for body, status := range map[string]int{"topic=a&id=mine": 200, "topic=a&id=other": 422, "topic=a": 422} {
		if body != "topic=a&id=mine" {
			send(t, "POST", hub.URL, "topic=a&id=mine", form, publisher, keyed("k"))
		}
		a := send(t, "POST", hub.URL, body, form, publisher, keyed("k"))
		if a.status != status || status == 200 && a.body != "mine" {
			t.Errorf("%s is answered %d %s", body, a.status, a.body)
		}
	}
}

// Spec: P-21. What is wrong with a key is told to who may publish.
func TestIdempotencyKeyThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	publisher := bearer(servertest.PublisherToken(t))
	for name, headers := range map[string][]string{
		"empty": {keyed("")}, "empty string": {keyed(`""`)}, "list": {keyed("a, b")}, "twice": {keyed("a"), keyed("a")},
		"too long": {keyed(strings.Repeat("k", 256))}, "not closed": {keyed(`"a`)},
	} {
		a := send(t, "POST", hub.URL, "topic=a", append(headers, form, publisher)...)
		if a.status != 400 || !strings.Contains(a.body, "The Idempotency-Key must ") {
			t.Errorf("%s: answered %d %s", name, a.status, a.body)
		}
		if a := send(t, "POST", hub.URL, "topic=a", append(headers, form)...); a.status != 401 {
			t.Errorf("%s, without a token: answered %d %s", name, a.status, a.body)
		}
	}
	// Nobody else reads it.
	if a := send(t, "GET", hub.URL+"?match=a", "", keyed("")); a.status != 200 {
		t.Errorf("a stream is answered %d %s", a.status, a.body)
	}
}

// A key belongs to the issuer and subject of the token, whatever else differs.
func TestIdempotencyKeysOfPublishers(t *testing.T) {
	t.Parallel()
	const otherIssuer = "https://other.example"
	key, err := server.ParseSigningKey(servertest.PublisherSecret, "HS256")
	if err != nil {
		t.Fatal(err)
	}
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) {
		c.Compat, c.PublicURL, c.TrustedIssuers = "on", publicURL, ""
		keys := object{"key": servertest.PublisherSecret, "alg": "HS256"}
		c.Issuers = server.Secret(jsonOf(t, []object{{"issuer": issuer, "publisher": keys}, {"issuer": otherIssuer, "publisher": keys}}))
	})
	token := func(issuer, subject, topic string) string {
		spec := server.TokenSpec{
			Dialect: server.Dialect1, Key: key, Issuer: issuer, Audience: publicURL, Subject: subject, Expires: inAnHour(),
			Publish: []server.MatcherSpec{{Match: topic}},
		}
		if issuer == "" {
			spec.Dialect, spec.Audience = server.Dialect0, ""
		}
		token, err := server.MintToken(spec)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	ids := map[string]string{}
	for publisher, tokens := range map[string][]string{
		"0.x without sub": {servertest.PublisherToken(t), servertest.Token(t, servertest.PublisherSecret, []string{"a"}, nil)},
		"0.x":             {token("", "somebody", "*"), token("", "somebody", "a")},
		"1.0":             {token(issuer, "somebody", "*"), token(issuer, "somebody", "a")},
		"another subject": {token(issuer, "somebody else", "*")},
		"another issuer":  {token(otherIssuer, "somebody", "*")},
	} {
		for n, token := range tokens {
			a := send(t, "POST", hub.URL, "topic=a", form, bearer(token), keyed("k"))
			if a.status != 200 || n > 0 && ids[a.body] != publisher {
				t.Errorf("%s: token %d is answered %d %s", publisher, n, a.status, a.body)
			}
			if other, ok := ids[a.body]; ok && other != publisher {
				t.Errorf("%s shares a key with %s", publisher, other)
			}
			ids[a.body] = publisher
		}
	}
}

// Many requests at once, on two nodes, in the same batches: one update.
func TestIdempotencyKeyAtOnce(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hubs := []*servertest.Hub{servertest.Start(t, database), servertest.Start(t, database)}
	publisher := bearer(servertest.PublisherToken(t))
	const keys, requests = 10, 8
	var (
		mu    sync.Mutex
		ids   [keys]map[string]int
		group sync.WaitGroup
	)
	for k := range keys {
		ids[k] = map[string]int{}
		for n := range requests {
			group.Go(func() {
				a, err := trySend(t.Context(), "POST", hubs[n%2].URL, fmt.Sprint("topic=a&data=", k), form, publisher, keyed(fmt.Sprint(k)))
				if err != nil || a.status != 200 {
					t.Errorf("answered %d %s, %v", a.status, a.body, err)
				}
				mu.Lock()
				defer mu.Unlock()
				ids[k][a.body]++
			})
		}
	}
	group.Wait()
	for k := range keys {
		if len(ids[k]) != 1 {
			t.Errorf("key %d has %d ids", k, len(ids[k]))
		}
	}
	var updates int
	if err := database.Pool(t).QueryRow(t.Context(), "SELECT count(*) FROM mercure.updates").Scan(&updates); err != nil || updates != keys {
		t.Errorf("%d updates, %v; want %d", updates, err, keys)
	}
}

// Publishers hang up before they are answered, and try again until they are
// acknowledged, while connections to the database break in the midst of commits:
// every update is there once.
func TestRetriesUntilAcknowledged(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	hubs := []*servertest.Hub{servertest.Start(t, database), servertest.Start(t, database)}
	publisher := bearer(servertest.PublisherToken(t))
	const publishers, each = 4, 25
	var group sync.WaitGroup
	acknowledged := make(chan struct{}, publishers*each)
	for p := range publishers {
		group.Go(func() {
			for n := range each {
				data := fmt.Sprintf("%d:%d", p, n)
				hasty, cancel := context.WithTimeout(t.Context(), time.Duration(n%10)*time.Millisecond)
				_, _ = trySend(hasty, "POST", hubs[p%2].URL, "topic=a&data="+data, form, publisher, keyed(data))
				cancel()
				for attempt := p + 1; ; attempt++ {
					a, err := trySend(t.Context(), "POST", hubs[attempt%2].URL, "topic=a&data="+data, form, publisher, keyed(data))
					if a.status == http.StatusOK {
						acknowledged <- struct{}{}
						break
					}
					if err != nil || a.status != http.StatusServiceUnavailable {
						t.Errorf("%s: answered %d %s, %v", data, a.status, a.body, err)
						return
					}
				}
			}
		})
	}
	go func() { // ends with the publishers
		group.Wait()
		close(acknowledged)
	}()
	const cut = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'cinnabar' AND position('append' IN query) > 0`
	count := 0
	for range acknowledged {
		if count++; count%3 == 0 { // in the midst of what others publish
			if _, err := pool.Exec(t.Context(), cut); err != nil {
				t.Error(err)
			}
		}
	}
	var updates, distinct int
	if err := pool.QueryRow(t.Context(), "SELECT count(*), count(DISTINCT data) FROM mercure.updates").Scan(&updates, &distinct); err != nil ||
		updates != publishers*each || distinct != publishers*each {
		t.Errorf("%d updates, %d of them different, %v; want %d", updates, distinct, err, publishers*each)
	}
}

// Pages of other origins may send a key.
//
// Spec: C-3.
func TestIdempotencyKeyFromAPage(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.CORSAllowedOrigins = appOrigin })
	a := send(t, "OPTIONS", hub.URL, "", "Origin: "+appOrigin, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,idempotency-key")
	if got := strings.ToLower(a.header.Get("Access-Control-Allow-Headers")); !strings.Contains(got, "idempotency-key") {
		t.Errorf("allowed are %q", got)
	}
}
