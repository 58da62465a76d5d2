package eventlog_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/nlnwa/whatwg-url/url"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/migrations"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// verdict is what the namespace rule says of a topic.
type verdict struct {
	topic    string
	reserved bool
}

// section7 is the table of section 7, for the default path.
var section7 = []verdict{
	{"/.well-known/mercure", true},
	{"/.well-known/mercure/", true},
	{"/.well-known/mercure/subscriptions/exact/a/b", true},
	{"https://hub.example.com/.well-known/mercure/x", true},
	{"http://somewhere.else/.well-known/mercure/x", true},
	{"foo://x/.well-known/mercure", true},
	{"urn:/.well-known/mercure/a", true},
	{"file:///.well-known/mercure", true},
	{"//hub.example.com/.well-known/mercure", true},
	{"https:/.well-known/mercure", true},
	{"mercure", true},
	{"./mercure", true},
	{"mercure/subscriptions/x", true},
	{"", true},
	{"?x=1", true},
	{"#frag", true},
	{"../.well-known/mercure/x", true},
	{"/.well-known/%6Dercure/x", true},
	{"/%2Ewell-known/mercure", true},
	{"/.well-known/x/%2e%2e/mercure", true},
	{"/.well-known/mercure/../mercure/x", true},
	{`https://shop.example\.well-known\mercure\x`, true},
	{"  /.well-known/mercure  ", true},
	{"/.well-known/mercure?x=y", true},
	{"/.well-known/mercure/../other", false},
	{"/.well-known/mercureX", false},
	{"/.well-known/mercure-dashboard", false},
	{"/.well-known/mercure%2Fx", false},
	{"/.well-known%2Fmercure", false},
	{"/.well-known/%256Dercure", false},
	{"/.well-known/MERCURE", false},
	{"/.well-known//mercure", false},
	{"/.well-known/mercure;a=b", false},
	{"https://shop.example/foo/.well-known/mercure/bar", false},
	{"subscriptions/x", false},
	{"bar", false},
	{"a topic with spaces", false},
	{"../mercure/x", false},
	{"urn:example:mercure", false},
	{"blob:https://hub.example.com/.well-known/mercure", false},
	{"http://[", false},
	{"*", false}, // refused by another rule
}

// overRefused are topics that the table calls free because their hosts do not
// parse. SQL parses no hosts.
var overRefused = []string{
	"https://a b.example/.well-known/mercure",
	"https://hub.example.com:99999/.well-known/mercure/x",
	"//[::1/.well-known/mercure",
	"http:mercure", // relative for a hub of http only
}

// pushTable is the same for https://shop.example/push/hub: the verdicts that
// the section names, and its table moved there.
var pushTable = []verdict{
	{"/push/hub", true},
	{"hub/x", true},
	{"https://z.example/push/hub/x", true},
	{"", true},
	{"/.well-known/mercure", false},
	{"x", false},

	{"/push/hub/", true},
	{"/push/hub/subscriptions/exact/a/b", true},
	{"http://somewhere.else/push/hub/x", true},
	{"foo://x/push/hub", true},
	{"urn:/push/hub/a", true},
	{"file:///push/hub", true},
	{"//shop.example/push/hub", true},
	{"https:/push/hub", true},
	{"hub", true},
	{"./hub", true},
	{"?x=1", true},
	{"#frag", true},
	{"../push/hub/x", true},
	{"/push/%68ub/x", true},
	{"/%70ush/hub", true},
	{"/push/x/%2e%2e/hub", true},
	{"/push/hub/../hub/x", true},
	{`https://shop.example\push\hub\x`, true},
	{"  /push/hub  ", true},
	{"/push/hub?x=y", true},
	{"/push/hub/../other", false},
	{"/push/hubX", false},
	{"/push/hub-dashboard", false},
	{"/push/hub%2Fx", false},
	{"/push%2Fhub", false},
	{"/push/%2568ub", false},
	{"/push/HUB", false},
	{"/push//hub", false},
	{"/push/hub;a=b", false},
	{"https://shop.example/foo/push/hub/bar", false},
	{"subscriptions/x", false},
	{"bar", false},
	{"a topic with spaces", false},
	{"../hub/x", false},
	{"urn:example:hub", false},
	{"blob:https://shop.example/push/hub", false},
	{"http://[", false},
	{"mercure", false},
	{"*", false},
}

// Spec: E-19, N-1 to N-4.
func TestNamespaceInGoAndSQL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		hub      string
		verdicts []verdict
	}{
		{"https://hub.example.com/.well-known/mercure", section7},
		// Scheme, host and port of the hub do not matter.
		{"http://localhost:3000/.well-known/mercure", section7[:9]},
		{"https://shop.example/push/hub", pushTable},
		{"https://other.example:8443/push/hub", pushTable},
		{"https://shop.example/p%75sh/%68ub", pushTable}, // step 6
	} {
		t.Run(test.hub, func(t *testing.T) {
			t.Parallel()
			at := openNamespace(t, test.hub)
			for _, v := range test.verdicts {
				if at.hub.Reserved(v.topic) != v.reserved || at.sql(t, v.topic)[0] != v.reserved {
					t.Errorf("%q: Go says reserved = %v, SQL %v, want %v", v.topic, at.hub.Reserved(v.topic), at.sql(t, v.topic)[0], v.reserved)
				}
			}
		})
	}
}

func TestWhatSQLRefusesBeyondTheNamespace(t *testing.T) {
	t.Parallel()
	at := openNamespace(t, "https://hub.example.com/.well-known/mercure")
	for _, topic := range overRefused {
		if at.hub.Reserved(topic) || !at.sql(t, topic)[0] || !at.mayOverRefuse(t, topic) {
			t.Errorf("%q: Go says reserved = %v, SQL %v", topic, at.hub.Reserved(topic), at.sql(t, topic)[0])
		}
	}
}

// namespace is a database whose hub is at some URL.
type namespace struct {
	hub  *protocol.HubURL
	conn *pgx.Conn
}

func openNamespace(t testing.TB, hubURL string) namespace {
	t.Helper()
	hub, err := protocol.ParseHubURL(hubURL)
	if err != nil {
		t.Fatal(err)
	}
	n := namespace{hub: hub, conn: dbtest.New(t).Conn(t)}
	var moved bool
	if err := n.conn.QueryRow(context.Background(), "SELECT mercure.set_hub_path($1)", hub.Namespace()).Scan(&moved); err != nil || !moved {
		t.Fatalf("move the hub to %s: %v, %v", hub.Namespace(), moved, err)
	}
	return n
}

// sql returns which topics SQL calls reserved. None of those, and nothing that
// may not be a topic, takes the short way past the checks.
func (n namespace) sql(t testing.TB, topics ...string) (reserved []bool) {
	t.Helper()
	var ordinary []bool
	err := n.conn.QueryRow(context.Background(), `
		SELECT array_agg(mercure.is_reserved_topic(t) ORDER BY n),
			array_agg(mercure.is_ordinary_update(ARRAY[t], NULL, NULL, 'urn:uuid:' || gen_random_uuid()) ORDER BY n)
		FROM unnest($1::text[]) WITH ORDINALITY AS u (t, n)`, topics).Scan(&reserved, &ordinary)
	if err != nil {
		t.Fatal(err)
	}
	for i, topic := range topics {
		if ordinary[i] && (reserved[i] || protocol.ValidateTopic(topic) != nil) {
			t.Errorf("%q is ordinary; it is reserved: %v; %v", topic, reserved[i], protocol.ValidateTopic(topic))
		}
	}
	return reserved
}

// hubsOfAllShapes have paths that each go another way through the rules.
var hubsOfAllShapes = []string{
	"https://hub.example.com/.well-known/mercure",
	"http://localhost:8080/push/hub",
	"https://shop.example/hub",
	"https://shop.example/hub/hub",
	"https://shop.example/a/%7Eb",
	"https://shop.example/push/hub/",
	"https://shop.example",
	"https://shop.example/café/a b%2F",
	"https://shop.example//hub",
	"https://shop.example/*/(hub)|[x]^'+.*",
}

// Topics that are cut and pasted from what URL parsers treat specially. SQL may
// call free nothing that HTTP calls reserved, and refuses nothing else than what
// its comment says. Spec: N-2
func TestNoReservedTopicIsFreeInSQL(t *testing.T) {
	t.Parallel()
	for _, hubURL := range hubsOfAllShapes {
		t.Run(hubURL, func(t *testing.T) {
			t.Parallel()
			at := openNamespace(t, hubURL)
			random := rand.New(rand.NewPCG(1, 2))
			reserved := 0
			for range 10 {
				topics := make([]string, 1000)
				for i := range topics {
					topics[i] = randomTopic(random, at.hub)
				}
				for i, sql := range at.sql(t, topics...) {
					at.judge(t, topics[i], sql)
					if at.hub.Reserved(topics[i]) {
						reserved++
					}
				}
			}
			if reserved < 500 {
				t.Errorf("only %d topics were reserved: they test nothing", reserved)
			}
		})
	}
}

// judge compares the verdict of SQL with that of Go.
func (n namespace) judge(t testing.TB, topic string, sql bool) {
	t.Helper()
	if reserved := n.hub.Reserved(topic); reserved && !sql {
		t.Errorf("at %s %q is reserved, but free in SQL", n.hub, topic)
	} else if sql && !reserved && !n.mayOverRefuse(t, topic) {
		t.Errorf("at %s %q is free, but reserved in SQL", n.hub, topic)
	}
}

// mayOverRefuse lists what SQL does not look into: no door lets controls in,
// and what does not parse, or is relative for a hub of the other scheme only, is
// a typing error. Files matter to hubs only whose path begins like a drive.
func (n namespace) mayOverRefuse(t testing.TB, topic string) bool {
	t.Helper()
	if strings.ContainsFunc(topic, func(r rune) bool { return r < ' ' }) {
		return true
	}
	for _, scheme := range []string{"http://", "https://"} {
		other, err := protocol.ParseHubURL(scheme + "hub.example" + n.hub.Path())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := url.ParseRef(other.String(), topic); err != nil || other.Reserved(topic) {
			return true
		}
	}
	scheme, _, _ := strings.Cut(strings.Trim(topic, " "), ":")
	return strings.EqualFold(scheme, "file")
}

func randomTopic(random *rand.Rand, hub *protocol.HubURL) string {
	pieces := []string{
		"", "", "/", "//", "///", `\`, "/.", "/..", "/./", "/../", "..", ".", "%2e", "%2E%2e", "/%2e/", "%", "%2", "%6", "5c", "%5C", "%2F", "%25",
		"http:", "https:", "HTTPS:", "https://", "ws:", "ftp:/", "wss://", "file:", "file:/", "file://", "file:///", "urn:", "foo:", "foo:/", "foo://", "foo:///",
		"h", "shop.example", "u:p@h:80", "[::1]", "xn--", "xn--mgba3a4f16a", "bücher.example", "C:", "c|", "C:/", "localhost",
		"?", "#", "?x", ":", "@", ";", " ", "  ", "é", "e\u0301", "%C3%A9", "%c3%a9", "~", "a", "1a:", "a+b-c.d:", "\u00a0", "{", "}", "^", "|", "\"", "<", "`", "'",
		"\t", "\n", "\x01", "mercure", "push", "hub",
	}
	path := hub.Path()
	segments := strings.Split(strings.Trim(path, "/"), "/")
	var topic strings.Builder
	for range 1 + random.IntN(4) {
		topic.WriteString(pieces[random.IntN(len(pieces))])
	}
	switch random.IntN(5) {
	case 0:
		topic.WriteString(path)
	case 1: // with what parsers encode
		topic.WriteString(strings.NewReplacer("%C3%A9", "é", "%20", " ").Replace(path))
	case 2:
		topic.WriteString(respelled(random, path))
	case 3:
		topic.WriteString(segments[len(segments)-1])
	}
	for range random.IntN(4) {
		topic.WriteString(pieces[random.IntN(len(pieces))])
		if random.IntN(4) == 0 {
			topic.WriteString(segments[random.IntN(len(segments))])
		}
	}
	return topic.String()
}

// respelled is a path with some of its characters percent-encoded, encoded
// twice, or preceded by what parsers leave out.
func respelled(random *rand.Rand, path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		switch hex := "0123456789ABCDEF"; random.IntN(12) {
		case 0:
			b.WriteString("%" + string(hex[c>>4]) + string(hex[c&15]))
		case 1:
			b.WriteString("%" + strings.ToLower(string(hex[c>>4])+string(hex[c&15])))
		case 2:
			b.WriteString("%%3" + string(hex[c>>4&7]) + string(hex[c&15]))
		case 3:
			b.WriteString("/x/../")
			b.WriteByte(c)
		case 4:
			if c == '/' {
				c = '\\'
			}
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// FuzzTopicsInSQL compares SQL with Go on whole topics: the namespace at hubs of
// all shapes, and the characters that are forbidden. Spec: N-2, TP-2
func FuzzTopicsInSQL(f *testing.F) {
	for _, table := range [][]verdict{section7, pushTable} {
		for _, v := range table {
			f.Add(v.topic)
		}
	}
	for _, topic := range overRefused {
		f.Add(topic)
	}
	random := rand.New(rand.NewPCG(3, 4))
	var hubs []namespace
	for _, hubURL := range hubsOfAllShapes {
		hub := openNamespace(f, hubURL)
		hubs = append(hubs, hub)
		f.Add(randomTopic(random, hub.hub))
	}
	f.Fuzz(func(t *testing.T, topic string) {
		if !utf8.ValidString(topic) || strings.Contains(topic, "\x00") || len(topic) > 4096 {
			return // no text in PostgreSQL, or refused for its length
		}
		for _, hub := range hubs {
			hub.judge(t, topic, hub.sql(t, topic)[0])
		}
		if topic == "" {
			return
		}
		var accepted bool
		err := hubs[0].conn.QueryRow(context.Background(), "SELECT mercure.check_text('topic', $1)", topic).Scan(&accepted)
		if accepted != (protocol.ValidateTopic(topic) == nil) {
			t.Errorf("%q: SQL says %v, %v; Go %v", topic, accepted, err, protocol.ValidateTopic(topic))
		}
	})
}

// Nobody can move the namespace while a hub is connected. If it was moved all
// the same, by hand, the hub ends: publishers could speak in its name.
func TestHubPathIsKeptWhileConnected(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	config := eventlog.Config{DatabaseURL: database.URL, HubPath: "/push/hub", Logger: slog.New(slog.DiscardHandler)}
	var wrong *migrations.HubPathError
	if _, err := eventlog.Open(t.Context(), config); !errors.As(err, &wrong) {
		t.Fatalf("a log with another path opened: %v", err)
	}
	if !query[bool](t, pool, "SELECT mercure.set_hub_path('/push/hub')") {
		t.Fatal("the path could not be set")
	}
	log, err := eventlog.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	ended := make(chan error, 1)
	go func() { ended <- log.Run(t.Context(), newSink()) }()
	select {
	case <-log.Started():
	case <-time.After(deadline):
		t.Fatal("the log did not start")
	}
	if query[bool](t, pool, "SELECT mercure.set_hub_path('/other')") {
		t.Error("the path was changed under a connected hub")
	}
	exec(t, pool, "CREATE OR REPLACE FUNCTION mercure.hub_path() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN '/other'")
	exec(t, pool, `SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND mode = 'ShareLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	select {
	case err := <-ended:
		if !errors.As(err, &wrong) || wrong.Found != "/other" {
			t.Errorf("the log ended with %v", err)
		}
	case <-time.After(deadline):
		t.Fatal("the log goes on although the namespace is another one")
	}
}
