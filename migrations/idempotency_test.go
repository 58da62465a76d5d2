package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/migrations"
)

// querier is a pool, a connection or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// published returns the id that a call of mercure.publish returns.
func published(t *testing.T, q querier, arguments string, args ...any) string {
	t.Helper()
	var id string
	if err := q.QueryRow(t.Context(), "SELECT mercure.publish("+arguments+")", args...).Scan(&id); err != nil {
		t.Fatalf("publish(%s): %v", arguments, err)
	}
	return id
}

// wantReused checks that a call of mercure.publish is refused for its key.
func wantReused(t *testing.T, q querier, arguments string) {
	t.Helper()
	if problem := publishProblem(t, q, arguments); problem.Code != "23505" {
		t.Errorf("publish(%s): %v", arguments, problem)
	}
}

// publishProblem returns what is wrong with a call of mercure.publish.
func publishProblem(t *testing.T, q querier, arguments string) *pgconn.PgError {
	t.Helper()
	var (
		id    string
		pgErr *pgconn.PgError
	)
	err := q.QueryRow(t.Context(), "SELECT mercure.publish("+arguments+")").Scan(&id)
	if !errors.As(err, &pgErr) {
		t.Fatalf("publish(%s): %s, %v; want it to be refused", arguments, id, err)
	}
	return pgErr
}

func drain(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	exec(t, pool, "SELECT mercure.drain(NULL, 1000)")
}

// logged is the log in its order.
func logged(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	return value[[]string](t, pool, "SELECT coalesce(array_agg(id || ' ' || data ORDER BY position), '{}') FROM mercure.updates")
}

func wantLog(t *testing.T, pool *pgxpool.Pool, want ...string) {
	t.Helper()
	drain(t, pool)
	if got := logged(t, pool); !slices.Equal(got, want) {
		t.Errorf("the log is %q, want %q", got, want)
	}
	if n := value[int](t, pool, "SELECT count(*) FROM mercure.outbox"); n != 0 {
		t.Errorf("%d rows wait in the outbox", n)
	}
}

const onceA = "'https://example.com/a', 'data', idempotency_key => 'job 17'"

// A retry is the same update: before the first has entered the log, and after.
func TestPublishWithAKey(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	first := published(t, pool, onceA)
	if again := published(t, pool, onceA); again != first {
		t.Errorf("a retry before the drain returned %s, want %s", again, first)
	}
	wantLog(t, pool, first+" data")
	if again := published(t, pool, onceA); again != first {
		t.Errorf("a retry after the drain returned %s, want %s", again, first)
	}
	if n := value[int](t, pool, "SELECT count(*) FROM mercure.outbox"); n != 0 {
		t.Error("a retry of what is in the log waits to be moved there")
	}
	other := published(t, pool, "'https://example.com/a', 'data', idempotency_key => 'job 18'")
	unkeyed := published(t, pool, "'https://example.com/a', 'data'")
	if other == first || unkeyed == first || unkeyed == other {
		t.Errorf("ids are %s, %s and %s", first, other, unkeyed)
	}
	wantLog(t, pool, first+" data", other+" data", unkeyed+" data")
	if n := value[int](t, pool, "SELECT count(*) FROM mercure.rejected"); n != 0 {
		t.Errorf("%d rows were rejected", n)
	}
}

// Every way to write the same thing is a retry of it, and whatever is different
// is refused with the key's name.
func TestContentUnderAKey(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	const base = "topics => '{a,b}', data => 'data', private => true, type => 't', retry => 5, idempotency_key => 'k'"
	first := published(t, pool, base)
	drain(t, pool)
	for _, same := range []string{base, "ARRAY['a', 'b'], 'data', true, 't', 5, NULL, 'k'", base + ", id => '" + first + "'"} {
		if id := published(t, pool, same); id != first {
			t.Errorf("%s: got %s, want %s", same, id, first)
		}
	}
	for _, change := range [][2]string{
		{"'{a,b}'", "'{b,a}'"},
		{"'{a,b}'", "'{a}'"},
		{"'{a,b}'", "'{\"a,b\"}'"},
		{"'data'", "'Data'"},
		{"'data'", "NULL"},
		{"true", "false"},
		{"'t'", "'T'"},
		{"'t'", "NULL"},
		{"5", "6"},
		{"5", "NULL"},
		{"retry => 5", "retry => 5, id => 'mine'"},
	} {
		different := strings.Replace(base, change[0], change[1], 1)
		problem := publishProblem(t, pool, different)
		if problem.Code != "23505" || !strings.Contains(problem.Message, "the idempotency key 'k' was used for another update, "+first) {
			t.Errorf("%s: %s %s", different, problem.Code, problem.Message)
		}
	}
	// What means the same.
	for n, pair := range [][2]string{{"'a'", "'a', ''"}, {"'a', type => NULL", "'a', type => ''"}} {
		key := fmt.Sprintf(", idempotency_key => 'alike %d'", n)
		id := published(t, pool, pair[0]+key)
		drain(t, pool)
		if again := published(t, pool, pair[1]+key); again != id {
			t.Errorf("%s is not %s", pair[1], pair[0])
		}
	}
}

// An id that the publisher gives stays, and belongs to the content.
func TestKeyAndID(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	const call = "'a', 'data', id => 'mine', idempotency_key => 'k'"
	for range 2 {
		if id := published(t, pool, call); id != "mine" {
			t.Errorf("got %s", id)
		}
	}
	wantLog(t, pool, "mine data")
	if id := published(t, pool, call); id != "mine" {
		t.Errorf("got %s", id)
	}
	wantReused(t, pool, "'a', 'data', idempotency_key => 'k'")
	wantLog(t, pool, "mine data")
}

func TestKeyThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	published(t, pool, "'a', idempotency_key => '"+strings.Repeat("k", 255)+"'")
	for _, key := range []string{"", strings.Repeat("k", 256), strings.Repeat("ü", 128)} {
		problem := publishProblem(t, pool, "'a', idempotency_key => '"+key+"'")
		if problem.Code != "23514" || !strings.Contains(problem.Message, "it must have 1 to 255") {
			t.Errorf("%d bytes: %s", len(key), problem.Message)
		}
	}
}

// Two transactions with the same key are open at once: neither waits for the
// other, and the first one to enter the log is the update.
func TestTransactionsDoNotWaitForKeys(t *testing.T) {
	t.Parallel()
	for _, isolation := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(isolation), func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			pool := database.Pool(t)
			var transactions []pgx.Tx
			begin := func() pgx.Tx {
				conn := database.Conn(t)
				if _, err := conn.Exec(t.Context(), "SET lock_timeout = '1s'; SET statement_timeout = '20s'"); err != nil {
					t.Fatal(err)
				}
				tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: isolation})
				if err != nil {
					t.Fatal(err)
				}
				transactions = append(transactions, tx)
				return tx
			}
			first := published(t, begin(), onceA)
			if second := published(t, begin(), onceA); second != first {
				t.Errorf("got %s, want %s", second, first)
			}
			// Different content: what has not been committed cannot be known.
			different := published(t, begin(), "'https://example.com/a', 'other', idempotency_key => 'job 17'")
			if different != first {
				t.Errorf("got %s, want %s", different, first)
			}
			for _, tx := range transactions {
				if err := tx.Commit(t.Context()); err != nil {
					t.Error(err)
				}
			}
			var refusedRows int
			if err := pool.QueryRow(t.Context(), "SELECT refused FROM mercure.drain(NULL, 1000)").Scan(&refusedRows); err != nil || refusedRows != 1 {
				t.Errorf("%d rows refused, %v; want 1", refusedRows, err)
			}
			wantLog(t, pool, first+" data")
			reason := value[string](t, pool, "SELECT reason || ': ' || (outbox_row ->> 'data') FROM mercure.rejected")
			if reason != "the idempotency key 'job 17' was used for another update: other" {
				t.Errorf("rejected because %s", reason)
			}
			wantReused(t, pool, "'https://example.com/a', 'other', idempotency_key => 'job 17'")
		})
	}
}

// What is rolled back was never the first.
func TestKeyOfARollback(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	published(t, tx, onceA)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	drain(t, pool)
	id := published(t, pool, "'https://example.com/a', 'other', idempotency_key => 'job 17'")
	wantLog(t, pool, id+" other")
}

// A row that the log refuses has not used its key.
func TestKeyOfARejectedRow(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	exec(t, pool, "ALTER TABLE mercure.updates ADD CONSTRAINT no_poison CHECK (data <> 'poison')")
	published(t, pool, "'a', 'poison', idempotency_key => 'k'")
	other := published(t, pool, "'a', 'good', idempotency_key => 'l'")
	wantLog(t, pool, other+" good")
	id := published(t, pool, "'a', 'cure', idempotency_key => 'k'")
	wantLog(t, pool, other+" good", id+" cure")
}

// After a day a key is free, before and after it has been forgotten.
func TestKeysExpire(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	const other = "'https://example.com/a', 'other', idempotency_key => 'job 17'"
	age := func(interval string) {
		t.Helper()
		exec(t, pool, "UPDATE mercure.publish_keys SET created_at = clock_timestamp() - $1::interval", interval)
	}
	id := published(t, pool, onceA)
	drain(t, pool)
	age("23 hours 59 minutes")
	wantReused(t, pool, other)
	if n := value[int](t, pool, "SELECT mercure.forget_publish_keys(10)"); n != 0 {
		t.Errorf("%d keys forgotten too early", n)
	}
	age("24 hours 1 minute")
	published(t, pool, other)
	wantLog(t, pool, id+" data", id+" other")
	wantReused(t, pool, onceA)

	published(t, pool, "'a', idempotency_key => 'second'")
	published(t, pool, "'a', idempotency_key => 'third'")
	drain(t, pool)
	age("24 hours 1 minute")
	for _, want := range []int{2, 1, 0} {
		if n := value[int](t, pool, "SELECT mercure.forget_publish_keys(2)"); n != want {
			t.Errorf("%d keys forgotten, want %d", n, want)
		}
	}
	if n := value[int](t, pool, "SELECT count(*) FROM mercure.publish_keys"); n != 0 {
		t.Errorf("%d keys are left", n)
	}
	published(t, pool, onceA)
}

// Rows that are inserted in one way or another follow the same rule: only the
// id that they are inserted with may not be the first one's.
func TestInsertsWithAKey(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	const insert = "INSERT INTO mercure.outbox (topics, data, idempotency_key) VALUES "
	exec(t, pool, insert+"('{a}', '1', 'k'), ('{a}', '1', 'k'), ('{a}', '2', 'l'), ('{a}', '3', NULL), ('{a}', '3', NULL)")
	drain(t, pool)
	exec(t, pool, insert+"('{a}', '1', 'k')")
	if _, err := pool.CopyFrom(t.Context(), pgx.Identifier{"mercure", "outbox"}, []string{"topics", "data", "idempotency_key"},
		pgx.CopyFromRows([][]any{{[]string{"a"}, "2", "l"}, {[]string{"a"}, "4", "m"}})); err != nil {
		t.Fatal(err)
	}
	published(t, pool, "'a', '4', idempotency_key => 'm'")
	drain(t, pool)
	data := value[string](t, pool, "SELECT string_agg(data, '' ORDER BY position) FROM mercure.updates")
	if data != "12334" {
		t.Errorf("the log has %s", data)
	}
	if n := value[int](t, pool, "SELECT count(*) FROM mercure.rejected"); n != 0 {
		t.Errorf("%d rows were rejected", n)
	}
}

// A chunk of rows, of which some have keys.
func TestChunksWithKeys(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	exec(t, pool, `INSERT INTO mercure.outbox (topics, data, idempotency_key)
		SELECT '{a}', n / 2, CASE WHEN n % 3 > 0 THEN 'k' || n / 2 END FROM generate_series(0, 2999) AS n`)
	want := value[int](t, pool, "SELECT count(*) FILTER (WHERE idempotency_key IS NULL) + count(DISTINCT idempotency_key) FROM mercure.outbox")
	var state *string
	moved := 0
	for more := true; more; {
		var some int
		if err := pool.QueryRow(t.Context(), "SELECT state, moved, more FROM mercure.drain($1, 100)", state).Scan(&state, &some, &more); err != nil {
			t.Fatal(err)
		}
		moved += some
	}
	if n := value[int](t, pool, "SELECT count(*) FROM mercure.updates"); n != want || moved != want {
		t.Errorf("%d updates, %d moved, want %d", n, moved, want)
	}
	if sorted := value[bool](t, pool, "SELECT bool_and(ok) FROM (SELECT data::int >= lag(data::int, 1, 0) OVER (ORDER BY position) AS ok FROM mercure.updates) AS o"); !sorted {
		t.Error("the order is lost")
	}
}

// Keys belong to the role that publishes, and no other one sees them.
func TestKeysOfRoles(t *testing.T) {
	t.Parallel()
	database := dbtest.NewServer(t).DB
	pool := database.Pool(t)
	conns := map[string]*pgx.Conn{}
	for _, role := range []string{"anna", "bert"} {
		exec(t, pool, "CREATE ROLE "+role+" IN ROLE mercure_publisher")
		conns[role] = database.Conn(t)
		if _, err := conns[role].Exec(t.Context(), "SET ROLE "+role); err != nil {
			t.Fatal(err)
		}
	}
	anna := published(t, conns["anna"], onceA)
	bert := published(t, conns["bert"], "'https://example.com/a', 'other', idempotency_key => 'job 17'")
	if anna == bert {
		t.Error("two roles share a key")
	}
	wantLog(t, pool, anna+" data", bert+" other")
	if again := published(t, conns["anna"], onceA); again != anna {
		t.Errorf("got %s, want %s", again, anna)
	}
	var seen []string
	if err := conns["anna"].QueryRow(t.Context(), "SELECT array_agg(id) FROM mercure.own_publish_keys").Scan(&seen); err != nil || !slices.Equal(seen, []string{anna}) {
		t.Errorf("anna sees %q, %v", seen, err)
	}
	for _, forbidden := range []string{
		"SELECT FROM mercure.publish_keys", "SELECT FROM mercure.key_salt", "DELETE FROM mercure.publish_keys",
		"SELECT mercure.forget_publish_keys(1)", "SELECT mercure.keep_first('{1}')",
		"INSERT INTO mercure.outbox (topics, publisher, idempotency_key) VALUES ('{a}', 'bert', 'job 17')",
		"UPDATE mercure.outbox SET publisher = 'bert'",
	} {
		_, err := conns["anna"].Exec(t.Context(), forbidden)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Errorf("%s: %v", forbidden, err)
		}
	}
}

// Calls that were written, prepared or granted for the functions without a key
// do what they did, also in sessions that go on through the migration.
func TestPublishBeforeAndAfterTheMigration(t *testing.T) {
	t.Parallel()
	server := dbtest.NewServer(t)
	database := server.DB
	pool := database.Pool(t)
	runner := migrations.Runner{DatabaseURL: database.URL}
	for value[int](t, pool, "SELECT max(version) FROM mercure.schema_version") >= 11 {
		if _, err := runner.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, pool, "CREATE ROLE caller")
	exec(t, pool, "GRANT USAGE ON SCHEMA mercure TO caller")
	exec(t, pool, "GRANT EXECUTE ON FUNCTION mercure.publish(text, text, boolean, text, bigint, text) TO caller")
	exec(t, pool, "REVOKE EXECUTE ON FUNCTION mercure.publish(text, text, boolean, text, bigint, text) FROM PUBLIC")
	exec(t, pool, `CREATE FUNCTION depends() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT mercure.publish('a', 'depends'); END`)
	exec(t, pool, `CREATE FUNCTION calls() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN mercure.publish('a', 'calls'); END $$`)

	calls := []string{
		"SELECT mercure.publish('a')", "SELECT mercure.publish('a', 'x')", "SELECT mercure.publish('{a}'::text[], 'x')",
		"SELECT mercure.publish(topic => 'a', private => true)", "SELECT mercure.publish(topics => '{a,b}', id => 'i')",
		"SELECT mercure.publish('a', 'x', true, 't', 5, 'i')", "SELECT mercure.publish(ARRAY['a'], 'x', true, 't', 5, 'i')",
		"SELECT mercure.publish('a', NULL, false, NULL, NULL, NULL)", "SELECT mercure.publish('{a}'::varchar[], 'x'::varchar, true, 't'::varchar, 5::smallint, 'i'::varchar)",
		"SELECT mercure.publish('a'::name, 'x'::char(1), true, 't'::name, 5::bigint, 'i'::name)", "SELECT mercure.publish('a'::text, id => 'i'::text)",
		"SELECT mercure.publish(topic => 'a', data => 'x', private => true, type => 't', retry => 5, id => 'i')",
		"SELECT mercure.publish('a', 'x', false, NULL, NULL)", "SELECT depends()", "SELECT calls()",
	}
	session := database.Conn(t)
	call := func(ctx context.Context, conn *pgx.Conn, mode pgx.QueryExecMode) error {
		for n, sql := range calls {
			if err := conn.QueryRow(ctx, sql, mode).Scan(new(string)); err != nil {
				return fmt.Errorf("call %d, %s: %w", n, sql, err)
			}
		}
		return nil
	}
	if err := call(t.Context(), session, pgx.QueryExecModeCacheStatement); err != nil {
		t.Fatal(err)
	}
	var (
		ended   = make(chan struct{})
		running sync.WaitGroup
	)
	for _, mode := range []pgx.QueryExecMode{ // prepared once and named, as by ORMs; without a name; in the simple protocol
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		conn, begun := database.Conn(t), make(chan struct{})
		running.Go(func() { // ends with ended
			for n := 0; ; n++ {
				if err := call(t.Context(), conn, mode); err != nil {
					t.Error(err)
				}
				if n == 0 {
					close(begun)
				}
				select {
				case <-ended:
					return
				default:
				}
			}
		})
		<-begun
	}
	_, err := runner.Up(t.Context())
	close(ended)
	running.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(call(t.Context(), session, pgx.QueryExecModeCacheStatement), call(t.Context(), database.Conn(t), pgx.QueryExecModeCacheStatement)); err != nil {
		t.Error(err)
	}

	for _, sql := range []string{
		"GRANT EXECUTE ON FUNCTION mercure.publish(text[], text, boolean, text, bigint, text) TO caller",
		"GRANT EXECUTE ON FUNCTION mercure.publish(text, text, boolean, text, bigint, text) TO caller",
	} {
		exec(t, pool, sql)
	}
	for grantee, want := range map[string]bool{"caller": true, "mercure_publisher": true, "public": false} {
		var may bool
		const query = "SELECT has_function_privilege($1, 'mercure.publish(text, text, boolean, text, bigint, varchar, text)', 'EXECUTE')"
		if err := pool.QueryRow(t.Context(), query, grantee).Scan(&may); err != nil || may != want {
			t.Errorf("%s may publish: %v, %v", grantee, may, err)
		}
	}
}
