package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server"
)

const (
	presenceIssuer = "https://presence.example"
	presenceSecret = "subscriber secret of the tests of presence, long enough"
	presenceBeat   = time.Second
	// hurried subscribers go elsewhere after so much silence, and patient ones
	// wait until a node that was stopped comes back.
	hurried = 5 * presenceBeat
	patient = 2 * time.Minute
)

// subscriptionSeen is a document, or what a client knows that one must say.
type subscriptionSeen struct {
	selector                   bool
	kind, match                string
	subscriber, payload, topic string
}

// shown is the set of subscriptions of one dialect as somebody sees it.
type shown map[subscriptionSeen]bool

// parseSubscription reads a document of either dialect.
func parseSubscription(document string) (s subscriptionSeen, active bool, err error) {
	var d struct {
		ID, Type, Topic, Match, Subscriber string
		MatchType                          string `json:"match_type"`
		Active                             *bool
		Payload                            json.RawMessage
	}
	if err := json.Unmarshal([]byte(document), &d); err != nil {
		return s, false, fmt.Errorf("%q: %w", document, err)
	}
	s = subscriptionSeen{selector: d.Type == "Subscription", kind: d.MatchType, match: d.Match + d.Topic, subscriber: d.Subscriber, payload: string(d.Payload), topic: d.ID}
	if d.Active == nil || d.Subscriber == "" || s.topic != s.wantTopic() {
		return s, false, fmt.Errorf("the document is %s", document)
	}
	return s, *d.Active, nil
}

// wantTopic is the topic by the rules. Spec.
func (s subscriptionSeen) wantTopic() string {
	segments := []string{s.kind, s.match, s.subscriber}
	if s.selector {
		segments = segments[1:]
	}
	topic := hubPath + "/subscriptions"
	for _, segment := range segments {
		// What QueryEscape leaves is unreserved, and a space is the only thing it
		// does not encode in percents.
		topic += "/" + strings.ReplaceAll(url.QueryEscape(segment), "+", "%20")
	}
	return topic
}

// connection is one stream, as its client knows it.
type connection struct {
	life *life
	// own is a matcher that no other connection has.
	own string
	// done is closed when the client has ended it.
	done <-chan struct{}
	// expires is when its token does, zero if that does not matter.
	expires  time.Time
	matchers []subscriptionSeen // without subscriber and topic
	cancel   context.CancelFunc
	watchdog *time.Timer
	silence  time.Duration

	mu         sync.Mutex
	subscriber string    // empty: it has not heard of itself
	closing    time.Time // when the client ended it; zero: it has not
	lost       time.Time // when it ended otherwise
}

// wish is what a client asks for.
type wish struct {
	selectors, matchers bool
	more                []string // as "parameter=value"
	payload             string
	lifetime, silence   time.Duration // lifetime of the token; 0: long
	cursor              string
}

// open opens a stream. The dialects' tokens go with what they are for, and the
// older one with both.
func (c *presenceCluster) open(ctx context.Context, l *life, w wish) (*connection, *eventReader, error) {
	conn := &connection{life: l, own: fmt.Sprintf("c%d", c.serial.Add(1)), silence: w.silence}
	query := url.Values{}
	add := func(parameter, value string) {
		query.Add(parameter, value)
		kind := strings.TrimPrefix(strings.TrimPrefix(parameter, "match"), "_")
		if kind == "" {
			kind = "exact"
		}
		s := subscriptionSeen{selector: parameter == "topic", kind: kind, match: value, payload: w.payload}
		if s.selector {
			s.kind = ""
		}
		conn.matchers = append(conn.matchers, s)
	}
	if w.matchers {
		add("match", conn.own)
		add("match_urlpattern", hubPath+"/subscriptions/exact/"+conn.own+"/:s")
	}
	if w.selectors {
		add("topic", conn.own)
		add("topic", hubPath+"/subscriptions/"+conn.own+"/{subscriber}")
	}
	for _, more := range w.more {
		parameter, value, _ := strings.Cut(more, "=")
		add(parameter, value)
	}
	if w.cursor != "" {
		query.Set(map[bool]string{true: "lastEventID", false: "last_event_id"}[w.selectors], w.cursor)
	}
	ctx, conn.cancel = context.WithCancel(ctx)
	conn.done = ctx.Done()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+"?"+query.Encode(), http.NoBody)
	if err != nil {
		return nil, nil, err
	}
	token, expires, err := c.token(w)
	if err != nil {
		return nil, nil, err
	}
	conn.expires = expires
	request.Header.Set("Authorization", "Bearer "+token)
	conn.watchdog = time.AfterFunc(w.silence, conn.close)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		conn.close()
		return nil, nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, nil, errors.Join(fmt.Errorf("answered %s", response.Status), conn.discard(response))
	}
	if got := response.Header.Get("Mercure-Last-Event-ID"); w.cursor != "" && got != w.cursor {
		return nil, nil, errors.Join(fmt.Errorf("the cursor %s became %s", w.cursor, got), conn.discard(response), errCursor)
	}
	c.mu.Lock()
	c.connections = append(c.connections, conn)
	c.mu.Unlock()
	return conn, newEventReader(&watched{response.Body, conn}, w.cursor), nil
}

var errCursor = errors.New("nothing was removed from the log")

func (c *connection) discard(response *http.Response) error {
	c.close()
	return response.Body.Close()
}

// watched is a body that shows its client that the node lives.
type watched struct {
	io.ReadCloser
	conn *connection
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	if n > 0 {
		w.conn.watchdog.Reset(w.conn.silence)
	}
	return n, err
}

// close ends the stream from the client's side.
func (c *connection) close() {
	c.mu.Lock()
	if c.closing.IsZero() && c.lost.IsZero() {
		c.closing = time.Now()
	}
	c.mu.Unlock()
	c.watchdog.Stop()
	c.cancel()
}

// read reads to the end.
func (c *connection) read(in *eventReader, each func(event)) {
	defer c.close()
	for {
		e, err := in.next()
		if err != nil {
			c.noteLoss()
			return
		}
		each(e)
	}
}

// noteLoss notes when the connection was lost, unless the client closed it.
func (c *connection) noteLoss() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing.IsZero() {
		c.lost = time.Now()
	}
}

// hear looks for the client's own arrival. Spec.
func (c *connection) hear(s subscriptionSeen, active bool) {
	if s.match != c.own || !active {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscriber = s.subscriber
}

// held returns what the client holds open; known: it knows its name.
func (c *connection) held() (list []subscriptionSeen, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing.IsZero() || !c.lost.IsZero() {
		return nil, true
	}
	for _, m := range c.matchers {
		m.subscriber = c.subscriber
		m.topic = m.wantTopic()
		list = append(list, m)
	}
	return list, c.subscriber != ""
}

func (c *presenceCluster) token(w wish) (token string, expires time.Time, err error) {
	spec := server.TokenSpec{Dialect: server.Dialect1, Issuer: presenceIssuer, Audience: presenceIssuer + hubPath, Subject: "somebody", Key: c.key}
	if w.selectors {
		spec = server.TokenSpec{Dialect: server.Dialect0, Key: c.key}
	}
	spec.Subscribe = []server.MatcherSpec{{Match: "*"}}
	spec.Expires = time.Now().Add(24 * time.Hour)
	if w.lifetime > 0 {
		spec.Expires = time.Now().Add(w.lifetime).Truncate(time.Second)
		expires = spec.Expires
	}
	if w.payload != "" {
		spec.Payload = json.RawMessage(w.payload)
	}
	token, err = server.MintToken(spec)
	return token, expires, err
}

// client opens one stream after the other until churn ends, and then holds one
// open or none.
func (c *presenceCluster) client(ctx context.Context, number int, churn <-chan struct{}) {
	random := c.random(1000 + number)
	for ctx.Err() == nil {
		w := c.wish(random, number, isClosed(churn))
		if isClosed(churn) && number%3 == 0 {
			return
		}
		conn, in, err := c.open(ctx, c.anyNode(random), w)
		if err == nil {
			c.keep(ctx, conn, in, number, random, churn)
		}
		if !pause(ctx, time.Duration(random.Int64N(int64(300*time.Millisecond)))) {
			return
		}
	}
}

// wish deals dialects and habits to the clients.
func (c *presenceCluster) wish(random *rand.Rand, number int, last bool) wish {
	w := wish{selectors: number%3 != 0, matchers: number%3 != 1, silence: hurried, payload: fmt.Sprintf(`{"client":%d}`, number)}
	if number%4 == 0 {
		w.silence = patient
	} else if random.IntN(6) == 0 && !last {
		w.lifetime = time.Second + time.Duration(random.Int64N(int64(4*time.Second)))
	}
	if number%5 == 0 {
		w.payload = ""
	}
	for range random.IntN(4) {
		topic := fmt.Sprintf("https://e.example/%d/é b%%2F+", random.IntN(1_000_000))
		if w.matchers {
			w.more = append(w.more, []string{"match", "match_exact"}[random.IntN(2)]+"="+topic, fmt.Sprintf("match_urlpattern=https://e.example/%d/:x", random.IntN(1_000_000)))
		}
		if w.selectors {
			w.more = append(w.more, fmt.Sprintf("topic=https://e.example/%d/{x}?", random.IntN(1_000_000)))
		}
	}
	return w
}

// keep holds a stream open for a while, and patient clients for as long as they
// can.
func (c *presenceCluster) keep(ctx context.Context, conn *connection, in *eventReader, number int, random *rand.Rand, churn <-chan struct{}) {
	ended := make(chan struct{})
	go func() { // ends with the stream
		defer close(ended)
		conn.read(in, func(e event) {
			s, active, err := parseSubscription(e.data)
			if err != nil {
				c.problem("client %d: %v", number, err)
				return
			}
			conn.hear(s, active)
		})
	}()
	var enough <-chan time.Time
	if conn.silence < patient {
		timer := time.NewTimer(time.Duration(random.ExpFloat64() * float64(1500*time.Millisecond)))
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-enough:
		if isClosed(churn) {
			select {
			case <-ctx.Done():
			case <-ended:
			}
		}
	case <-churn:
		if number%3 != 0 {
			select {
			case <-ctx.Done():
			case <-ended:
			}
		}
	case <-ctx.Done():
	case <-ended:
	}
	conn.close()
	<-ended
}

// observer follows the subscriptions of one dialect. Spec: R-20.
type observer struct {
	*presenceCluster
	name      string
	selectors bool
	node      int // the only one it goes to; -1: to any
	random    *rand.Rand

	mu sync.Mutex
	// present is what it believes; nil: it is about to begin.
	present shown
	cursor  string
}

// follow begins with a list, and again now and then; else it resumes.
func (o *observer) follow(ctx context.Context, churn <-chan struct{}) {
	for ctx.Err() == nil {
		if err := o.attend(ctx, churn); errors.Is(err, errCursor) {
			o.problem("%s: %v", o.name, err)
		}
		if o.random.IntN(4) == 0 && !isClosed(churn) {
			o.mu.Lock()
			o.present = nil
			o.mu.Unlock()
		}
		pause(ctx, time.Duration(o.random.Int64N(int64(200*time.Millisecond))))
	}
}

// attend reads one stream to its end.
func (o *observer) attend(ctx context.Context, churn <-chan struct{}) error {
	l := o.nodes[max(o.node, 0)].current()
	w := wish{selectors: o.selectors, matchers: !o.selectors, silence: patient}
	if o.node < 0 {
		l, w.silence = o.anyNode(o.random), hurried
	}
	if o.present == nil { // written by this goroutine only
		cursor, list, err := o.list(ctx, l, o.selectors)
		if err != nil {
			return err
		}
		o.mu.Lock()
		o.present, o.cursor = list, cursor
		o.mu.Unlock()
	}
	w.cursor = o.cursor
	if o.selectors {
		w.more = []string{"topic=" + hubPath + "/subscriptions/{topic}/{subscriber}"}
	} else {
		w.more = []string{"match_urlpattern=" + hubPath + "/subscriptions/:t/:m/:s"}
	}
	conn, in, err := o.open(ctx, l, w)
	if err != nil {
		return err
	}
	if !isClosed(churn) {
		limit := time.AfterFunc(time.Second+time.Duration(o.random.Int64N(int64(5*time.Second))), conn.close)
		defer limit.Stop()
		go func() { // ends with churn or the connection
			select {
			case <-churn:
				limit.Stop()
			case <-conn.done:
			}
		}()
	}
	conn.read(in, func(e event) { o.take(conn, e) })
	return nil
}

// take applies an event.
func (o *observer) take(conn *connection, e event) {
	s, active, err := parseSubscription(e.data)
	if err != nil {
		o.problem("%s: %v", o.name, err)
		return
	}
	if wantKind := map[bool]string{false: "mercure"}[s.selector]; e.kind != wantKind || s.selector != o.selectors {
		o.problem("%s got an event of type %q: %s", o.name, e.kind, e.data)
	}
	conn.hear(s, active)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cursor = e.id
	if active {
		o.present[s] = true
	} else {
		delete(o.present, s)
	}
}

func (o *observer) sees() shown {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.present)
}

// listing is one answer of the API, to be compared with the log.
type listed struct {
	where     string
	selectors bool
	cursor    string
	topics    []string
	answered  time.Time
}

// list asks the API of a node for everything, and keeps the answer.
func (c *presenceCluster) list(ctx context.Context, l *life, selectors bool) (cursor string, present shown, err error) {
	ctx, cancel := context.WithTimeout(ctx, hurried)
	defer cancel()
	token, _, err := c.token(wish{selectors: selectors})
	if err != nil {
		return "", nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+"/subscriptions", http.NoBody)
	if err != nil {
		return "", nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		return "", nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", nil, fmt.Errorf("answered %s", response.Status)
	}
	var body struct {
		LastEventID   string
		Subscriptions []json.RawMessage
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return "", nil, err
	}
	// Spec.
	_, link, _ := strings.Cut(response.Header.Get("Link"), `last-event-id="`)
	cursor, _, _ = strings.Cut(link, `"`)
	if selectors && body.LastEventID != cursor {
		c.problem("the cursor is %q in Link and %q in the body", cursor, body.LastEventID)
	}
	answer := listed{where: fmt.Sprintf("node %d", l.node), selectors: selectors, cursor: cursor, answered: time.Now()}
	present = shown{}
	for _, document := range body.Subscriptions {
		s, active, err := parseSubscription(string(document))
		if err != nil || !active || s.selector != selectors || present[s] {
			c.problem("node %d lists %s: %v", l.node, document, err)
		}
		present[s] = true
		answer.topics = append(answer.topics, s.topic)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists = append(c.lists, answer)
	return cursor, present, nil
}

// poll asks for lists again and again.
func (c *presenceCluster) poll(ctx context.Context, node int, selectors bool, interval time.Duration) {
	for pause(ctx, interval) {
		_, _, _ = c.list(ctx, c.nodes[node].current(), selectors) // the node may be down
	}
}

func (c *presenceCluster) anyNode(random *rand.Rand) *life {
	return c.nodes[random.IntN(len(c.nodes))].current()
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wantTopic is written another way than the hub's own encoding.
func TestWantTopic(t *testing.T) {
	t.Parallel()
	s := subscriptionSeen{kind: "exact", match: "é ~+%/*'()!", subscriber: "urn:x"}
	if got, want := s.wantTopic(), hubPath+"/subscriptions/exact/%C3%A9%20~%2B%25%2F%2A%27%28%29%21/urn%3Ax"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
