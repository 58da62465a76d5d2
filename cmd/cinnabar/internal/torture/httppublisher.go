package torture

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// answerTimeout is longer than a hub takes that waits for its database.
	answerTimeout = 15 * time.Second
	// afterFailure is waited before the next attempt, elsewhere.
	afterFailure = 100 * time.Millisecond
)

// httpPublisher publishes over HTTP, one update after the other.
type httpPublisher struct {
	*run
	random *rand.Rand
	client *http.Client
	at     int
}

func newHTTPPublisher(r *run, index int) *httpPublisher {
	return &httpPublisher{
		run: r, random: r.random(100 + index), at: index,
		client: &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}},
	}
}

// publish goes on until stop is closed, the ledger is full, or ctx ends.
func (p *httpPublisher) publish(ctx context.Context, stop <-chan struct{}) error {
	defer p.client.CloseIdleConnections()
	for !isClosed(stop) && ctx.Err() == nil {
		first, ok := p.ledger.open(randomRow(p.random))
		if !ok {
			return nil
		}
		request := p.request(first)
		if p.random.IntN(2) == 0 {
			request.key = strconv.FormatUint(uint64(first), 10)
		}
		p.ledger.begin(first, 1)
		outcome := p.post(ctx, request, p.patience())
		for request.key != "" && outcome != acknowledged && !isClosed(stop) && ctx.Err() == nil {
			p.elsewhere(stop)
			outcome = outcome.after(p.post(ctx, request, p.patience()))
		}
		p.ledger.settle(first, 1, outcome)
		if outcome != acknowledged {
			p.elsewhere(stop)
		}
		sleepUntil(stop, time.Duration(p.random.Int64N(int64(20*time.Millisecond))))
	}
	return nil
}

// elsewhere makes the next attempt go to another node, as a load balancer does.
func (p *httpPublisher) elsewhere(stop <-chan struct{}) {
	p.at++
	sleepUntil(stop, afterFailure)
}

// after is what is known after another attempt with the same key: that nothing
// was published says nothing about the attempt before.
func (s state) after(next state) state {
	if next == refused {
		return s
	}
	return next
}

// patience is how long to wait for an answer. Some hang up early.
func (p *httpPublisher) patience() time.Duration {
	if p.random.IntN(20) == 0 {
		return time.Duration(1+p.random.IntN(400)) * time.Millisecond
	}
	return answerTimeout
}

// publishRequest is an update to publish, once or until it is acknowledged.
type publishRequest struct {
	form string
	key  string // of a publish that may be repeated
}

func (p *httpPublisher) request(number number) publishRequest {
	e, _ := p.ledger.at(number)
	form := url.Values{"topic": topicSets[e.topics], "data": {payload(number, randomSize(p.random))}}
	if e.private {
		form.Set("private", "on")
	}
	return publishRequest{form: form.Encode()}
}

// post sends a request to the next node and returns what is known of the update
// then.
func (p *httpPublisher) post(ctx context.Context, r publishRequest, patience time.Duration) state {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	n := p.nodes[p.at%len(p.nodes)]
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, n.URL(), strings.NewReader(r.form))
	if err != nil {
		return refused
	}
	if r.key != "" {
		request.Header.Set("Idempotency-Key", strconv.Quote(r.key))
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "Bearer "+p.tokens.publisher)
	response, err := p.client.Do(request)
	if err != nil {
		return outcomeOf(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 16<<10))
	outcome, expected := outcomeOfAnswer(response.StatusCode, body)
	if !expected {
		p.problem("node %d answered %s to a publish: %s", n.index, response.Status, body)
	}
	return outcome
}

// outcomeOf an error: who was not reached was told nothing.
func outcomeOf(err error) state {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return refused
	}
	return unknown
}

// outcomeOfAnswer goes by the documented answers of the hub.
func outcomeOfAnswer(status int, body []byte) (outcome state, expected bool) {
	if status == http.StatusOK {
		return acknowledged, true
	}
	if status != http.StatusServiceUnavailable {
		return unknown, false
	}
	var document struct{ Type string }
	if json.Unmarshal(body, &document) != nil {
		return unknown, false
	}
	switch _, code, _ := strings.Cut(document.Type, "#"); code {
	case "unavailable", "overloaded":
		return refused, true
	case "outcome-unknown":
		return unknown, true
	}
	return unknown, false
}

// randomRow is an update of any topics, at times private.
func randomRow(random *rand.Rand) row {
	return row{topics: uint8(random.IntN(publishedSets)), private: random.IntN(4) == 0}
}

// randomSize is mostly that of a small document.
func randomSize(random *rand.Rand) int {
	switch random.IntN(50) {
	case 0:
		return 20_000
	case 1, 2, 3:
		return 2_000
	}
	return random.IntN(200)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// sleepUntil waits, but not beyond the closing of stop.
func sleepUntil(stop <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stop:
	}
}
