package eventlog_test

import (
	"context"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

func TestEveryWayToPublishFromSQL(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"insert into the outbox":  "INSERT INTO mercure.outbox (topics, data) VALUES ('{https://example.com/a}', 'hello')",
		"insert into the log":     "INSERT INTO mercure.updates (topics, data) VALUES ('{https://example.com/a}', 'hello')",
		"publish one topic":       "SELECT mercure.publish('https://example.com/a', 'hello')",
		"publish several topics":  "SELECT mercure.publish(ARRAY['https://example.com/a', 'b'], 'hello')",
		"publish with names":      "SELECT mercure.publish(topic => 'https://example.com/a', data => 'hello', type => NULL)",
		"with (data-)less insert": "INSERT INTO mercure.outbox (topics, data) VALUES ('{https://example.com/a}', NULL)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			l := open(t, database.URL)
			exec(t, database.Pool(t), sql)
			update := l.waitFor(t, 1)[0].Update
			if update.Topics[0] != "https://example.com/a" || update.Private || update.Type != "" || update.ID == "" {
				t.Errorf("got %+v", update)
			}
			if update.Data != "hello" && name != "with (data-)less insert" {
				t.Errorf("data is %q", update.Data)
			}
		})
	}
}

func TestPublishReturnsTheID(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	l := open(t, database.URL)
	generated := query[string](t, pool, "SELECT mercure.publish('a')")
	given := query[string](t, pool, "SELECT mercure.publish('a', private => true, type => 'ping', retry => 5, id => 'mine')")
	returned := query[string](t, pool, "INSERT INTO mercure.outbox (topics) VALUES ('{a}') RETURNING id")
	entries := l.waitFor(t, 3)
	for i, want := range []string{generated, given, returned} {
		if got := string(entries[i].Update.ID); got != want {
			t.Errorf("update %d has id %q, the statement returned %q", i, got, want)
		}
	}
	if u := entries[1].Update; u.ID != "mine" || !u.Private || u.Type != "ping" || u.Retry == nil || *u.Retry != 5 {
		t.Errorf("got %+v", u)
	}
}

func TestBadValuesFailInTheOutbox(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	for name, test := range map[string]struct{ sql, message string }{
		"no topics":         {`INSERT INTO mercure.outbox (topics) VALUES ('{}')`, "topics is empty; an update needs at least one topic"},
		"topics missing":    {`INSERT INTO mercure.outbox (data) VALUES ('x')`, `null value in column "topics" of relation "outbox" violates not-null constraint`},
		"an empty topic":    {`INSERT INTO mercure.outbox (topics) VALUES ('{a,""}')`, "topics contains an empty topic"},
		"a NULL topic":      {`INSERT INTO mercure.outbox (topics) VALUES ('{a,NULL}')`, "topics contains an empty topic"},
		"the wildcard":      {`SELECT mercure.publish('*')`, "the topic * cannot be published: it is the wildcard of subscribers"},
		"a zero-width char": {`SELECT mercure.publish(E'a\u200b')`, "topic contains the control or format character U+200B, which is not allowed"},
		"a line feed":       {`SELECT mercure.publish('a', type => E'x\ny')`, "type contains the control or format character U+000A, which is not allowed"},
		"a long topic":      {`SELECT mercure.publish(repeat('é', 2049))`, "topic is 4098 bytes long; at most 4096 are allowed"},
		"1,001 topics":      {`INSERT INTO mercure.outbox (topics) SELECT array_agg(i::text) FROM generate_series(1, 1001) AS i`, "topics has 1001 elements; at most 1000 are allowed"},
		"the namespace":     {`SELECT mercure.publish('/.well-known/mercure/subscriptions/x')`, "the topic '/.well-known/mercure/subscriptions/x' lies in the namespace reserved for the hub, /.well-known/mercure"},
		"the hub's type":    {`SELECT mercure.publish('a', type => 'mercure')`, "the type mercure is reserved for the hub"},
		"id earliest":       {`SELECT mercure.publish('a', id => 'earliest')`, "the id 'earliest' cannot be used"},
		"id with #":         {`SELECT mercure.publish('a', id => '#1')`, "the id '#1' cannot be used"},
		"a shifted array":   {`INSERT INTO mercure.outbox (topics) VALUES ('[0:0]={a}')`, "topics must be a one-dimensional array whose first index is 1"},
		"too much data":     {`SELECT mercure.publish('a', repeat('x', 8388609))`, "data is 8388609 bytes long; at most 8388608 are allowed"},
		"through the log":   {`INSERT INTO mercure.updates (topics, type) VALUES ('{a}', 'mercure')`, "the type mercure is reserved for the hub"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pool.Exec(t.Context(), test.sql)
			pgErr := pgError(err)
			if pgErr == nil || pgErr.Message != test.message {
				t.Errorf("got %v, want %q", err, test.message)
			}
		})
	}
	exec(t, pool, "SET standard_conforming_strings = off; SELECT mercure.publish('https://example.com/%20', retry => 0)")
	if n := query[int](t, pool, "SELECT count(*) FROM mercure.outbox"); n != 1 {
		t.Errorf("%d rows in the outbox, want the good one only", n)
	}
}

func TestForbiddenCharactersAreTheSameInSQL(t *testing.T) { // Spec: TP-2
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	rows, err := pool.Query(t.Context(), `
		SELECT i FROM generate_series(1, 1114111) AS i
		WHERE NOT i BETWEEN 55296 AND 57343 AND mercure.forbidden_character(chr(i)) IS NOT NULL ORDER BY i`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	var want []int
	for i := 1; i <= 0x10ffff; i++ {
		if (i < 0xd800 || i > 0xdfff) && protocol.ValidateTopic(string(rune(i))) != nil {
			want = append(want, i)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("SQL forbids %d characters, Go %d", len(got), len(want))
	}
}

func TestRowsTheLogRefusesDoNotBlockTheQueue(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	l := open(t, database.URL)
	// A row that the outbox took when it was not yet checked, say.
	exec(t, pool, "ALTER TABLE mercure.outbox DROP CONSTRAINT outbox_update")
	exec(t, pool, "INSERT INTO mercure.outbox (topics, data, private) VALUES ('{a}', 'before', true), ('{}', 'bad', true), ('{a}', 'after', false)")
	entries := l.waitFor(t, 2)
	if !entries[0].Update.Private || entries[1].Update.Private {
		t.Error("a private update became public, or the other way round")
	}
	if got := data(entries); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("delivered %q", got)
	}
	reason := query[string](t, pool, "SELECT reason FROM mercure.rejected WHERE outbox_row->>'data' = 'bad'")
	if reason == "" {
		t.Error("the rejected row has no reason")
	}
}

// More rows than one chunk come in their order, with publishes over HTTP
// answered in between.
func TestBulkInsertKeepsItsOrder(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	l := open(t, database.URL)
	const rows = 12_500
	exec(t, database.Pool(t), "INSERT INTO mercure.outbox (topics, data) SELECT '{a}', i::text FROM generate_series(1, $1) AS i", rows)
	l.append(t, protocol.Update{Data: "http"})
	entries := l.waitFor(t, rows+1)
	next := 1
	for i, e := range entries {
		if e.Update.Data == "http" {
			if i != rows {
				t.Errorf("published after the COMMIT but delivered before %d of its rows", rows-i)
			}
			continue
		}
		if e.Update.Data != strconv.Itoa(next) {
			t.Fatalf("update %d is row %s, want %d", i, e.Update.Data, next)
		}
		next++
	}
}

// A chunk is bounded in bytes, too: one that takes longer than a hub waits would
// be rolled back and tried again for ever.
func TestLargeRowsAreMovedInSmallChunks(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	queries := db.New(database.Pool(t))
	pool := database.Pool(t)
	everythingIsNew := query[string](t, pool, "SELECT mercure.complete_state('1:1:')")
	for name, state := range map[string]*string{"sweep": nil, "diff": &everythingIsNew} {
		exec(t, pool, "INSERT INTO mercure.outbox (topics, data) SELECT '{a}', repeat(i::text, 1500000) FROM generate_series(0, 9) AS i")
		for more := true; more; {
			drained, err := queries.Drain(t.Context(), state, 1000)
			if err != nil {
				t.Fatal(err)
			}
			if drained.Moved > 6 {
				t.Errorf("%s: %d rows of 1.5 MB in one chunk", name, drained.Moved)
			}
			state, more = &drained.State, drained.More
		}
	}
	order := query[string](t, pool, "SELECT string_agg(left(data, 1), '' ORDER BY position) FROM mercure.updates")
	if order != "01234567890123456789" {
		t.Errorf("rows were moved in the order %s", order)
	}
}

// A sequence that is behind the log, as after a logical replica took over.
func TestSequenceBehindTheLog(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	l := open(t, database.URL)
	for range 3 {
		l.append(t, protocol.Update{})
	}
	exec(t, pool, "SELECT setval('mercure.updates_position_seq', 1, false)")
	l.append(t, protocol.Update{Data: "http"})
	exec(t, pool, "SELECT setval('mercure.updates_position_seq', 1, false)")
	exec(t, pool, "SELECT mercure.publish('a', 'sql')")
	if got := data(l.waitFor(t, 5)); got[3] != "http" || got[4] != "sql" {
		t.Errorf("delivered %q", got)
	}
}

// A NOTIFY would make PREPARE TRANSACTION fail.
func TestTwoPhaseCommitIsLeftAlone(t *testing.T) {
	t.Parallel()
	database := dbtest.NewServer(t, "max_prepared_transactions=5").DB
	pool := database.Pool(t)
	l := open(t, database.URL)
	exec(t, pool, "SELECT setval('mercure.doorbell', 2)") // armed before it was enabled
	conn := database.Conn(t)
	for _, sql := range []string{"BEGIN", "SELECT mercure.publish('a', 'prepared')", "PREPARE TRANSACTION 'x'"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(t, pool, "SELECT mercure.publish('a', 'plain')")
	l.waitFor(t, 1)
	exec(t, pool, "COMMIT PREPARED 'x'")
	if got := data(l.waitFor(t, 2)); !slices.Equal(got, []string{"plain", "prepared"}) {
		t.Errorf("delivered %q", got)
	}
}

// What was inserted after another transaction's COMMIT never overtakes it, also
// when that happens in the middle of a sweep that moves a long queue.
func TestSweepKeepsTheOrderOfTransactions(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	queries := db.New(pool)
	tx, err := database.Conn(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT mercure.publish('a', 'first')"); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, "INSERT INTO mercure.outbox (topics, data) SELECT '{a}', 'queue' FROM generate_series(1, 7)")
	const chunk = 3
	drained, err := queries.Drain(t.Context(), nil, chunk)
	if err != nil || !drained.More || drained.Moved != chunk {
		t.Fatalf("first chunk: %+v, %v", drained, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, "SELECT mercure.publish('a', 'second')")
	for range 10 {
		if drained, err = queries.Drain(t.Context(), &drained.State, chunk); err != nil {
			t.Fatal(err)
		}
	}
	order := query[string](t, pool, "SELECT string_agg(data, ' ' ORDER BY position) FROM mercure.updates WHERE data <> 'queue'")
	if n := query[int](t, pool, "SELECT count(*) FROM mercure.updates"); order != "first second" || n != 9 {
		t.Errorf("%d updates, order %q", n, order)
	}
}

// An application's open transaction delays its own rows only.
func TestLongTransactionDelaysOnlyItself(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	l := open(t, database.URL)
	conn := database.Conn(t)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "SELECT mercure.publish('a', 'slow')"); err != nil {
		t.Fatal(err)
	}
	exec(t, pool, "SELECT mercure.publish('a', 'fast')")
	l.append(t, protocol.Update{Data: "http"})
	l.waitFor(t, 2)
	if err := tx.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := data(l.waitFor(t, 3)); got[2] != "slow" {
		t.Errorf("delivered %q", got)
	}
}

// The doorbell costs an inserting transaction a notification after silence
// only, and none at all when no hub is there to hear it.
func TestDoorbellRingsOnce(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	listener := database.Conn(t)
	if _, err := listener.Exec(t.Context(), "LISTEN mercure_doorbell"); err != nil {
		t.Fatal(err)
	}
	rings := func() (n int) {
		t.Helper()
		// Notifications of earlier commits arrive before the answer.
		if _, err := listener.Exec(t.Context(), "SELECT 1"); err != nil {
			t.Fatal(err)
		}
		for {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := listener.WaitForNotification(ctx); err != nil {
				return n
			}
			n++
		}
	}
	insert := "INSERT INTO mercure.outbox (topics) VALUES ('{a}')"
	exec(t, pool, insert)
	if n := rings(); n != 0 {
		t.Errorf("rang %d times with no hub running", n)
	}
	exec(t, pool, "SELECT mercure.arm_doorbell()")
	for range 5 {
		exec(t, pool, insert)
	}
	if n := rings(); n != 1 {
		t.Errorf("rang %d times for five inserts, want once", n)
	}
	exec(t, pool, "SELECT mercure.arm_doorbell()")
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		err := pgx.BeginTxFunc(t.Context(), pool, pgx.TxOptions{IsoLevel: level}, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), insert)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := rings(); n != 1 {
		t.Errorf("rang %d times for two transactions, want once", n)
	}
}
