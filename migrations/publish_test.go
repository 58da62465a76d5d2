package migrations_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// Every form of the call, as applications write it. Spec: P-1, P-12.
func TestPublishForms(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	for call, want := range map[string]string{
		`'a'`:                                           `{a}|null|f|null|null`,
		`'a', 'x'`:                                      `{a}|x|f|null|null`,
		`'a', NULL`:                                     `{a}|null|f|null|null`,
		`topic => 'a', data => 'x'`:                     `{a}|x|f|null|null`,
		`'a', '{"b": 1}'::jsonb`:                        `{a}|{"b": 1}|f|null|null`,
		`'a', '{"b":1}'::json, private => true`:         `{a}|{"b":1}|t|null|null`,
		`'a', to_jsonb(17)`:                             `{a}|17|f|null|null`,
		`'a', jsonb_build_object('b', NULL)`:            `{a}|{"b": null}|f|null|null`,
		`'a', NULL::jsonb`:                              `{a}|null|f|null|null`,
		`ARRAY['a', 'b'], 'x'`:                          `{a,b}|x|f|null|null`,
		`topics => '{a,b}', data => '1'::jsonb`:         `{a,b}|1|f|null|null`,
		`'{a,b}'::text[], row_to_json(row(1))`:          `{a,b}|{"f1":1}|f|null|null`,
		`'a', 'x', true, 't', 5000`:                     `{a}|x|t|t|5000`,
		`'a', '1'::jsonb, true, 't', 5000, 'my'`:        `{a}|1|t|t|5000`,
		`'a', '1'::jsonb, idempotency_key => 'k'`:       `{a}|1|f|null|null`,
		`ARRAY['a'], '1'::json, idempotency_key => 'k'`: `{a}|1|f|null|null`,
	} {
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			var id, stored, got string
			if err := tx.QueryRow(t.Context(), "SELECT mercure.publish("+call+")").Scan(&id); err != nil {
				return err
			}
			err := tx.QueryRow(t.Context(), `
				SELECT o.id, concat_ws('|', o.topics, coalesce(o.data, 'null'), o.private, coalesce(o.type, 'null'), coalesce(o.retry::text, 'null'))
				FROM mercure.outbox AS o`).Scan(&stored, &got)
			if id != stored || got != want || strings.HasSuffix(call, "'my'") != (id == "my") {
				t.Errorf("publish(%s) returned %s and inserted %s with id %s, want %s", call, id, got, stored, want)
			}
			if err == nil {
				_, err = tx.Exec(t.Context(), "DELETE FROM mercure.outbox")
			}
			return err
		})
		if err != nil {
			t.Errorf("publish(%s): %v", call, err)
		}
	}
}

// The short way is for the updates that applications publish.
func TestOrdinaryUpdates(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	const id = "urn:uuid:2e5c1f0a-0b5e-4d8c-9d3e-6f1b2a3c4d5e"
	for _, test := range []struct {
		topics, data, typ, id string
		ordinary              bool
	}{
		{`{https://example.com/accounts/17}`, "x", "", id, true},
		{`{https://example.com/}`, "x", "update", id, true},
		{`{"https://example.com/a?b=c d#e"}`, "x", "", id, true},
		{`{urn:uuid:2e5c1f0a-0b5e-4d8c-9d3e-6f1b2a3c4d5e}`, "x", "", id, true},
		{`{a}`, strings.Repeat("x", 8388608), "", id, true},
		{`{a}`, strings.Repeat("x", 8388609), "", id, false},
		{`{a}`, "x", "mercure", id, false},
		{`{a}`, "x", "a\nb", id, false},
		{`{a}`, "x", "", "earliest", false},
		{`{a}`, "x", "", id + "\n", false},
		{`{}`, "x", "", id, false},
		{`{""}`, "x", "", id, false},
		{`{NULL}`, "x", "", id, false},
		{`{*}`, "x", "", id, false},
		{`{a,b}`, "x", "", id, false},
		{`{{a}}`, "x", "", id, false},
		{`[0:0]={a}`, "x", "", id, false},
		{`{` + strings.Repeat("x", 4097) + `}`, "x", "", id, false},
		{`{https://example.com/.well-known/mercure}`, "x", "", id, false},
		{`{https:///}`, "x", "", id, false},
		{`{http:?a}`, "x", "", id, false},
	} {
		var ordinary bool
		err := pool.QueryRow(t.Context(), "SELECT coalesce(mercure.is_ordinary_update($1::text::text[], $2, $3, $4), false)",
			test.topics, test.data, test.typ, test.id).Scan(&ordinary)
		if err != nil || ordinary != test.ordinary {
			t.Errorf("%.60s, %.10s, %s, %s: %v, %v", test.topics, test.data, test.typ, test.id, ordinary, err)
		}
	}
}

// Only a row rings, whoever inserts it, and only once after a silence.
func TestDoorbellRings(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	state := func() int { return value[int](t, pool, "SELECT last_value FROM mercure.doorbell") }
	exec(t, pool, "CREATE TABLE written (topics text[])")
	for _, test := range []struct {
		sql  string
		want int
	}{
		{"INSERT INTO mercure.outbox (topics) SELECT w.topics FROM written AS w", 2},
		{"INSERT INTO mercure.outbox (topics) VALUES ('{a}'), ('{b}')", 1},
		{"SELECT mercure.publish('a')", 1},
		{"SET ROLE mercure_publisher; SELECT mercure.publish('a')", 1},
		// Granted more by hand, and not this.
		{"REVOKE SELECT ON SEQUENCE mercure.doorbell FROM mercure_publisher; SET ROLE mercure_publisher; INSERT INTO mercure.outbox (topics) VALUES ('{a}')", 1},
	} {
		exec(t, pool, "SELECT mercure.arm_doorbell()")
		exec(t, pool, test.sql+"; RESET ROLE")
		if got := state(); got != test.want {
			t.Errorf("after %s the doorbell is at %d, want %d", test.sql, got, test.want)
		}
	}
}

// A drain names its rows by seq. With statistics of an empty queue PostgreSQL
// may look for them in any index that has seq somewhere, and read all of it for
// each row where it does not come first.
func TestSeqComesFirstInIndexesOfTheOutbox(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	if n := value[int](t, pool, `
		SELECT count(*)
		FROM pg_index AS i
		JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[1:])
		WHERE i.indrelid = 'mercure.outbox'::regclass AND a.attname = 'seq'`); n != 0 {
		t.Errorf("%d indexes have seq in another place", n)
	}
}
