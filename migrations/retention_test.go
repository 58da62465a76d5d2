package migrations_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// What is wrong with a policy is said when it is inserted.
func TestPoliciesAreChecked(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	for values, want := range map[string]string{
		"(1, 'exact', 'a', NULL, NULL, NULL, false)":               "",
		"(2, 'urlpattern', '*', '1 minute', 1, 1, false)":          "",
		"(3, 'exact', '*', '10 years', NULL, NULL, true)":          "",
		"(4, 'regexp', 'a', NULL, NULL, NULL, false)":              "must be exact or urlpattern",
		"(4, 'exact', '', NULL, NULL, NULL, false)":                "match is empty",
		"(4, 'exact', NULL, NULL, NULL, NULL, false)":              "null value in column",
		"(4, 'exact', E'a\\u200b', NULL, NULL, NULL, false)":       "U+200B",
		"(4, 'exact', repeat('a', 4097), NULL, NULL, NULL, false)": "4097 bytes",
		"(4, 'exact', 'a', '59 seconds', NULL, NULL, false)":       "max_age must be at least 1 minute",
		"(4, 'exact', 'a', NULL, 0, NULL, false)":                  "max_updates must be at least 1",
		"(4, 'exact', 'a', NULL, NULL, 0, false)":                  "max_bytes must be at least 1",
		"(4, 'exact', 'a', NULL, 3, NULL, true)":                   "leave max_updates and max_bytes out",
		"(1, 'exact', 'b', NULL, NULL, NULL, false)":               "policies_priority_key",
	} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "INSERT INTO mercure.policies (priority, match_type, match, max_age, max_updates, max_bytes, keep_last) VALUES (1, 'exact', 'x', NULL, NULL, NULL, false)")
			if err == nil && want == "" {
				_, err = tx.Exec(t.Context(), "DELETE FROM mercure.policies")
			}
			if err == nil {
				_, err = tx.Exec(t.Context(), "INSERT INTO mercure.policies (priority, match_type, match, max_age, max_updates, max_bytes, keep_last) VALUES "+values)
			}
			if err == nil {
				return pgx.ErrTxClosed // taken back
			}
			return err
		})
		if want == "" && !errors.Is(err, pgx.ErrTxClosed) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", values, err, want)
		}
	}
	// Two policies swap their places.
	exec(t, pool, "INSERT INTO mercure.policies (priority, match) VALUES (1, 'a'), (2, 'b')")
	exec(t, pool, "UPDATE mercure.policies SET priority = 3 - priority")
}

// History belongs to who owns the schema.
func TestPublishersCannotRemove(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	for _, sql := range []string{
		"SELECT mercure.redact('a')", "SELECT mercure.retain('1 hour', NULL, NULL, '0', 1000)", "SELECT mercure.apply_policies('0', 1000)",
		"SELECT mercure.empty_updates('{1}')", "SELECT mercure.report_policy(1, 'a', 'b')", "TABLE mercure.policies", "TABLE mercure.history",
		"INSERT INTO mercure.policies (priority, match) VALUES (1, 'a')", "LOCK TABLE mercure.retention_lock IN EXCLUSIVE MODE",
		"SELECT mercure.classify(0, 0, 1, '{}', '{}')", "SELECT mercure.classified(0)", "SELECT mercure.count_updates()", "SELECT mercure.superseded(1)",
	} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "SET LOCAL ROLE mercure_publisher"); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), sql)
			return err
		})
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
}
