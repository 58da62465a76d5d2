//go:build e2e

package main_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// shopper has the page of docs/postgresql.md open in a tab.
type shopper struct{ visitor }

// shows waits until the page lists this, in the same order.
func (s *shopper) shows(t *testing.T, lines ...string) {
	t.Helper()
	want := strings.Join(lines, "\n")
	last := ""
	defer func() {
		if t.Failed() {
			t.Logf("the page shows %q, not %q", last, want)
		}
	}()
	eventually(t, "the page shows "+want, func() bool {
		last = s.shown(t)
		return last == want
	})
}

func (s *shopper) shown(t *testing.T) string {
	t.Helper()
	return do(t, &s.visitor, "read the page", chromedp.Evaluate[string](`[...document.querySelectorAll("ul > li")].map((item) => item.textContent).join("\n")`))
}

// testTablePage: the page of docs/postgresql.md, with the SQL and the commands
// that stand there, shows what is in the table: whatever changes while it is
// open, between loading and listening, and while there is no hub.
func testTablePage(t *testing.T, binary string) {
	document := servertest.ReadTableDocument(t, "../../docs/postgresql.md")
	database := dbtest.NewServer(t)
	dir := t.TempDir()
	site := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(site.Close)
	// A cursor that is none must not be helped by a replay of everything.
	h := newHub(t, binary, database.DB.URL, site.URL, "MERCURE_ANONYMOUS=on", "MERCURE_UNKNOWN_CURSOR=live")

	const hubOfThePage = "http://127.0.0.1:3000" + hubPath
	if strings.Count(document.Page, hubOfThePage) != 1 {
		t.Fatalf("the page does not name the hub %s once", hubOfThePage)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte(strings.ReplaceAll(document.Page, hubOfThePage, h.url())), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := append(environment(), "DATABASE_URL="+database.DB.URL, "PATH="+database.Installation().BinDir+":"+os.Getenv("PATH"))
	psql := func(sql string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), "bash", "-c", `psql "$DATABASE_URL" -X -q -v ON_ERROR_STOP=1`)
		command.Env, command.Stdin = environment, strings.NewReader(sql)
		run(t, command)
	}
	load := func() {
		t.Helper()
		command := exec.CommandContext(t.Context(), "bash", "-ec", document.Load)
		command.Env, command.Dir = environment, dir
		run(t, command)
	}
	conn := database.DB.Conn(t)
	inLog := func(n int) { // what comes from there cannot be live for who subscribes now
		t.Helper()
		eventually(t, "the log has the updates", func() bool {
			var found int
			if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM mercure.updates").Scan(&found); err != nil {
				t.Fatal(err)
			}
			return found == n
		})
	}
	browser := browse(t)
	open := func() *shopper {
		t.Helper()
		tab, closeTab := chromedp.NewContext(browser)
		t.Cleanup(closeTab)
		s := &shopper{visitor{ctx: tab}}
		if err := chromedp.Do(tab, chromedp.Navigate("about:blank")); err != nil {
			t.Fatalf("open a tab: %v", err)
		}
		do(t, &s.visitor, "open the page", chromedp.Navigate(site.URL))
		return s
	}

	h.start(t)
	psql(document.Attach)
	load() // from an empty log
	psql("UPDATE orders SET state = 'packed' WHERE id = 18")
	inLog(1)
	first := open()
	first.shows(t, "17: new", "18: packed")
	psql(document.Change)
	first.shows(t, "17: paid", "19: new")

	load() // from the id of an update
	psql("DELETE FROM orders WHERE id = 19; INSERT INTO orders VALUES (20, 6, 'new')")
	inLog(6)
	second := open()
	second.shows(t, "17: paid", "20: new")
	first.shows(t, "17: paid", "20: new")

	h.kill(t)
	psql("UPDATE orders SET state = 'shipped' WHERE id = 17; DELETE FROM orders WHERE id = 20; INSERT INTO orders VALUES (21, 4, 'new')")
	for _, s := range []*shopper{first, second} {
		if got := s.shown(t); got != "17: paid\n20: new" {
			t.Errorf("without a hub the page shows %q", got)
		}
	}
	h.start(t)
	for _, s := range []*shopper{first, second} {
		s.shows(t, "17: shipped", "21: new")
	}
	psql("UPDATE orders SET state = 'paid' WHERE id = 21")
	for _, s := range []*shopper{first, second} {
		s.shows(t, "17: shipped", "21: paid")
	}
}
