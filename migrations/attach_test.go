package migrations_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/yosida95/uritemplate/v3"
	"pgregory.net/rapid"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// Examples beyond what the template library of the next test gets right.
func TestTopicExamples(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	exec(t, pool, `CREATE TABLE items AS SELECT U&'é 日/\200D😀'::text AS a, ''::text AS b, NULL::text AS c, -1.50 AS n, true AS t, '2026-01-02'::date AS d, '{"k": [1]}'::jsonb AS j`)
	for template, want := range map[string]string{
		"https://example.com/ü/{a}":    "https://example.com/%C3%BC/%C3%A9%20%E6%97%A5%2F%E2%80%8D%F0%9F%98%80",
		"x{+a}":                        "x%C3%A9%20%E6%97%A5/%E2%80%8D%F0%9F%98%80",
		"x{/b,n}{;b,n}{?b,n}{&b}":      "x//-1.50;b;n=-1.50?b=&n=-1.50&b=",
		"x{b}{t}/{d}{.d}{#n}{j}":       "xtrue/2026-01-02.2026-01-02#-1.50%7B%22k%22%3A%20%5B1%5D%7D",
		"x{a,c}":                       "no topic",
		"x{?b,c}":                      "no topic",
		"https://example.com/%41/it's": "https://example.com/%41/it's",
	} {
		expression := value[string](t, pool, "SELECT expression FROM mercure.compile_topic("+quote(template)+", '{a,b,c,n,t,d,j}', 'r')")
		if got := value[string](t, pool, "SELECT coalesce("+expression+", 'no topic') FROM (SELECT i AS r FROM items AS i) AS rows"); got != want {
			t.Errorf("%s: got %q, want %q", template, got, want)
		}
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// The topics of attached tables are what RFC 6570 makes of the templates.
func TestTopicTemplates(t *testing.T) {
	t.Parallel()
	conn := dbtest.New(t).Conn(t)
	columns := []string{"a", "b", "größe", "Odd Name"}
	literal := rapid.StringOfN(rapid.RuneFrom([]rune("az09-._~:/?#[]@!$&'()*+,;=% \\\"<>^`|")), 0, 8, -1)
	variable := rapid.SampledFrom([]string{"a", "b", "gr%C3%B6%C3%9Fe", "Odd%20Name"})
	// Without what is percent-encoded already, which the library encodes again
	// where section 3.2.3 of RFC 6570 leaves it alone.
	value := rapid.StringOfN(rapid.RuneFrom([]rune("az09-._~:/?#[]@!$&'()*+,;= \\\"<>\n{}")), 0, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		var template strings.Builder
		for range rapid.IntRange(1, 4).Draw(t, "parts") {
			template.WriteString(literal.Draw(t, "literal"))
			operator := rapid.SampledFrom([]string{"", "+", "#", ".", "/", ";", "?", "&"}).Draw(t, "operator")
			names := rapid.SliceOfN(variable, 1, 3).Draw(t, "names")
			template.WriteString("{" + operator + strings.Join(names, ",") + "}")
		}
		parsed, err := uritemplate.New(template.String())
		if err != nil {
			t.Skip(err)
		}
		values := uritemplate.Values{}
		var row []any
		for i, name := range []string{"a", "b", "gr%C3%B6%C3%9Fe", "Odd%20Name"} {
			v := value.Draw(t, columns[i])
			values.Set(name, uritemplate.String(v))
			row = append(row, v)
		}
		want, err := parsed.Expand(values)
		if err != nil {
			t.Skip(err)
		}
		var expression, got string
		if err := conn.QueryRow(t.Context(), "SELECT expression FROM mercure.compile_topic($1, $2, 'r')", template.String(), columns).Scan(&expression); err != nil {
			t.Fatalf("%q: %v", template.String(), err)
		}
		query := `SELECT ` + expression + ` FROM (SELECT $1::text AS a, $2::text AS b, $3::text AS "größe", $4::text AS "Odd Name") AS r`
		if err := conn.QueryRow(t.Context(), query, append([]any{pgx.QueryExecModeExec}, row...)...).Scan(&got); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if got != want {
			t.Fatalf("%q with %q: got %q, want %q", template.String(), row, got, want)
		}
	})
}

// What cannot be attached is refused with a reason, and leaves nothing.
func TestAttachRefuses(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	exec(t, pool, `
		CREATE TABLE items (id bigint PRIMARY KEY, name text, "Odd" text, UNIQUE (name));
		CREATE TABLE keyless (name text);
		CREATE VIEW a_view AS SELECT * FROM items;
		CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far (id bigint) SERVER s;
		CREATE TABLE parts (id bigint) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parts DEFAULT;
		CREATE TEMPORARY TABLE gone (id bigint PRIMARY KEY);`)
	before := objects(t, pool)
	const topic = `'https://example.com/{id}'`
	for arguments, want := range map[string]string{
		`'items'`:                                                                        "no topic is given",
		`'items', ''`:                                                                    "a topic is empty",
		`'items', 'https://example.com/{id'`:                                             "no URI template",
		`'items', 'https://example.com/id}'`:                                             "no URI template",
		`'items', 'https://example.com/{id*}'`:                                           "no URI template",
		`'items', 'https://example.com/{name:3}'`:                                        "no URI template",
		`'items', 'https://example.com/{}'`:                                              "no URI template",
		`'items', 'https://example.com/{nom}'`:                                           "a column that the table does not have: nom",
		`'items', 'https://example.com/{odd}'`:                                           "a column that the table does not have: odd",
		`'items', '/.well-known/mercure/{id}'`:                                           "reserved for the hub",
		`'items', repeat('x', 5000)`:                                                     "at most 4096",
		`'items', topics => '{}'`:                                                        "no topic is given",
		`'items', ` + topic + `, operations => '{insert,truncate}'`:                      "operations must name",
		`'items', ` + topic + `, operations => '{}'`:                                     "operations must name",
		`'items', ` + topic + `, operations => '{insert,NULL}'`:                          "operations must name",
		`'items', ` + topic + `, types => '{"upsert": "x"}'`:                             "types must be",
		`'items', ` + topic + `, types => '[1]'`:                                         "types must be",
		`'items', ` + topic + `, types => '{"insert": "mercure"}'`:                       "reserved for the hub",
		`'items', ` + topic + `, columns => '{id,nom}'`:                                  "has no column nom",
		`'items', ` + topic + `, columns => '{odd}'`:                                     "has no column odd",
		`'items', ` + topic + `, columns => '{}'`:                                        "columns is empty",
		`'items', ` + topic + `, columns => '{NULL}'`:                                    "has no column",
		`'items', ` + topic + `, private => NULL`:                                        "must be true or false",
		`'items', ` + topic + `, key => '{name}'`:                                        "are no key",
		`'items', ` + topic + `, key => '{nom}'`:                                         "are no key",
		`'items', ` + topic + `, truncate_topic => '*'`:                                  "cannot be published",
		`'items', ` + topic + `, when_condition => 'new.nom = 1'`:                        "nom does not exist",
		`'items', ` + topic + `, when_condition => 'new.id'`:                             "must be type boolean",
		`'items', ` + topic + `, when_condition => 'true; DROP TABLE items'`:             "syntax error",
		`'items', ` + topic + `, when_condition => 'true)); DROP TABLE items; --'`:       "syntax error",
		`'items', ` + topic + `, when_condition => '(DELETE FROM items RETURNING true)'`: "syntax error",
		`'items', ` + topic + `, when_condition => ''`:                                   "syntax error",
		`'items', ` + topic + `, when_condition => 'count(*) > 1'`:                       "must appear in the GROUP BY clause",
		`'keyless', 'https://example.com/{name}'`:                                        "keyless has no key",
		`'a_view', ` + topic:                                                             "a_view is a view",
		`'far', ` + topic:                                                                "far is a foreign table",
		`'part', ` + topic:                                                               "Attach public.parts",
		`'mercure.outbox', 'x'`:                                                          "belongs to the hub",
		`'items_pkey', 'x'`:                                                              "is no table",
		`'items', ` + topic + `, schema => 'nowhere'`:                                    `"nowhere" does not exist`,
	} {
		_, err := pool.Exec(t.Context(), "SELECT mercure.attach("+arguments+")")
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || !strings.Contains(pgErr.Message+" "+pgErr.Hint, want) {
			t.Errorf("%s: %v, want %q", arguments, err, want)
		}
	}
	if after := objects(t, pool); len(after) != len(before) {
		t.Errorf("something is left: %q", after)
	}
}

// Names with whatever PostgreSQL allows in them, and settings of the writer's.
func TestAttachOddNames(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	long := strings.Repeat("ü", 31)
	for _, name := range []string{`a "b" c`, `semi;colon`, `$mercure$`, `it's`, `back\slash`, `per%cent %s %1$I`, "new", "old", "x", "r", "i", "mercure_new", long, "日本"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			schema := pgx.Identifier{"s " + fmt.Sprintf("%x", name)}.Sanitize()
			id := pgx.Identifier{name}.Sanitize()
			exec(t, pool, "CREATE SCHEMA "+schema)
			exec(t, pool, fmt.Sprintf(`CREATE TABLE %s.%s (%[2]s text PRIMARY KEY, n int)`, schema, id))
			var encoded string
			if err := pool.QueryRow(t.Context(), "SELECT replace(replace(replace(mercure.uri_encode($1), '-', '%2D'), '~', '%7E'), '.', '%2E')", name).Scan(&encoded); err != nil {
				t.Fatal(err)
			}
			for _, columns := range []string{"NULL", "$3"} {
				arguments := []any{schema + "." + id, "https://example.com/" + "{" + encoded + "}"}
				if columns != "NULL" {
					arguments = append(arguments, []string{name, "n"})
				}
				if _, err := pool.Exec(t.Context(), "SELECT mercure.attach($1::text::regclass, $2, columns => "+columns+", when_condition => 'new.n IS DISTINCT FROM old.n', old_values => true)", arguments...); err != nil {
					t.Fatal(err)
				}
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					for _, sql := range []string{
						"SET LOCAL standard_conforming_strings = off", "SET LOCAL search_path = pg_temp", "SET LOCAL datestyle = 'SQL'",
						fmt.Sprintf("INSERT INTO %s.%s VALUES ('é ', 1)", schema, id),
						fmt.Sprintf("UPDATE %s.%s SET n = 2", schema, id),
						fmt.Sprintf("DELETE FROM %s.%s", schema, id),
					} {
						if _, err := tx.Exec(t.Context(), sql); err != nil {
							return fmt.Errorf("%s: %w", sql, err)
						}
					}
					var topics, data string
					err := tx.QueryRow(t.Context(), `SELECT string_agg(o.topics[1], ' ' ORDER BY o.seq), string_agg(o.data::jsonb -> 'new' ->> $1, ',' ORDER BY o.seq)
						FROM mercure.outbox AS o WHERE o.xid = pg_current_xact_id()`, name).Scan(&topics, &data)
					if want := strings.TrimSpace(strings.Repeat("https://example.com/%C3%A9%20 ", 3)); err == nil && (topics != want || data != "é ,é ") {
						t.Errorf("topics %q, data %q", topics, data)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Whoever attaches needs no more than TRIGGER on the table and the right to
// publish; whoever writes needs neither, and gets neither.
//
// Nothing that a user wrote runs as anybody but who writes the table.
func TestAttachRights(t *testing.T) {
	t.Parallel()
	server := dbtest.NewServer(t)
	pool := server.DB.Pool(t)
	exec(t, pool, `
		CREATE ROLE owner; CREATE ROLE author; CREATE ROLE writer; CREATE ROLE other; GRANT CREATE ON DATABASE cinnabar TO other;
		CREATE TABLE items (id bigint PRIMARY KEY); ALTER TABLE items OWNER TO owner;
		CREATE SCHEMA theirs AUTHORIZATION author; GRANT USAGE ON SCHEMA theirs TO PUBLIC;
		CREATE FUNCTION theirs.who() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('test.who', current_user, true); RETURN current_user; END $$;
		GRANT INSERT, UPDATE, DELETE, SELECT ON items TO writer, other;`)
	const attach = `SELECT mercure.attach('public.items', 'https://example.com/{id}', schema => 'theirs', when_condition => 'theirs.who() IS NOT NULL')`
	as := func(role string, statements ...string) error {
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			for _, sql := range append([]string{"SET LOCAL ROLE " + role}, statements...) {
				if _, err := tx.Exec(t.Context(), sql); err != nil {
					return err
				}
			}
			return nil
		})
	}
	refused := func(want string, err error) {
		t.Helper()
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "42501" || !strings.Contains(pgErr.Message+" "+pgErr.Hint, want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	allowed := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	exec(t, pool, "GRANT USAGE ON SCHEMA mercure TO author")
	refused("GRANT TRIGGER ON", as("author", attach))
	exec(t, pool, "GRANT TRIGGER ON items TO author")
	refused("GRANT mercure_publisher TO author", as("author", attach))
	exec(t, pool, "GRANT mercure_publisher TO author, owner, other")
	allowed(as("author", attach))

	allowed(as("writer", "INSERT INTO items VALUES (1)", `DO $$ BEGIN IF current_setting('test.who') <> 'writer' THEN RAISE 'the condition ran as %', current_setting('test.who'); END IF; END $$`))
	if n := value[int](t, pool, "SELECT (SELECT count(*) FROM mercure.outbox) + (SELECT count(*) FROM mercure.updates)"); n != 1 {
		t.Errorf("%d updates", n)
	}
	refused("permission denied", as("writer", "INSERT INTO mercure.outbox (topics) VALUES ('{a}')"))

	// Nobody else can use what publishes with the author's rights.
	publish := value[string](t, pool, "SELECT publish_function::text FROM mercure.attachments")
	name := strings.TrimSuffix(publish, "()")
	refused("permission denied for function", as("other", "CREATE TABLE pg_temp.mine (id bigint)",
		"CREATE TRIGGER t AFTER INSERT ON pg_temp.mine REFERENCING NEW TABLE AS mercure_new FOR EACH STATEMENT EXECUTE FUNCTION "+name+"()"))
	for sql, want := range map[string]bool{
		"SELECT prosecdef AND proowner = 'author'::regrole FROM pg_proc WHERE oid = '" + publish + "'::regprocedure":                             true,
		"SELECT bool_or(prosecdef) FROM pg_proc WHERE pronamespace = 'theirs'::regnamespace AND prosrc LIKE '%theirs.who%'":                      false,
		"SELECT bool_or(prosecdef) FROM pg_proc WHERE pronamespace = 'mercure'::regnamespace AND proname IN ('attach', 'check_query', 'detach')": false,
	} {
		if got := value[bool](t, pool, sql); got != want {
			t.Errorf("%s: %v", sql, got)
		}
	}

	refused("must be owner", as("other", "SELECT mercure.detach('public.items')"))
	allowed(as("author", "SELECT mercure.detach('public.items')"))
	allowed(as("author", attach))
	allowed(as("owner", "SELECT mercure.detach('public.items')"))
	if n := value[int](t, pool, "SELECT count(*)::int FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'items'::regclass"); n != 0 {
		t.Errorf("%d triggers are left", n)
	}
}

// The definition that the view shows attaches the table in the same way, and a
// second attachment replaces the first.
func TestAttachments(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	exec(t, pool, `CREATE TABLE items (id bigint PRIMARY KEY, "it's" text, state text UNIQUE NOT NULL)`)
	exec(t, pool, `SELECT mercure.attach('items', 'https://example.com/{id}')`)
	exec(t, pool, `SELECT mercure.attach('items', 'https://example.com/{id}', ARRAY['https://example.com/a,b{?state}'], columns => ARRAY['id', 'it''s'],
		operations => '{update,insert}', types => '{"update": null}', private => false, old_values => true, only_changes => false,
		when_condition => E'new.state <> \'\\\\\'', key => '{state}', truncate_topic => 'https://example.com/t')`)
	const view = "SELECT (relation, operations, attached_by, enabled, definition, decide_function IS NOT NULL)::text FROM mercure.attachments"
	const bodies = "SELECT string_agg(prosrc, '' ORDER BY proname) FROM pg_proc WHERE proname LIKE 'mercure\\_%' AND pronamespace = 'public'::regnamespace"
	shown, code := value[string](t, pool, view), value[string](t, pool, bodies)
	exec(t, pool, value[string](t, pool, "SELECT definition FROM mercure.attachments"))
	if again := value[string](t, pool, view); again != shown || !strings.Contains(shown, "truncate") {
		t.Errorf("was\n%s\nis\n%s", shown, again)
	}
	if again := value[string](t, pool, bodies); again != code {
		t.Errorf("was\n%s\nis\n%s", code, again)
	}
	if !value[bool](t, pool, "SELECT mercure.detach('items')") || value[bool](t, pool, "SELECT mercure.detach('items')") {
		t.Error("detach does not say whether there was something")
	}
	if left := value[int](t, pool, "SELECT count(*)::int FROM pg_proc WHERE pronamespace = 'public'::regnamespace"); left != 0 {
		t.Errorf("%d functions are left", left)
	}
	// An application drops its table as ever.
	exec(t, pool, `SELECT mercure.attach('items', 'https://example.com/{id}'); DROP TABLE items`)
	if value[bool](t, pool, "SELECT EXISTS (TABLE mercure.attachments)") {
		t.Error("a dropped table is attached")
	}
}
