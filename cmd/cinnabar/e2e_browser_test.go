//go:build e2e

package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
)

// Topics of the tests.
const (
	public  = "https://example.com/public"
	granted = "https://example.com/granted"
	denied  = "https://example.com/denied"
)

// site serves the application's page, which is on another origin than the hub,
// and gives the browser its token.
type site struct {
	*httptest.Server

	mu    sync.Mutex
	token string
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// setToken decides what later visitors get.
func (s *site) setToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

// page subscribes and writes down all that happens.
const page = `<!doctype html>
<title>subscriber</title>
<script>
"use strict";
const happened = {opened: 0, errors: 0, updates: []};
const hub = new URLSearchParams(location.search).get("hub");
const source = new EventSource(hub, {withCredentials: true});
source.onopen = () => happened.opened++;
source.onerror = () => happened.errors++;
source.onmessage = (e) => happened.updates.push({id: e.lastEventId, data: e.data});
</script>`

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: s.token, Path: hubPath, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprint(w, page)
}

// visitor is a browser with the page open.
type visitor struct {
	ctx context.Context // ends with the test

	mu    sync.Mutex
	bytes map[network.RequestID]int64 // received on each event stream
}

// visit opens the page in a new browser and waits until its EventSource has
// connected.
func (s *site) visit(t *testing.T, h *hub, parameter string, topics ...string) *visitor {
	t.Helper()
	allocator, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()),
		chromedp.ExecPath("chromium"),
		chromedp.Headless,
		chromedp.NoSandbox, // tests run as root in containers
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), // small in containers
	)
	t.Cleanup(stop)
	ctx, closePage := chromedp.NewContext(allocator)
	t.Cleanup(closePage)

	v := &visitor{ctx: ctx, bytes: make(map[network.RequestID]int64)}
	subscription := h.url() + "?" + url.Values{parameter: topics}.Encode()
	address := s.URL + "/?" + url.Values{"hub": {subscription}}.Encode()
	// The deadline of the first call would be the deadline of the browser.
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	if err := chromedp.Listen(ctx, v.observe); err != nil {
		t.Fatal(err)
	}
	do(t, v, "open the page", chromedp.Navigate(address))
	v.wait(t, "happened.opened > 0")
	return v
}

// observe counts what arrives for the page's EventSource.
func (v *visitor) observe(event any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if e.Type == network.ResourceTypeEventSource {
			v.bytes[e.RequestID] = 0
		}
	case *network.EventDataReceived:
		if _, ok := v.bytes[e.RequestID]; ok {
			v.bytes[e.RequestID] += e.DataLength
		}
	}
}

// received is how much the page's EventSource was sent, on all connections.
func (v *visitor) received() (total int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range v.bytes {
		total += n
	}
	return total
}

func do[T any](t *testing.T, v *visitor, what string, action chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, deadline) // a page that hangs
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return result
}

// wait waits until an expression is true in the page.
func (v *visitor) wait(t *testing.T, condition string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			h := v.happened(t)
			t.Logf("the page has connected %d times, had %d errors and received %d updates, the last ones %q",
				h.Opened, h.Errors, len(h.Updates), h.Updates[max(0, len(h.Updates)-10):])
		}
	}()
	eventually(t, "in the page "+condition, func() bool {
		return do(t, v, condition, chromedp.Evaluate[bool](condition))
	})
}

// happened is what the page has written down.
type happened struct {
	Opened, Errors int
	Updates        []struct{ ID, Data string }
}

func (v *visitor) happened(t *testing.T) happened {
	t.Helper()
	var h happened
	text := do(t, v, "read the page", chromedp.Evaluate[string]("JSON.stringify(happened)"))
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		t.Fatal(err)
	}
	return h
}

// waitFor waits until the last update has arrived, and compares all of them.
func (v *visitor) waitFor(t *testing.T, want []string) {
	t.Helper()
	last, err := json.Marshal(want[len(want)-1])
	if err != nil {
		t.Fatal(err)
	}
	v.wait(t, fmt.Sprintf("happened.updates.some((u) => u.data === %s)", last))
	var got []string
	ids := make(map[string]bool)
	for _, u := range v.happened(t).Updates {
		got = append(got, u.Data)
		if u.ID == "" || ids[u.ID] {
			t.Errorf("update %q has the id %q, which is empty or was seen before", u.Data, u.ID)
		}
		ids[u.ID] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("updates in the page (-want +got):\n%s", diff)
	}
}

// insert publishes from SQL.
func insert(ctx context.Context, conn *pgx.Conn, topic string, private bool, data string) error {
	_, err := conn.Exec(ctx,
		"INSERT INTO mercure.outbox (topics, data, private) VALUES (ARRAY[$1], $2, $3)", topic, data, private)
	return err
}

func mustInsert(t *testing.T, conn *pgx.Conn, topic string, private bool, data string) {
	t.Helper()
	if err := insert(t.Context(), conn, topic, private, data); err != nil {
		t.Fatalf("insert %q: %v", data, err)
	}
}

// testBrowserReceives: what the page is entitled to arrives, live, whoever
// publishes it, and nothing else does.
func testBrowserReceives(t *testing.T, binary string) {
	for _, dialect := range []struct {
		name      string
		parameter string
		token     server.TokenSpec
	}{
		{"1.0", "match", server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{{Match: granted}}}},
		{"0.x", "topic", server.TokenSpec{Dialect: server.Dialect0, Subscribe: []server.MatcherSpec{{Match: granted}}}},
	} {
		t.Run(dialect.name, func(t *testing.T) {
			t.Parallel()
			db, site := dbtest.New(t), newSite(t)
			conn := db.Conn(t)
			h := newHub(t, binary, db.URL, site.URL)
			h.start(t)
			site.setToken(h.token(t, dialect.token))
			v := site.visit(t, h, dialect.parameter, public, granted, denied)

			publish := func(topic string, private bool, data string) {
				form := url.Values{"topic": {topic}, "data": {data}}
				if private {
					form.Set("private", "on")
				}
				h.publish(t, form.Encode())
			}
			publish(public, false, "by HTTP")
			publish(denied, true, "by HTTP, denied")
			publish(granted, true, "by HTTP, private\nin two lines")
			mustInsert(t, conn, public, false, "by SQL")
			mustInsert(t, conn, denied, true, "by SQL, denied")
			mustInsert(t, conn, granted, true, "by SQL, private")
			mustInsert(t, conn, "https://example.com/another", false, "not subscribed to")
			mustInsert(t, conn, denied, false, "not private")
			v.waitFor(t, []string{
				"by HTTP", "by HTTP, private\nin two lines", "by SQL", "by SQL, private", "not private",
			})
			if h := v.happened(t); h.Opened != 1 || h.Errors != 0 {
				t.Errorf("the page connected %d times and had %d errors", h.Opened, h.Errors)
			}
		})
	}
}

// flow inserts numbered updates, one transaction each, until it is stopped.
type flow struct {
	stopped chan struct{}
	done    chan struct{}

	mu     sync.Mutex
	wanted []string // what a page with the grant is owed
	err    error
}

// interval is a rate that leaves the machine time for everything else.
const interval = 3 * time.Millisecond

func startFlow(t *testing.T, conn *pgx.Conn) *flow {
	t.Helper()
	f := &flow{stopped: make(chan struct{}), done: make(chan struct{})}
	ctx := t.Context()
	go func() { // ends when stop is called or the test is over
		defer close(f.done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-f.stopped:
				return
			case <-ctx.Done():
				return
			}
			// A third each: public, private with a grant, private without.
			topic := []string{public, granted, denied}[n%3]
			data := fmt.Sprintf("%d %s", n, topic)
			err := insert(ctx, conn, topic, topic != public, data)
			f.mu.Lock()
			if err == nil && topic != denied {
				f.wanted = append(f.wanted, data)
			}
			f.err = err
			f.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { <-f.done }) // before the connection is closed
	return f
}

func (f *flow) inserted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.wanted)
}

// goesOn waits until n more updates are in the database.
func (f *flow) goesOn(t *testing.T, n int) {
	t.Helper()
	goal := f.inserted() + n
	eventually(t, "updates are inserted", func() bool { return f.inserted() >= goal })
}

// stop returns what the page must have received in the end.
func (f *flow) stop(t *testing.T) []string {
	t.Helper()
	close(f.stopped)
	<-f.done
	if f.err != nil {
		t.Fatalf("insert: %v", f.err)
	}
	return f.wanted
}

// testKilledWhileUpdatesFlow: a hub that is killed twice, with updates before,
// between, during and after, costs the page nothing.
func testKilledWhileUpdatesFlow(t *testing.T, binary string) {
	db, site := dbtest.New(t), newSite(t)
	h := newHub(t, binary, db.URL, site.URL)
	h.start(t)
	site.setToken(h.token(t, server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{{Match: granted}}}))
	v := site.visit(t, h, "match", public, granted, denied)
	f := startFlow(t, db.Conn(t))

	for lives := 1; lives <= 2; lives++ {
		// Received by this process, not only replayed.
		v.wait(t, fmt.Sprintf("happened.updates.length >= %d", f.inserted()+20))
		errors := v.happened(t).Errors
		h.kill(t)
		v.wait(t, fmt.Sprintf("happened.errors > %d", errors)) // the stream broke
		seen := len(v.happened(t).Updates)
		v.wait(t, fmt.Sprintf("happened.errors > %d", errors+1)) // nobody answered
		f.goesOn(t, 50)
		if now := v.happened(t); len(now.Updates) != seen || now.Opened != lives {
			t.Fatalf("with the hub dead the page went from %d to %d updates and has connected %d times", seen, len(now.Updates), now.Opened)
		}
		h.start(t)
		v.wait(t, fmt.Sprintf("happened.opened > %d", lives))
	}
	v.wait(t, fmt.Sprintf("happened.updates.length >= %d", f.inserted()+20))
	v.waitFor(t, f.stop(t))
	if h := v.happened(t); h.Opened != 3 {
		t.Errorf("the page connected %d times, want 3", h.Opened)
	}
}

// testKilledBeforeTheFirstUpdate: a page that has received nothing gets all
// that came after it had connected, and nothing from before.
//
// Spec: S-26.
func testKilledBeforeTheFirstUpdate(t *testing.T, binary string) {
	for _, log := range []struct {
		name   string
		before int
	}{
		{"empty log", 0},
		{"log with history", 3},
	} {
		t.Run(log.name, func(t *testing.T) {
			t.Parallel()
			db, site := dbtest.New(t), newSite(t)
			conn := db.Conn(t)
			h := newHub(t, binary, db.URL, site.URL)
			for n := range log.before {
				mustInsert(t, conn, public, false, fmt.Sprintf("before %d", n))
			}
			h.start(t)
			eventually(t, "the hub has taken over what was inserted", func() bool {
				var n int
				if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM mercure.updates").Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n == log.before
			})
			site.setToken(h.token(t, server.TokenSpec{Dialect: server.Dialect1, Subscribe: []server.MatcherSpec{{Match: granted}}}))
			v := site.visit(t, h, "match", public, granted, denied)
			// The script cannot see a checkpoint, which dispatches nothing; the
			// network can. The comment before it is 2 bytes.
			eventually(t, "a checkpoint reaches the page", func() bool { return v.received() > 10 })

			h.kill(t)
			v.wait(t, "happened.errors > 0")
			var want []string
			for n := range 10 {
				data := fmt.Sprintf("while down %d", n)
				mustInsert(t, conn, granted, true, data)
				mustInsert(t, conn, denied, true, data+", denied")
				want = append(want, data)
			}
			h.start(t)
			v.wait(t, "happened.opened > 1")
			mustInsert(t, conn, public, false, "after")
			v.waitFor(t, append(want, "after"))
		})
	}
}
