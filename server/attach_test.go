package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// attachCase is what happens to one table, and what subscribers get of it.
type attachCase struct {
	setup  string // as the owner; the default is a table of items
	attach string // arguments after the table
	write  string // as the writer, through psql, a statement a transaction
	want   []string
	// Topics in mercure.rejected.
	rejected []string
}

const items = `CREATE TABLE items (id bigint PRIMARY KEY, name text, price numeric);
	INSERT INTO items VALUES (1, 'one', 1.50), (2, 'two', 2), (3, NULL, 3);`

var attachCases = map[string]attachCase{
	"insert": {
		write: `INSERT INTO items VALUES (4, 'four', 4), (5, NULL, NULL)`,
		want:  []string{`insert {"id":4,"name":"four","price":4}`, `insert {"id":5,"name":null,"price":null}`},
	},
	"update": {
		write: `UPDATE items SET price = 9 WHERE id = 1`,
		want:  []string{`update {"id":1,"name":"one","price":9}`},
	},
	"delete": {
		write: `DELETE FROM items WHERE id = 1`,
		want:  []string{`delete {"id":1,"name":"one","price":1.50}`},
	},
	"an update that changes nothing": {
		write: `UPDATE items SET name = name; UPDATE items SET price = 1.5 WHERE id = 1`,
		want:  []string{`update {"id":1,"name":"one","price":1.5}`},
	},
	"an update that changes nothing, all the same": {
		attach: `'https://example.com/{id}', only_changes => false`,
		write:  `UPDATE items SET name = name WHERE id = 2`,
		want:   []string{`update {"id":2,"name":"two","price":2}`},
	},
	"no row": {
		write: `UPDATE items SET price = 0 WHERE false; DELETE FROM items WHERE false; INSERT INTO items SELECT * FROM items WHERE false`,
	},
	"bulk keeps the order": {
		write: `INSERT INTO items SELECT i, 'x', i FROM generate_series(100, 90, -1) AS i; UPDATE items SET price = 0 WHERE id BETWEEN 99 AND 100`,
		want: append(func() (want []string) {
			for i := 100; i >= 90; i-- {
				want = append(want, fmt.Sprintf(`insert {"id":%d,"name":"x","price":%d}`, i, i))
			}
			return want
		}(), `update {"id":100,"name":"x","price":0}`, `update {"id":99,"name":"x","price":0}`),
	},
	"upsert": {
		write: `INSERT INTO items VALUES (1, 'uno', 1), (6, 'six', 6) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name`,
		want:  []string{`update {"id":1,"name":"uno","price":1.50}`, `insert {"id":6,"name":"six","price":6}`},
	},
	"merge": {
		write: `MERGE INTO items AS i USING (VALUES (1, 'uno'), (2, NULL), (7, 'seven')) AS s (id, name) ON i.id = s.id
			WHEN MATCHED AND s.name IS NULL THEN DELETE
			WHEN MATCHED THEN UPDATE SET name = s.name
			WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.name, 0)`,
		want: []string{
			`delete {"id":2,"name":"two","price":2}`, `update {"id":1,"name":"uno","price":1.50}`,
			`insert {"id":7,"name":"seven","price":0}`,
		},
	},
	"copy": {
		write: "COPY items FROM STDIN;\n8\teight\t8\n9\t\\N\t9\n\\.\n",
		want:  []string{`insert {"id":8,"name":"eight","price":8}`, `insert {"id":9,"name":null,"price":9}`},
	},
	"another key": {
		attach: `'https://example.com/{id}', old_values => true`,
		write:  `UPDATE items SET id = 30, name = 'moved' WHERE id = 3`,
		want:   []string{`delete {"new" : null, "old" : {"id":3,"name":null,"price":3}}`, `insert {"new" : {"id":30,"name":"moved","price":3}, "old" : null}`},
	},
	"keys that are exchanged": {
		write: `UPDATE items SET id = 3 - id WHERE id < 3`,
		setup: `CREATE TABLE items (id bigint PRIMARY KEY DEFERRABLE, other bigint UNIQUE NOT NULL, name text); INSERT INTO items VALUES (1, 1, 'one'), (2, 2, 'two');`,
		want:  []string{`delete {"id":1,"other":1,"name":"one"}`, `insert {"id":2,"other":1,"name":"one"}`, `delete {"id":2,"other":2,"name":"two"}`, `insert {"id":1,"other":2,"name":"two"}`},
	},
	"another topic": {
		attach: `'https://example.com/{name}'`,
		write:  `UPDATE items SET name = 'zwei' WHERE id = 2; UPDATE items SET name = 'drei' WHERE id = 3; UPDATE items SET name = NULL WHERE id = 1`,
		want: []string{
			`delete {"id":2,"name":"two","price":2}`, `insert {"id":2,"name":"zwei","price":2}`,
			`insert {"id":3,"name":"drei","price":3}`, `delete {"id":1,"name":"one","price":1.50}`,
		},
	},
	"old and new values": {
		attach: `'https://example.com/{id}', old_values => true, columns => '{name}'`,
		write:  `UPDATE items SET name = 'b' WHERE id = 2; UPDATE items SET price = 0 WHERE id = 2; INSERT INTO items (id, name) VALUES (4, 'n'); DELETE FROM items WHERE id = 4`,
		want:   []string{`update {"new" : {"name":"b"}, "old" : {"name":"two"}}`, `insert {"new" : {"name":"n"}, "old" : null}`, `delete {"new" : null, "old" : {"name":"n"}}`},
	},
	"types": {
		attach: `'https://example.com/{id}', types => '{"insert": "created", "delete": null}'`,
		write:  `INSERT INTO items VALUES (4); UPDATE items SET price = 4 WHERE id = 4; DELETE FROM items WHERE id = 4`,
		want:   []string{`created {"id":4,"name":null,"price":null}`, `update {"id":4,"name":null,"price":4}`, ` {"id":4,"name":null,"price":4}`},
	},
	"some operations": {
		attach: `'https://example.com/{id}', operations => '{delete}', types => NULL`,
		write:  `INSERT INTO items VALUES (4); UPDATE items SET price = 4 WHERE id = 4; DELETE FROM items WHERE id = 4`,
		want:   []string{` {"id":4,"name":null,"price":4}`},
	},
	"a condition": {
		attach: `'https://example.com/{id}', when_condition => 'new.price > 5 OR old.price > 5 -- expensive'`,
		write: `INSERT INTO items VALUES (4, 'a', 4), (6, 'b', 6), (7, 'c', NULL); UPDATE items SET price = price + 1; UPDATE items SET id = id + 10 WHERE id IN (2, 6);
			DELETE FROM items`,
		want: []string{
			`insert {"id":6,"name":"b","price":6}`, `update {"id":6,"name":"b","price":7}`,
			`delete {"id":6,"name":"b","price":7}`, `insert {"id":16,"name":"b","price":7}`, `delete {"id":16,"name":"b","price":7}`,
		},
	},
	"a condition that asks a table": {
		setup:  items + `CREATE TABLE watched (id bigint); INSERT INTO watched VALUES (2); GRANT SELECT ON watched TO shop_writer;`,
		attach: `'https://example.com/{id}', when_condition => 'EXISTS (SELECT FROM watched AS w WHERE w.id = new.id)'`,
		write:  `UPDATE items SET price = 0`,
		want:   []string{`update {"id":2,"name":"two","price":0}`},
	},
	"rollback": {
		write: `BEGIN; UPDATE items SET price = 0; ROLLBACK; UPDATE items SET price = 7 WHERE id = 2`,
		want:  []string{`update {"id":2,"name":"two","price":7}`},
	},
	"savepoint": {
		write: `BEGIN; UPDATE items SET price = 7 WHERE id = 2; SAVEPOINT s; DELETE FROM items; ROLLBACK TO s; INSERT INTO items VALUES (4); COMMIT`,
		want:  []string{`update {"id":2,"name":"two","price":7}`, `insert {"id":4,"name":null,"price":null}`},
	},
	"truncate is not published": {write: `TRUNCATE items; INSERT INTO items VALUES (1)`, want: []string{`insert {"id":1,"name":null,"price":null}`}},
	"truncate": {
		attach: `'https://example.com/{id}', truncate_topic => 'https://example.com/all'`,
		write:  `TRUNCATE items`, want: []string{`truncate `},
	},
	"partitions": {
		setup: `CREATE TABLE items (id bigint, region text, name text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
			CREATE TABLE items_north PARTITION OF items FOR VALUES IN ('north');
			CREATE TABLE items_south (region text, gone int, name text, id bigint NOT NULL); ALTER TABLE items_south DROP COLUMN gone, ALTER region SET NOT NULL;
			ALTER TABLE items ATTACH PARTITION items_south FOR VALUES IN ('south');
			ALTER TABLE items DROP CONSTRAINT items_pkey; ALTER TABLE items ADD UNIQUE (id, region);`,
		attach: `'https://example.com/{id}', old_values => true`,
		write: `INSERT INTO items VALUES (1, 'north', 'a'), (2, 'south', 'b'); UPDATE items SET name = name || '!'; UPDATE items SET region = 'south' WHERE id = 1;
			DELETE FROM items WHERE id = 2`,
		want: []string{
			`insert {"new" : {"id":1,"region":"north","name":"a"}, "old" : null}`, `insert {"new" : {"id":2,"region":"south","name":"b"}, "old" : null}`,
			`update {"new" : {"id":1,"region":"north","name":"a!"}, "old" : {"id":1,"region":"north","name":"a"}}`,
			`update {"new" : {"id":2,"region":"south","name":"b!"}, "old" : {"id":2,"region":"south","name":"b"}}`,
			`delete {"new" : null, "old" : {"id":1,"region":"north","name":"a!"}}`, `insert {"new" : {"id":1,"region":"south","name":"a!"}, "old" : null}`,
			`delete {"new" : null, "old" : {"id":2,"region":"south","name":"b!"}}`,
		},
	},
	"inheritance": {
		setup: items + `CREATE TABLE more (extra int, PRIMARY KEY (id)) INHERITS (items); INSERT INTO more VALUES (9, 'nine', 9, 9);`,
		write: `UPDATE items SET price = 0 WHERE id >= 3`,
		want:  []string{`update {"id":3,"name":null,"price":0}`, `update {"id":9,"name":"nine","price":0}`},
	},
	"no key": {
		setup:  `CREATE TABLE items (name text);`,
		attach: `'https://example.com/{name}', operations => '{insert,delete}'`,
		write:  `INSERT INTO items VALUES ('a'), ('a'); UPDATE items SET name = 'b'; DELETE FROM items`,
		want:   []string{`insert {"name":"a"}`, `insert {"name":"a"}`, `delete {"name":"b"}`, `delete {"name":"b"}`},
	},
	"types of columns": {
		setup: `CREATE TYPE mood AS ENUM ('happy'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
			CREATE TABLE items (id uuid PRIMARY KEY, b bytea, n numeric, t timestamptz, m mood, p positive, x xml, j json, pt point, a int[],
				g int GENERATED ALWAYS AS (p * 2) STORED, r int4range, i interval, c int, n2 int, o int);`,
		attach: `'https://example.com/{id}/{t}/{m}/{a}'`,
		write: `SET timezone = 'Asia/Tokyo'; SET bytea_output = 'escape'; SET intervalstyle = 'iso_8601';
			INSERT INTO items VALUES ('00000000-0000-0000-0000-000000000001', '\x00ff', 12345678901234567890.10, '2026-01-02 03:04:05+00', 'happy', 2, '<a/>', '{"k": 1}',
				'(1,2)', '{1,2}', DEFAULT, '[1,3)', '1 day');
			UPDATE items SET j = '{"k":1}'`,
		want: []string{
			`insert {"id":"00000000-0000-0000-0000-000000000001","b":"\\x00ff","n":12345678901234567890.10,"t":"2026-01-02T03:04:05+00:00","m":"happy","p":2,"x":"<a/>","j":{"k": 1},"pt":"(1,2)","a":[1,2],"g":4,"r":"[1,3)","i":"1 day","c":null,"n2":null,"o":null}`,
			`update {"id":"00000000-0000-0000-0000-000000000001","b":"\\x00ff","n":12345678901234567890.10,"t":"2026-01-02T03:04:05+00:00","m":"happy","p":2,"x":"<a/>","j":{"k":1},"pt":"(1,2)","a":[1,2],"g":4,"r":"[1,3)","i":"1 day","c":null,"n2":null,"o":null}`,
		},
	},
	"columns that come and go": {
		setup: items + `ALTER TABLE items ADD COLUMN gone int; ALTER TABLE items DROP COLUMN gone;`,
		write: `INSERT INTO items VALUES (4); ALTER TABLE items RENAME price TO cost; ALTER TABLE items DROP COLUMN name; ALTER TABLE items ADD COLUMN "new" int DEFAULT 5;
			UPDATE items SET cost = 1 WHERE id = 4; ALTER TABLE items RENAME TO things; DELETE FROM things WHERE id = 4`,
		want: []string{`insert {"id":4,"name":null,"price":null}`, `update {"id":4,"cost":1,"new":5}`, `delete {"id":4,"cost":1,"new":5}`},
	},
	// What publishes is the application's transaction; it must not fail because
	// of a value that makes no topic.
	"topics that cannot be": {
		attach: `'{+name}'`,
		write: `INSERT INTO items VALUES (4, '/.well-known/mercure'), (5, '*'), (7, repeat('x', 5000)), (8, 'https://example.com/ü'), (9, NULL);
			INSERT INTO items VALUES (10, 'x/../mercure', 1)`,
		want:     []string{`insert {"id":8,"name":"https://example.com/ü","price":null}`},
		rejected: []string{"/.well-known/mercure", "*", "xxxxxxxxxxxxxxxxxxxx", "x/../mercure"},
	},
}

// TestAttach writes to tables as a role that may do nothing else, and has a
// hub deliver what they publish.
func TestAttach(t *testing.T) {
	t.Parallel()
	shop := newShop(t)
	for name, test := range attachCases {
		t.Run(name, func(t *testing.T) {
			if test.setup == "" {
				test.setup = items
			}
			if test.attach == "" {
				test.attach = `'https://example.com/{id}'`
			}
			stream := shop.subscribe(t)
			shop.psql(t, "shop_owner", test.setup+`
				GRANT ALL ON ALL TABLES IN SCHEMA shop TO shop_writer; SELECT mercure.attach('items', `+test.attach+`)`)
			writer := "shop_writer"
			if strings.Contains(test.write, "ALTER TABLE") {
				writer = "shop_owner"
			}
			shop.psql(t, writer, test.write)
			shop.psql(t, "shop_owner", `SELECT mercure.publish('https://example.com/end', 'end', type => 'end')`)
			var got []string
			for {
				event := stream.Next(t)
				if event.Type == "end" {
					break
				}
				got = append(got, event.Type+" "+event.Data)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if diff := cmp.Diff(test.rejected, append([]string(nil), strings.Fields(shop.psql(t, "shop_admin", `
				WITH r AS (DELETE FROM mercure.rejected RETURNING seq, outbox_row #>> '{topics,0}' AS topic)
				SELECT left(topic, 20) FROM r ORDER BY seq`))...)); diff != "" {
				t.Errorf("rejected: -want +got:\n%s", diff)
			}
			shop.psql(t, "shop_owner", `DROP TABLE IF EXISTS items, things CASCADE; DROP SCHEMA shop CASCADE; CREATE SCHEMA shop`)
			shop.psql(t, "shop_owner", `GRANT USAGE ON SCHEMA shop TO shop_writer`)
		})
	}
}

// shop is a database with a hub, and roles for who owns tables and who writes
// them, which is not who may publish.
type shop struct {
	server *dbtest.Server
	hub    *servertest.Hub
}

func newShop(t *testing.T) *shop {
	t.Helper()
	server := dbtest.NewServer(t)
	s := &shop{server: server}
	pool := server.DB.Pool(t)
	for _, sql := range []string{
		"CREATE ROLE shop_owner LOGIN PASSWORD 'secret' IN ROLE mercure_publisher",
		"CREATE ROLE shop_admin LOGIN SUPERUSER PASSWORD 'secret'",
		"CREATE ROLE shop_writer LOGIN PASSWORD 'secret'",
		"ALTER ROLE shop_owner SET search_path = shop",
		"ALTER ROLE shop_writer SET search_path = shop",
		"GRANT CREATE ON DATABASE cinnabar TO shop_owner",
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	s.hub = servertest.Start(t, server.DB)
	s.psql(t, "shop_owner", "CREATE SCHEMA shop; GRANT USAGE ON SCHEMA shop TO shop_writer")
	return s
}

func (s *shop) subscribe(t *testing.T) *servertest.Stream {
	t.Helper()
	return s.hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"*"}}, Token: servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"})})
}

// url is the address of the database for a role.
func (s *shop) url(t *testing.T, role string) string {
	t.Helper()
	address, err := url.Parse(s.server.DB.URL)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(role, "secret")
	return address.String()
}

func (s *shop) tryPSQL(t *testing.T, role, script string) (string, error) {
	t.Helper()
	psql := exec.CommandContext(t.Context(), filepath.Join(s.server.Installation().BinDir, "psql"), s.url(t, role), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
	psql.Stdin = strings.NewReader(script + "\n;\n")
	output, err := psql.CombinedOutput()
	return string(output), err
}

func (s *shop) psql(t *testing.T, role, script string) string {
	t.Helper()
	output, err := s.tryPSQL(t, role, script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, output)
	}
	return output
}

// A page that loads rows and a cursor in one snapshot, and follows the log from
// there, knows the table, whoever writes meanwhile and however long.
func TestLoadThenListen(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	for _, sql := range []string{
		"CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)",
		"INSERT INTO counters SELECT i FROM generate_series(1, 40) AS i",
		"SELECT mercure.attach('counters', 'https://example.com/counters/{id}', private => false)",
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	hub := servertest.Start(t, database)

	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var writers errgroup.Group
	for w := range 8 {
		writers.Go(func() error {
			for n := 0; writing.Err() == nil; n++ {
				// Each writer has counters of its own, so that none waits.
				_, err := pool.Exec(t.Context(), `
					WITH written AS (UPDATE counters SET n = n + 1 WHERE id = $1 RETURNING id)
					SELECT pg_sleep($2) FROM written`, w*5+n%5+1, float64(n%7)/200)
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	// Every page starts somewhere in the middle of what is written.
	var pages errgroup.Group
	views := make([]map[int]int, 40)
	for i := range views {
		view, cursor, err := load(t.Context(), pool, i%2 == 0)
		if err != nil {
			t.Fatal(err)
		}
		views[i] = view
		stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"*"}, "Last-Event-ID": {cursor}}})
		pages.Go(func() error { return followOrders(t.Context(), stream, view) })
	}
	stop()
	if err := writers.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), "SELECT mercure.publish('https://example.com/end', '{}', type => 'end')"); err != nil {
		t.Fatal(err)
	}
	if err := pages.Wait(); err != nil {
		t.Fatal(err)
	}
	want, _, err := load(t.Context(), pool, true)
	if err != nil {
		t.Fatal(err)
	}
	for i, view := range views {
		if diff := cmp.Diff(want, view); diff != "" {
			t.Errorf("page %d: -table +page:\n%s", i, diff)
		}
	}
}

// load reads the table and the cursor: in one statement, or in one snapshot
// with the cursor read some time after the rows.
func load(ctx context.Context, pool *pgxpool.Pool, oneStatement bool) (view map[int]int, cursor string, err error) {
	view = map[int]int{}
	const rows = "SELECT jsonb_object_agg(id, n) FROM counters"
	if oneStatement {
		err = pool.QueryRow(ctx, "SELECT ("+rows+"), pg_sleep(0.03)::text, mercure.cursor()").Scan(&view, nil, &cursor)
		return view, cursor, err
	}
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, rows).Scan(&view); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT pg_sleep(0.03)"); err != nil { // others go on
			return err
		}
		return tx.QueryRow(ctx, "SELECT mercure.cursor()").Scan(&cursor)
	})
	return view, cursor, err
}

// followOrders keeps a page up to date until the end marker.
func followOrders(ctx context.Context, stream *servertest.Stream, view map[int]int) error {
	ctx, cancel := context.WithTimeout(ctx, servertest.Deadline)
	defer cancel()
	for {
		event, err := stream.TryNext(ctx)
		if err != nil || event.Type == "end" {
			return err
		}
		var row struct{ ID, N int }
		if err := json.Unmarshal([]byte(event.Data), &row); err != nil {
			return err
		}
		if row.N > view[row.ID]+1 {
			return fmt.Errorf("missed an update: counter %d went from %d to %d", row.ID, view[row.ID], row.N)
		}
		view[row.ID] = max(row.N, view[row.ID]) // the first ones may be in the snapshot
	}
}
