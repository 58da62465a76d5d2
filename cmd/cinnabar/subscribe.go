package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

type subscribeCmd struct {
	clientFlags
	Match       []string `sep:"none" placeholder:"TOPIC" help:"Receive updates of this topic, * for all; repeatable."`
	Pattern     []string `sep:"none" placeholder:"PATTERN" help:"Receive updates of topics that match this URL pattern; repeatable."`
	Topic       []string `sep:"none" placeholder:"SELECTOR" help:"For hubs of protocol 0.x: a topic or a URI template; repeatable."`
	LastEventID string   `name:"last-event-id" placeholder:"ID" help:"Begin after this event; earliest for everything there is."`
	Output      string   `enum:"data,events,json" default:"data" placeholder:"data|events|json" help:"What to print of each event: its data, all its fields, or a line of JSON."`
	Count       int      `placeholder:"N" help:"Stop after so many events."`
}

// Help implements kong.HelpProvider.
func (*subscribeCmd) Help() string {
	return `Connects again whenever the stream ends, and continues after the last event. Ends on Ctrl-C, after --count
events, or when the hub refuses for good.

Examples:

    cinnabar subscribe --dev --match https://example.com/books/1

    cinnabar subscribe --hub https://hub.example.com/.well-known/mercure --pattern 'https://example.com/books/:id' \
      --last-event-id earliest --output json --count 10`
}

// Run is called by kong.
func (c *subscribeCmd) Run(ctx context.Context, a *app) error {
	hub, token, err := c.prepare(a, false)
	if err != nil {
		return err
	}
	query := url.Values{}
	for name, values := range map[string][]string{"match": c.Match, "match_urlpattern": c.Pattern, "topic": c.Topic} {
		if len(values) > 0 {
			query[name] = values
		}
	}
	switch {
	case len(query) == 0:
		return &usageError{reason: "nothing to subscribe to: give --match, --pattern or --topic"}
	case c.Count < 0:
		return &usageError{reason: "--count: must be 1 or more"}
	}
	for name, values := range hub.Query() {
		query[name] = append(query[name], values...)
	}
	// Ids without data, so that a stream that was silent can be continued too.
	query.Set("cursor_checkpoints", "on")
	hub.RawQuery = query.Encode()
	s := &subscriber{
		url: hub, token: token, client: newClient(), lastEventID: c.LastEventID,
		wait: wait, warn: func(err error) { a.complain("%s; connecting again", oneLine(err.Error())) },
	}
	defer s.client.CloseIdleConnections()
	received := 0
	err = s.run(ctx, func(e event) error {
		if err := printEvent(a.stdout, c.Output, e); err != nil {
			return err
		}
		if received++; received == c.Count {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		return nil
	}
	return err
}

var errEnough = errors.New("enough events")

func printEvent(w io.Writer, format string, e event) error {
	var text strings.Builder
	switch format {
	case "json":
		line := struct {
			ID    string `json:"id"`
			Type  string `json:"type"`
			Data  string `json:"data"`
			Retry *int64 `json:"retry,omitempty"`
		}{ID: e.id, Type: either(e.kind, "message"), Data: e.data}
		if e.retry != nil {
			line.Retry = new(e.retry.Milliseconds())
		}
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(line); err != nil {
			return err
		}
	case "events":
		if e.kind != "" {
			fmt.Fprintf(&text, "event: %s\n", e.kind)
		}
		if e.retry != nil {
			fmt.Fprintf(&text, "retry: %d\n", e.retry.Milliseconds())
		}
		fmt.Fprintf(&text, "id: %s\n", e.id)
		for line := range strings.SplitSeq(e.data, "\n") {
			fmt.Fprintf(&text, "data: %s\n", line)
		}
		text.WriteByte('\n')
	default:
		text.WriteString(e.data)
		text.WriteByte('\n')
	}
	_, err := io.WriteString(w, text.String())
	return err
}

const (
	// firstDelay is waited before the first attempt to connect again, unless
	// the hub says otherwise. It doubles with each that fails.
	firstDelay = time.Second
	maxDelay   = 30 * time.Second
	// maxRetry is as much of the hub's wish as is honoured.
	maxRetry = 24 * time.Hour
	// openTimeout is how long a hub may take to answer. It sends the first
	// bytes of a stream at once.
	openTimeout = 30 * time.Second
)

// subscriber follows a hub across the ends of its streams.
type subscriber struct {
	url         *url.URL
	token       string
	client      *http.Client
	lastEventID string
	wait        func(context.Context, time.Duration) error
	warn        func(error)

	retry     time.Duration // what the hub asked for; 0: nothing
	connected bool          // once, at least
}

// run calls use for every event until that fails, ctx ends, or the hub refuses
// in a way that will not change.
func (s *subscriber) run(ctx context.Context, use func(event) error) error {
	failures := 0
	for {
		began := time.Now()
		received, err := s.stream(ctx, use)
		// A stream that was open for long was a success though nothing came.
		received = received || time.Since(began) > maxDelay
		var status *statusError
		var unusable *useError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &unusable):
			return unusable.error
		case errors.As(err, &status) && !status.temporary(), errors.Is(err, errNotAStream), errors.Is(err, errEventTooLarge):
			return err
		case err != nil && status == nil && !s.connected:
			return err // more likely a wrong address than a hub that will be back
		}
		delay := s.delay(failures)
		if received {
			failures, delay = 0, s.delay(0)
		}
		failures++
		if status != nil && status.retryAfter > delay {
			delay = min(status.retryAfter, maxRetry)
		}
		if err != nil && failures == 1 {
			s.warn(err) // once for each outage
		}
		if err := s.wait(ctx, delay); err != nil {
			return err
		}
	}
}

// delay grows with failures, and with a random part, so that clients do not
// come back in step.
func (s *subscriber) delay(failures int) time.Duration {
	base := min(s.retry, maxRetry)
	if base == 0 {
		base = firstDelay
	}
	delay := base << min(failures, 10)
	if delay > maxDelay || delay <= 0 {
		delay = max(maxDelay, base)
	}
	return delay + rand.N(delay/4+1)
}

// useError is one of the consumer's, not of the stream.
type useError struct{ error }

var errNotAStream = errors.New("the answer is not an event stream; is this the URL of a hub?")

// stream reads one stream to its end. It reports whether anything came, and
// nil for an ordinary end.
func (s *subscriber) stream(ctx context.Context, use func(event) error) (received bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(openTimeout, func() { cancel(errors.New("the hub does not answer")) })
	defer timer.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url.String(), http.NoBody)
	if err != nil {
		return false, err
	}
	request.Header.Set("Accept", "text/event-stream")
	request.Header.Set("Cache-Control", "no-cache")
	if s.token != "" {
		request.Header.Set("Authorization", "Bearer "+s.token)
	}
	if s.lastEventID != "" {
		request.Header.Set("Last-Event-ID", s.lastEventID)
	}
	response, err := s.client.Do(request)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return false, fmt.Errorf("subscribe to %s://%s: %w", s.url.Scheme, s.url.Host, reason(err))
	}
	defer func() { _ = response.Body.Close() }()
	timer.Stop()
	if response.StatusCode != http.StatusOK {
		return false, newStatusError(response)
	}
	if mediaType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); mediaType != "text/event-stream" {
		return false, errNotAStream
	}
	s.connected = true
	events := newEventReader(response.Body, s.lastEventID)
	for {
		e, err := events.next()
		received = received || err == nil || events.lastEventID != s.lastEventID
		s.lastEventID = events.lastEventID
		if events.retry > 0 {
			s.retry = events.retry
		}
		switch {
		case errors.Is(err, io.EOF):
			return received, nil
		case err != nil:
			return received, fmt.Errorf("the stream broke: %w", err)
		}
		if err := use(e); err != nil {
			return received, &useError{err}
		}
	}
}

// wait returns early, with an error, if ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
