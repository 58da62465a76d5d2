package server_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/cinnabar-hub/cinnabar/"

type goPackage struct {
	ImportPath, Doc string
	Imports, Deps   []string
}

func packages(t *testing.T, args ...string) []goPackage {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Doc,Imports,Deps"}, args...)...)
	command.Dir = ".."
	output, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// Every package says what it promises.
func TestPackageComments(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t, "./...") {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// Imports point one way: cmd, server, httpapi, its parts, protocol.
func TestImportDirection(t *testing.T) {
	t.Parallel()
	const internal = module + "server/internal/"
	allowed := map[string][]string{
		internal + "protocol":  nil,
		internal + "auth":      {internal + "protocol"},
		internal + "broadcast": {internal + "protocol"},
		internal + "keyset":    {internal + "auth"},
		internal + "eventlog":  {internal + "protocol", module + "db", module + "migrations"},
		internal + "presence":  {internal + "protocol"},
		internal + "sse":       {internal + "protocol", internal + "broadcast"},
		internal + "httpapi":   {internal + "protocol", internal + "auth", internal + "broadcast", internal + "eventlog", internal + "sse"},
	}
	for _, p := range packages(t, "./server/...") {
		ours, known := allowed[p.ImportPath]
		if !known && strings.HasPrefix(p.ImportPath, internal) {
			t.Errorf("%s is new: say here what it may import", p.ImportPath)
		}
		if !known {
			continue
		}
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, module) && !slices.Contains(ours, imported) {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
			if strings.Contains(imported, "jackc/pgx") && p.ImportPath != internal+"eventlog" {
				t.Errorf("%s imports %s: only eventlog talks to the database", p.ImportPath, imported)
			}
		}
		if p.ImportPath == internal+"broadcast" && slices.Contains(p.Deps, "net/http") {
			t.Errorf("%s depends on net/http", p.ImportPath)
		}
	}
}

// What is there for tests stays out of the program.
func TestProgramHasNoTestDependencies(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t, "./cmd/cinnabar") {
		for _, dependency := range p.Deps {
			for _, testOnly := range []string{
				"testing", module + "db/dbtest", module + "server/servertest", "pgregory.net/rapid",
				"go.uber.org/goleak", "github.com/google/go-cmp/cmp", "github.com/chromedp/chromedp", "github.com/yosida95/uritemplate/v3",
			} {
				if dependency == testOnly {
					t.Errorf("cinnabar depends on %s", dependency)
				}
			}
		}
	}
}
