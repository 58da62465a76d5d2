package server_test

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// history publishes three updates on a topic of the test and one elsewhere, and
// returns their ids.
func history(t *testing.T, hub *servertest.Hub) (ids [4]string) {
	t.Helper()
	for i, topic := range []string{"a", "a", "other", "a"} {
		ids[i] = hub.Publish(t, url.Values{"topic": {topic}, "data": {string(rune('1' + i))}})
	}
	return ids
}

// replayed is what a stream is sent before an update published now.
func replayed(t *testing.T, hub *servertest.Hub, stream *servertest.Stream) string {
	t.Helper()
	marker := hub.Publish(t, url.Values{"topic": {"a"}, "data": {"end"}})
	var got strings.Builder
	for {
		event := stream.Next(t)
		if event.ID == marker {
			return got.String()
		}
		if event.Data != "end" { // of another test on this hub
			got.WriteString(event.Data)
		}
	}
}

// Spec: H-2, H-3, H-4, S-8, Q-23, Q-24, Q-25, Q-26, Q-41. Each name at each
// rank, with matchers of both dialects.
func TestCursors(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	ids := history(t, hub)
	first, second, other := ids[0], ids[1], ids[2]
	type sources map[string][]string
	for name, test := range map[string]struct {
		header   string
		query    sources
		body     sources // of a QUERY
		replay   string
		field    string // of the response
		hasField bool
		legacy   bool
	}{
		"none": {},

		"1 header":                    {header: first, replay: "24", field: first, hasField: true},
		"2 lastEventId":               {query: sources{"lastEventId": {first}}, replay: "24", field: first, hasField: true},
		"3 last_event_id":             {query: sources{"last_event_id": {first}}, replay: "24", field: first, hasField: true},
		"3 last_event_id in the body": {body: sources{"last_event_id": {first}}, replay: "24", field: first, hasField: true},
		"4 lastEventID":               {query: sources{"lastEventID": {first}}, replay: "24", field: first, hasField: true, legacy: true},
		"5 Last-Event-ID":             {query: sources{"Last-Event-ID": {first}}, replay: "24", field: first, hasField: true, legacy: true},
		"5 Last-Event-Id":             {query: sources{"Last-Event-Id": {first}}, replay: "24", field: first, hasField: true, legacy: true},

		"1 beats 2":          {header: second, query: sources{"lastEventId": {first}}, replay: "4", field: second, hasField: true},
		"1 beats all others": {header: second, query: sources{"lastEventId": {first}, "last_event_id": {first}, "lastEventID": {first}, "Last-Event-ID": {first}}, replay: "4", field: second, hasField: true, legacy: true},
		"2 beats 3":          {query: sources{"lastEventId": {second}, "last_event_id": {first}}, replay: "4", field: second, hasField: true},
		"3 beats 4":          {query: sources{"last_event_id": {second}, "lastEventID": {first}}, replay: "4", field: second, hasField: true, legacy: true},
		"4 beats 5":          {query: sources{"lastEventID": {second}, "Last-Event-ID": {first}}, replay: "4", field: second, hasField: true, legacy: true},
		"query beats body":   {query: sources{"last_event_id": {second}}, body: sources{"last_event_id": {first}}, replay: "4", field: second, hasField: true},
		"body beats 4":       {body: sources{"last_event_id": {second}}, query: sources{"lastEventID": {first}}, replay: "4", field: second, hasField: true, legacy: true},
		"empty gives way":    {query: sources{"lastEventId": {""}, "last_event_id": {""}, "Last-Event-ID": {second}}, replay: "4", field: second, hasField: true, legacy: true},
		"the last of one name": {
			query: sources{"lastEventId": {first, second, ""}}, replay: "4", field: second, hasField: true,
		},

		"one that is not followed":   {header: other, replay: "4", field: other, hasField: true},
		"not found":                  {header: "gone", replay: "124", field: "earliest", hasField: true},
		"earliest":                   {query: sources{"last_event_id": {"earliest"}}, replay: "124", field: "earliest", hasField: true},
		"present and empty":          {query: sources{"last_event_id": {""}}, field: "earliest", hasField: true},
		"present and empty, 0.x":     {query: sources{"Last-Event-ID": {""}}, field: "earliest", hasField: true, legacy: true},
		"another spelling is no one": {query: sources{"last-event-id": {first}, "LASTEVENTID": {first}}},
	} {
		for _, parameter := range []string{"match", "topic"} {
			t.Run(name+", "+parameter, func(t *testing.T) {
				t.Parallel()
				query := url.Values{parameter: {"a"}}
				maps.Copy(query, url.Values(test.query))
				method, body, headers := "GET", "", []string{}
				if test.body != nil {
					method, body, headers = "QUERY", url.Values(test.body).Encode(), []string{form}
				}
				if test.header != "" {
					headers = append(headers, "Last-Event-ID: "+test.header)
				}
				a := send(t, method, hub.URL+"?"+query.Encode(), body, headers...)
				got, present := a.header["Mercure-Last-Event-Id"]
				if a.status != 200 || present != test.hasField || present && !slices.Equal(got, []string{test.field}) {
					t.Errorf("answered %d, Mercure-Last-Event-ID %q, want %q", a.status, got, test.field)
				}
				// Spec: section 5.4. The 0.x name for those who speak 0.x.
				wantLegacy := test.hasField && (test.legacy || parameter == "topic")
				got, present = a.header["Last-Event-Id"]
				if present != wantLegacy || present && !slices.Equal(got, []string{test.field}) {
					t.Errorf("Last-Event-ID is %q, want %q %v", got, test.field, wantLegacy)
				}
				if method != "GET" {
					return
				}
				stream := hub.Subscribe(t, servertest.Request{Query: query, LastEventID: test.header})
				if got := replayed(t, hub, stream); got != test.replay {
					t.Errorf("replayed %q, want %q", got, test.replay)
				}
			})
		}
	}
}

// Spec: H-4, P-14. A reused id stands for its first use.
func TestCursorUsedTwice(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	for _, data := range []string{"1", "2"} {
		hub.Publish(t, url.Values{"topic": {"a"}, "id": {"twice"}, "data": {data}})
	}
	hub.Publish(t, url.Values{"topic": {"a"}, "data": {"3"}})
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a"}}, LastEventID: "twice"})
	if got := stream.Header.Get("Mercure-Last-Event-ID"); got != "twice" {
		t.Errorf("the field is %q", got)
	}
	if got := replayed(t, hub, stream); got != "23" {
		t.Errorf("replayed %q", got)
	}
}

// Spec: H-4, H-6. An empty log has nothing but its beginning.
func TestCursorInAnEmptyLog(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	for _, cursor := range []string{"earliest", "gone"} {
		stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a"}}, LastEventID: cursor})
		if got := stream.Header.Get("Mercure-Last-Event-ID"); got != "earliest" {
			t.Errorf("%s: the field is %q", cursor, got)
		}
	}
}

// Spec: S-27, Q-26.
func TestGapEvent(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	replay := servertest.Start(t, database)
	live := servertest.Start(t, database, func(c *server.Config) { c.UnknownCursor = "live" })
	witness := live.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a"}}})
	ids := history(t, replay)
	for witness.Next(t).ID != ids[3] { // now that hub is as far, too
	}
	gap := func(requested, actual string) servertest.Event {
		return servertest.Event{ID: actual, Type: "gap", Data: `{"requested":"` + requested + `","actual":"` + actual + `"}`}
	}
	for name, test := range map[string]struct {
		hub    *servertest.Hub
		cursor string
		want   *servertest.Event // nil: none
		replay string
	}{
		"not found":       {replay, "gone", new(gap("gone", "earliest")), "124"},
		"not found, live": {live, "gone", new(gap("gone", ids[3])), ""},
		"found":           {replay, ids[0], nil, "24"},
		"the newest":      {replay, ids[3], nil, ""},
		"earliest":        {replay, "earliest", nil, "124"},
		"earliest, live":  {live, "earliest", nil, "124"},
		"none":            {replay, "", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			stream := test.hub.Subscribe(t, servertest.Request{
				Query: url.Values{"match": {"a"}, "gap_event": {"gap"}}, LastEventID: test.cursor,
			})
			if test.want != nil {
				if got := stream.Next(t); got != *test.want {
					t.Errorf("first came %+v, want %+v", got, *test.want)
				}
			}
			var got strings.Builder
			for range test.replay {
				got.WriteString(stream.Next(t).Data)
			}
			if got.String() != test.replay {
				t.Errorf("then came %q, want %q", got.String(), test.replay)
			}
		})
	}
	// Without the parameter nobody sees it.
	stream := replay.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a"}}, LastEventID: "gone"})
	if got := stream.Next(t); got.ID != ids[0] {
		t.Errorf("first came %+v", got)
	}
	// Where it resumes from if it is cut off now: after the gap, nothing lost.
	stream = replay.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a"}, "gap_event": {"gap"}}, LastEventID: "gone"})
	stream.Next(t)
	if stream.LastEventID != "earliest" {
		t.Errorf("resumes after %q", stream.LastEventID)
	}
}

// Spec: P-9, TP-5, S-27. The name of an event that the hub shall send.
func TestEventNamesOfSubscribers(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	for _, parameter := range []string{"gap_event", "expiry_event"} {
		for value, status := range map[string]int{
			"lost": 200, "Mercure": 200, "a+b": 200, "caf%C3%A9": 200,
			"": 400, "mercure": 400, "a%0Ab": 400, "a%0Ddata:x": 400, "a%00": 400, "a%C2%85": 400, "a%E2%80%8B": 400, "%FF": 400,
			strings.Repeat("x", 257): 400,
		} {
			a := send(t, "GET", hub.URL+"?match=a&"+parameter+"="+value, "", "Last-Event-ID: gone")
			if a.status != status || status == 400 && !strings.Contains(a.body, parameter) {
				t.Errorf("%s=%s is answered %d %s", parameter, value, a.status, a.body)
			}
		}
	}
}
