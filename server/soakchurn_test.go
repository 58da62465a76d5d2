package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// churn is one round of a soak: clients that come and go until it ends.
type churn struct {
	hubs     []*servertest.Hub
	database *dbtest.DB
	seed     uint64
	numbered int // updates for the readers that stay, of all rounds so far
	counts   churnCounts

	publisher, subscriber server.SigningKey

	mu  sync.Mutex
	ids []string // of updates, for clients to resume after
}

type churnCounts struct{ streams, requests, published, inserted, cut, late atomic.Int64 }

func (c *churnCounts) String() string {
	return fmt.Sprintf("streams=%d requests=%d published=%d inserted=%d cut=%d late=%d",
		c.streams.Load(), c.requests.Load(), c.published.Load(), c.inserted.Load(), c.cut.Load(), c.late.Load())
}

const (
	churnVisitors = 6
	churnStuck    = 2
	churnBulk     = 50_000 // bytes of an update that fills buffers
	churnIDs      = 1000
)

// run returns when every client is gone.
func (c *churn) run(ctx context.Context) error {
	// Not ctx.Err, which may come after the errors that the end causes.
	end, _ := ctx.Deadline()
	over := func() bool { return !time.Now().Before(end) || ctx.Err() != nil }
	var group errgroup.Group
	client := func(do func(context.Context, *rand.Rand) error) {
		c.seed += 1 << 32
		random := rand.New(rand.NewPCG(c.seed, 0))
		group.Go(func() error {
			for !over() {
				if err := do(ctx, random); err != nil && !over() {
					return err
				}
			}
			return nil
		})
	}
	for range churnVisitors {
		client(c.visit)
	}
	for range churnStuck {
		client(c.getStuck)
	}
	client(c.breakOff)
	client(c.misbehave)
	client(c.publish)
	client(c.publishAndHangUp)
	client(c.insert)
	client(c.insertBulk)
	group.Go(func() error {
		if err := c.cutConnections(ctx); err != nil && !over() {
			return err
		}
		return nil
	})
	return group.Wait()
}

func (c *churn) hub(random *rand.Rand) *servertest.Hub { return c.hubs[random.IntN(len(c.hubs))] }

// pause keeps the load below what the machine can do.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func milliseconds(random *rand.Rand, most int) time.Duration {
	return time.Duration(random.IntN(most)+1) * time.Millisecond
}

func (c *churn) dial(ctx context.Context, hub *servertest.Hub) (*net.TCPConn, error) {
	address, err := url.Parse(hub.URL)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(context.WithoutCancel(ctx), "tcp", address.Host)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("a connection to %s is a %T", address.Host, conn)
	}
	return tcp, tcp.SetReadDeadline(time.Now().Add(servertest.Deadline))
}

// leave ends a connection, half of the time without the courtesy of a FIN.
func leave(conn *net.TCPConn, random *rand.Rand) error {
	if random.IntN(2) == 0 {
		if err := conn.SetLinger(0); err != nil {
			_ = conn.Close()
			return err
		}
	}
	return conn.Close()
}

// visit opens a stream of some kind, and leaves it in some way.
func (c *churn) visit(ctx context.Context, random *rand.Rand) error {
	pause(ctx, milliseconds(random, 40))
	hub := c.hub(random)
	conn, err := c.dial(ctx, hub)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	token, expires, err := c.subscriberToken(hub, random)
	if err != nil {
		return err
	}
	request := "GET /.well-known/mercure?" + matchers(random) + " HTTP/1.1\r\nHost: " + strings.TrimSuffix(strings.TrimPrefix(hub.URL, "http://"), "/.well-known/mercure") + "\r\nConnection: close\r\n"
	if token != "" {
		request += bearer(token) + "\r\n"
	}
	if id := c.cursor(random); id != "" {
		request += "Last-Event-ID: " + id + "\r\n"
	}
	if random.IntN(3) == 0 {
		request += strings.Join(eventSource, "\r\n") + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return err
	}
	answer := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(conn, answer); err != nil {
		if errors.Is(err, io.EOF) {
			c.counts.late.Add(1) // for the token or the dispatch timeout, on a busy machine
			return nil
		}
		return fmt.Errorf("subscribe: %w", err)
	}
	switch status := string(answer[9:]); {
	case status == "200":
	case status == "503": // a connection to the database was cut while a cursor was looked up
	case status == "401" && expires:
		c.counts.late.Add(1)
	default:
		rest, _ := io.ReadAll(conn)
		return fmt.Errorf("subscribe: %s%s", answer, rest)
	}
	c.counts.streams.Add(1)
	switch {
	case expires: // the hub ends it
	case random.IntN(4) == 0: // half of the connection
		err = conn.CloseWrite()
	default:
		if err := conn.SetReadDeadline(time.Now().Add(milliseconds(random, 100))); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, conn)
		return leave(conn, random)
	}
	_, _ = io.Copy(io.Discard, conn)
	return err
}

// subscriberToken is none, an old one, or one that expires at once.
func (c *churn) subscriberToken(hub *servertest.Hub, random *rand.Rand) (token string, expires bool, err error) {
	spec := server.TokenSpec{Key: c.subscriber, Dialect: server.Dialect0}
	switch random.IntN(5) {
	case 0:
		return "", false, nil
	case 1: // the same for many
		spec.Subscribe = []server.MatcherSpec{{Match: "*"}}
	case 2:
		spec.Subscribe = []server.MatcherSpec{{Match: "https://example.com/items/{id}"}, {Match: fmt.Sprintf("https://example.com/users/%d/{+rest}", random.Int())}}
	case 3:
		expires = random.IntN(8) == 0
		spec.Subscribe = []server.MatcherSpec{{Match: fmt.Sprint("https://example.com/users/", random.Int())}}
		if expires {
			spec.Expires = time.Now().Add(1500 * time.Millisecond)
		}
	case 4:
		spec.Dialect, spec.Issuer, spec.Audience, spec.Subject, spec.Expires = server.Dialect1, issuer, hub.URL, fmt.Sprint(random.Int()), inAnHour()
		spec.Subscribe = []server.MatcherSpec{{Match: "https://example.com/items/:id", Type: "urlpattern"}}
	}
	token, err = server.MintToken(spec)
	return token, expires, err
}

// showToken has a hub verify a token that it has not seen before.
func (c *churn) showToken(ctx context.Context, client *http.Client, hub *servertest.Hub, random *rand.Rand) error {
	token, _, err := c.subscriberToken(hub, random)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, hub.URL+"?match=a", nil)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

// matchers are a few, some of which no other stream has.
func matchers(random *rand.Rand) string {
	query := url.Values{}
	for range random.IntN(4) + 1 {
		n := random.Int()
		switch random.IntN(5) {
		case 0:
			query.Add("match", "numbered")
		case 1:
			query.Add("match", fmt.Sprintf("https://example.com/users/%d/inbox", n))
		case 2:
			query.Add("match_urlpattern", fmt.Sprintf("https://example.com/users/%d/*", n))
		case 3:
			query.Add("topic", fmt.Sprintf("https://example.com/{kind}/%d", n%1000))
		case 4:
			query.Add("match", "*")
		}
	}
	return query.Encode()
}

// cursor is none, one from the log or from before it, or nonsense.
func (c *churn) cursor(random *rand.Rand) string {
	switch random.IntN(5) {
	case 0:
		return "earliest"
	case 1:
		return fmt.Sprint("unknown:", random.Int())
	case 2:
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ids) == 0 {
		return ""
	}
	return c.ids[random.IntN(len(c.ids))]
}

func (c *churn) remember(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ids) == churnIDs {
		c.ids = c.ids[1:]
	}
	c.ids = append(c.ids, id)
}

// getStuck opens a stream and takes nothing of it, until the hub has had enough
// of that or the round ends.
func (c *churn) getStuck(ctx context.Context, random *rand.Rand) error {
	conn, err := c.dial(ctx, c.hub(random))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadBuffer(4096); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET /.well-known/mercure?match=bulk&match=numbered HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
		return err
	}
	c.counts.streams.Add(1)
	pause(ctx, time.Second)
	return nil
}

// breakOff leaves in the middle of a request, at a random place.
func (c *churn) breakOff(ctx context.Context, random *rand.Rand) error {
	pause(ctx, milliseconds(random, 50))
	conn, err := c.dial(ctx, c.hub(random))
	if err != nil {
		return err
	}
	token, err := server.MintToken(server.TokenSpec{Key: c.publisher, Dialect: server.Dialect0, Publish: []server.MatcherSpec{{Match: "*"}}})
	if err != nil {
		return err
	}
	request := "POST /.well-known/mercure HTTP/1.1\r\nHost: h\r\n" + form + "\r\n" + bearer(token) + "\r\nContent-Length: 1000\r\n\r\ntopic=" + strings.Repeat("x", 900)
	if random.IntN(2) == 0 {
		request = "GET /.well-known/mercure?match=a&match_urlpattern=https://example.com/:a HTTP/1.1\r\nHost: h\r\nLast-Event-ID: earliest\r\n\r\n"
	}
	if _, err := io.WriteString(conn, request[:random.IntN(len(request)+1)]); err != nil {
		_ = conn.Close()
		return err
	}
	c.counts.requests.Add(1)
	return leave(conn, random)
}

// misbehave makes requests that are refused.
func (c *churn) misbehave(ctx context.Context, random *rand.Rand) error {
	pause(ctx, milliseconds(random, 50))
	expired, err := server.MintToken(server.TokenSpec{
		Key: c.subscriber, Dialect: server.Dialect0, Expires: time.Now().Add(-time.Minute), Subscribe: []server.MatcherSpec{{Match: fmt.Sprint(random.Int())}},
	})
	if err != nil {
		return err
	}
	requests := [...]struct{ start, fields, body string }{
		{"GET /.well-known/mercure?match=a", bearer(expired), ""},
		{"GET /.well-known/mercure?match=a", bearer(fmt.Sprintf("forged%x", random.Int())), ""},
		{"GET /.well-known/mercure", "", ""},
		{"GET /.well-known/mercure?match_urlpattern=%7Bopen", "", ""},
		{fmt.Sprintf("GET /.well-known/mercure?match_%d=a", random.Int()), "", ""},
		{"POST /.well-known/mercure", "Content-Type: application/json", "{}"},
		{"POST /.well-known/mercure", form, "topic=a"},
		{"DELETE /.well-known/mercure", "", ""},
		{fmt.Sprintf("GET /%d", random.Int()), "", ""},
		{"NONSENSE", "", ""},
	}
	r := requests[random.IntN(len(requests))]
	conn, err := c.dial(ctx, c.hub(random))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if r.fields != "" {
		r.fields += "\r\n"
	}
	_, err = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s", r.start, r.fields, len(r.body), r.body)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) {
		return fmt.Errorf("%s: %s", r.start, answer)
	}
	c.counts.requests.Add(1)
	return nil
}

// publish has a new token and a new topic each time.
func (c *churn) publish(ctx context.Context, random *rand.Rand) error {
	pause(ctx, milliseconds(random, 10))
	token, err := server.MintToken(server.TokenSpec{
		Key: c.publisher, Dialect: server.Dialect0, Publish: []server.MatcherSpec{{Match: "*"}, {Match: fmt.Sprint("https://example.com/users/", random.Int())}},
	})
	if err != nil {
		return err
	}
	fields := url.Values{"topic": {fmt.Sprintf("https://example.com/items/%d", random.Int())}, "data": {strings.Repeat("x", random.IntN(1000))}}
	if random.IntN(3) == 0 {
		fields.Set("private", "on")
	}
	status, body, err := c.hub(random).TryPost(ctx, token, fields.Encode())
	switch {
	case err != nil:
		return err
	case status == http.StatusOK:
		c.counts.published.Add(1)
		c.remember(body)
		return nil
	case status == http.StatusServiceUnavailable:
		return nil
	}
	return fmt.Errorf("publish: %d %s", status, body)
}

// publishAndHangUp does not wait for the answer.
func (c *churn) publishAndHangUp(ctx context.Context, random *rand.Rand) error {
	pause(ctx, milliseconds(random, 40))
	conn, err := c.dial(ctx, c.hub(random))
	if err != nil {
		return err
	}
	token, err := server.MintToken(server.TokenSpec{Key: c.publisher, Dialect: server.Dialect0, Publish: []server.MatcherSpec{{Match: "*"}}})
	if err != nil {
		return err
	}
	const body = "topic=https://example.com/items/1&data=unheard"
	if _, err := fmt.Fprintf(conn, "POST /.well-known/mercure HTTP/1.1\r\nHost: h\r\n%s\r\n%s\r\nContent-Length: %d\r\n\r\n%s", form, bearer(token), len(body), body); err != nil {
		_ = conn.Close()
		return err
	}
	c.counts.requests.Add(1)
	return leave(conn, random)
}

// insert publishes the numbers that the readers who stay wait for, from a
// connection of its own, and takes other updates back.
func (c *churn) insert(ctx context.Context, random *rand.Rand) error {
	conn, err := pgx.Connect(ctx, c.database.URL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for range 50 {
		pause(ctx, milliseconds(random, 20))
		if ctx.Err() != nil {
			return nil
		}
		rows := random.IntN(10) + 1
		// Not on ctx: it must be known what was committed.
		_, err := conn.Exec(context.WithoutCancel(ctx), fmt.Sprintf(`BEGIN;
			INSERT INTO mercure.outbox (topics, data) SELECT ARRAY['numbered'], n || '' FROM generate_series(%d, %d) AS n ORDER BY n;
			SAVEPOINT s;
			SELECT mercure.publish('numbered', 'taken back');
			ROLLBACK TO s;
			SELECT mercure.publish(topics => ARRAY['https://example.com/items/%d', 'https://example.com/items/2'], private => true);
			COMMIT; BEGIN;
			INSERT INTO mercure.updates (topics, data) VALUES ('{numbered}', 'taken back');
			ROLLBACK`, c.numbered+1, c.numbered+rows, random.Int()))
		if err != nil {
			return err
		}
		c.numbered += rows
		c.counts.inserted.Add(int64(rows + 1))
	}
	return nil
}

// insertBulk fills what readers who are stuck do not take.
func (c *churn) insertBulk(ctx context.Context, random *rand.Rand) error {
	conn, err := pgx.Connect(ctx, c.database.URL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for range 20 {
		pause(ctx, milliseconds(random, 200))
		if ctx.Err() != nil {
			return nil
		}
		if _, err := conn.Exec(ctx, "INSERT INTO mercure.outbox (topics, data) SELECT '{bulk}', repeat('x', $1) FROM generate_series(1, 20)", churnBulk); err != nil {
			return err
		}
		c.counts.inserted.Add(20)
	}
	return nil
}

// cutConnections ends every connection that the hubs have to the database, in
// the middle of the round.
func (c *churn) cutConnections(ctx context.Context) error {
	end, _ := ctx.Deadline()
	pause(ctx, time.Until(end)/2)
	conn, err := pgx.Connect(ctx, c.database.URL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	tag, err := conn.Exec(context.WithoutCancel(ctx), terminateHubs+" AND datname = current_database()")
	c.counts.cut.Add(tag.RowsAffected())
	return err
}
