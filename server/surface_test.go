package server_test

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// What the tests of the HTTP interface share.

const (
	publicURL   = "https://hub.example.com/.well-known/mercure"
	issuer      = "https://issuer.example"
	tokenCookie = "__Secure-mercure_access_token"
	oldCookie   = "mercureAuthorization"
)

// bothDialects makes a hub accept 1.0 tokens of the issuer as well as 0.x ones.
func bothDialects(c *server.Config) {
	c.TrustedIssuers = issuer
	c.Compat = "on"
}

// pinned is a hub of both dialects with a URL that does not depend on its port.
func pinned(c *server.Config) {
	bothDialects(c)
	c.PublicURL = publicURL
}

// token1 makes a 1.0 token for one role with a grant on a topic.
func token1(t *testing.T, secret, audience, topic string, expires time.Time) string {
	t.Helper()
	key, err := server.ParseSigningKey(secret, "HS256")
	if err != nil {
		t.Fatal(err)
	}
	spec := server.TokenSpec{
		Dialect: server.Dialect1, Key: key, Issuer: issuer, Audience: audience, Subject: "somebody", Expires: expires,
	}
	grant := []server.MatcherSpec{{Match: topic}}
	if secret == servertest.PublisherSecret {
		spec.Publish = grant
	} else {
		spec.Subscribe = grant
	}
	token, err := server.MintToken(spec)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

func bearer(token string) string { return "Authorization: Bearer " + token }

// cookies is a Cookie field of names and values in turn.
func cookies(pairs ...string) string {
	var b strings.Builder
	b.WriteString("Cookie: ")
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(pairs[i] + "=" + pairs[i+1])
	}
	return b.String()
}

// eventSource is how a browser's EventSource asks.
var eventSource = []string{"Accept: text/event-stream", "Cache-Control: no-cache"}

// logbook keeps what a hub logs.
type logbook struct {
	mu    sync.Mutex
	lines []string
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

// with returns the lines that contain all the words.
func (l *logbook) with(words ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
lines:
	for _, line := range l.lines {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue lines
			}
		}
		found = append(found, line)
	}
	return found
}

func (l *logbook) use(c *server.Config) {
	c.Logger = slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// withoutDate drops what differs between two answers to the same request.
func withoutDate(header http.Header) http.Header {
	header = header.Clone()
	for _, name := range []string{"Date", "Retry-After"} {
		header.Del(name)
	}
	return header
}
