package main

import (
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// The dry run says what would go, and nothing goes.
func TestRetentionCommand(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	conn := database.Conn(t)
	for _, sql := range []string{
		`INSERT INTO mercure.updates (position, topics, data, size, created_at)
			SELECT n, CASE WHEN n % 2 = 0 THEN '{https://example.com/a}'::text[] ELSE '{b}' END, 'x', 100, now() - interval '1 day' FROM generate_series(1, 20) AS n`,
		`INSERT INTO mercure.policies (priority, match_type, match, keep_last, enabled)
			VALUES (5, 'urlpattern', 'https://example.com/:x', true, false), (6, 'urlpattern', 'https://example.com/(', false, true)`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"20 updates of 2000 bytes", "5 urlpattern https://example.com/:x 0 0 0 0 0 not enabled", "- the whole log 20 2000 0 0", "must be a valid URL pattern"}},
		{[]string{"--with-disabled", "--history-max-updates=6"}, []string{
			"5 urlpattern https://example.com/:x 1 10 1000 9 900 not enabled", "- the whole log 20 2000 14", "Clients could then resume from",
		}},
		{[]string{"--history-max-age=1h"}, []string{"- the whole log 20 2000 19 1900"}},
	} {
		got := invoke(t, []string{"DATABASE_URL=" + database.URL}, append([]string{"retention"}, test.args...)...).want(t, exitOK)
		text := strings.Join(strings.Fields(got.stdout), " ")
		for _, want := range test.want {
			if !strings.Contains(text, want) {
				t.Errorf("%q: no %q in\n%s", test.args, want, got.stdout)
			}
		}
	}
	var updates int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM mercure.updates WHERE emptied_at IS NULL").Scan(&updates); err != nil || updates != 20 {
		t.Errorf("%d updates are left, %v", updates, err)
	}
	invoke(t, []string{"DATABASE_URL=" + database.URL}, "retention", "--history-max-age=1s").want(t, exitFailure)
}
