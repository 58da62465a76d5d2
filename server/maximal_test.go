package server_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

const (
	maxFieldBytes = 4096
	maxTopics     = 1000
)

// filled is prefix, fillers and x, of exactly size bytes.
func filled(prefix, filler string, size int) string {
	value := prefix + strings.Repeat(filler, (size-1-len(prefix))/len(filler))
	return value + strings.Repeat("x", size-len(value))
}

// maximalTopics are as many as are just allowed. Those at both ends have the
// length, in bytes, that is just allowed; with all of them as long, the race
// detector would take minutes.
func maximalTopics(filler string) []string {
	topics := make([]string, maxTopics)
	for i := range topics {
		topics[i] = fmt.Sprintf("https://example.com/%04d/", i)
		if i < 20 || i >= maxTopics-20 {
			topics[i] = filled(topics[i], filler, maxFieldBytes)
		}
	}
	return topics
}

// entry is what is published through a door.
type entry struct {
	topics   []string
	id, kind string
	data     string
}

// A door publishes an update. It returns the HTTP status, or the SQLSTATE of a
// refusal.
type door func(t *testing.T, hub *servertest.Hub, pool *pgxpool.Pool, e entry) (status int, sqlState string)

func sqlDoor(statement string) door {
	return func(t *testing.T, _ *servertest.Hub, pool *pgxpool.Pool, e entry) (int, string) {
		t.Helper()
		_, err := pool.Exec(t.Context(), statement, e.topics, e.id, e.kind, e.data)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
			return 0, pgErr.Code
		}
		if err != nil {
			t.Fatal(err)
		}
		return 0, ""
	}
}

var doors = []struct {
	name    string
	publish door
}{
	{"HTTP", func(t *testing.T, hub *servertest.Hub, _ *pgxpool.Pool, e entry) (int, string) {
		t.Helper()
		status, _ := hub.Post(t, servertest.PublisherToken(t),
			url.Values{"topic": e.topics, "id": {e.id}, "type": {e.kind}, "data": {e.data}}.Encode())
		return status, ""
	}},
	{"outbox", sqlDoor("INSERT INTO mercure.outbox (topics, id, type, data) VALUES ($1, $2, $3, $4)")},
	{"publish", sqlDoor("SELECT mercure.publish(topics => $1::text[], id => $2, type => $3, data => $4)")},
	{"log", sqlDoor("INSERT INTO mercure.updates (topics, id, type, data) VALUES ($1, $2, $3, $4)")},
}

// Updates that are as big as the limits allow pass through every door, are
// matched in every way, and can be resumed after. Spec: TP-9, P-20, S-12, H-3
func TestMaximalUpdates(t *testing.T) {
	t.Parallel()
	for name, filler := range map[string]string{"ASCII": "a", "2 bytes": "é", "3 bytes": "日", "4 bytes": "😀"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			hub := servertest.Start(t, database, func(c *server.Config) { c.MaxRequestBody = 16 << 20 })
			pool := database.Pool(t)
			topics := maximalTopics(filler)
			last := topics[maxTopics-1]
			exact := url.Values{"match": {last}}
			streams := map[string]*servertest.Stream{
				"exact":    hub.Subscribe(t, servertest.Request{Query: exact}),
				"pattern":  hub.Subscribe(t, servertest.Request{Query: url.Values{"match_urlpattern": {last[:len(last)-1] + "*"}}}),
				"selector": hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {strings.Replace(last, "0999", "{n}", 1)}}}),
			}
			var want []servertest.Event
			for _, d := range doors {
				e := entry{
					topics: topics, data: "through " + d.name,
					id: filled("urn:"+d.name+":", filler, maxFieldBytes), kind: filled("", filler, maxFieldBytes),
				}
				if status, sqlState := d.publish(t, hub, pool, e); status != 0 && status != 200 || sqlState != "" {
					t.Fatalf("%s: status %d, SQLSTATE %s", d.name, status, sqlState)
				}
				event := servertest.Event{ID: e.id, Type: e.kind, Data: e.data}
				want = append(want, event)
				for way, stream := range streams {
					if got := stream.Next(t); got != event {
						t.Errorf("%s: %s got %.100q", d.name, way, got)
					}
				}
			}
			all := hub.Subscribe(t, servertest.Request{Query: exact, LastEventID: "earliest"})
			for i, event := range want {
				if got := all.Next(t); got != event {
					t.Errorf("replayed %.100q, want %.100q", got, event)
				}
				if i+1 == len(want) {
					break
				}
				resumed := map[string]servertest.Request{
					"header":    {Query: exact, LastEventID: event.ID},
					"parameter": {Query: url.Values{"match": {last}, "last_event_id": {event.ID}}},
				}
				for way, request := range resumed {
					if got := hub.Subscribe(t, request).Next(t); got != want[i+1] {
						t.Errorf("resumed with a %s after %s: got %.100q", way, event.Data, got)
					}
				}
			}
		})
	}
}

// One byte, or one topic, more is refused at every door. Spec: TP-9, P-20
func TestBeyondTheMaximum(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hub := servertest.Start(t, database, func(c *server.Config) { c.MaxRequestBody = 16 << 20 })
	pool := database.Pool(t)
	fits := func() entry { return entry{topics: []string{"a"}, id: "urn:x", kind: "t", data: "x"} }
	for _, filler := range []string{"a", "é", "日", "😀"} {
		tooLong := filled("", filler, maxFieldBytes) + "x"
		for name, spoil := range map[string]func(*entry){
			"topic":      func(e *entry) { e.topics = []string{tooLong} },
			"last topic": func(e *entry) { e.topics = []string{"a", "b", tooLong} },
			"id":         func(e *entry) { e.id = tooLong },
			"type":       func(e *entry) { e.kind = tooLong },
			"1,001":      func(e *entry) { e.topics = append(maximalTopics(filler), "a") },
		} {
			for _, d := range doors {
				e := fits()
				spoil(&e)
				status, sqlState := d.publish(t, hub, pool, e)
				if d.name == "HTTP" && status != 413 || d.name != "HTTP" && sqlState != "23514" {
					t.Errorf("%s of %q through %s: status %d, SQLSTATE %q", name, filler, d.name, status, sqlState)
				}
			}
		}
	}
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a"}}, LastEventID: "earliest"})
	last := hub.Publish(t, url.Values{"topic": {"a"}})
	if got := stream.Next(t).ID; got != last {
		t.Errorf("%.100q was delivered although it was refused", got)
	}
}
