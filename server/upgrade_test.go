package server_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver that migrations use
	"github.com/pressly/goose/v3"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/migrations"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// First versions of the schema that have something.
const (
	versionOfOutbox = 2
	versionOfAppend = 3
)

// The first hubs of a new release migrate the database, from any older schema,
// while rows wait in the outbox, applications insert more, and a hub of the
// older release goes on appending: everything is delivered once, in the order of
// the log, and clients resume with the ids they had.
func TestUpgradeFromEveryVersion(t *testing.T) {
	t.Parallel()
	for version := int64(1); version < migrations.Latest(); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			u := newUpgrade(t, version)
			u.fill(t)
			ids := u.ids(t)
			u.goOn(t)
			var (
				hubs  [2]*servertest.Hub
				group sync.WaitGroup
			)
			for i := range hubs { // at once, each ready to migrate
				group.Go(func() { hubs[i] = servertest.Start(t, u.database) })
			}
			group.Wait()
			if t.Failed() {
				return
			}
			u.stop(t)
			last := hubs[0].Publish(t, url.Values{"topic": {"a"}, "data": {"end"}})

			everything := streamed(t, hubs[0], "earliest", last)
			resumed := streamed(t, hubs[1], ids[1], last)
			if !slices.Equal(resumed, everything[2:]) {
				t.Errorf("resumed after the second: %s", difference(resumed, everything[2:]))
			}
			checkContents(t, everything, u.expected)
			if rest := contents(t, u.conn); !slices.Equal(rest, everything) {
				t.Errorf("the log is not what was streamed: %s", difference(rest, everything))
			}
		})
	}
}

// upgrade is a database at an older schema, and those who go on using it.
type upgrade struct {
	version  int64
	database *dbtest.DB
	conn     *pgx.Conn

	expected map[string][]string // by publisher: what it published, in order
	ended    chan struct{}
	running  sync.WaitGroup
	mu       sync.Mutex // guards expected
}

func newUpgrade(t *testing.T, version int64) *upgrade {
	t.Helper()
	u := &upgrade{version: version, database: dbtest.NewEmpty(t), expected: map[string][]string{}, ended: make(chan struct{})}
	connections, err := sql.Open("pgx", u.database.URL)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, connections, migrations.FS,
		goose.WithTableName(migrations.VersionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	if err := provider.Close(); err != nil {
		t.Fatal(err)
	}
	u.conn = u.database.Conn(t)
	return u
}

func (u *upgrade) publish(ctx context.Context, conn *pgx.Conn, publisher, statement string, n int) error {
	data := fmt.Sprintf("%s:%d", publisher, n)
	if _, err := conn.Exec(ctx, strings.ReplaceAll(statement, "$1", "'"+data+"'")); err != nil {
		return fmt.Errorf("%s: %w", data, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.expected[publisher] = append(u.expected[publisher], data)
	return nil
}

const (
	insertLogged  = "INSERT INTO mercure.updates (position, topics, data, size) VALUES (nextval('mercure.updates_position_seq'), '{a}', $1, 100)"
	insertWaiting = "INSERT INTO mercure.outbox (topics, data) VALUES ('{a}', $1)"
	// As every release since has called it.
	appendOne = `SELECT mercure.append(NULL, 5000, gen_random_uuid(), ARRAY[mercure.new_id()], ARRAY['{a}'], ARRAY[$1], ARRAY[NULL]::bytea[],
		ARRAY[false], ARRAY[''], ARRAY[-1]::bigint[], ARRAY[''], ARRAY[false])`
)

// fill puts updates into the log, and others where they wait.
func (u *upgrade) fill(t *testing.T) {
	t.Helper()
	put := func(publisher, statement string) {
		t.Helper()
		for n := range 5 {
			if err := u.publish(t.Context(), u.conn, publisher, statement, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("logged", insertLogged)
	if u.version >= versionOfAppend {
		put("drained", insertWaiting)
		statement(t, u.conn, "SELECT mercure.drain(NULL, 1000)")
		put("appended", appendOne)
	}
	if u.version >= versionOfOutbox {
		put("waiting", insertWaiting)
	}
}

func (u *upgrade) ids(t *testing.T) []string {
	t.Helper()
	rows, err := u.conn.Query(t.Context(), "SELECT id FROM mercure.updates ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// goOn begins those who do not stop for an upgrade, and returns when each has
// published.
func (u *upgrade) goOn(t *testing.T) {
	t.Helper()
	if u.version >= versionOfOutbox {
		u.begin(t, "application", insertWaiting)
	}
	if u.version >= versionOfAppend {
		u.begin(t, "old hub", appendOne)
	}
}

func (u *upgrade) begin(t *testing.T, publisher, statement string) {
	t.Helper()
	conn := u.database.Conn(t)
	begun := make(chan struct{})
	u.running.Go(func() { // ends with u.ended
		for n := 0; ; n++ {
			if err := u.publish(t.Context(), conn, publisher, statement, n); err != nil {
				t.Error(err)
			}
			if n == 0 {
				close(begun)
			}
			select {
			case <-u.ended:
				return
			default:
			}
		}
	})
	<-begun
}

func (u *upgrade) stop(t *testing.T) {
	t.Helper()
	close(u.ended)
	u.running.Wait()
	u.expected["end"] = []string{"end"}
}

// streamed is what a client gets that resumes after an id, up to another.
func streamed(t *testing.T, hub *servertest.Hub, after, last string) (data []string) {
	t.Helper()
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}, LastEventID: after})
	for {
		event := stream.Next(t)
		data = append(data, event.Data)
		if event.ID == last {
			return data
		}
	}
}

// PostgreSQL is upgraded: another cluster, with another identifier and its first
// timeline, goes on with the same rows. A hub finds what waited in the outbox,
// and clients resume. What is unlogged may be there or not.
func TestPostgreSQLIsUpgraded(t *testing.T) {
	t.Parallel()
	from := dbtest.NewServer(t)
	hub := servertest.Start(t, from.DB)
	first := hub.Publish(t, url.Values{"topic": {"a"}, "data": {"before"}})
	id := hub.Publish(t, url.Values{"topic": {"a"}, "data": {"logged"}})
	hub.Stop()
	if err := hub.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	statement(t, from.DB.Conn(t), "INSERT INTO mercure.outbox (topics, data) VALUES ('{a}', 'waiting')")
	if err := from.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	upgraded := servertest.Start(t, dbtest.NewUpgraded(t, from).DB)
	last := upgraded.Publish(t, url.Values{"topic": {"a"}, "data": {"after"}})
	for after, want := range map[string][]string{first: {"logged", "waiting", "after"}, id: {"waiting", "after"}} {
		if got := streamed(t, upgraded, after, last); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
