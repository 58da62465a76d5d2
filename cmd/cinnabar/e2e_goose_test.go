//go:build e2e

package main_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/migrations"
)

// goose is the release that go.mod requires as a library.
const goose = "github.com/pressly/goose/v3/cmd/goose@v3.29.0"

// testGooseCommandLine: whoever migrates with goose itself, on the same files,
// gets what the binary's own migrations make.
func testGooseCommandLine(t *testing.T, binary string) {
	db := dbtest.NewEmpty(t)
	site := newSite(t)
	h := newHub(t, binary, db.URL, site.URL, "MERCURE_MIGRATE=off")

	up := exec.CommandContext(t.Context(), "go", "run", goose,
		"-dir", "migrations", "-table", migrations.VersionTable, "postgres", db.URL, "up")
	up.Dir = "../.."
	run(t, up)

	status := exec.CommandContext(t.Context(), binary, "migrate", "status")
	status.Env = h.env
	text := run(t, status)
	entries, err := migrations.FS.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.Contains(text, entry.Name()) {
			t.Errorf("migrate status does not list %s", entry.Name())
		}
	}
	if t.Failed() || strings.Contains(text, "pending") {
		t.Errorf("migrate status, after goose has migrated:\n%s", text)
	}

	h.start(t) // which refuses to without the schema it needs
}
