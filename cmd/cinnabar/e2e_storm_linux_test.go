//go:build e2e

package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// Queries that a hub makes for a stream that resumes: to find its cursor, and to
// read on from it.
const (
	finds = "name: FirstPositionsOfIDs"
	pages = "name: PageAfter"
)

// TestEndToEndReconnectStorm kills a node with 10,000 streams amid updates, and
// has all of them resume at once on one that has just started: PostgreSQL is
// asked for none of them. Not parallel, since it measures.
func TestEndToEndReconnectStorm(t *testing.T) { //nolint:paralleltest // see above
	const streams, before, away = 10_000, 100, 100
	db := dbtest.New(t)
	conn := db.Conn(t)
	binary := build(t)
	first := newHub(t, binary, db.URL, "http://localhost", "MERCURE_ANONYMOUS=on")
	first.start(t)
	proxy := dbtest.NewProxy(t, db)
	second := newHub(t, binary, proxy.DB.URL, "http://localhost", "MERCURE_ANONYMOUS=on")

	c := newCrowd(streams)
	c.subscribe(t, first, ownTopics)
	eventually(t, "all streams are open", func() bool { return c.opened.Load() == streams })
	insertNumbered(t, conn, 1, 1)
	eventually(t, "everybody has a cursor", func() bool { return c.received.Load() == streams })
	insertNumbered(t, conn, 2, before)
	eventually(t, "half of the updates came", func() bool { return c.received.Load() > streams*before/2 })
	t.Logf("the first hub with all of them: %s", first.memory(t))
	first.kill(t)
	_ = c.group.Wait() // with the errors of streams that were cut off
	insertNumbered(t, conn, before+1, before+away)

	second.start(t)
	t.Logf("the second hub without: %s", second.memory(t))
	proxy.Count(finds)
	proxy.Count(pages)
	began := time.Now()
	c.subscribe(t, second, ownTopics)
	eventually(t, "all streams are open again", func() bool { return c.opened.Load() == streams || c.failed.Load() > 0 })
	t.Logf("all streams are open again after %s", since(began))
	eventually(t, "everybody has everything", func() bool { return c.have(before+away) || c.failed.Load() > 0 })
	n, m := proxy.Count(finds), proxy.Count(pages)
	t.Logf("everybody has everything after %s; %d cursor lookups, %d pages read; the second hub: %s", since(began), n, m, second.memory(t))
	began = time.Now()
	insertNumbered(t, conn, before+away+1, before+away+1)
	eventually(t, "everybody is live", func() bool { return c.have(before+away+1) || c.failed.Load() > 0 })
	t.Logf("an update reached everybody after %s", since(began))
	second.kill(t)
	c.check(t)
	// The node itself looks every second or two whether the log has grown.
	if n > 0 || m > streams/200 {
		t.Errorf("%d streams made the hub look cursors up %d times and read %d pages", streams, n, m)
	}
}

// Two kinds of subscribers: those that can share what is read for them, and those
// that differ in a topic.
func sameTopics(int) string  { return "?match=numbered" }
func ownTopics(i int) string { return fmt.Sprintf("?match=numbered&match=own-%d", i) }

// TestEndToEndResumesFromHistory has 1,000 streams resume at once from outside the
// warm tail, while others replay everything. Not parallel, since it measures.
func TestEndToEndResumesFromHistory(t *testing.T) { //nolint:paralleltest // see above
	const streams, greedyStreams, updates, missed = 1000, 20, 100_000, 1000
	db := dbtest.New(t)
	conn := db.Conn(t)
	binary := build(t)
	ids := fillLog(t, newHub(t, binary, db.URL, "http://localhost"), conn, updates)
	for name, test := range map[string]struct {
		query    func(i int) string
		maxPages int
	}{
		"the same topics":       {sameTopics, streams},
		"each its own, besides": {ownTopics, streams * (missed*3/2/1000 + 3)},
	} {
		t.Run(name, func(t *testing.T) {
			proxy := dbtest.NewProxy(t, db)
			h := newHub(t, binary, proxy.DB.URL, "http://localhost", "MERCURE_ANONYMOUS=on", "MERCURE_TAIL_BYTES=10000")
			h.start(t)
			proxy.Count(finds)
			proxy.Count(pages)
			greedy, small := newCrowd(greedyStreams), newCrowd(streams)
			for _, m := range greedy.members {
				m.lastID = "earliest"
			}
			for i, m := range small.members {
				at := updates - missed - i
				m.lastID = ids[at-1]
				m.last.Store(int64(at))
			}
			began := time.Now()
			greedy.subscribe(t, h, sameTopics)
			eventually(t, "replays have begun", func() bool { return greedy.received.Load() > greedyStreams })
			small.subscribe(t, h, test.query)
			eventually(t, "all streams are open", func() bool { return small.opened.Load()+small.failed.Load() == streams })
			t.Logf("%d streams are open after %s", streams, since(began))
			eventually(t, "all streams have what they missed", func() bool { return small.have(updates) || small.failed.Load() > 0 })
			t.Logf("and have what they missed after %s; %d cursor lookups, %d pages read; the hub: %s",
				since(began), proxy.Count(finds), proxy.Count(pages), h.memory(t))
			for _, m := range greedy.members {
				if m.last.Load() == updates {
					t.Error("a replay of everything was done before those who had missed a little")
					break
				}
			}
			eventually(t, "everything is replayed", func() bool { return greedy.have(updates) || greedy.failed.Load() > 0 })
			n, m := proxy.Count(finds), proxy.Count(pages)
			t.Logf("%d replays of %d updates were done after %s; %d cursor lookups, %d pages read", greedyStreams, updates, since(began), n, m)
			if n > streams/10 || m > test.maxPages {
				t.Errorf("%d cursor lookups, %d pages read, want at most %d and %d", n, m, streams/10, test.maxPages)
			}
			h.kill(t)
			greedy.check(t)
			small.check(t)
		})
	}
}

func since(began time.Time) time.Duration { return time.Since(began).Round(10 * time.Millisecond) }

// fillLog puts numbered updates into the log and returns their ids.
func fillLog(t *testing.T, h *hub, conn *pgx.Conn, updates int) (ids []string) {
	t.Helper()
	h.start(t)
	insertNumbered(t, conn, 1, updates)
	eventually(t, "the log is full", func() bool {
		rows, err := conn.Query(t.Context(), "SELECT count(*) FROM mercure.updates")
		if err != nil {
			t.Fatal(err)
		}
		n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
		if err != nil {
			t.Fatal(err)
		}
		return n == updates
	})
	h.kill(t)
	rows, err := conn.Query(t.Context(), "SELECT id FROM mercure.updates ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	if ids, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		t.Fatal(err)
	}
	return ids
}

func insertNumbered(t *testing.T, conn *pgx.Conn, from, to int) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), `INSERT INTO mercure.outbox (topics, data)
		SELECT '{numbered}', n || ' ' || repeat('x', 128) FROM generate_series($1::int, $2::int) AS n ORDER BY n`, from, to); err != nil {
		t.Fatal(err)
	}
}

// memory is what the process has resident, and had at most.
func (h *hub) memory(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]int{}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		if kilobytes, ok := strings.CutSuffix(strings.TrimSpace(value), " kB"); ok {
			sizes[name], _ = strconv.Atoi(kilobytes)
		}
	}
	return fmt.Sprintf("%d MiB resident, at most %d MiB, %s of CPU", sizes["VmRSS"]>>10, sizes["VmHWM"]>>10, h.processorTime(t))
}

// processorTime is what the process has used.
func (h *hub) processorTime(t *testing.T) time.Duration {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	const user, system, tick = 11, 12, 10 * time.Millisecond // behind the name
	_, behind, _ := strings.Cut(string(content), ") ")
	columns := strings.Fields(behind)
	u, err := strconv.Atoi(columns[user])
	s, err2 := strconv.Atoi(columns[system])
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u+s) * tick
}

// crowd is many subscribers of the numbered updates.
type crowd struct {
	members []*member
	group   *errgroup.Group

	opened, received, failed atomic.Int64
}

// member is one of them. Its goroutine owns it.
type member struct {
	lastID string
	last   atomic.Int64
}

func newCrowd(size int) *crowd {
	c := &crowd{}
	for range size {
		c.members = append(c.members, &member{})
	}
	return c
}

// have says whether everybody has the updates up to this one.
func (c *crowd) have(number int64) bool {
	for _, m := range c.members {
		if m.last.Load() < number {
			return false
		}
	}
	return true
}

// subscribe opens all streams at once, each behind what it has got.
func (c *crowd) subscribe(t *testing.T, h *hub, query func(i int) string) {
	t.Helper()
	c.group = &errgroup.Group{}
	c.opened.Store(0)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(h.port))
	for i, m := range c.members {
		c.group.Go(func() error { // ends with the hub
			err := c.follow(t.Context(), m, address, query(i))
			if !errors.Is(err, errCutOff) {
				c.failed.Add(1)
			}
			return err
		})
	}
}

// check fails the test if a stream ended in another way than that of the hub,
// which must have ended.
func (c *crowd) check(t *testing.T) {
	t.Helper()
	if err := c.group.Wait(); c.failed.Load() > 0 {
		t.Errorf("%d streams failed; the first to end: %v", c.failed.Load(), err)
	}
}

var errCutOff = errors.New("the stream was cut off")

// follow reads a stream until it ends.
func (c *crowd) follow(ctx context.Context, m *member, address, query string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	field := ""
	if m.lastID != "" {
		field = "Last-Event-ID: " + m.lastID + "\r\n"
	}
	if _, err := fmt.Fprintf(conn, "GET %s%s HTTP/1.1\r\nHost: %s\r\n%s\r\n", hubPath, query, address, field); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	c.opened.Add(1)
	id := ""
	for lines := bufio.NewReader(response.Body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return errCutOff // perhaps amid a line
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			id = value
		case "data":
			digits, _, _ := strings.Cut(value, " ")
			number, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				return err
			}
			if want := m.last.Load() + 1; number != want {
				return fmt.Errorf("got %d, want %d", number, want)
			}
		case "":
			if id != "" { // the block is complete
				m.lastID = id
				m.last.Add(1)
				c.received.Add(1)
				id = ""
			}
		}
	}
}
