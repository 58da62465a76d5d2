package eventlog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// retained is a log that is only worked on when the test says so.
type retained struct {
	*retention
	pool *pgxpool.Pool
}

func newRetained(t *testing.T, database *dbtest.DB, limits Retention) *retained {
	t.Helper()
	l := openOnly(t, database)
	limits.Interval, limits.MinAge = time.Second, time.Microsecond
	l.config.Retention = limits
	return &retained{&retention{Log: l}, database.Pool(t)}
}

func (r *retained) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := r.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (r *retained) sweepNow(t *testing.T) {
	t.Helper()
	if err := r.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// loadPoliciesNow is what a node does seconds after they have changed.
func (r *retained) loadPoliciesNow(t *testing.T) {
	t.Helper()
	if err := r.loadPolicies(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// add puts n updates of a topic into the log that are so old.
func (r *retained) add(t *testing.T, topic string, n int, age time.Duration) {
	t.Helper()
	r.exec(t, `INSERT INTO mercure.updates (position, id, topics, data, size, created_at)
		SELECT nextval('mercure.updates_position_seq'), id, ARRAY[$1], 'data', 100, now() - $3::interval
		FROM (SELECT mercure.new_id() AS id FROM generate_series(1, $2)) AS n`, topic, n, fmt.Sprintf("%d microseconds", age.Microseconds()))
}

// contents are the positions in the log, emptied ones in parentheses, behind the
// horizon.
func (r *retained) contents(t *testing.T) string {
	t.Helper()
	rows, err := r.pool.Query(t.Context(), `SELECT CASE WHEN emptied_at IS NULL THEN position::text ELSE '(' || position || ')' END FROM mercure.updates ORDER BY position`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var horizon int64
	if err := r.pool.QueryRow(t.Context(), "SELECT position FROM mercure.horizon").Scan(&horizon); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d| %s", horizon, strings.Join(list, " "))
}

// fromStart is what a reader gets that begins at the beginning now.
func (r *retained) fromStart(t *testing.T, topics []string) (list []protocol.Position) {
	t.Helper()
	head, err := r.queries.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	upTo := protocol.Position(head.Position)
	r.pages.forget() // a page of a moment ago would do, too
	var after, kept protocol.Position
	for after < upTo {
		var page []protocol.Entry
		if page, after, kept, err = r.PageFromStart(t.Context(), after, upTo, kept, topics); err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			if len(e.Update.Topics) > 0 {
				list = append(list, e.Position)
			}
		}
	}
	return list
}

func TestLimitsOfTheWholeLog(t *testing.T) { // Spec: H-5
	t.Parallel()
	for name, test := range map[string]struct {
		limits Retention
		want   string
	}{
		"none":                {Retention{}, "0| 1 2 3 4 5 6"},
		"age":                 {Retention{MaxAge: 90 * time.Minute}, "4| 5 6"},
		"updates":             {Retention{MaxUpdates: 3}, "3| 4 5 6"},
		"bytes":               {Retention{MaxBytes: 250}, "4| 5 6"},
		"bytes, exactly":      {Retention{MaxBytes: 200}, "4| 5 6"},
		"the strictest":       {Retention{MaxAge: 150 * time.Minute, MaxUpdates: 5, MaxBytes: 400}, "2| 3 4 5 6"},
		"less than an update": {Retention{MaxBytes: 1}, "5| 6"},
		"younger than all":    {Retention{MaxAge: time.Minute}, "5| 6"}, // never the newest
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRetained(t, dbtest.New(t), test.limits)
			for age := 3; age > 0; age-- {
				r.add(t, "a", 2, time.Duration(age)*time.Hour)
			}
			r.sweepNow(t)
			if got := r.contents(t); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// What a node that lags may not have delivered stays, whatever the limits say.
func TestYoungUpdatesStay(t *testing.T) {
	t.Parallel()
	r := newRetained(t, dbtest.New(t), Retention{MaxUpdates: 1})
	r.config.Retention.MinAge = time.Minute
	r.exec(t, "INSERT INTO mercure.policies (priority, match, keep_last) VALUES (1, 'b', true)")
	r.add(t, "a", 2, time.Hour)
	r.add(t, "b", 2, time.Hour)
	r.add(t, "a", 2, 10*time.Second)
	r.add(t, "b", 2, 10*time.Second)
	r.exec(t, "UPDATE mercure.grown_topics SET since = since - interval '1 hour'")
	for range 2 {
		r.sweepNow(t)
		r.exec(t, "UPDATE mercure.grown_topics SET since = since - interval '1 hour'")
	}
	if got, want := r.contents(t), "4| 5 6 7 8"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := r.fromStart(t, nil); !slices.Equal(got, []protocol.Position{5, 6, 8}) {
		t.Errorf("from the beginning come %d", got)
	}
}

// What is removed in many steps, with segments and without, is right at the end.
func TestManyUpdatesGo(t *testing.T) {
	t.Parallel()
	const updates, kept = 23_456, 7_890
	r := newRetained(t, dbtest.New(t), Retention{MaxUpdates: kept, MaxBytes: kept * 100})
	r.add(t, "a", updates, time.Hour)
	r.sweepNow(t)
	r.add(t, "a", 10_000, time.Hour)
	r.sweepNow(t)
	var count, horizon int
	if err := r.pool.QueryRow(t.Context(), "SELECT count(*), (SELECT position FROM mercure.horizon) FROM mercure.updates").Scan(&count, &horizon); err != nil {
		t.Fatal(err)
	}
	if count != kept || horizon != updates+10_000-kept {
		t.Errorf("%d updates behind %d", count, horizon)
	}
	checkSegments(t, r)
}

// checkSegments compares the sums with what there is.
func checkSegments(t *testing.T, r *retained) {
	t.Helper()
	var wrong int
	if err := r.pool.QueryRow(t.Context(), `SELECT count(*) FROM mercure.segments AS s CROSS JOIN LATERAL (
			SELECT count(*) AS updates, coalesce(sum(u.size), 0) AS bytes FROM mercure.updates AS u
			WHERE u.position > greatest(s.after_position, (SELECT position FROM mercure.horizon)) AND u.position <= s.up_to_position
		) AS u WHERE (u.updates, u.bytes) <> (s.updates, s.bytes)`).Scan(&wrong); err != nil {
		t.Fatal(err)
	}
	if wrong > 0 {
		t.Errorf("%d segments are wrong", wrong)
	}
}

// Each limit of a policy, above and below the horizon.
func TestPolicies(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		policy       string
		above, below string
	}{
		"none":        {"", "0| 1 2 3 4 5 6", "6| 7"},
		"for ever":    {"(1, 'exact', 'a', NULL, NULL, NULL, false)", "0| 1 2 3 4 5 6 7", "6| 1 3 5 7"},
		"age":         {"(1, 'exact', 'a', '150 min', NULL, NULL, false)", "0| (1) 2 3 4 5 6 7", "6| 3 5 7"},
		"updates":     {"(1, 'exact', 'a', NULL, 2, NULL, false)", "0| (1) 2 3 4 5 6 7", "6| 3 5 7"},
		"bytes":       {"(1, 'exact', 'a', NULL, NULL, 299, false)", "0| (1) 2 3 4 5 6 7", "6| 3 5 7"},
		"one at most": {"(1, 'exact', 'a', NULL, NULL, 1, false)", "0| (1) 2 (3) 4 5 6 7", "6| 5 7"},
		"last":        {"(1, 'exact', 'a', NULL, NULL, NULL, true)", "0| (1) 2 (3) 4 5 6 7", "6| 5 7"},
		"old last":    {"(1, 'exact', 'a', '30 min', NULL, NULL, true)", "0| (1) 2 (3) 4 (5) 6 7", "6| 7"},
		"wildcard":    {"(1, 'urlpattern', '*', NULL, 1, NULL, false)", "0| (1) (2) (3) (4) 5 6 7", "6| 5 6 7"},
		"lowest":      {"(2, 'exact', '*', NULL, 1, NULL, false), (1, 'exact', 'a', NULL, NULL, NULL, false)", "0| 1 (2) 3 (4) 5 6 7", "6| 1 3 5 6 7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRetained(t, dbtest.New(t), Retention{})
			if test.policy != "" {
				r.exec(t, "INSERT INTO mercure.policies (priority, match_type, match, max_age, max_updates, max_bytes, keep_last) VALUES "+test.policy)
			}
			for age := 3; age > 0; age-- {
				r.add(t, "a", 1, time.Duration(age)*time.Hour)
				r.add(t, "b", 1, time.Duration(age)*time.Hour)
			}
			if test.policy != "" {
				r.add(t, "c", 1, 0)
			}
			r.sweepNow(t)
			if got := r.contents(t); got != test.above {
				t.Errorf("above the horizon: got %s, want %s", got, test.above)
			}
			if test.policy == "" {
				r.add(t, "c", 1, 0)
			}
			r.config.Retention.MaxUpdates = 1
			r.sweepNow(t)
			if got := r.contents(t); got != test.below {
				t.Errorf("below the horizon: got %s, want %s", got, test.below)
			}
			// Without policies, what they kept goes.
			r.exec(t, "DELETE FROM mercure.policies")
			r.sweepNow(t)
			if got, want := r.contents(t), "6| 7"; got != want {
				t.Errorf("afterwards: got %s, want %s", got, want)
			}
		})
	}
}

// A policy that cannot be used is no obstacle, and its author finds out why.
func TestUnusablePolicy(t *testing.T) {
	t.Parallel()
	r := newRetained(t, dbtest.New(t), Retention{})
	r.exec(t, `INSERT INTO mercure.policies (priority, match_type, match, keep_last)
		VALUES (1, 'urlpattern', 'https://example.com/(', true), (2, 'urlpattern', 'https://example.com/:x', true)`)
	r.add(t, "https://example.com/a", 2, time.Hour)
	r.sweepNow(t)
	if got, want := r.contents(t), "0| (1) 2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	problems := func() (list []string) {
		rows, err := r.pool.Query(t.Context(), "SELECT coalesce(problem, '') FROM mercure.policies ORDER BY priority")
		if err == nil {
			list, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if got := problems(); !strings.Contains(got[0], "URL pattern") || got[1] != "" {
		t.Errorf("problems: %q", got)
	}
	r.exec(t, "UPDATE mercure.policies SET match = 'https://example.com/b' WHERE priority = 1")
	r.sweepNow(t)
	if got := problems(); got[0] != "" {
		t.Errorf("after it was corrected: %q", got)
	}
}

// A connection that breaks in the middle leaves everything as it was, or done.
func TestRetentionBreaksOff(t *testing.T) {
	t.Parallel()
	const updates, kept = 20_000, 1_000
	r := newRetained(t, dbtest.New(t), Retention{MaxUpdates: kept})
	r.exec(t, "INSERT INTO mercure.policies (priority, match, max_updates) VALUES (1, 'b', 100)")
	for range 10 {
		r.add(t, "a", updates/20, time.Hour)
		r.add(t, "b", updates/20, time.Hour)
	}
	broken := 0
	for done := false; !done; {
		ended := make(chan error, 1)
		go func() { ended <- r.sweep(t.Context()) }() // awaited below
		for running := true; running; {
			select {
			case err := <-ended:
				running, done = false, err == nil
			default:
				var hit int
				if err := r.pool.QueryRow(t.Context(), `SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE datname = current_database() AND state = 'active' AND random() < $1
						AND (query LIKE '%name: Retain %' OR query LIKE '%name: ApplyPolicies %' OR query LIKE '%name: Classify %') AND pid <> pg_backend_pid()) AS t`,
					map[bool]float64{true: 0.3, false: 0}[broken < 20]).Scan(&hit); err != nil {
					t.Fatal(err)
				}
				broken += hit
			}
		}
		checkSegments(t, r)
		var strays int
		if err := r.pool.QueryRow(t.Context(), `SELECT count(*) FROM mercure.updates AS u WHERE position <= (SELECT position FROM mercure.horizon)
			AND NOT EXISTS (SELECT FROM mercure.governed AS g WHERE g.position = u.position)`).Scan(&strays); err != nil || strays > 0 {
			t.Fatalf("%d updates are left below the horizon, %v", strays, err)
		}
	}
	var a, b int
	if err := r.pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE position > (SELECT position FROM mercure.horizon)),
		count(*) FILTER (WHERE topics = '{b}') FROM mercure.updates`).Scan(&a, &b); err != nil || a != kept || b != 100 {
		t.Errorf("%d updates above the horizon, %d of b, %v", a, b, err)
	}
	t.Logf("broken off %d times", broken)
}

// modelRow is an update as a naive implementation keeps it.
type modelRow struct {
	position  int64
	topic     string
	idBytes   int64
	size      int64
	created   time.Time
	emptied   bool
	redacted  bool
	policy    int // of modelPolicy; -1: none
	cancelled bool
}

type modelPolicy struct {
	priority          int
	matchType, match  string
	maxAge            time.Duration
	updates, bytes    int64
	keepLast, removed bool
}

func (p *modelPolicy) matches(topic string) bool {
	switch {
	case p.match == "*":
		return true
	case p.matchType == "exact":
		return p.match == topic
	}
	rest, ok := strings.CutPrefix(topic, strings.TrimSuffix(p.match, ":x"))
	return ok && rest != "" && !strings.Contains(rest, "/")
}

// model is the whole log as a naive implementation keeps it.
type model struct {
	now      time.Time
	rows     []*modelRow
	horizon  int64
	limits   Retention
	policies []*modelPolicy
	changed  bool // policies have
	redacted bool // something was
}

func (m *model) governing(topic string) int {
	best := -1
	for i, p := range m.policies {
		if !p.removed && p.matches(topic) && (best < 0 || p.priority < m.policies[best].priority) {
			best = i
		}
	}
	return best
}

func (m *model) classify() {
	for _, r := range m.rows {
		switch {
		case m.changed && (r.emptied || r.redacted):
			r.policy = -1
		case m.changed || r.policy < -1:
			r.policy = m.governing(r.topic)
		}
	}
	m.changed = false
	m.rows = slices.DeleteFunc(m.rows, func(r *modelRow) bool { return r.policy < 0 && r.position <= m.horizon })
}

func (m *model) empty(r *modelRow) {
	if !r.redacted {
		r.size = r.idBytes
	}
	r.emptied, r.policy = true, -1
	if r.position <= m.horizon {
		r.cancelled = true
	}
}

func (m *model) applyPolicies() (removed int64) {
	perTopic := map[string][]*modelRow{}
	var gone []*modelRow
	for _, r := range slices.Backward(m.rows) {
		if r.policy < 0 {
			continue
		}
		p := m.policies[r.policy]
		newer := perTopic[r.topic]
		perTopic[r.topic] = append(newer, r)
		bytes := r.governedSize()
		for _, n := range newer {
			bytes += n.governedSize()
		}
		n := int64(len(newer))
		if p.maxAge > 0 && r.created.Before(m.now.Add(-p.maxAge)) || p.keepLast && n > 0 ||
			p.updates > 0 && n >= p.updates || p.bytes > 0 && n > 0 && bytes > p.bytes {
			gone = append(gone, r)
		}
	}
	for _, r := range gone {
		m.empty(r)
	}
	m.rows = slices.DeleteFunc(m.rows, func(r *modelRow) bool { return r.cancelled })
	return int64(len(gone))
}

// governedSize is that at the time it was classified.
func (r *modelRow) governedSize() int64 {
	if r.redacted {
		return 100
	}
	return r.size
}

func (m *model) retain() (removed int64) {
	var updates, bytes int64
	for _, r := range m.rows {
		if r.position > m.horizon {
			updates++
			bytes += r.size
		}
	}
	head := m.rows[len(m.rows)-1].position
	for _, r := range m.rows {
		if r.position <= m.horizon {
			continue
		}
		old := m.limits.MaxAge > 0 && r.created.Before(m.now.Add(-m.limits.MaxAge))
		many := m.limits.MaxUpdates > 0 && updates > m.limits.MaxUpdates
		large := m.limits.MaxBytes > 0 && bytes > m.limits.MaxBytes
		if r.position == head || !old && !many && !large {
			break
		}
		updates--
		bytes -= r.size
		m.horizon = r.position
	}
	before := len(m.rows)
	m.rows = slices.DeleteFunc(m.rows, func(r *modelRow) bool { return r.position <= m.horizon && r.policy < 0 })
	return int64(before - len(m.rows))
}

func (m *model) contents() string {
	var list []string
	for _, r := range m.rows {
		if r.emptied || r.redacted {
			list = append(list, fmt.Sprintf("(%d)", r.position))
		} else {
			list = append(list, fmt.Sprint(r.position))
		}
	}
	return fmt.Sprintf("%d| %s", m.horizon, strings.Join(list, " "))
}

// fromStart is what a new subscriber is owed. The policies may have changed since
// the last sweep.
func (m *model) fromStart() (list []protocol.Position) {
	m.classify()
	newest := map[string]int64{}
	for _, r := range m.rows {
		newest[r.topic] = r.position
	}
	for _, r := range m.rows {
		superseded := r.policy >= 0 && m.policies[r.policy].keepLast && newest[r.topic] > r.position
		if !r.emptied && !r.redacted && !superseded {
			list = append(list, protocol.Position(r.position))
		}
	}
	return list
}

// Random policies, limits, updates, redactions and sweeps leave what a naive
// implementation leaves, and a new subscriber gets what it would give them.
func TestRetentionAgainstAModel(t *testing.T) {
	t.Parallel()
	const runs, steps = 6, 40
	for seed := range uint64(runs) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 10))
			r := newRetained(t, dbtest.New(t), Retention{})
			m := &model{now: time.Now()}
			for step := range steps {
				randomStep(t, random, r, m, step)
			}
		})
	}
}

func randomStep(t *testing.T, random *rand.Rand, r *retained, m *model, step int) {
	t.Helper()
	one := func(list ...string) string { return list[random.IntN(len(list))] }
	// Ages end on halves and limits on whole hours, so that the test's own time
	// does not matter; the log goes from old to new.
	switch what := random.IntN(10); {
	case step == 0 || what < 4:
		topic := one("https://example.com/a/1", "https://example.com/a/2", "https://example.com/b/1", "https://example.com/b/1/c", "urn:x")
		n := 1 + random.IntN(5)
		age := time.Duration(1000-10*step)*time.Hour + 30*time.Minute
		r.add(t, topic, n, age)
		for range n {
			var position int64
			if len(m.rows) > 0 {
				position = m.rows[len(m.rows)-1].position
			}
			m.rows = append(m.rows, &modelRow{position: position + 1, topic: topic, idBytes: 45, size: 100, created: m.now.Add(-age), policy: -2})
		}
	case what == 4:
		p := &modelPolicy{priority: random.IntN(1 << 30), matchType: "urlpattern"}
		p.match = one("https://example.com/a/:x", "https://example.com/b/:x", "*")
		if random.IntN(3) == 0 {
			p.matchType, p.match = "exact", one("https://example.com/a/1", "urn:x", "https://example.com/b/:x")
		}
		if random.IntN(2) == 0 {
			p.maxAge = time.Duration(1000-10*random.IntN(2*step+1)) * time.Hour
		}
		switch random.IntN(4) {
		case 0:
			p.keepLast = true
		case 1:
			p.updates = 1 + random.Int64N(5)
		case 2:
			p.bytes = 100 + random.Int64N(500)
		}
		r.exec(t, `INSERT INTO mercure.policies (priority, match_type, match, max_age, max_updates, max_bytes, keep_last)
			VALUES ($1, $2, $3, nullif($4::bigint, 0) * interval '1 hour', nullif($5::bigint, 0), nullif($6::bigint, 0), $7)`,
			p.priority, p.matchType, p.match, int64(p.maxAge/time.Hour), p.updates, p.bytes, p.keepLast)
		m.policies = append(m.policies, p)
		m.changed = true
		r.loadPoliciesNow(t)
	case what == 5 && len(m.policies) > 0:
		p := m.policies[random.IntN(len(m.policies))]
		r.exec(t, "DELETE FROM mercure.policies WHERE priority = $1", p.priority)
		m.changed = m.changed || !p.removed
		p.removed = true
		r.loadPoliciesNow(t)
	case what == 6:
		switch m.limits = (Retention{}); random.IntN(4) {
		case 0:
			m.limits.MaxAge = time.Duration(1000-10*random.IntN(step+1)) * time.Hour
		case 1:
			m.limits.MaxUpdates = 1 + random.Int64N(60)
		case 2:
			m.limits.MaxBytes = 1 + random.Int64N(6000)
		}
		r.config.Retention.MaxAge, r.config.Retention.MaxUpdates, r.config.Retention.MaxBytes = m.limits.MaxAge, m.limits.MaxUpdates, m.limits.MaxBytes
	case what == 7 && len(m.rows) > 0:
		if err := r.classify(t.Context(), endOfLog); err != nil { // before that, nobody knows what is replaced
			t.Fatal(err)
		}
		m.classify()
		m.redacted = true
		row := m.rows[random.IntN(len(m.rows))]
		r.exec(t, "SELECT mercure.redact(id) FROM mercure.updates WHERE position = $1", row.position)
		switch {
		case row.position <= m.horizon: // not a cursor any more
			m.rows = slices.DeleteFunc(m.rows, func(r *modelRow) bool { return r == row })
		case !row.emptied:
			row.redacted, row.size = true, row.idBytes
		}
	default:
		preview, err := r.Preview(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range preview.Policies {
			preview.Log.Updates += p.Gone.Updates
		}
		m.classify()
		gone := m.applyPolicies()
		if m.limits != (Retention{}) {
			gone += m.retain()
		}
		if preview.Log.Updates != gone && !m.redacted { // of what was redacted, too little is left
			t.Errorf("step %d: the preview says that %d go, not %d", step, preview.Log.Updates, gone)
		}
		r.sweepNow(t)
	}
	if got, want := r.fromStart(t, nil), m.fromStart(); !slices.Equal(got, want) {
		t.Fatalf("step %d: from the beginning come\n%d, want\n%d", step, got, want)
	}
	if got, want := r.contents(t), m.contents(); got != want {
		t.Fatalf("step %d: in the log are\n%s, want\n%s", step, got, want)
	}
	checkSegments(t, r)
}

// Both sweep whenever they can, while others publish.
func TestNodesThatSweepAtOnce(t *testing.T) {
	t.Parallel()
	const updates, kept = 3000, 50
	database := dbtest.New(t)
	limits := Retention{MaxUpdates: kept}
	nodes := []*retained{newRetained(t, database, limits), newRetained(t, database, limits)}
	nodes[0].exec(t, "INSERT INTO mercure.policies (priority, match, keep_last) VALUES (1, 'a', true), (2, 'b', false)")
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, len(nodes))
	for _, node := range nodes {
		go func() { // ends with ctx, awaited below
			for ctx.Err() == nil {
				if err := node.sweep(t.Context()); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for n := 0; n < updates; n += 3 {
		nodes[0].exec(t, "SELECT mercure.publish(t, 'x') FROM unnest('{a,b,c}'::text[]) AS t")
		nodes[0].exec(t, "SELECT mercure.drain(NULL, 1000)")
	}
	cancel()
	for range nodes {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	nodes[1].sweepNow(t)
	var above, a, b int
	if err := nodes[0].pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE position > (SELECT position FROM mercure.horizon)),
		count(*) FILTER (WHERE topics = '{a}'), count(*) FILTER (WHERE topics = '{b}') FROM mercure.updates`).Scan(&above, &a, &b); err != nil {
		t.Fatal(err)
	}
	if above != kept || a != 1 || b != updates/3 {
		t.Errorf("%d updates above the horizon, %d of a, %d of b", above, a, b)
	}
	checkSegments(t, nodes[0])
}
