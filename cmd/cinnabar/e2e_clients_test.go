//go:build e2e

package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
)

// clientLibrary is one release of an npm package.
type clientLibrary struct {
	name    string // that it is installed under
	release string
	// integrity is what the registry published first.
	integrity string
}

// clientLibraries are those that applications subscribe with, and all that they
// depend on. Of event-source-polyfill there is the newest release, and the last
// one that appends its cursor to an address that has one already.
var clientLibraries = []clientLibrary{
	{"eventsource", "eventsource@4.1.1", "sha512-D6bTRWh6KahHTK/m4WnjPQyEinNPf9eFLEZSEoj7d6fTibspnAVYfzHvirL7u/aoX5d9YYfIkBVAhmigUELk9w=="},
	{"eventsource-parser", "eventsource-parser@3.1.1", "sha512-EKN1vKAMcZ8MlYMpaNuxN6R9yakzH6uajHcHVTqWJzvu5pWw9DyhbP35HH8MVBQ+dZjAfDxk+A8NiR9KWaXiyQ=="},
	{"eventsource-2", "eventsource@2.0.2", "sha512-IzUmBGPR3+oUG9dUeXynyNmf91/3zUSJg1lCktzKw47OXuhco54U3r9B7O4XX+Rb1Itm9OZ2b0RkTs10bICOxA=="},
	{"fetch-event-source", "@microsoft/fetch-event-source@2.0.1", "sha512-W6CLUJ2eBMw3Rec70qrsEW0jOm/3twwJv21mrmj2yORiaVmVYGS4sSS5yUwvQc1ZlDLYGPnClVWmUUMagKNsfA=="},
	{"polyfill", "event-source-polyfill@1.0.31", "sha512-4IJSItgS/41IxN5UVAVuAyczwZF7ZIEsM1XAoUzIHA6A+xzusEZUutdXz2Nr+MQPLxfTiCvqE79/C8HT8fKFvA=="},
	{"polyfill-old", "event-source-polyfill@1.0.22", "sha512-Fnk9E2p4rkZ3eJGBn2HDeZoBTpyjPxj8RX/whdr4Pm5622xYgYo1k48SUD649Xlo6nnoKRr2WwcUlneil/AZ8g=="},
}

// installClients installs the libraries into a directory of the test, without
// running anything of theirs, and returns the directory.
func installClients(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"install", "--prefix", dir, "--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"}
	want := make(map[string]string)
	for _, l := range clientLibraries {
		args = append(args, l.name+"@npm:"+l.release)
		version := l.release[strings.LastIndexByte(l.release, '@')+1:]
		want["node_modules/"+l.name] = version + " " + l.integrity
	}
	install := exec.CommandContext(t.Context(), "npm", args...)
	install.Dir = dir
	run(t, install)

	// npm has checked each package against what it writes down here.
	text, err := os.ReadFile(filepath.Join(dir, "node_modules", ".package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	var installed struct {
		Packages map[string]struct{ Version, Integrity string }
	}
	if err := json.Unmarshal(text, &installed); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for path, p := range installed.Packages {
		got[path] = p.Version + " " + p.Integrity
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("npm installed something else (-want +got):\n%s", diff)
	}
	return dir
}

// listener is a client library that subscribes.
type listener interface {
	happened(t *testing.T) happened
}

// until waits for something to happen to a listener.
func until(t *testing.T, l listener, what string, condition func(happened) bool) {
	t.Helper()
	var last happened
	defer func() {
		if t.Failed() {
			t.Logf("the client has connected %d times, had %d errors and received %q", last.Opened, last.Errors, last.Updates)
		}
	}()
	eventually(t, what, func() bool {
		last = l.happened(t)
		return condition(last)
	})
}

// untilReceived waits for the last update that is wanted, and compares all.
func untilReceived(t *testing.T, l listener, want []string) {
	t.Helper()
	until(t, l, fmt.Sprintf("%q arrives", want[len(want)-1]), func(h happened) bool {
		return len(h.Updates) > 0 && h.Updates[len(h.Updates)-1].Data == want[len(want)-1]
	})
	var got []string
	ids := make(map[string]bool)
	for _, u := range l.happened(t).Updates {
		got = append(got, u.Data)
		if u.ID == "" || ids[u.ID] {
			t.Errorf("update %q has the id %q, which is empty or was seen before", u.Data, u.ID)
		}
		ids[u.ID] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("updates (-want +got):\n%s", diff)
	}
}

// clientSetup is what a page knows about its subscription, other than the URL.
type clientSetup struct {
	Library          string `json:"library,omitempty"`
	Token            string `json:"token,omitempty"` // for the header; without it there is a cookie
	Cursor           string `json:"cursor"`          // a parameter for the URL
	HeartbeatTimeout int    `json:"heartbeatTimeout,omitempty"`
	Silent           string `json:"silent,omitempty"` // a URL for the client to compare with
}

// clientPage is completed with a script and what it is set up with.
const clientPage = `<!doctype html>
<title>subscriber</title>
<script>
"use strict";
const happened = {opened: 0, errors: 0, updates: []};
const setup = %s;
</script>
<script type="module" src="/clients/%s"></script>`

// clientSite serves a page that subscribes with an installed library.
type clientSite struct {
	site

	setup clientSetup // guarded as the token is
}

func newClientSite(t *testing.T, libraries, script string) *clientSite {
	t.Helper()
	s := &clientSite{}
	modules := http.StripPrefix("/node_modules/", http.FileServer(http.Dir(filepath.Join(libraries, "node_modules"))))
	mux := http.NewServeMux()
	mux.Handle("/clients/", http.FileServer(http.Dir("testdata")))
	mux.HandleFunc("/node_modules/", func(w http.ResponseWriter, r *http.Request) {
		if filepath.Ext(r.URL.Path) == "" { // of modules written for bundlers
			r.URL.Path += ".js"
		}
		modules.ServeHTTP(w, r)
	})
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		setup, token := s.setup, s.token
		s.mu.Unlock()
		text, err := json.Marshal(setup)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if setup.Token == "" {
			http.SetCookie(w, &http.Cookie{
				Name: cookieName, Value: token, Path: hubPath, HttpOnly: true, SameSite: http.SameSiteStrictMode,
			})
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, clientPage, text, script)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// open opens the page, with a token in a cookie or in its setup.
func (s *clientSite) open(t *testing.T, h *hub, cookie string, setup clientSetup, parameter string, topics ...string) *visitor {
	t.Helper()
	s.mu.Lock()
	s.setup, s.token = setup, cookie
	s.mu.Unlock()
	return s.visit(t, h, parameter, topics...)
}

// nodeClient is a Node process that subscribes.
type nodeClient struct {
	mu    sync.Mutex
	state happened
	bytes int
	err   error
}

// startNode starts one and waits until it has connected.
func startNode(t *testing.T, libraries, library, address, token string) *nodeClient {
	t.Helper()
	script, err := filepath.Abs("testdata/clients/node.cjs")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, "node", script, libraries, library, address, token)
	errorsOfNode := &output{}
	cmd.Stderr = errorsOfNode
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &nodeClient{}
	done := make(chan struct{})
	go func() { // ends with the process
		defer close(done)
		c.read(stdout)
		_ = cmd.Wait() // killed in the end
	}()
	t.Cleanup(func() {
		stop()
		<-done
		if t.Failed() {
			t.Logf("%s on stderr: %s", library, errorsOfNode)
		}
	})
	until(t, c, "the client has connected", func(h happened) bool { return h.Opened > 0 })
	return c
}

func (c *nodeClient) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var line struct {
			Opened, Errors, Bytes int
			Update                *struct{ ID, Data string }
		}
		err := json.Unmarshal(lines.Bytes(), &line)
		c.mu.Lock()
		c.state.Opened += line.Opened
		c.state.Errors += line.Errors
		c.bytes += line.Bytes
		if line.Update != nil {
			c.state.Updates = append(c.state.Updates, *line.Update)
		}
		if err != nil {
			c.err = fmt.Errorf("node printed %q: %w", lines.Text(), err)
		}
		c.mu.Unlock()
	}
}

func (c *nodeClient) happened(t *testing.T) happened {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		t.Fatal(c.err)
	}
	h := c.state
	h.Updates = slices.Clone(h.Updates)
	return h
}

func (c *nodeClient) received() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// idOf returns the id of an update, as soon as the hub has taken it over.
func idOf(t *testing.T, conn *pgx.Conn, data string) (id string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q is in the log", data), func() bool {
		err := conn.QueryRow(t.Context(), "SELECT id FROM mercure.updates WHERE data = $1", data).Scan(&id)
		return err == nil
	})
	return id
}

// testClients runs the libraries that applications use.
func testClients(t *testing.T, binary string) {
	libraries := installClients(t)
	t.Run("Resume", func(t *testing.T) {
		t.Parallel()
		testClientsResume(t, binary, libraries)
	})
	t.Run("ResumeBeforeTheFirstUpdate", func(t *testing.T) {
		t.Parallel()
		testNodeResumesBeforeTheFirstUpdate(t, binary, libraries)
	})
	t.Run("PolyfillStaysConnected", func(t *testing.T) {
		t.Parallel()
		testPolyfillStaysConnected(t, binary, libraries)
	})
	t.Run("FetchGetsNoEmptyMessages", func(t *testing.T) {
		t.Parallel()
		testFetchGetsNoEmptyMessages(t, binary, libraries)
	})
}

// subscription is what a client is to subscribe with.
type subscription struct {
	parameter string // of the matchers
	token     server.TokenSpec
	cursor    string // name of a parameter that is in the address from the start
}

// testClientsResume: whatever a client resumes with, and although its address
// holds a cursor that is out of date by then, a hub that is killed twice costs
// it nothing and gives it nothing twice.
//
// Spec: H-3, H-8, W-7, C-3, A-1.
func testClientsResume(t *testing.T, binary, libraries string) {
	topics := []string{public, granted, denied}
	// What the clients have in common is how they are started: with a token, and
	// a cursor that goes into the address.
	type start func(t *testing.T, h *hub, s *clientSite, parameter, token, cursor string) listener

	inNode := func(library string) start {
		return func(t *testing.T, h *hub, _ *clientSite, parameter, token, cursor string) listener {
			address := h.url() + "?" + url.Values{parameter: topics}.Encode() + "&" + cursor
			return startNode(t, libraries, library, address, token)
		}
	}
	withHeader := func(library string) start {
		return func(t *testing.T, h *hub, s *clientSite, parameter, token, cursor string) listener {
			return s.open(t, h, "", clientSetup{Library: library, Token: token, Cursor: cursor}, parameter, topics...)
		}
	}
	withCookie := func(library string) start {
		return func(t *testing.T, h *hub, s *clientSite, parameter, token, cursor string) listener {
			return s.open(t, h, token, clientSetup{Library: library, Cursor: cursor}, parameter, topics...)
		}
	}
	grant := []server.MatcherSpec{{Match: granted}}
	token1 := server.TokenSpec{Dialect: server.Dialect1, Subscribe: grant}
	token0 := server.TokenSpec{Dialect: server.Dialect0, Subscribe: grant}
	for _, client := range []struct {
		name   string
		start  start
		script string
		subscription
	}{
		{"eventsource 4", inNode("eventsource"), "", subscription{"match", token1, "last_event_id"}},
		{"eventsource 2", inNode("eventsource-2"), "", subscription{"topic", token0, "Last-Event-ID"}},
		{"event-source-polyfill", withHeader("polyfill"), "polyfill.js", subscription{"topic", token0, "lastEventId"}},
		{"event-source-polyfill that appends", withCookie("polyfill-old"), "polyfill.js", subscription{"match", token1, "lastEventId"}},
		{"fetch-event-source", withHeader(""), "fetch.js", subscription{"match", token1, "last_event_id"}},
		{"fetch-event-source with a cookie", withCookie(""), "fetch.js", subscription{"topic", token0, "lastEventID"}},
	} {
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			db, site := dbtest.New(t), newClientSite(t, libraries, client.script)
			conn := db.Conn(t)
			h := newHub(t, binary, db.URL, site.URL, "MERCURE_HEARTBEAT=50ms")
			for _, data := range []string{"known", "missed"} {
				mustInsert(t, conn, public, false, data)
			}
			h.start(t)
			token := h.token(t, client.token)
			cursor := url.Values{client.cursor: {idOf(t, conn, "known")}}.Encode()
			l := client.start(t, h, site, client.parameter, token, cursor)

			publish := func(topic, data, private string) {
				form := url.Values{"topic": {topic}, "data": {data}}
				if private != "" {
					form.Set("private", private)
				}
				h.publish(t, form.Encode())
			}
			publish(public, "live", "")
			publish(denied, "live, denied", "on")
			publish(granted, "live, private,\nin two lines", "on")
			want := []string{"missed", "live", "live, private,\nin two lines"}
			untilReceived(t, l, want)

			for lives := 1; lives <= 2; lives++ {
				errors := l.happened(t).Errors
				h.kill(t)
				until(t, l, "the stream breaks", func(h happened) bool { return h.Errors > errors })
				for n := range 10 {
					data := fmt.Sprintf("while down for the time %d, %d", lives, n)
					mustInsert(t, conn, granted, true, data)
					mustInsert(t, conn, denied, true, data+", denied")
					want = append(want, data)
				}
				h.start(t)
				until(t, l, "the client connects again", func(h happened) bool { return h.Opened > lives })
				data := fmt.Sprintf("after life %d", lives)
				publish(public, data, "")
				want = append(want, data)
				untilReceived(t, l, want)
			}
			if h := l.happened(t); h.Opened != 3 {
				t.Errorf("the client connected %d times, want 3", h.Opened)
			}
		})
	}
}

// testNodeResumesBeforeTheFirstUpdate: an EventSource in Node that makes the
// request of a browser gets a checkpoint like one. Release 2 remembers its id;
// later ones, like the polyfill, remember ids of updates only.
//
// Spec: S-26.
func testNodeResumesBeforeTheFirstUpdate(t *testing.T, binary, libraries string) {
	db, site := dbtest.New(t), newSite(t)
	conn := db.Conn(t)
	h := newHub(t, binary, db.URL, site.URL, "MERCURE_ANONYMOUS=on")
	h.start(t)
	h.fill(t, conn, "before")
	c := startNode(t, libraries, "eventsource-2", h.url()+"?"+url.Values{"match": {public}}.Encode(), "")
	// The comment before it is 2 bytes.
	eventually(t, "a checkpoint arrives", func() bool { return c.received() > 10 })

	h.kill(t)
	until(t, c, "the stream breaks", func(h happened) bool { return h.Errors > 0 })
	mustInsert(t, conn, public, false, "while down")
	h.start(t)
	untilReceived(t, c, []string{"while down"})
}

// testPolyfillStaysConnected: heartbeats are what keeps the polyfill from
// reconnecting. It is an impatient one, and a hub that sends them often.
//
// Spec: W-7.
func testPolyfillStaysConnected(t *testing.T, binary, libraries string) {
	db, site := dbtest.New(t), newClientSite(t, libraries, "polyfill.js")
	conn := db.Conn(t)
	h := newHub(t, binary, db.URL, site.URL, "MERCURE_HEARTBEAT=100ms")
	h.start(t)
	silent := newHub(t, binary, db.URL, site.URL, "MERCURE_HEARTBEAT=0s")
	silent.start(t)

	token := h.token(t, server.TokenSpec{Dialect: server.Dialect0, Subscribe: []server.MatcherSpec{{Match: granted}}})
	v := site.open(t, h, "", clientSetup{
		Library: "polyfill", Token: token, HeartbeatTimeout: 2000, // 1000 is the least it takes
		Silent: silent.url() + "?topic=" + url.QueryEscape(public),
	}, "topic", public)
	v.wait(t, "happened.silentErrors >= 2")
	if got := v.happened(t); got.Opened != 1 || got.Errors != 0 {
		t.Errorf("with heartbeats the polyfill connected %d times and had %d errors", got.Opened, got.Errors)
	}
	mustInsert(t, conn, public, false, "on the first connection")
	untilReceived(t, v, []string{"on the first connection"})
}

// testFetchGetsNoEmptyMessages: fetch-event-source calls back for every empty
// line, so there must be none but those that end updates. Its tab in the
// background, it closes the stream; back, it misses nothing.
//
// Spec: W-7, S-26.
func testFetchGetsNoEmptyMessages(t *testing.T, binary, libraries string) {
	db, site := dbtest.New(t), newClientSite(t, libraries, "fetch.js")
	conn := db.Conn(t)
	h := newHub(t, binary, db.URL, site.URL, "MERCURE_HEARTBEAT=50ms")
	h.start(t)
	h.fill(t, conn, "before") // there is an id that a checkpoint could hold
	cookie := h.token(t, server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{{Match: granted}}})
	v := site.open(t, h, cookie, clientSetup{}, "match", public, granted)

	v.wait(t, "happened.bytes >= 10") // 2 are the beginning, and 2 each heartbeat
	if got := v.happened(t); len(got.Updates) != 0 {
		t.Fatalf("the page was called back for %q", got.Updates)
	}
	mustInsert(t, conn, granted, true, "in the foreground")
	untilReceived(t, v, []string{"in the foreground"})

	do(t, v, "hide the page", chromedp.Evaluate[any]("hide(true)"))
	mustInsert(t, conn, granted, true, "in the background")
	idOf(t, conn, "in the background")
	do(t, v, "show the page", chromedp.Evaluate[any]("hide(false)"))
	v.wait(t, "happened.opened === 2")
	mustInsert(t, conn, public, false, "in the foreground again")
	untilReceived(t, v, []string{"in the foreground", "in the background", "in the foreground again"})
	if got := v.happened(t); got.Opened != 2 || got.Errors != 0 {
		t.Errorf("the page connected %d times and had %d errors", got.Opened, got.Errors)
	}
}
