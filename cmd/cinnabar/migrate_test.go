package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/migrations"
)

func TestMigrate(t *testing.T) {
	t.Parallel()
	env := []string{"MERCURE_DATABASE_LISTEN_URL_FILE=" + file(t, dbtest.NewEmpty(t).URL+"\n"), "DATABASE_URL=postgres://pooler.invalid/app"}
	latest := fmt.Sprintf("The database is at version %d.\n", migrations.Latest())

	r := invoke(t, env, "migrate", "status").want(t, exitOK)
	if n := strings.Count(r.stdout, "  pending\n"); n != int(migrations.Latest()) {
		t.Errorf("%d migrations are pending:\n%s", n, r.stdout)
	}
	r = invoke(t, env, "migrate", "up").want(t, exitOK)
	if !regexp.MustCompile(`^VERSION +MIGRATION +TOOK\n1 +00001_\w+\.sql +\d+ms\n`).MatchString(r.stdout) || !strings.HasSuffix(r.stdout, latest) {
		t.Errorf("migrate up printed:\n%s", r.stdout)
	}
	if r = invoke(t, env, "migrate", "up").want(t, exitOK); r.stdout != latest {
		t.Errorf("migrate up printed, the second time:\n%s", r.stdout)
	}
	r = invoke(t, env, "migrate", "status").want(t, exitOK)
	if strings.Contains(r.stdout, "pending") || !regexp.MustCompile(`(?m)^1 +00001_\w+\.sql +20\d\d-\d\d-\d\dT\S+Z$`).MatchString(r.stdout) {
		t.Errorf("migrate status printed:\n%s", r.stdout)
	}

	r = invokeWith(t, env, "y\n", false, "migrate", "down").want(t, exitUsage)
	if !strings.HasPrefix(r.stderr, "cinnabar: migrate down deletes data and nobody can be asked; add --yes if that is what you want\n") {
		t.Errorf("migrate down without a terminal said:\n%s", r.stderr)
	}
	for _, answer := range []string{"n\n", "\n", ""} {
		r = invokeWith(t, env, answer, true, "migrate", "down").want(t, exitFailure)
		if !strings.Contains(r.stderr, "Go on? [y/N]") || !strings.HasSuffix(r.stderr, "cinnabar: nothing was changed\n") {
			t.Errorf("migrate down answered with %q said:\n%s", answer, r.stderr)
		}
	}
	want := regexp.MustCompile(fmt.Sprintf(`^VERSION +TAKEN BACK +TOOK\n%d +0*%[1]d_\w+\.sql +\d+ms\n$`, migrations.Latest()))
	if r = invokeWith(t, env, "y\n", true, "migrate", "down").want(t, exitOK); !want.MatchString(r.stdout) {
		t.Errorf("migrate down printed:\n%s", r.stdout)
	}
	for range migrations.Latest() - 1 {
		invoke(t, env, "migrate", "down", "--yes").want(t, exitOK)
	}
	if r = invoke(t, env, "migrate", "down", "--yes").want(t, exitOK); r.stdout != "There is nothing to take back.\n" {
		t.Errorf("the last migrate down printed:\n%s", r.stdout)
	}
}

// A variable must not lead elsewhere than the flag: this would take migrations
// back in another database.
func TestMigrateGoesWhereTheFlagSays(t *testing.T) {
	t.Parallel()
	production, development := dbtest.New(t), dbtest.New(t)
	env := []string{"DATABASE_URL=" + production.URL, "MERCURE_DATABASE_LISTEN_URL=" + production.URL}
	r := invoke(t, env, "migrate", "down", "--yes", "--database-url", development.URL).want(t, exitOK)
	if !strings.Contains(r.stderr, "MERCURE_DATABASE_LISTEN_URL: is not used") {
		t.Errorf("said %s", r.stderr)
	}
	if err := migrations.Check(t.Context(), production.Pool(t)); err != nil {
		t.Errorf("the database of the variables: %v", err)
	}
	if err := migrations.Check(t.Context(), development.Pool(t)); err == nil {
		t.Error("the database of the flag was not touched")
	}
}

func TestMigrateErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		env  []string
		want string
	}{
		{"no database", nil, `^cinnabar: DATABASE_URL: is not set; give the address of a PostgreSQL database, here or with --database-url\n$`},
		{"nobody there", []string{"DATABASE_URL=postgres://app:hunter2secret@127.0.0.1:1/app"}, `^cinnabar: .*127\.0\.0\.1:1 .*connection refused\n$`},
		{"misspelt", []string{"DATABASE_URL=postgres://x", "MERCURE_DATABASE_LISTN_URL=postgres://x"}, `^cinnabar: MERCURE_DATABASE_LISTN_URL: is not a setting; did you mean MERCURE_DATABASE_LISTEN_URL\?\n$`},
		{"value and file", []string{"DATABASE_URL=postgres://x", "DATABASE_URL_FILE=x"}, `^cinnabar: DATABASE_URL: is set, and so is DATABASE_URL_FILE; set only one of them\n$`},
	} {
		for _, command := range []string{"up", "status"} {
			t.Run(command+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				r := invoke(t, test.env, "migrate", command).want(t, exitFailure)
				if !regexp.MustCompile(test.want).MatchString(r.stderr) || strings.Contains(r.stderr, "hunter2") {
					t.Errorf("got %q, want %s", r.stderr, test.want)
				}
			})
		}
	}
}

func TestPrivateDatabase(t *testing.T) {
	t.Parallel()
	env := []string{"DATABASE_URL=private", "MERCURE_DATA_DIR=" + dataDir(t)}
	invoke(t, env, "migrate", "up").want(t, exitOK)
	// What one command wrote, the next one finds.
	if r := invoke(t, env, "migrate", "status").want(t, exitOK); strings.Contains(r.stdout, "pending") {
		t.Errorf("migrate status printed:\n%s", r.stdout)
	}
	hub := startHub(t, append(env, "MERCURE_ANONYMOUS=on", "MERCURE_PUBLISHER_JWT_KEY=secret")...)
	token := strings.TrimSpace(invoke(t, []string{"MERCURE_PUBLISHER_JWT_KEY=secret"}, "token", "--protocol=0.x", "--publish=*").want(t, exitOK).stdout)
	invoke(t, nil, "publish", "--hub", hub, "--token", token, "--topic=a", "--id=1", "hello").want(t, exitOK)

	// A second owner is told who is first.
	r := invoke(t, env, "migrate", "status").want(t, exitFailure)
	if !regexp.MustCompile(`^cinnabar: .* is in use by process \d+: set DATABASE_URL in both to share one database, or use another directory\n$`).MatchString(r.stderr) {
		t.Errorf("got %q", r.stderr)
	}
}

func TestPrivateDatabaseDies(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	log := newTranscript()
	code := make(chan int, 1)
	go func() { // ends with the database
		code <- run(ctx, []string{"serve", "--addr=127.0.0.1:0", "--data-dir", dir}, []string{"DATABASE_URL=private", "MERCURE_ANONYMOUS=on"}, strings.NewReader(""), log, log)
	}()
	log.await(t, `"hub started"`)
	killPostgres(t, dir)
	if got := <-code; got != exitFailure {
		t.Errorf("exit code %d", got)
	}
	if want := "cinnabar: the private PostgreSQL has ended; " + dir + "/postgres.log says why\n"; !strings.HasSuffix(log.String(), want) {
		t.Errorf("the log does not end with %q:\n%s", want, log)
	}
}
