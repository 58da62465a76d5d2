package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the expected output")

func TestRun(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"plain.txt":   {"-C", "testdata/repository"},
		"verbose.txt": {"-v", "-C", "testdata/repository"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			if err := run(args, &stdout, &stderr); !errors.Is(err, errIncomplete) {
				t.Fatalf("got error %v, want %v", err, errIncomplete)
			}
			golden := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(golden, stdout.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), stdout.String()); diff != "" {
				t.Errorf("go test ./cmd/requirements -update rewrites it (-want +got):\n%s", diff)
			}
		})
	}
}

// Only a document in which nothing is missing is no error.
func TestNothingMissing(t *testing.T) {
	t.Parallel()
	root := repository(t, "| TP-1 | MUST | both | a rule |\n")
	var output bytes.Buffer
	if err := run([]string{"-C", root}, &output, &output); !errors.Is(err, errIncomplete) {
		t.Errorf("without a test: got %v: %s", err, &output)
	}
	if err := os.WriteFile(filepath.Join(root, "a_test.go"), []byte("package a // TP-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"-C", root}, &output, &output); err != nil {
		t.Errorf("with a test: got %v: %s", err, &output)
	}
}

func TestCannotTell(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ rows, want string }{
		"not an id":        {"| S12 | MUST | both | a rule |\n", "not an id"},
		"level":            {"| S-1 | MUST NOT | both | a rule |\n", "level of S-1"},
		"dialect":          {"| S-1 | MUST | 2.0 | a rule |\n", "dialect of S-1"},
		"no rule":          {"| S-1 | MUST | both | |\n", "says nothing"},
		"cells":            {"| S-1 | MUST | a rule |\n", "3 cells"},
		"twice":            {"| S-1 | MUST | both | a |\n| S-1 | MUST | both | b |\n", "defined twice"},
		"unknown table":    {"| S-1 | MUST | both | a |\n\n| a | b |\n|---|---|\n| c | d |\n", "a table begins"},
		"reason of nobody": {"| S-1 | MUST | both | a |\n\n| ids | reason |\n|---|---|\n| S-2 | b |\n", "is not defined"},
		"two reasons":      {"| S-1 | MUST | both | a |\n\n| ids | reason |\n|---|---|\n| S-1, S-1 | b |\n", "two reasons"},
		"empty reason":     {"| S-1 | MUST | both | a |\n\n| ids | reason |\n|---|---|\n| S-1 | |\n", "not a row"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := run([]string{"-C", repository(t, tc.rows)}, io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if err := run([]string{"-C", t.TempDir()}, io.Discard, io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a document: got %v", err)
	}
}

// The document of this repository can be read. Whether all its rules are tested
// is what the command is for.
func TestDocument(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../" + document)
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseDocument(string(content))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(list, func(q requirement) bool { return q.planned || q.binding() }) {
		t.Error("the document has no rules")
	}
}

func repository(t *testing.T, rows string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "docs"), 0o700); err != nil {
		t.Fatal(err)
	}
	content := "# Rules\n\n| id | level | dialect | rule |\n|---|---|---|---|\n" + rows
	if err := os.WriteFile(filepath.Join(root, document), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}
