package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// operationsBlocks are the examples of docs/operations-postgresql.md that are
// marked with a name.
func operationsBlocks(t *testing.T, name string) (blocks []string) {
	t.Helper()
	content, err := os.ReadFile("../docs/operations-postgresql.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile("(?s)<!-- test:"+name+" -->\n```sql\n(.*?)```\n").FindAllStringSubmatch(string(content), -1) {
		blocks = append(blocks, match[1])
	}
	if len(blocks) == 0 {
		t.Fatalf("the page has no example %q", name)
	}
	return blocks
}

// as is the address of a database for another role.
func as(t *testing.T, databaseURL, role, password string) string {
	t.Helper()
	address, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(role, password)
	return address.String()
}

func connectAs(t *testing.T, databaseURL string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// A hub with the rights that the documentation grants, and no others, does
// everything that a hub does; a publisher only publishes, from psql and from
// pgx; and neither can do more.
func TestRolesHaveTheRightsTheyNeed(t *testing.T) {
	t.Parallel()
	shop := newShop(t)
	shop.hub.Stop()
	if err := shop.hub.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	shop.psql(t, "shop_admin", operationsBlocks(t, "hub")[0])
	hub := servertest.Start(t, shop.server.DB, func(c *server.Config) {
		c.DatabaseURL = server.Secret(as(t, shop.server.DB.URL, "mercure_hub", "change me"))
		c.Migrate, c.Subscriptions = false, true
	})

	token := servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"})
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a", "/.well-known/mercure/subscriptions/{topic}/{subscriber}"}}, Token: token})
	for range 2 {
		if event := stream.Next(t); !strings.Contains(event.Data, `"active":true`) {
			t.Errorf("received %+v, want the beginning of a subscription", event)
		}
	}
	if a := send(t, "GET", hub.URL+"/subscriptions", "", bearer(token)); a.status != 200 || !strings.Contains(a.body, `"topic":"a"`) {
		t.Errorf("the list is answered %d %s", a.status, a.body)
	}
	publisher := connectAs(t, shop.url(t, "shop_owner"))
	hub.Publish(t, url.Values{"topic": {"a"}, "data": {"http"}})
	for range 2 {
		if a := send(t, "POST", hub.URL, "topic=a&data=http+key", form, bearer(servertest.PublisherToken(t)), keyed("k")); a.status != 200 {
			t.Errorf("answered %d %s", a.status, a.body)
		}
		statement(t, publisher, "SELECT mercure.publish('a', 'pgx key', idempotency_key => 'k')")
	}
	statement(t, publisher, "INSERT INTO mercure.outbox (topics, data) VALUES ('{a}', 'pgx')")
	shop.psql(t, "shop_owner", `SELECT mercure.publish('a', 'psql');
		INSERT INTO mercure.updates (topics, data) VALUES ('{a}', 'diverted');
		CREATE TABLE items (id int PRIMARY KEY); SELECT mercure.attach('items', 'a', private => false); INSERT INTO items VALUES (1)`)
	var got []string
	for range 7 {
		got = append(got, stream.Next(t).Data)
	}
	slices.Sort(got)
	if want := []string{"diverted", "http", "http key", "pgx", "pgx key", "psql", `{"id":1}`}; !slices.Equal(got, want) {
		t.Errorf("received %q, want %q", got, want)
	}
	hubConn := connectAs(t, as(t, shop.server.DB.URL, "mercure_hub", "change me"))
	for _, sql := range []string{ // what a hub does now and then
		"SELECT mercure.forget_batches('1 hour', 1)", "SELECT mercure.forget_publish_keys(1)", "SELECT mercure.empty_hub_events('1 hour', 1)",
		"SELECT mercure.forget_rejected(1)",
		"SELECT mercure.end_node(gen_random_uuid(), NULL, 1, 1)", "SELECT mercure.fence_batch(gen_random_uuid())",
		"SELECT mercure.apply_policies('1 minute', 1)", "SELECT mercure.retain(NULL, 1, NULL, '1 minute', 1)",
		"SELECT FROM mercure.policies", "SELECT FROM mercure.redactions", "SELECT FROM mercure.history",
	} {
		statement(t, hubConn, sql)
	}

	shop.psql(t, "shop_admin", "CREATE ROLE stranger LOGIN PASSWORD 'secret'")
	for name, test := range map[string]struct {
		conn      *pgx.Conn
		forbidden []string
	}{
		"hub": {hubConn, []string{
			"INSERT INTO mercure.updates (position, topics, size) VALUES (99, '{a}', 1)", "UPDATE mercure.updates SET data = ''", "DELETE FROM mercure.updates",
			"TRUNCATE mercure.updates", "SELECT FROM mercure.outbox", "DELETE FROM mercure.outbox", "INSERT INTO mercure.outbox (topics) VALUES ('{a}')",
			"SELECT FROM mercure.key_salt", "SELECT FROM mercure.publish_keys", "UPDATE mercure.nodes SET dead = true", "DELETE FROM mercure.subscriptions",
			"SELECT FROM mercure.rejected", "DELETE FROM mercure.rejected",
			"UPDATE mercure.horizon SET position = 99", "DO $$ BEGIN LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE; END $$", "CREATE TABLE mercure.another ()",
			"ALTER TABLE mercure.updates DISABLE TRIGGER ALL", "DELETE FROM mercure.schema_version",
		}},
		"publisher": {publisher, []string{
			"SELECT FROM mercure.updates", "UPDATE mercure.updates SET data = ''", "DELETE FROM mercure.updates", "SELECT FROM mercure.horizon",
			"INSERT INTO mercure.updates (position, topics, size) VALUES (99, '{a}', 1)", "SELECT topics FROM mercure.outbox", "DELETE FROM mercure.outbox",
			"UPDATE mercure.outbox SET topics = '{b}'", "TRUNCATE mercure.outbox", "INSERT INTO mercure.outbox (topics, xid) VALUES ('{a}', '3')",
			"SELECT FROM mercure.rejected", "SELECT FROM mercure.subscriptions", "SELECT FROM mercure.nodes", "SELECT FROM mercure.append_batches",
			"SELECT FROM mercure.publish_keys", "SELECT FROM mercure.key_salt", "SELECT mercure.drain(NULL, 1)", "SELECT mercure.fence_batch(gen_random_uuid())",
			"SELECT mercure.set_hub_path('/x')", "SELECT mercure.empty_hub_events('0', 1)", "SELECT mercure.forget_publish_keys(1)",
			"DELETE FROM mercure.rejected", "SELECT mercure.forget_rejected(1)",
			"SELECT mercure.end_node(gen_random_uuid(), NULL, 1, 1)", "SELECT mercure.arm_doorbell()", "SELECT setval('mercure.updates_position_seq', 1)",
			"SELECT setval('mercure.doorbell', 1)", "DO $$ BEGIN LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE; END $$", "CREATE TABLE mercure.another ()",
			"CREATE OR REPLACE FUNCTION mercure.hub_path() RETURNS text LANGUAGE sql IMMUTABLE RETURN '/x'", "ALTER TABLE mercure.outbox DROP CONSTRAINT outbox_topics",
		}},
		"stranger": {connectAs(t, shop.url(t, "stranger")), []string{
			"SELECT mercure.publish('a')", "INSERT INTO mercure.outbox (topics) VALUES ('{a}')", "SELECT FROM mercure.updates", "SELECT mercure.cursor()",
		}},
	} {
		for _, sql := range test.forbidden {
			_, err := test.conn.Exec(t.Context(), sql)
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "42501" {
				t.Errorf("%s: %s: %v; want it to be forbidden", name, sql, err)
			}
		}
	}
}

// The examples for mercure.rejected run as they are written, on a row that an
// attached table could not publish.
func TestRefusedUpdatesExample(t *testing.T) {
	t.Parallel()
	shop := newShop(t)
	blocks := operationsBlocks(t, "rejected")
	shop.psql(t, "shop_owner", `CREATE TABLE items (id text PRIMARY KEY); SELECT mercure.attach('items', 'https://example.com/{id}');
		INSERT INTO items VALUES (repeat('x', 5000))`)
	got := strings.Split(shop.psql(t, "shop_admin", blocks[0]), "|")
	if len(got) != 5 || !strings.Contains(got[2], "bytes") || !strings.Contains(got[3], "xxx") || !strings.Contains(got[4], "xxx") {
		t.Errorf("the example returned %q", got)
	}
	shop.psql(t, "shop_admin", strings.Replace(blocks[1], "42", got[0], 1))
	if left := shop.psql(t, "shop_admin", blocks[0]); left != "" {
		t.Errorf("left is %q", left)
	}
}

// The examples that read the history run as they are written, for the reader of
// the documentation.
func TestHistoryExamples(t *testing.T) {
	t.Parallel()
	shop := newShop(t)
	shop.psql(t, "shop_admin", operationsBlocks(t, "reader")[0]+"GRANT analyst TO shop_owner; CREATE SCHEMA analysis AUTHORIZATION analyst")
	blocks := operationsBlocks(t, "history")
	if len(blocks) != 6 {
		t.Fatalf("the page has %d examples", len(blocks))
	}
	run := func(sql string) string {
		t.Helper()
		return shop.psql(t, "shop_owner", "SET ROLE analyst; SET search_path = analysis; "+sql)
	}
	run(blocks[0] + "INSERT INTO orders VALUES (16, 'nobody'), (17, 'anna'), (18, 'bert')")
	for n, update := range []string{
		`17', '{"state": "new"}', type => 'created'`, `18', '{"state": "new"}', type => 'created'`, `17', '{"state": "paid"}'`, `16', 'emptied below'`,
	} {
		shop.psql(t, "shop_owner", "SELECT mercure.publish('https://example.com/orders/"+update+", id => '"+fmt.Sprint(n)+"')")
	}
	stream := shop.hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"*"}}, LastEventID: "earliest"})
	for range 4 {
		stream.Next(t)
	}
	shop.psql(t, "shop_admin", "SELECT mercure.redact('3')")
	moment := regexp.MustCompile(`\d{4}-\d\d-\d\d [0-9:.]+\+00`)
	for n, want := range map[int]string{
		1: "anna|T|created|{\"state\": \"new\"}\nanna|T||{\"state\": \"paid\"}\n",
		2: "anna|paid|T\nbert|new|T\n",
		4: "16|nobody\n",
		5: "",
	} {
		if got := moment.ReplaceAllString(run("SET timezone = 'UTC'; "+blocks[n]), "T"); got != want {
			t.Errorf("%s returned %q, want %q", blocks[n], got, want)
		}
	}
	byCentury := strings.Replace(blocks[3], "'hour'", "'century'", 1) // an hour may end just now
	if got := moment.ReplaceAllString(run("SET timezone = 'UTC'; "+byCentury), "T"); got != "T|created|2|106\nT|message|1|47\n" {
		t.Errorf("the statistics are %q", got)
	}
	run(strings.Replace(blocks[5], "CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)) // continues
	if got := run("SELECT string_agg(topic || data, ',' ORDER BY position) FROM audit"); got !=
		`https://example.com/orders/17{"state": "new"},https://example.com/orders/18{"state": "new"},https://example.com/orders/17{"state": "paid"}`+"\n" {
		t.Errorf("the copy is %q", got)
	}
	plan := run("SET enable_seqscan = off; EXPLAIN " + blocks[1])
	if !strings.Contains(plan, "updates_topics_idx") {
		t.Errorf("the index on topics is not used:\n%s", plan)
	}
}

// The columns that the documentation promises are those of the table, with
// their types and whether they may be NULL; what it does not promise is named.
func TestHistoryColumns(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../docs/operations-postgresql.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(content), "## History for SQL people\n")
	conn := dbtest.New(t).Conn(t)
	documented := []string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| `([^`]+)` \\| (.+) \\|$").FindAllStringSubmatch(section, -1) {
		name, kind, meaning := row[1], row[2], row[3]
		documented = append(documented, name)
		var (
			found    string
			same     bool
			nullable bool
		)
		err := conn.QueryRow(t.Context(), `
			SELECT format_type(a.atttypid, a.atttypmod), a.atttypid = $2::text::regtype, NOT a.attnotnull
			FROM pg_attribute AS a
			WHERE a.attrelid = 'mercure.updates'::regclass AND a.attname = $1 AND NOT a.attisdropped`, name, kind).Scan(&found, &same, &nullable)
		switch {
		case err != nil:
			t.Errorf("column %s: %v", name, err)
		case !same:
			t.Errorf("column %s is %s, not %s", name, found, kind)
		case nullable != strings.Contains(meaning, "NULL"):
			t.Errorf("column %s: may be NULL is %t, but the page says %q", name, nullable, meaning)
		}
	}
	var others []string
	if err := conn.QueryRow(t.Context(), `
		SELECT array_agg(a.attname::text ORDER BY a.attname)
		FROM pg_attribute AS a
		WHERE a.attrelid = 'mercure.updates'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> ALL ($1)`, documented).Scan(&others); err != nil {
		t.Fatal(err)
	}
	if want := []string{"id_reused", "trace_context"}; !slices.Equal(others, want) || !strings.Contains(section, "`id_reused` and `trace_context`") {
		t.Errorf("columns that are not documented: %q, want %q, which the page calls the hub's own", others, want)
	}
}

// The password of the hub's role is changed, and the hub is told the new one.
func TestPasswordIsRotated(t *testing.T) {
	t.Parallel()
	database := dbtest.NewServer(t)
	admin := database.DB.Conn(t)
	statement(t, admin, "CREATE ROLE rotating LOGIN SUPERUSER PASSWORD 'old'")
	old, current := as(t, database.DB.URL, "rotating", "old"), as(t, database.DB.URL, "rotating", "new")
	hub := servertest.Start(t, database.DB, func(c *server.Config) { c.DatabaseURL, c.ListenURL = server.Secret(old), server.Secret(old) })
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}})

	statement(t, admin, "ALTER ROLE rotating PASSWORD 'new'")
	ignored, err := hub.Reload(t.Context(), func(c *server.Config) { c.DatabaseURL, c.ListenURL = server.Secret(current), server.Secret(current) })
	if err != nil || len(ignored) > 0 {
		t.Fatalf("reload: ignored %q, %v", ignored, err)
	}
	statement(t, admin, terminateHubs)
	id := hub.Publish(t, url.Values{"topic": {"a"}})
	if event := stream.Next(t); event.ID != id {
		t.Errorf("received %+v", event)
	}
	ready := strings.TrimSuffix(hub.URL, "/.well-known/mercure") + "/readyz"
	for deadline := time.Now().Add(servertest.Deadline); send(t, "GET", ready, "").status != http.StatusOK; { // LISTEN has it, too
		if time.Now().After(deadline) {
			t.Fatal("the hub is not ready again")
		}
	}

	for name, address := range map[string]string{
		"another role": as(t, database.DB.URL, "another", "new"), "another parameter": current + "&connect_timeout=3",
		"another form": "host=127.0.0.1 user=rotating password=new",
	} {
		ignored, err := hub.Reload(t.Context(), func(c *server.Config) { c.DatabaseURL, c.ListenURL = server.Secret(address), server.Secret(current) })
		if err != nil || !slices.Equal(ignored, []string{"DATABASE_URL"}) {
			t.Errorf("%s: ignored %q, %v", name, ignored, err)
		}
	}
}

// The hub verifies certificate and name of the server on all its connections.
func TestTLSToPostgreSQL(t *testing.T) {
	t.Parallel()
	database := dbtest.NewServer(t)
	admin := database.DB.Conn(t)
	authority, certificate, key := certificates(t)
	for name, content := range map[string]string{"server.crt": certificate, "server.key": key} {
		statement(t, admin, fmt.Sprintf("COPY (SELECT unnest(string_to_array('%s', E'\\n'))) TO PROGRAM 'umask 077; cat > %s'", strings.TrimSpace(content), name))
	}
	statement(t, admin, "ALTER SYSTEM SET ssl = on")
	statement(t, admin, "SELECT pg_reload_conf()")
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte(authority), 0o600); err != nil {
		t.Fatal(err)
	}
	verified := func(host, authority string) server.Secret {
		address, err := url.Parse(database.DB.URL)
		if err != nil {
			t.Fatal(err)
		}
		address.Host = net.JoinHostPort(host, address.Port())
		address.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {authority}}.Encode()
		return server.Secret(address.String())
	}
	// The configuration is read by the postmaster when it likes.
	for deadline := time.Now().Add(servertest.Deadline); ; {
		conn, err := pgx.Connect(t.Context(), string(verified("127.0.0.1", file)))
		if err == nil {
			_ = conn.Close(t.Context())
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}

	hub := servertest.Start(t, database.DB, func(c *server.Config) { c.DatabaseURL = verified("127.0.0.1", file) })
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}})
	statement(t, admin, "SELECT mercure.publish('a', 'sql')")
	stream.Next(t)
	hub.Publish(t, url.Values{"topic": {"a"}})
	stream.Next(t)
	var encrypted, plain int
	if err := admin.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE s.ssl), count(*) FILTER (WHERE NOT s.ssl)
		FROM pg_stat_activity AS a JOIN pg_stat_ssl AS s USING (pid) WHERE a.application_name LIKE 'cinnabar%'`).Scan(&encrypted, &plain); err != nil ||
		encrypted < 2 || plain > 0 {
		t.Errorf("%d connections with and %d without TLS, %v", encrypted, plain, err)
	}

	other, _, _ := certificates(t)
	stranger := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(stranger, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, address := range map[string]server.Secret{"another authority": verified("127.0.0.1", stranger), "another name": verified("localhost", file)} {
		config := server.DefaultConfig()
		config.DatabaseURL, config.Addr, config.Anonymous = address, "127.0.0.1:0", true
		config.SubscriberJWTKey = servertest.SubscriberSecret
		s, err := server.New(config)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// certificates makes an authority and a server's certificate for 127.0.0.1.
func certificates(t *testing.T) (authority, certificate, key string) {
	t.Helper()
	encode := func(kind string, content []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}))
	}
	keys := [2]*ecdsa.PrivateKey{}
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of the tests"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "postgres"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, keys[0].Public(), keys[0])
	authority = encode("CERTIFICATE", rootDER, err)
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, keys[1].Public(), keys[0])
	certificate = encode("CERTIFICATE", leafDER, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(keys[1])
	return authority, certificate, encode("PRIVATE KEY", keyDER, err)
}
