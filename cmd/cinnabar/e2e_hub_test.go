//go:build e2e

// The end-to-end tests start the binary that users start, against a PostgreSQL
// of their own, and watch it from the outside: through headless Chromium, SQL
// and signals.
//
//	go test -tags e2e -run ^TestEndToEnd ./cmd/cinnabar
package main_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server"
)

// deadline is how long a test waits for one thing to happen. It says nothing
// about speed: a browser alone waits 3 s before it reconnects, and machines
// that run tests are slow at times.
const deadline = 60 * time.Second

const (
	hubPath    = "/.well-known/mercure"
	cookieName = "cinnabar_e2e" // the default needs https
	issuer     = "https://issuer.example"

	publisherSecret  = "publisher secret of the end-to-end tests"
	subscriberSecret = "subscriber secret of the end-to-end tests"
)

func TestEndToEnd(t *testing.T) {
	t.Parallel()
	binary := build(t)
	for _, test := range []struct {
		name string
		run  func(t *testing.T, binary string)
	}{
		{"BrowserReceives", testBrowserReceives},
		{"KilledWhileUpdatesFlow", testKilledWhileUpdatesFlow},
		{"KilledBeforeTheFirstUpdate", testKilledBeforeTheFirstUpdate},
		{"GooseCommandLine", testGooseCommandLine},
		{"Clients", testClients},
		{"ClientRequests", testClientRequests},
		{"PresencePage", testPresencePage},
		{"TablePage", testTablePage},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, binary)
		})
	}
}

// build makes the binary.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "cinnabar")
	run(t, exec.CommandContext(t.Context(), "go", "build", "-o", binary, "."))
	return binary
}

// run executes a command that must succeed, and returns what it printed.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, stdout, stderr.Bytes())
	}
	return string(stdout)
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v in vain: %s", deadline, what)
		}
	}
}

// hub is one address at which the binary serves, with interruptions.
type hub struct {
	binary string
	port   int
	env    []string
	client *http.Client

	// Of the process that runs now or ran last.
	cmd    *exec.Cmd
	exited chan struct{}
	output *output
}

// newHub prepares a hub for pages of one origin. Settings are of the form
// NAME=value.
func newHub(t *testing.T, binary, databaseURL, origin string, settings ...string) *hub {
	t.Helper()
	port := freePort(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	h := &hub{binary: binary, port: port, client: &http.Client{Transport: transport, Timeout: deadline}}
	h.env = append(environment(),
		"DATABASE_URL="+databaseURL,
		"MERCURE_ADDR=127.0.0.1:"+strconv.Itoa(port),
		"MERCURE_PUBLIC_URL="+h.url(),
		"MERCURE_PUBLISHER_JWT_KEY="+publisherSecret,
		"MERCURE_SUBSCRIBER_JWT_KEY="+subscriberSecret,
		"MERCURE_TRUSTED_ISSUERS="+issuer,
		"MERCURE_COMPAT=on",
		"MERCURE_COOKIE_NAME="+cookieName,
		"MERCURE_CORS_ALLOWED_ORIGINS="+origin,
	)
	h.env = append(h.env, settings...)
	t.Cleanup(func() {
		if h.cmd != nil {
			h.kill(t)
		}
		if t.Failed() && h.output != nil {
			t.Logf("output of the last hub process:\n%s", h.output)
		}
	})
	return h
}

// environment is what the binary inherits: nothing that configures it.
func environment() []string {
	var kept []string
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if name != "DATABASE_URL" && !strings.HasPrefix(name, "MERCURE_") {
			kept = append(kept, entry)
		}
	}
	return kept
}

// freePort finds one that nobody listens on, below those that the kernel gives
// to outgoing connections: while the hub is down, none of them may take it.
func freePort(t *testing.T) int {
	t.Helper()
	var err error
	for range 100 {
		port := 20000 + rand.IntN(10000)
		var listener net.Listener
		listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
	t.Fatalf("find a free port: %v", err)
	return 0
}

func (h *hub) url() string { return "http://127.0.0.1:" + strconv.Itoa(h.port) + hubPath }

// start starts a process and waits until it answers requests.
func (h *hub) start(t *testing.T) {
	t.Helper()
	h.launch(t, exec.CommandContext(t.Context(), h.binary, "serve"))
	eventually(t, "the hub answers", func() bool {
		status, _, err := h.do(t, http.MethodHead, "", "")
		return h.runs(t) && err == nil && status != 0
	})
}

// launch starts a process without waiting for it.
func (h *hub) launch(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	h.output = &output{}
	h.exited = make(chan struct{})
	h.cmd = cmd
	h.cmd.Env, h.cmd.Stdout, h.cmd.Stderr = h.env, h.output, h.output
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func(cmd *exec.Cmd, exited chan struct{}) { // ends with the process
		_ = cmd.Wait() // killed more often than not
		close(exited)
	}(h.cmd, h.exited)
}

// runs fails the test if the process has ended.
func (h *hub) runs(t *testing.T) bool {
	t.Helper()
	select {
	case <-h.exited:
		t.Fatalf("the hub ended: %v", h.cmd.ProcessState)
	default:
	}
	return true
}

// kill is SIGKILL: nothing is cleaned up, nothing said goodbye.
func (h *hub) kill(t *testing.T) {
	t.Helper()
	if err := h.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-h.exited
}

// publish publishes by HTTP.
func (h *hub) publish(t *testing.T, form string) {
	t.Helper()
	status, body, err := h.do(t, http.MethodPost, form, h.token(t, server.TokenSpec{
		Dialect: server.Dialect1, Publish: []server.MatcherSpec{{Match: "*"}},
	}))
	if err != nil || status != http.StatusOK {
		t.Fatalf("publish %s: status %d, %v: %s", form, status, err, body)
	}
}

func (h *hub) do(t *testing.T, method, form, token string) (status int, body string, err error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, h.url(), strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	if form != "" {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := h.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(response.Body)
	return response.StatusCode, b.String(), err
}

// token makes a token for this hub; what all tokens of its dialect and role
// have is filled in.
func (h *hub) token(t *testing.T, spec server.TokenSpec) string {
	t.Helper()
	secret := subscriberSecret
	if len(spec.Publish) > 0 {
		secret = publisherSecret
	}
	key, err := server.ParseSigningKey(secret, "HS256")
	if err != nil {
		t.Fatal(err)
	}
	spec.Key, spec.Expires = key, time.Now().Add(time.Hour)
	if spec.Dialect == server.Dialect1 {
		spec.Issuer, spec.Audience, spec.Subject = issuer, h.url(), "e2e"
	}
	token, err := server.MintToken(spec)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// output collects what a process prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
