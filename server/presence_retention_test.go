package server_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// emptySubscriptionEvents lets time pass for those in the log.
func emptySubscriptionEvents(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), "UPDATE mercure.hub_events SET created_at = created_at - interval '1 hour'"); err != nil {
		t.Fatal(err)
	}
	for more := true; more; {
		if err := pool.QueryRow(t.Context(), "SELECT mercure.empty_hub_events('1 hour', 1)").Scan(&more); err != nil {
			t.Fatal(err)
		}
	}
}

// An event that was emptied is still a place in the order: streams resume behind
// it and pass over it, whatever they match, from memory and from the database.
//
// Spec: H-4, H-5, R-17.
func TestEmptiedEventsAreCursors(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	first := servertest.Start(t, database, withPresence)
	observer := first.Subscribe(t, servertest.Request{Token: omniscient(t), Query: url.Values{"match": {"*"}}})
	cursors := []string{observer.Next(t).ID}
	for i := range 3 {
		topic := url.Values{"topic": {fmt.Sprint("https://example.com/", i)}}
		cursors = append(cursors, first.Publish(t, topic))
		observer.Next(t)
		visitor := first.Subscribe(t, servertest.Request{Query: topic})
		cursors = append(cursors, observer.Next(t).ID)
		visitor.Close()
		cursors = append(cursors, observer.Next(t).ID)
	}
	observer.Close()
	emptySubscriptionEvents(t, pool)

	// What a reader of SQL sees.
	var hub, emptied int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE from_hub),
		count(*) FILTER (WHERE from_hub AND topics = '{}' AND data = '' AND type IS NULL AND private) FROM mercure.updates`).Scan(&hub, &emptied); err != nil {
		t.Fatal(err)
	}
	if hub < 7 || emptied < 7 {
		t.Errorf("%d events of the hub, %d are empty", hub, emptied)
	}

	for name, option := range map[string]servertest.Option{
		"from memory":       func(c *server.Config) { c.TailBytes = 1 << 20 },
		"from the database": func(c *server.Config) { c.TailBytes = 0 },
	} {
		second := servertest.Start(t, database, withPresence, option)
		for i, cursor := range append(cursors, "earliest") {
			var want []string
			for j := range cursors {
				if j%3 == 1 && (j > i || cursor == "earliest") {
					want = append(want, cursors[j])
				}
			}
			for _, token := range []string{"", omniscient(t)} {
				stream := second.Subscribe(t, servertest.Request{Token: token, Query: url.Values{"match": {"*"}, "last_event_id": {cursor}}})
				if got := stream.Header.Get("Mercure-Last-Event-ID"); got != cursor {
					t.Errorf("%s: cursor %d was not found: %q", name, i, got)
				}
				for _, id := range want {
					if got := stream.Next(t); got.ID != id {
						t.Fatalf("%s: from cursor %d came %+v, want %s", name, i, got, id)
					}
				}
				stream.Close()
			}
		}
		// All that is left to be told of subscriptions is what came since.
		stream := second.Subscribe(t, servertest.Request{Token: omniscient(t), Query: url.Values{
			"match_urlpattern": {subscriptionsPath + "/exact/https*"}, "match": {"marker"}, "last_event_id": {"earliest"},
		}})
		second.Publish(t, url.Values{"topic": {"marker"}, "data": {"marker"}})
		if got := stream.Next(t); got.Data != "marker" {
			t.Errorf("%s: got %+v", name, got)
		}
		second.Stop()
		if err := second.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
