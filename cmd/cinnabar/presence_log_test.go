package main

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// history is every event of subscriptions, in the order of the log.
type history struct {
	entries   []presenceEntry
	byTopic   map[string][]*presenceEntry
	positions map[string]int64 // of all updates, by id
}

type presenceEntry struct {
	Position  int64
	ID        string
	Topics    []string
	Data      string
	Private   bool
	Type      *string
	CreatedAt time.Time

	subscriptionSeen
	active bool
}

func readHistory(t *testing.T, db *dbtest.DB) *history {
	t.Helper()
	h := &history{byTopic: map[string][]*presenceEntry{}, positions: map[string]int64{"earliest": 0}}
	rows, err := db.Conn(t).Query(t.Context(), `SELECT position, id, topics, data, private, type, created_at
		FROM mercure.updates WHERE from_hub ORDER BY position`)
	if err != nil {
		t.Fatal(err)
	}
	h.entries, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e presenceEntry, err error) {
		err = row.Scan(&e.Position, &e.ID, &e.Topics, &e.Data, &e.Private, &e.Type, &e.CreatedAt)
		return e, err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range h.entries {
		e := &h.entries[i]
		if e.subscriptionSeen, e.active, err = parseSubscription(e.Data); err != nil {
			t.Fatal(err)
		}
		h.byTopic[e.topic] = append(h.byTopic[e.topic], e)
		h.positions[e.ID] = e.Position
	}
	return h
}

// checkSequence: beginnings and ends of a topic take turns, and all have ended.
// Spec.
func (h *history) checkSequence(t *testing.T) {
	t.Helper()
	for topic, events := range h.byTopic {
		for i, e := range events {
			if e.active != (i%2 == 0) {
				t.Errorf("event %d of %s has active=%t: %v", i, topic, e.active, times(events))
				break
			}
			if !e.active && e.Data != strings.Replace(events[i-1].Data, `"active":true`, `"active":false`, 1) {
				t.Errorf("%s began as %s and ended as %s", topic, events[i-1].Data, e.Data)
			}
		}
		if len(events)%2 != 0 {
			t.Errorf("%s has not ended: %v", topic, times(events))
		}
	}
	for _, e := range h.entries {
		if typed := e.Type != nil && *e.Type == "mercure"; !e.Private || typed == e.selector || len(e.Topics) != 1 || e.Topics[0] != e.topic {
			t.Errorf("private %t, type %v, topics %q: %s", e.Private, e.Type, e.Topics, e.Data)
		}
	}
}

func times(events []*presenceEntry) (list []string) {
	for _, e := range events {
		list = append(list, map[bool]string{true: "+", false: "-"}[e.active]+e.CreatedAt.Format("15:04:05.000"))
	}
	return list
}

// checkLists: a list and what follows its cursor are the truth. It differs from
// the log up to the cursor only in what changed between that and the answer.
// Spec: R-17.
func (h *history) checkLists(t *testing.T, lists []listed) {
	t.Helper()
	slices.SortFunc(lists, func(a, b listed) int { return cmp.Compare(h.positions[a.cursor], h.positions[b.cursor]) })
	wrong, next := 0, 0
	open := map[string]bool{} // the topics at the cursor, with whether they are selectors
	check := func(l listed, topic, what string, has bool) {
		if was, changed := h.state(topic, h.positions[l.cursor], l.answered); was == has || changed {
			return
		}
		if wrong++; wrong <= 5 {
			t.Errorf("the list of %s with the cursor %s %s %s: %v", l.where, l.cursor, what, topic, times(h.byTopic[topic]))
		}
	}
	for _, l := range lists {
		cursor, known := h.positions[l.cursor]
		if !known {
			t.Errorf("%s: the cursor %q is not in the log", l.where, l.cursor)
			continue
		}
		for ; next < len(h.entries) && h.entries[next].Position <= cursor; next++ {
			if e := &h.entries[next]; e.active {
				open[e.topic] = e.selector
			} else {
				delete(open, e.topic)
			}
		}
		has := make(map[string]bool, len(l.topics))
		for _, topic := range l.topics {
			has[topic] = true
			check(l, topic, "has", true)
		}
		for topic, selector := range open {
			if selector == l.selectors && !has[topic] {
				check(l, topic, "lacks", false)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d mistakes in %d lists", wrong, len(lists))
	}
}

// state is whether a subscription was there at a position, and whether that
// changed until a time.
func (h *history) state(topic string, position int64, until time.Time) (open, changed bool) {
	for _, e := range h.byTopic[topic] {
		switch {
		case e.Position <= position:
			open = e.active
		case !e.CreatedAt.After(until):
			return open, true
		}
	}
	return open, false
}

// checkFalseEnds: an end has a reason. Either the client had left, or its token
// had expired, or its node was in trouble. At the end all leave at once.
func (h *history) checkFalseEnds(t *testing.T, connections []*connection, left time.Time) {
	t.Helper()
	bySubscriber := map[string]*connection{}
	for _, c := range connections {
		if c.subscriber != "" {
			bySubscriber[c.subscriber] = c
		}
	}
	wrong := 0
	for i := range h.entries {
		e := &h.entries[i]
		c := bySubscriber[e.subscriber]
		if e.active || c == nil {
			continue
		}
		troubled, _ := c.life.troubledSince()
		due := false
		for _, reason := range []time.Time{troubled, c.closing, c.expires, left} {
			due = due || !reason.IsZero() && !e.CreatedAt.Before(reason)
		}
		if !due {
			if wrong++; wrong <= 5 {
				t.Errorf("ended without a reason on node %d: %s: %v (closing %s, lost %s)", c.life.node, e.topic, times(h.byTopic[e.topic]), c.closing, c.lost)
			}
		}
	}
	if wrong > 5 {
		t.Errorf("%d false ends", wrong)
	}
}

// delaysAfterKills is how long it took until what was open on a killed node had
// ended.
func (h *history) delaysAfterKills(connections []*connection) (delays []time.Duration) {
	for _, c := range connections {
		at, killed := c.life.troubledSince()
		if !killed || c.subscriber == "" {
			continue
		}
		for _, m := range c.matchers {
			m.subscriber = c.subscriber
			events := h.byTopic[m.wantTopic()]
			if n := len(events); n == 2 && events[0].CreatedAt.Before(at) && events[1].CreatedAt.After(at) {
				delays = append(delays, events[1].CreatedAt.Sub(at))
			}
		}
	}
	return delays
}
