// Package servertest runs whole hubs on test databases and talks to them as a
// client would, over HTTP only.
package servertest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
)

// Secrets that hubs under test verify tokens with.
const (
	PublisherSecret  = "publisher secret of the tests, long enough for HS256"
	SubscriberSecret = "subscriber secret of the tests, long enough for HS256"
)

// Deadline is how long a test waits for what must happen. It says nothing
// about speed: machines that run tests are slow at times.
const Deadline = 30 * time.Second

// Hub is one running node.
type Hub struct {
	// URL is the hub URL.
	URL string

	server *server.Server
	config server.Config
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Option changes the configuration of a hub under test.
type Option func(*server.Config)

// Start runs a hub on a database until the test ends.
func Start(t testing.TB, db *dbtest.DB, options ...Option) *Hub {
	t.Helper()
	config := server.DefaultConfig()
	config.DatabaseURL = server.Secret(db.URL)
	config.Addr = "127.0.0.1:0"
	config.Anonymous = true
	config.PublisherJWTKey = PublisherSecret
	config.SubscriberJWTKey = SubscriberSecret
	config.TailBytes = 1 << 20
	config.HistoryMaxAge = 10 * 365 * 24 * time.Hour // retention is at work, and nothing is that old
	config.DrainTimeout = 0                          // tests end when they are done
	config.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	for _, option := range options {
		option(&config)
	}
	s, err := server.New(config)
	if err != nil {
		t.Fatalf("servertest: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &Hub{server: s, config: config, cancel: cancel, done: make(chan struct{})}
	go func() { // ends when Run does, which the clean-up waits for
		defer close(h.done)
		h.err = s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-h.done
		if h.err != nil {
			t.Errorf("servertest: hub ended with %v", h.err)
		}
	})
	select {
	case <-s.Started():
	case <-h.done:
		t.Fatalf("servertest: hub did not start: %v", h.err)
	case <-time.After(Deadline):
		t.Fatal("servertest: hub did not start in time")
	}
	h.URL = "http://" + s.Addr().String() + hubPath(t, config.PublicURL)
	return h
}

// Reload changes the configuration while the hub runs, as SIGHUP does.
func (h *Hub) Reload(ctx context.Context, options ...Option) (ignored []string, err error) {
	config := h.config
	for _, option := range options {
		option(&config)
	}
	return h.server.Reload(ctx, config)
}

// Stop tells the hub to stop, as SIGTERM does. It does not wait.
func (h *Hub) Stop() { h.cancel() }

// Wait waits until a hub that was told to stop has, and returns what its Run
// returned.
func (h *Hub) Wait(ctx context.Context) error {
	select {
	case <-h.done:
		return h.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hubPath is where a hub with this public URL is served.
func hubPath(t testing.TB, publicURL string) string {
	t.Helper()
	if publicURL == "" {
		return "/.well-known/mercure"
	}
	u, err := url.Parse(publicURL)
	if err != nil {
		t.Fatalf("servertest: %v", err)
	}
	return u.EscapedPath()
}

// testWriter logs to the test.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// Token returns a 0.x token for both roles; nil grants nothing.
func Token(t testing.TB, secret string, publish, subscribe []string) string {
	t.Helper()
	key, err := server.ParseSigningKey(secret, "HS256")
	if err != nil {
		t.Fatalf("servertest: %v", err)
	}
	spec := server.TokenSpec{Dialect: server.Dialect0, Key: key}
	for _, p := range publish {
		spec.Publish = append(spec.Publish, server.MatcherSpec{Match: p})
	}
	for _, s := range subscribe {
		spec.Subscribe = append(spec.Subscribe, server.MatcherSpec{Match: s})
	}
	token, err := server.MintToken(spec)
	if err != nil {
		t.Fatalf("servertest: %v", err)
	}
	return token
}

// PublisherToken returns a token that may publish everything.
func PublisherToken(t testing.TB) string { return Token(t, PublisherSecret, []string{"*"}, nil) }

// Publish publishes the fields and returns the id.
func (h *Hub) Publish(t testing.TB, fields url.Values) string {
	t.Helper()
	status, body := h.Post(t, PublisherToken(t), fields.Encode())
	if status != http.StatusOK {
		t.Fatalf("servertest: publish answered %d: %s", status, body)
	}
	return body
}

// Post sends a publish request and returns the status and body of the answer.
func (h *Hub) Post(t testing.TB, token, form string) (status int, body string) {
	t.Helper()
	status, body, err := h.TryPost(t.Context(), token, form)
	if err != nil {
		t.Fatalf("servertest: publish: %v", err)
	}
	return status, body
}

// TryPost is Post for callers that expect the hub to break, or that are not
// the test's own goroutine.
func (h *Hub) TryPost(ctx context.Context, token, form string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, Deadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, strings.NewReader(form))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := publishClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	content, err := io.ReadAll(response.Body)
	return response.StatusCode, string(content), errors.Join(err, response.Body.Close())
}

// publishClient keeps connections for as many publishers as a test may have,
// and closes them before goroutine leaks are looked for.
var publishClient = &http.Client{Transport: &http.Transport{
	MaxIdleConnsPerHost: 100, IdleConnTimeout: time.Second, MaxConnsPerHost: 0,
}}

// CloseIdle closes the connections kept for publishing.
func CloseIdle() { publishClient.CloseIdleConnections() }
