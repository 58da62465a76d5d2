package eventlog

import (
	"errors"
	"fmt"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

func TestAReplacedPrimaryIsRefused(t *testing.T) {
	t.Parallel()
	var seen timelines
	for _, step := range []struct {
		cluster  string
		timeline uint64
		refused  bool
	}{
		{"1", 2, false},
		{"1", 2, false},
		{"1", 1, true},
		{"1", 3, false},
		{"1", 2, true},
		{"2", 1, false}, // no relative
		{"1", 2, true},
	} {
		if err := seen.seen(step.cluster, step.timeline); errors.Is(err, errReplaced) != step.refused {
			t.Errorf("%+v: %v", step, err)
		}
	}
	for n := range 10 * maxClusters {
		if err := seen.seen(fmt.Sprint("another ", n), 1); err != nil {
			t.Error(err)
		}
	}
	if n := len(seen.newest); n > maxClusters {
		t.Errorf("%d clusters are remembered", n)
	}
}

// Any role may ask for the timeline, unless a service says otherwise: then the
// server is believed.
func TestTimelineOfAPlainRole(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	admin := database.Conn(t)
	exec := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("CREATE ROLE of_timeline LOGIN PASSWORD 'plain'")
	defer exec("DROP ROLE of_timeline")
	address, err := url.Parse(database.URL)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword("of_timeline", "plain")
	config, err := pgconn.ParseConfig(address.String())
	if err != nil {
		t.Fatal(err)
	}
	var seen timelines
	seen.fence(config)
	connects := func() error {
		conn, err := pgconn.ConnectConfig(t.Context(), config)
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err
	}
	if err := connects(); err != nil || len(seen.newest) != 1 {
		t.Fatalf("%v, seen: %v", err, seen.newest)
	}
	for cluster := range seen.newest {
		seen.newest[cluster] = 100
	}
	if err := connects(); !errors.Is(err, errReplaced) {
		t.Errorf("a server of an older timeline: %v", err)
	}
	exec("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
	if err := connects(); err != nil {
		t.Errorf("a server that does not tell: %v", err)
	}
}
