package server_test

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// docs/postgresql.md works as it is written: its blocks are run in their order,
// and a subscriber does what the page does.
func TestPostgreSQLDocumentation(t *testing.T) {
	t.Parallel()
	document := servertest.ReadTableDocument(t, "../docs/postgresql.md")
	shop := newShop(t)
	shop.psql(t, "shop_owner", document.Attach)
	dir := t.TempDir()
	shell := exec.CommandContext(t.Context(), "bash", "-ec", document.Load)
	shell.Dir = dir
	shell.Env = append(os.Environ(), "DATABASE_URL="+shop.url(t, "shop_owner"), "PATH="+shop.server.Installation().BinDir+":"+os.Getenv("PATH"))
	if output, err := shell.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	var page struct {
		Cursor string
		Orders []struct {
			ID    int
			State string
		}
	}
	file, err := os.ReadFile(filepath.Join(dir, "orders.json"))
	if err == nil {
		err = json.Unmarshal(file, &page)
	}
	if err != nil || len(page.Orders) != 2 {
		t.Fatalf("%s: %v", file, err)
	}

	shop.psql(t, "shop_owner", document.Change)
	query := url.Values{"last_event_id": {page.Cursor}}
	if !strings.Contains(document.Page, `"last_event_id", cursor`) {
		t.Error("the page does not listen from the cursor")
	}
	pattern := regexp.MustCompile(`"match_urlpattern", "([^"]+)"`).FindStringSubmatch(document.Page)
	query.Set("match_urlpattern", pattern[1])
	stream := shop.hub.Subscribe(t, servertest.Request{Query: query})
	for _, want := range []string{
		`update {"id":17,"customer_id":4,"state":"paid"}`, `insert {"id":19,"customer_id":5,"state":"new"}`,
		`delete {"id":18,"customer_id":4,"state":"paid"}`,
	} {
		event := stream.Next(t)
		if got := event.Type + " " + event.Data; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if !strings.Contains(document.Page, `addEventListener("`+event.Type+`"`) {
			t.Errorf("the page does not listen to %s", event.Type)
		}
	}
	shop.psql(t, "shop_owner", document.Options)
}

// What the page says about costs is run in short: the numbers are nobody's here,
// but every transaction that should publish does.
func TestPostgreSQLDocumentationOfCosts(t *testing.T) {
	t.Parallel()
	document := servertest.ReadTableDocument(t, "../docs/postgresql.md")
	shop := newShop(t)
	shop.psql(t, "shop_owner", "CREATE TABLE orders (id bigint PRIMARY KEY, state text); INSERT INTO orders VALUES (17, 'new')")
	stream := shop.subscribe(t)
	shop.psql(t, "shop_owner", document.SameStatement)
	if event := stream.Next(t); event.Data != "paid" {
		t.Errorf("got %q", event.Data)
	}
	short := strings.NewReplacer("-s 10", "-s 1", "1000000", "100000", "1 8 32", "1", "-j 2 -T 5", "-t 3").Replace(document.Cost)
	shell := exec.CommandContext(t.Context(), "bash", "-ec", short)
	shell.Dir = t.TempDir()
	shell.Env = append(os.Environ(), "DATABASE_URL="+shop.url(t, "shop_admin"), "PATH="+shop.server.Installation().BinDir+":"+os.Getenv("PATH"))
	output, err := shell.CombinedOutput()
	if runs := strings.Count(string(output), "tps = "); err != nil || runs != 6 {
		t.Fatalf("%d runs: %v\n%s", runs, err, output)
	}
	for range 4 * 3 {
		if event := stream.Next(t); !strings.HasPrefix(event.Data, "balance ") {
			t.Errorf("got %q", event.Data)
		}
	}
}
