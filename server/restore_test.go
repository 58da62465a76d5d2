package server_test

import (
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/migrations"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// A dump has the log and what waits in the outbox. A hub on the restored
// database goes on as that of the old one would have: clients resume with the
// ids they have, what waited is delivered, in order, and nothing twice. The
// transaction ids in the outbox are those of another server, and may mean the
// past there, or the future.
func TestDumpAndRestore(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ burnOld, burnNew int }{
		"from an older server":   {burnOld: 5000},
		"from a younger server":  {burnNew: 5000},
		"from one as old as new": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := dbtest.NewServer(t), dbtest.NewServer(t)
			burnTransactions(t, from.DB, test.burnOld)
			burnTransactions(t, to.DB, test.burnNew)

			old := servertest.Start(t, from.DB)
			var ids []string
			for n := range 5 {
				ids = append(ids, old.Publish(t, url.Values{"topic": {"a"}, "data": {fmt.Sprintf("logged %d\x00", n)}}))
			}
			old.Stop()
			if err := old.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			conn := from.DB.Conn(t)
			for n := range 3 { // each a transaction
				statement(t, conn, fmt.Sprintf("INSERT INTO mercure.outbox (topics, data, private) VALUES ('{a}', 'waiting %d.0', false), ('{a}', 'waiting %d.1', false)", n, n))
			}

			restored := moveDatabase(t, from, to)
			hub := servertest.Start(t, restored)
			all := []string{"logged 0\x00", "logged 1\x00", "logged 2\x00", "logged 3\x00", "logged 4\x00"}
			for n := range 3 {
				all = append(all, fmt.Sprintf("waiting %d.0", n), fmt.Sprintf("waiting %d.1", n))
			}
			resumed := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}, LastEventID: ids[1]})
			for _, want := range all[2:] {
				if got := resumed.Next(t); got.Data != want {
					t.Fatalf("the resumed stream got %q, want %q", got.Data, want)
				}
			}
			last := hub.Publish(t, url.Values{"topic": {"a"}, "data": {"new"}})
			all = append(all, "new")
			if got := resumed.Next(t); got.Data != "new" || got.ID != last {
				t.Errorf("the resumed stream got %+v", got)
			}
			replay := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}, LastEventID: "earliest"})
			var data []string
			for range all {
				data = append(data, replay.Next(t).Data)
			}
			if !slices.Equal(data, all) {
				t.Errorf("the replay is %q", data)
			}
			var rest int
			if err := restored.Conn(t).QueryRow(t.Context(), "SELECT (SELECT count(*) FROM mercure.updates) - $1 + (SELECT count(*) FROM mercure.outbox) + (SELECT count(*) FROM mercure.rejected)",
				len(all)).Scan(&rest); err != nil || rest != 0 {
				t.Errorf("%d updates too many, %v", rest, err)
			}
		})
	}
}

// burnTransactions uses up so many transaction ids.
func burnTransactions(t *testing.T, database *dbtest.DB, n int) {
	t.Helper()
	statement(t, database.Conn(t), fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$", n))
}

// moveDatabase dumps the database of one server and restores it on another, as
// operators do. The role that publishers are granted is there already: roles do
// not belong to databases.
func moveDatabase(t *testing.T, from, to *dbtest.Server) *dbtest.DB {
	t.Helper()
	statement(t, to.DB.Conn(t), "CREATE DATABASE restored TEMPLATE template0 ENCODING 'UTF8'")
	restored := &dbtest.DB{URL: to.URL("restored")}
	file := filepath.Join(t.TempDir(), "dump")
	for _, command := range [][]string{
		{"pg_dump", "--format=custom", "--file=" + file, from.DB.URL},
		{"pg_restore", "--exit-on-error", "--dbname=" + restored.URL, file},
	} {
		program := filepath.Join(from.Installation().BinDir, command[0])
		if output, err := exec.CommandContext(t.Context(), program, command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", program, err, output)
		}
	}
	return restored
}

// A hub that was updated and taken back by one migration after the other finds
// what waits in the outbox, as long as there is one.
func TestMigrationsKeepTheOutbox(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	const oldest = 5 // the first release's
	conn := database.Conn(t)
	insert := func(data string) {
		t.Helper()
		statement(t, conn, "INSERT INTO mercure.outbox (topics, data) VALUES ('{a}', '"+data+"')")
	}
	hub := servertest.Start(t, database)
	id := hub.Publish(t, url.Values{"topic": {"a"}, "data": {"logged"}})
	hub.Stop()
	if err := hub.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	insert("at the newest")
	runner := migrations.Runner{DatabaseURL: database.URL}
	for version := migrations.Latest(); version > oldest; version-- {
		if undone, err := runner.Down(t.Context()); err != nil || undone == nil {
			t.Fatalf("down from %d: %v", version, err)
		}
	}
	insert("at the oldest")
	upAgain := servertest.Start(t, database) // migrates
	insert("afterwards")
	stream := upAgain.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}, LastEventID: id})
	for _, want := range []string{"at the newest", "at the oldest", "afterwards"} {
		if got := stream.Next(t); got.Data != want {
			t.Errorf("got %q, want %q", got.Data, want)
		}
	}
}
