package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// withoutTail makes a hub read everything from the database.
func withoutTail(c *server.Config) { c.TailBytes = 0 }

// eventually repeats what a hub needs a moment to learn of.
func eventually(t *testing.T, what string, get func() []string, want ...string) {
	t.Helper()
	waitFor(t, func() string {
		if got := get(); !slices.Equal(got, want) {
			return fmt.Sprintf("%s: got %q, want %q", what, got, want)
		}
		return ""
	})
}

// replayedData is the data a client gets that resumes after an id, before what is
// published meanwhile.
func replayedData(t *testing.T, hub *servertest.Hub, after string) (data []string) {
	t.Helper()
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"*"}, "last_event_id": {after}}})
	defer stream.Close()
	marker := hub.Publish(t, url.Values{"topic": {"marker"}, "data": {"marker"}})
	for {
		event := stream.Next(t)
		switch {
		case event.ID == marker:
			return data
		case event.Data != "marker":
			data = append(data, event.Data)
		}
	}
}

// A late client gets what the log still has, and what policies keep of what it
// has no more. A cursor that is older than retention is no cursor.
//
// Spec: H-4, H-5.
func TestLateClients(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]servertest.Option{
		"from memory": func(*server.Config) {}, "from the database": withoutTail,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			conn := database.Conn(t)
			statement(t, conn, "INSERT INTO mercure.policies (priority, match_type, match, keep_last) VALUES (10, 'urlpattern', 'https://example.com/state/:x', true)")
			statement(t, conn, "INSERT INTO mercure.policies (priority, match_type, match) VALUES (20, 'urlpattern', 'https://example.com/audit/*')")
			statement(t, conn, "INSERT INTO mercure.policies (priority, match) VALUES (30, 'marker')")
			first := servertest.Start(t, database)
			ids := map[string]string{}
			for n := range 3 {
				for _, topic := range []string{"news", "audit/x", "state/1", "state/2"} {
					name := fmt.Sprint(topic, " ", n)
					ids[name] = first.Publish(t, url.Values{"topic": {"https://example.com/" + topic, "https://example.com/alternate"}, "data": {name}})
				}
			}
			eventually(t, "what is current", func() []string { return replayedData(t, first, "earliest") },
				"news 0", "audit/x 0", "news 1", "audit/x 1", "news 2", "audit/x 2", "state/1 2", "state/2 2")
			// From news 2 on.
			statement(t, conn, "SELECT mercure.retain(NULL, (SELECT count(*) FROM mercure.updates WHERE position > 8), NULL, '0', 1000)")
			statement(t, conn, "SELECT mercure.apply_policies('0', 1000)")

			hub := servertest.Start(t, database, option)
			earliest := []string{"audit/x 0", "audit/x 1", "news 2", "audit/x 2", "state/1 2", "state/2 2"}
			for cursor, want := range map[string][]string{
				"earliest":       earliest,
				"unknown":        earliest,
				ids["news 0"]:    earliest,     // gone
				ids["audit/x 0"]: earliest,     // there, but what came next is gone
				ids["state/1 1"]: earliest,     // gone
				ids["state/2 1"]: earliest[2:], // the last that is gone
				ids["news 2"]:    earliest[3:],
				ids["state/1 2"]: earliest[5:],
				ids["state/2 2"]: nil,
			} {
				if cursor == ids["state/2 1"] {
					want = earliest // its id is gone, too
				}
				if got := replayedData(t, hub, cursor); !slices.Equal(got, want) {
					t.Errorf("from %s: got %q, want %q", cursor, got, want)
				}
				stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"*"}, "last_event_id": {cursor}}})
				field := "earliest"
				if len(want) < len(earliest) {
					field = cursor
				}
				if got := stream.Header.Get("Mercure-Last-Event-ID"); got != field {
					t.Errorf("from %s: the field is %q, want %q", cursor, got, field)
				}
				stream.Close()
			}
			// By topics, too, the alternate one included.
			stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"https://example.com/alternate"}, "last_event_id": {"earliest"}}})
			for _, want := range earliest {
				if got := stream.Next(t); got.Data != want {
					t.Errorf("by topic: got %q, want %q", got.Data, want)
				}
			}
		})
	}
}

// Policies change while hubs run; one that cannot be used is said once, and does
// not stop the others.
func TestPoliciesChangeWithoutRestart(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	conn := database.Conn(t)
	lines := make(logLines, 100)
	hub := servertest.Start(t, database, func(c *server.Config) { c.Logger = slog.New(slog.NewTextHandler(lines, nil)) })
	for n := range 3 {
		hub.Publish(t, url.Values{"topic": {"https://example.com/a"}, "data": {fmt.Sprint("a", n)}})
	}
	from := func() []string { return replayedData(t, hub, "earliest") }
	eventually(t, "no policy", from, "a0", "a1", "a2")
	statement(t, conn, "INSERT INTO mercure.policies (priority, match_type, match, keep_last) VALUES (1, 'urlpattern', 'https://example.com/(', true), (2, 'exact', 'https://example.com/a', true)")
	eventually(t, "the last one", from, "a2")
	lines.wait(t, "a retention policy cannot be used")
	waitForRow(t, conn, "SELECT problem LIKE '%URL pattern%' FROM mercure.policies WHERE priority = 1")
	statement(t, conn, "UPDATE mercure.policies SET keep_last = false WHERE priority = 2")
	eventually(t, "all that there are", from, "a0", "a1", "a2")
}

// Whoever begins at the beginning while others publish gets nothing of a topic
// that was replaced before, as far as the hub has delivered, and everything from
// then on.
func TestLastValuesWhileOthersPublish(t *testing.T) {
	t.Parallel()
	const topics, values, readers = 5, 150, 6
	database := dbtest.New(t)
	statement(t, database.Conn(t), "INSERT INTO mercure.policies (priority, match_type, match, keep_last) VALUES (1, 'urlpattern', 'https://example.com/:x', true)")
	hubs := []*servertest.Hub{servertest.Start(t, database), servertest.Start(t, database, withoutTail)}
	for _, hub := range hubs {
		hub.Publish(t, url.Values{"topic": {"https://example.com/0"}, "data": {"0"}})
		hub.Publish(t, url.Values{"topic": {"https://example.com/0"}, "data": {"0"}})
		eventually(t, "the policy", func() []string { return replayedData(t, hub, "earliest") }, "0")
	}
	token := servertest.PublisherToken(t)
	var (
		mu        sync.Mutex
		delivered [2][topics]int // by each hub
		group     errgroup.Group
	)
	all := [topics]int{values, values, values, values, values}
	for i, hub := range hubs {
		live := hub.Subscribe(t, servertest.Request{Query: url.Values{"match_urlpattern": {"https://example.com/:x"}}})
		group.Go(func() error {
			for got := ([topics]int{}); got != all; {
				event, err := live.TryNext(t.Context())
				if err != nil {
					return err
				}
				topic, _ := strconv.Atoi(event.Type)
				got[topic], _ = strconv.Atoi(event.Data)
				mu.Lock()
				delivered[i] = got
				mu.Unlock()
			}
			return nil
		})
	}
	for topic := range topics {
		group.Go(func() error {
			for n := 1; n <= values; n++ {
				form := url.Values{"topic": {fmt.Sprint("https://example.com/", topic)}, "data": {strconv.Itoa(n)}, "type": {strconv.Itoa(topic)}}
				if status, body, err := hubs[n%2].TryPost(t.Context(), token, form.Encode()); err != nil || status != 200 {
					return fmt.Errorf("publish: %d %s %w", status, body, err)
				}
			}
			return nil
		})
	}
	for reader := range readers {
		group.Go(func() error {
			now := func() [topics]int {
				mu.Lock()
				defer mu.Unlock()
				return delivered[reader%2]
			}
			for now() != all {
				if err := readLastValues(t.Context(), hubs[reader%2], now); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, hub := range hubs {
		want := []string{"150", "150", "150", "150", "150"}
		if got := replayedData(t, hub, "earliest"); !slices.Equal(got, want) {
			t.Errorf("at the end come %q", got)
		}
	}
}

// readLastValues reads from the beginning until it has what was delivered when it
// began.
func readLastValues(ctx context.Context, hub *servertest.Hub, now func() [5]int) error {
	ctx, cancel := context.WithTimeout(ctx, servertest.Deadline)
	defer cancel()
	before := now()
	stream, err := hub.TrySubscribe(ctx, servertest.Request{Query: url.Values{"match_urlpattern": {"https://example.com/:x"}, "last_event_id": {"earliest"}}})
	if err != nil {
		return err
	}
	defer stream.Close()
	var last [5]int
	for missing := true; missing; {
		missing = false
		for i := range last {
			missing = missing || last[i] < before[i]
		}
		if !missing {
			break
		}
		event, err := stream.TryNext(ctx)
		if err != nil {
			return fmt.Errorf("have %v, want %v: %w", last, before, err)
		}
		topic, _ := strconv.Atoi(event.Type)
		value, _ := strconv.Atoi(event.Data)
		switch {
		case last[topic] == 0 && value < before[topic]:
			return fmt.Errorf("of topic %d came %d, when %d had replaced it", topic, value, before[topic])
		case last[topic] != 0 && value != last[topic]+1:
			return fmt.Errorf("of topic %d came %d after %d", topic, value, last[topic])
		}
		last[topic] = value
	}
	return nil
}

// What was redacted is not replayed by any hub, from memory or from the database;
// its id is still a cursor.
func TestRedactedUpdates(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	conn := database.Conn(t)
	hubs := map[string]*servertest.Hub{
		"here": servertest.Start(t, database), "another": servertest.Start(t, database), "from the database": servertest.Start(t, database, withoutTail),
	}
	var ids []string
	for _, data := range []string{"a", "b", "c"} {
		ids = append(ids, hubs["here"].Publish(t, url.Values{"topic": {"https://example.com/" + data}, "data": {data}, "type": {"t"}}))
	}
	for name, hub := range hubs {
		eventually(t, name, func() []string { return replayedData(t, hub, ids[0]) }, "b", "c")
	}
	statement(t, conn, "SELECT mercure.redact('"+ids[1]+"')")
	for name, hub := range hubs {
		eventually(t, name, func() []string { return replayedData(t, hub, ids[0]) }, "c")
		eventually(t, name+", all", func() []string { return replayedData(t, hub, "earliest") }, "a", "c")
		eventually(t, name+", from it", func() []string { return replayedData(t, hub, ids[1]) }, "c")
		stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"*"}, "last_event_id": {ids[1]}}})
		if got := stream.Header.Get("Mercure-Last-Event-ID"); got != ids[1] {
			t.Errorf("%s: the id is no cursor any more: %q", name, got)
		}
		stream.Close()
	}
	var text string
	if err := conn.QueryRow(t.Context(), "SELECT string_agg(u::text, '') FROM mercure.updates AS u WHERE u.id = $1", ids[1]).Scan(&text); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "example.com") || !strings.Contains(text, ids[1]) {
		t.Errorf("in the log is %s", text)
	}
	var redacted int
	if err := conn.QueryRow(t.Context(), "SELECT mercure.redact('unknown')").Scan(&redacted); err != nil || redacted != 0 {
		t.Errorf("an unknown id: %d, %v", redacted, err)
	}
}

// Retention is at work on its own, by the settings of the hub.
func TestSettingsOfRetention(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	conn := database.Conn(t)
	statement(t, conn, `INSERT INTO mercure.updates (position, topics, data, size, created_at)
		SELECT nextval('mercure.updates_position_seq'), '{a}', 'x', 100, now() - n * interval '1 hour' FROM generate_series(9, 1, -1) AS n`)
	servertest.Start(t, database, func(c *server.Config) { c.HistoryMaxUpdates = 4 })
	waitForRow(t, conn, "SELECT count(*) = 4 AND min(position) = 6 FROM mercure.updates")
}
