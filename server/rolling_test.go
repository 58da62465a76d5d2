package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// A cluster is replaced node by node while everybody goes on: nothing is lost,
// sent twice or out of order, and no publisher ever has to wonder whether its
// update was published. Clients do what any may: they take the next node when
// one cannot be connected to, or says that nothing was published.
//
// Spec: S-20, S-24.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	const (
		size                   = 3
		publishers, roamers    = 6, 6
		updatesBetweenRestarts = 300
	)
	database := dbtest.New(t)
	pool := database.Pool(t)
	start := func() *servertest.Hub {
		return servertest.Start(t, database, func(c *server.Config) { c.DrainTimeout = time.Second })
	}
	c := &rolling{stop: make(chan struct{})}
	for range size {
		c.nodes = append(c.nodes, start())
	}
	c.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: publishers}}
	defer c.client.CloseIdleConnections()

	readers, readersCtx := errgroup.WithContext(t.Context())
	seen := make([]*roamer, roamers)
	for i := range seen {
		seen[i] = &roamer{cluster: c, at: i}
		if err := seen[i].connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		readers.Go(func() error { return seen[i].run(readersCtx) })
	}
	var group sync.WaitGroup
	for i := range publishers {
		token := servertest.PublisherToken(t)
		group.Go(func() { c.publish(t, token, i) })
	}
	for i := range 2 * size {
		c.awaitPublished(t, updatesBetweenRestarts)
		old := c.node(i)
		old.Stop()
		if err := old.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		c.replace(i%size, start())
	}
	c.awaitPublished(t, updatesBetweenRestarts)
	close(c.stop)
	group.Wait()
	if _, err := pool.Exec(t.Context(), "INSERT INTO mercure.outbox (topics, data) VALUES ('{https://example.com/end}', 'end')"); err != nil {
		t.Fatal(err)
	}
	if err := readers.Wait(); err != nil {
		t.Fatal(err)
	}

	log := logged(t, pool)
	checkContents(t, log[:len(log)-1], c.acknowledged())
	for i, r := range seen {
		if !slices.Equal(r.data, log) {
			t.Errorf("subscriber %d: %s", i, difference(r.data, log))
		}
		if r.resumed == 0 {
			t.Errorf("subscriber %d was never sent to another node", i)
		}
	}
	t.Logf("%d updates, %d publishes taken to another node", len(log), c.retried.Load())
}

// rolling is a cluster as its clients know it.
type rolling struct {
	client    *http.Client
	stop      chan struct{}
	published atomic.Int64
	retried   atomic.Int64

	mu    sync.Mutex
	nodes []*servertest.Hub
	acked map[string][]string
}

func (c *rolling) node(i int) *servertest.Hub {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i%len(c.nodes)]
}

func (c *rolling) replace(i int, node *servertest.Hub) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[i] = node
}

func (c *rolling) acknowledged() map[string][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked
}

// awaitPublished waits until so many more updates have been.
func (c *rolling) awaitPublished(t *testing.T, more int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Deadline)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for goal := c.published.Load() + more; c.published.Load() < goal; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("nothing is published any more")
		}
	}
}

// publish goes from node to node with every update.
func (c *rolling) publish(t *testing.T, token string, publisher int) {
	name := "http" + strconv.Itoa(publisher)
	at := publisher
	for n := 0; ; n++ {
		select {
		case <-c.stop:
			return
		default:
		}
		data := name + ":" + strconv.Itoa(n)
		for began := time.Now(); ; at++ {
			again, err := c.post(t.Context(), token, at, data)
			if err == nil {
				break
			}
			if !again || time.Since(began) > servertest.Deadline {
				t.Errorf("publish %s: %v", data, err)
				return
			}
			c.retried.Add(1)
		}
		at++
		c.mu.Lock()
		if c.acked == nil {
			c.acked = map[string][]string{}
		}
		c.acked[name] = append(c.acked[name], data)
		c.mu.Unlock()
		c.published.Add(1)
	}
}

// post publishes once. again says that nothing was published for certain.
func (c *rolling) post(ctx context.Context, token string, at int, data string) (again bool, err error) {
	body := url.Values{"topic": {"https://example.com/a"}, "data": {data}}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.node(at).URL, strings.NewReader(body))
	if err != nil {
		return false, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := c.client.Do(request)
	if err != nil {
		operation, ok := errors.AsType[*net.OpError](err)
		return ok && operation.Op == "dial", err
	}
	content, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return false, err
	}
	switch response.StatusCode {
	case http.StatusOK:
		return false, nil
	case http.StatusServiceUnavailable:
		return !strings.Contains(string(content), "outcome-unknown"), fmt.Errorf("status 503: %s", content)
	}
	return false, fmt.Errorf("status %d: %s", response.StatusCode, content)
}

// roamer is a subscriber that resumes on another node when its stream ends.
type roamer struct {
	cluster     *rolling
	at          int
	lastEventID string
	stream      *servertest.Stream
	data        []string
	resumed     int
}

// connect takes the first node that has it.
func (r *roamer) connect(ctx context.Context) error {
	for began := time.Now(); ; r.at++ {
		stream, err := r.cluster.node(r.at).TrySubscribe(ctx, servertest.Request{
			Query: url.Values{"topic": {"*"}}, LastEventID: r.lastEventID,
		})
		if err == nil {
			r.stream = stream
			return nil
		}
		status, ok := errors.AsType[*servertest.StatusError](err)
		if ok && status.Status != http.StatusServiceUnavailable || time.Since(began) > servertest.Deadline {
			return err
		}
	}
}

// run reads until the end marker.
func (r *roamer) run(ctx context.Context) error {
	defer func() { r.stream.Close() }()
	for {
		patience, cancel := context.WithTimeout(ctx, servertest.Deadline)
		event, err := r.stream.TryNext(patience)
		cancel()
		switch {
		case errors.Is(err, servertest.ErrEnded):
			r.stream.Close()
			r.at++
			r.resumed++
			if err := r.connect(ctx); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("subscriber at %d after %d updates: %w", r.at, len(r.data), err)
		default:
			r.lastEventID = event.ID
			r.data = append(r.data, event.Data)
			if event.Data == "end" {
				return nil
			}
		}
	}
}

// A hub that stops has had its chance to say so to whoever has a connection
// open: a request that comes over it meanwhile is answered, and the answer says
// that it was the last one.
func TestStopAnswersOverOldConnections(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.DrainTimeout = servertest.Deadline })
	root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
	token := servertest.PublisherToken(t)
	conn := connect(t, hub)
	reader := bufio.NewReader(conn)
	publish := func() (status int, last bool) {
		t.Helper()
		const body = "topic=a"
		_, err := fmt.Fprintf(conn, "POST /.well-known/mercure HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\n%s\r\nContent-Length: %d\r\n\r\n%s",
			token, form, len(body), body)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.StatusCode, response.Close
	}
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"b"}}})
	if status, last := publish(); status != http.StatusOK || last {
		t.Errorf("got %d, last %t", status, last)
	}
	hub.Stop()
	if _, err := stream.TryNext(t.Context()); !errors.Is(err, servertest.ErrEnded) {
		t.Fatal(err)
	}
	awaitRefusal(t, strings.TrimPrefix(root, "http://"))
	if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection is not left open for a while: %v", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if status, last := publish(); status != http.StatusOK || !last {
		t.Errorf("got %d, last %t", status, last)
	}
	if err := hub.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// awaitRefusal waits until a hub that stops takes no connections any more.
func awaitRefusal(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), servertest.Deadline)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return
		case err != nil:
			t.Fatal(err)
		}
		_ = conn.Close()
	}
}
