//go:build e2e

package main_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
)

const room = "https://example.com/rooms/1?(a b)&c='d'*" // what has to be encoded

// guest has docs/presence.html open in a tab.
type guest struct {
	visitor
	close context.CancelFunc // the tab; with the first one of a browser, all
}

// browse starts a browser and returns the context of its tabs.
func browse(t *testing.T) context.Context {
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
	browser, quit := chromedp.NewContext(allocator)
	t.Cleanup(quit)
	// The deadline of the first call would be the deadline of the browser.
	if err := chromedp.Do(browser, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return browser
}

// enter opens the page in a new tab, as somebody with a name.
func enter(t *testing.T, browser context.Context, page string, h *hub, name string) *guest {
	t.Helper()
	token := h.token(t, server.TokenSpec{
		Dialect: server.Dialect1, Payload: []byte(`{"name":` + strconv.Quote(name) + `}`),
		Subscribe: []server.MatcherSpec{
			{Match: room},
			{Match: hubPath + "/subscriptions/exact/*", Type: "urlpattern"},
		},
	})
	tab, closeTab := chromedp.NewContext(browser)
	t.Cleanup(closeTab)
	g := &guest{visitor: visitor{ctx: tab}, close: closeTab}
	if err := chromedp.Do(tab, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	fragment := url.Values{"hub": {h.url()}, "room": {room}, "token": {token}}.Encode()
	do(t, &g.visitor, "open the page", chromedp.Navigate(page+"#"+fragment))
	return g
}

// sees waits until the page lists these and nobody else.
func (g *guest) sees(t *testing.T, names ...string) {
	t.Helper()
	want := fmt.Sprint(names)
	const shown = `"[" + [...document.querySelectorAll("li")].map((item) => item.textContent).sort().join(" ") + "]"`
	last := ""
	defer func() {
		if t.Failed() {
			t.Logf("the page lists %s, not %s", last, want)
		}
	}()
	eventually(t, "the page lists "+want, func() bool {
		last = do(t, &g.visitor, "read the page", chromedp.Evaluate[string](shown))
		return last == want
	})
}

// testPresencePage: two tabs with the example see each other come and go,
// however they go, also when the process of one is killed, and when the hub is.
// Spec.
func testPresencePage(t *testing.T, binary string) {
	site := httptest.NewServer(http.FileServer(http.Dir("../../docs")))
	t.Cleanup(site.Close)
	page := site.URL + "/presence.html"
	h := newHub(t, binary, dbtest.New(t).URL, site.URL, "MERCURE_SUBSCRIPTIONS=on")
	h.start(t)
	browser := browse(t)

	const bob = "<img/src=x/onerror=document.body.remove()>"
	ada := enter(t, browser, page, h, "Ada")
	ada.sees(t, "Ada")
	guest := enter(t, browser, page, h, bob)
	ada.sees(t, bob, "Ada")
	guest.sees(t, bob, "Ada")

	do(t, &guest.visitor, "leave", chromedp.Navigate("about:blank"))
	ada.sees(t, "Ada")

	closed := enter(t, browser, page, h, "Carl")
	ada.sees(t, "Ada", "Carl")
	closed.close()
	ada.sees(t, "Ada")

	killed := enter(t, browser, page, h, "Dora")
	ada.sees(t, "Ada", "Dora")
	killed.kill(t)
	ada.sees(t, "Ada")

	h.kill(t)
	h.start(t)
	again := enter(t, browser, page, h, "Emil")
	ada.sees(t, "Ada", "Emil")
	again.sees(t, "Ada", "Emil")

	do(t, &again.visitor, "come with a bad token", chromedp.Navigate(page+"?#"+url.Values{"hub": {h.url()}, "token": {"a.b.c"}}.Encode()))
	eventually(t, "the page asks for another token", func() bool {
		const asks = `!document.querySelector("form").hidden && document.querySelector("output").textContent.includes("token")`
		return do(t, &again.visitor, "read the page", chromedp.Evaluate[bool](asks))
	})
	ada.sees(t, "Ada")
}

// kill ends the process of the tab, which cannot answer any more.
func (g *guest) kill(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(g.ctx)
	ended := make(chan struct{})
	go func() { // ends with ctx
		defer close(ended)
		_, _ = chromedp.Call(ctx, cdppage.Crash, cdp.Empty{})
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}
