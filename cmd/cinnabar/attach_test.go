package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// What is printed is a migration that goose runs, up, down and up again.
func TestAttachMigration(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		table string
		args  []string
		want  string // in the definition that the view shows
	}{
		"least": {"orders", []string{"--topic", "https://example.com/orders/{id}"}, `private => true`},
		"all": {
			"orders", []string{
				"--topic", "https://example.com/orders/{id}", "--topic", "https://example.com/a,b{?state}", "--column", "id", "--column", "state",
				"--operation", "insert", "--operation", "update", "--type", "insert=it's", "--type", "update=", "--public", "--old-values", "--all-updates",
				"--when", "new.state <> E'\\\\'\n-- +goose StatementEnd\n", "--key", "id", "--truncate-topic", "https://example.com/orders", "--schema", "public",
			}, `columns => '{id,state}', operations => '{insert,update}', types => '{"insert": "it''s", "update": ""}', private => false, old_values => true, only_changes => false, when_condition => E'new.state`,
		},
		"a name with everything": {`public."it's a ""table"""`, []string{"--topic", "x/{id}"}, `'public."it''s a ""table"""'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			conn := database.Conn(t)
			for _, statement := range []string{"CREATE TABLE orders (id bigint PRIMARY KEY, state text)", `CREATE TABLE "it's a ""table""" (id bigint PRIMARY KEY)`} {
				if _, err := conn.Exec(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			dir := t.TempDir()
			attach := invoke(t, nil, append([]string{"attach", test.table}, test.args...)...).want(t, exitOK)
			detach := invoke(t, nil, "detach", test.table).want(t, exitOK)
			for file, content := range map[string]string{"1_attach.sql": attach.stdout, "2_detach.sql": detach.stdout} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			db := stdlib.OpenDB(*conn.Config().Copy())
			defer func() { _ = db.Close() }()
			provider, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS(dir), goose.WithDisableGlobalRegistry(true))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := provider.UpTo(t.Context(), 1); err != nil {
					t.Fatalf("%v\n%s", err, attach.stdout)
				}
				if got := definitions(t, db); !strings.Contains(got, test.want) {
					t.Errorf("attached as %s, want %s", got, test.want)
				}
				if _, err := provider.UpTo(t.Context(), 2); err != nil {
					t.Fatalf("%v\n%s", err, detach.stdout)
				}
				if got := definitions(t, db); got != "" {
					t.Errorf("still attached: %s", got)
				}
				if _, err := provider.DownTo(t.Context(), 0); err != nil {
					t.Fatalf("%v\n%s", err, attach.stdout)
				}
			}
		})
	}
}

func definitions(t *testing.T, db *sql.DB) (all string) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), "SELECT coalesce(string_agg(definition, ''), '') FROM mercure.attachments").Scan(&all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAttachUsage(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"--topic":           {"attach", "orders"},
		"<table>":           {"attach", "--topic", "x/{id}"},
		"is no operation":   {"attach", "orders", "--topic", "x/{id}", "--type", "upsert=x"},
		"must be one of":    {"attach", "orders", "--topic", "x/{id}", "--operation", "truncate"},
		"expected \"<table": {"detach"},
	} {
		if got := invoke(t, nil, args...).want(t, exitUsage); !strings.Contains(got.stderr, want) {
			t.Errorf("%q: %s, want %s", args, got.stderr, want)
		}
	}
}
