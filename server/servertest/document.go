package servertest

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var codeBlock = regexp.MustCompile("(?s)\n```(sql|sh|html)\n(.*?)```\n")

// TableDocument is docs/postgresql.md as its reader copies it.
type TableDocument struct {
	// Attach makes the table and attaches it, Load writes orders.json with
	// psql "$DATABASE_URL", and Page is index.html.
	Attach, Load, Page string
	// Change is what is written while one watches, Options a call of attach
	// with all that it takes.
	Change, Options string
	// SameStatement publishes in the statement that writes; Cost compares with
	// pgbench.
	SameStatement, Cost string
}

// ReadTableDocument takes docs/postgresql.md from a file. Whoever adds a block to
// the page decides which test runs it.
func ReadTableDocument(t testing.TB, file string) TableDocument {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var kinds, blocks []string
	for _, match := range codeBlock.FindAllStringSubmatch(string(content), -1) {
		kinds, blocks = append(kinds, match[1]), append(blocks, match[2])
	}
	if diff := cmp.Diff([]string{"sql", "sh", "html", "sql", "sql", "sh", "sql", "sh"}, kinds); diff != "" {
		t.Fatalf("the blocks of %s have changed: %s", file, diff)
	}
	return TableDocument{Attach: blocks[0], Load: blocks[1], Page: blocks[2], Change: blocks[3], Options: blocks[4], SameStatement: blocks[6], Cost: blocks[7]}
}
