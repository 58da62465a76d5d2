package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// reader reads numbered updates without keeping them, when it is told to.
type reader struct {
	body   io.ReadCloser
	lines  *bufio.Reader
	lastID string
}

// openReader opens a stream. A buffer of the kernel that is not zero bounds what
// the reader takes from the network while it does not read.
func openReader(ctx context.Context, hub *servertest.Hub, lastEventID string, buffer int) (*reader, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, hub.URL+"?match=numbered", nil)
	if err != nil {
		return nil, err
	}
	if lastEventID != "" {
		request.Header.Set("Last-Event-ID", lastEventID)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok && buffer > 0 {
				err = errors.Join(err, tcp.SetReadBuffer(buffer))
			}
			return conn, err
		},
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.Join(errors.New(response.Status), response.Body.Close())
	}
	return &reader{body: response.Body, lines: bufio.NewReader(response.Body), lastID: lastEventID}, nil
}

func newReader(t *testing.T, hub *servertest.Hub, lastEventID string, buffer int) *reader {
	t.Helper()
	r, err := openReader(t.Context(), hub, lastEventID, buffer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.body.Close() })
	return r
}

// next returns the number the next update begins with.
func (r *reader) next() (number int, err error) {
	id := ""
	for {
		line, more, err := r.lines.ReadLine()
		if err != nil {
			return 0, err
		}
		field, value, _ := strings.Cut(string(line), ": ")
		for more && err == nil { // what a long line goes on with says nothing
			_, more, err = r.lines.ReadLine()
		}
		switch {
		case err != nil:
			return 0, err
		case field == "id":
			id = value
		case field == "data":
			digits, _, _ := strings.Cut(value, " ")
			if number, err = strconv.Atoi(digits); err != nil {
				return 0, err
			}
		case field == "" && id != "": // the block is complete
			r.lastID = id
			return number, nil
		}
	}
}

// read reads these numbers, one after the other.
func (r *reader) read(from, to int) error {
	for want := from; want <= to; want++ {
		got, err := r.next()
		if err != nil {
			return fmt.Errorf("waiting for %d: %w", want, err)
		}
		if got != want {
			return fmt.Errorf("got %d, want %d", got, want)
		}
	}
	return nil
}

// insertNumbered publishes updates that begin with these numbers and are this
// long.
func insertNumbered(t *testing.T, conn *pgx.Conn, from, to, size int) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), `INSERT INTO mercure.outbox (topics, data)
		SELECT '{numbered}', n || ' ' || repeat('x', $3) FROM generate_series($1::int, $2::int) AS n ORDER BY n`, from, to, size); err != nil {
		t.Fatal(err)
	}
}

func heapInUse() int {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc)
}

// Readers that stop reading, each at another place, while 100 MB pass: another
// reader gets everything meanwhile, memory is bounded, and they lose nothing.
// Not parallel, since memory is that of all tests that run.
//
// Spec: S-23.
func TestSlowReadersCostNobodyElse(t *testing.T) { //nolint:paralleltest // see above
	const (
		slowReaders = 50
		perReader   = 20
		size        = 100_000
		tail        = 8 << 20
	)
	database := dbtest.New(t)
	conn := database.Conn(t)
	hub := servertest.Start(t, database, func(c *server.Config) {
		c.TailBytes = tail
		c.DispatchTimeout = time.Minute
	})
	before := heapInUse()
	fast := newReader(t, hub, "", 0)
	var slow []*reader
	for i := range slowReaders {
		slow = append(slow, newReader(t, hub, "", 128<<10))
		from := i*perReader + 1
		insertNumbered(t, conn, from, from+perReader-1, size)
		if err := fast.read(from, from+perReader-1); err != nil {
			t.Fatal(err)
		}
	}
	grown := heapInUse() - before
	t.Logf("%d slow readers: %d MiB more in use, of which %d are the tail", slowReaders, grown>>20, tail>>20)
	if grown > tail+32<<20 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	var group errgroup.Group
	for i, r := range slow {
		if i%10 > 0 {
			_ = r.body.Close() // reading it all fifty times takes long
			continue
		}
		group.Go(func() error {
			if err := r.read(i*perReader+1, slowReaders*perReader); err != nil {
				return fmt.Errorf("slow reader %d: %w", i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// One that takes nothing for too long is closed, and resumes where it was.
func TestStuckReaderResumes(t *testing.T) { // Spec: S-23
	t.Parallel()
	const updates, size = 200, 100_000
	database := dbtest.New(t)
	ended := make(logLines, 100)
	hub := servertest.Start(t, database, func(c *server.Config) {
		c.DispatchTimeout = 500 * time.Millisecond
		c.Logger = debugLogger(ended)
	})
	stuck := newReader(t, hub, "", 128<<10)
	insertNumbered(t, database.Conn(t), 1, updates, size)
	ended.wait(t, "reason=too_slow")
	last := 0
	for {
		number, err := stuck.next()
		if err != nil {
			break
		}
		if number != last+1 {
			t.Fatalf("got %d after %d", number, last)
		}
		last = number
	}
	if last == updates {
		t.Fatal("the reader was sent everything")
	}
	cursor := stuck.lastID
	if cursor == "" {
		cursor = "earliest"
	}
	if err := newReader(t, hub, cursor, 0).read(last+1, updates); err != nil {
		t.Errorf("resumed after %d: %v", last, err)
	}
}

// Retention removes what a slow reader has not got yet: its stream ends, instead
// of going on behind the hole.
func TestRetentionOvertakesASlowReader(t *testing.T) { // Spec: H-2
	t.Parallel()
	const updates, size = 200, 100_000 // more than the kernel buffers for a connection
	database := dbtest.New(t)
	conn := database.Conn(t)
	ended := make(logLines, 100)
	hub := servertest.Start(t, database, func(c *server.Config) {
		c.TailBytes = 0
		c.DispatchTimeout = time.Hour
		c.Logger = debugLogger(ended)
	})
	slow, fast := newReader(t, hub, "", 128<<10), newReader(t, hub, "", 0)
	insertNumbered(t, conn, 1, updates, size)
	if err := fast.read(1, updates); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `WITH removed AS (DELETE FROM mercure.updates WHERE position < mercure.head() RETURNING position)
		UPDATE mercure.horizon SET position = (SELECT max(position) FROM removed)`); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	group.Go(func() error {
		for want := 1; ; want++ {
			switch number, err := slow.next(); {
			case err != nil:
				return nil //nolint:nilerr // the end that is wanted, or of the test
			case number != want:
				return fmt.Errorf("got %d, want %d", number, want)
			}
		}
	})
	ended.wait(t, "reason=interrupted")
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}
