package eventlog

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// Refused rows are forgotten in portions, and the log says how many, once; it
// says nothing when there are none.
func TestOldRefusedRowsAreForgotten(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	var log bytes.Buffer
	l, err := Open(t.Context(), Config{DatabaseURL: database.URL, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	if _, err := l.pool.Exec(t.Context(), `INSERT INTO mercure.rejected (seq, rejected_at, reason, outbox_row)
		SELECT n, clock_timestamp() - CASE WHEN n % 10 > 0 THEN interval '31 days' ELSE interval '29 days' END, 'reason', '{}'
		FROM generate_series(1, 25000) AS n`); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l.forgetOld(t.Context())
	}
	var left, young int
	if err := l.pool.QueryRow(t.Context(), "SELECT count(*), count(*) FILTER (WHERE seq % 10 = 0) FROM mercure.rejected").Scan(&left, &young); err != nil ||
		left != 2500 || young != 2500 {
		t.Errorf("%d rows are left, %d of them not old, %v; want 2500", left, young, err)
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "level=WARN") ||
		!strings.Contains(text, "mercure.rejected") || !strings.Contains(text, "count=22500") {
		t.Errorf("logged %q", text)
	}
}
