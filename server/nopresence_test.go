package server_test

import (
	"net/url"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// Who does not ask for subscriptions does not pay for them.
func TestWithoutSubscriptionsTheirTablesAreNotTouched(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{false, true} {
		database := dbtest.New(t)
		conn := database.Conn(t)
		hub := servertest.Start(t, database, func(c *server.Config) { c.Subscriptions = server.Switch(on) })
		stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"https://example.com/a"}}})
		hub.Publish(t, url.Values{"topic": {"https://example.com/a"}, "data": {"x"}})
		stream.Next(t)
		stream.Close()
		hub.Stop()
		if err := hub.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Those of the hub's sessions are counted at the latest when they end.
		var touched bool
		if err := conn.QueryRow(t.Context(), `SELECT sum(coalesce(seq_scan, 0) + coalesce(idx_scan, 0) + n_tup_ins) > 0
			FROM pg_stat_user_tables WHERE relid IN ('mercure.nodes'::regclass, 'mercure.subscriptions'::regclass, 'mercure.hub_events'::regclass)`).Scan(&touched); err != nil {
			t.Fatal(err)
		}
		if touched != on {
			t.Errorf("subscriptions %v: touched %v", on, touched)
		}
	}
}
