package migrations_test

import (
	"fmt"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// Rows that the log refused are kept for 30 days, and no more than the newest
// 100,000.
func TestRejectedRowsAreForgotten(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	insert := func(from, to int, age string) {
		t.Helper()
		exec(t, pool, `INSERT INTO mercure.rejected (seq, rejected_at, reason, outbox_row)
			SELECT n, clock_timestamp() - $3::text::interval, 'reason', '{}' FROM generate_series($1::int, $2::int) AS n`, from, to, age)
	}
	forget := func(maxRows int, want ...int) {
		t.Helper()
		for _, n := range want {
			if got := value[int](t, pool, fmt.Sprintf("SELECT mercure.forget_rejected(%d)", maxRows)); got != n {
				t.Errorf("%d rows forgotten, want %d", got, n)
			}
		}
	}
	left := func(want string) {
		t.Helper()
		if got := value[string](t, pool, "SELECT concat_ws(' ', count(*), min(seq), max(seq)) FROM mercure.rejected"); got != want {
			t.Errorf("%s rows are left (number, lowest and highest seq), want %s", got, want)
		}
	}

	forget(10, 0)
	insert(100_001, 100_005, "30 days 1 minute") // the age counts, not the sequence
	insert(1, 5, "29 days 23 hours")
	forget(2, 2, 2, 1, 0)
	left("5 1 5")

	insert(6, 100_000, "1 day")
	forget(10, 0)
	left("100000 1 100000")
	exec(t, pool, "UPDATE mercure.rejected SET rejected_at = clock_timestamp() WHERE seq = 3")
	// All at the same moment: exactly those that are too many go.
	exec(t, pool, `INSERT INTO mercure.rejected (seq, rejected_at, reason, outbox_row)
		SELECT n, now(), 'reason', '{}' FROM generate_series(100001, 100007) AS n`)
	forget(3, 3, 3, 1, 0)
	left("100000 3 100007")
	if n := value[int](t, pool, "SELECT count(*) FROM mercure.rejected WHERE seq < 10"); n != 2 {
		t.Errorf("%d of the first 9 rows are left, want 3 and 9", n)
	}
	exec(t, pool, "UPDATE mercure.rejected SET rejected_at = '2026-01-01'")
	forget(200_000, 100_000)
	exec(t, pool, `INSERT INTO mercure.rejected (seq, rejected_at, reason, outbox_row)
		SELECT n, now(), 'reason', '{}' FROM generate_series(1, 100010) AS n`)
	forget(20, 10, 0)
	left("100000 11 100010")
}

// A row that somebody else has locked is left alone, and holds up nobody.
func TestForgettingRejectedRowsWaitsForNobody(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	exec(t, pool, `INSERT INTO mercure.rejected (seq, rejected_at, reason, outbox_row)
		SELECT n, '2026-01-01', 'reason', jsonb_build_object('id', n::text) FROM generate_series(1, 3) AS n`)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), "SELECT mercure.redact('2')"); err != nil {
		t.Fatal(err)
	}
	if n := value[int](t, pool, "SELECT mercure.forget_rejected(10)"); n != 2 {
		t.Errorf("%d rows forgotten, want 2", n)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := value[int](t, pool, "SELECT mercure.forget_rejected(10)"); n != 1 {
		t.Errorf("%d rows forgotten, want 1", n)
	}
}
