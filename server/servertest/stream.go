package servertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Event is one dispatched server-sent event.
type Event struct {
	ID, Type, Data string
}

// Stream is a subscriber: a strict reader of an event stream.
type Stream struct {
	// Header of the response.
	Header http.Header
	// LastEventID is the id a browser would resume after.
	LastEventID string

	cancel context.CancelFunc
	body   io.ReadCloser
	events chan Event
	ids    chan string
	// Written before events is closed.
	retry string
	err   error
}

// Request says how to subscribe.
type Request struct {
	Query       url.Values
	Token       string
	LastEventID string
	// AsEventSource sends the headers a browser's EventSource does.
	AsEventSource bool
}

// Subscribe opens a stream and waits for its first byte.
func (h *Hub) Subscribe(t testing.TB, r Request) *Stream {
	t.Helper()
	s, err := h.TrySubscribe(context.Background(), r)
	if err != nil {
		t.Fatalf("servertest: subscribe: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// StatusError is an answer that is not a stream.
type StatusError struct {
	Status int
	Body   string
	Header http.Header
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Body) }

// TrySubscribe is Subscribe without a test to fail. The stream ends with ctx.
func (h *Hub) TrySubscribe(ctx context.Context, r Request) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"?"+r.Query.Encode(), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	if r.Token != "" {
		request.Header.Set("Authorization", "Bearer "+r.Token)
	}
	if r.LastEventID != "" {
		request.Header.Set("Last-Event-ID", r.LastEventID)
	}
	if r.AsEventSource {
		request.Header.Set("Accept", "text/event-stream")
		request.Header.Set("Cache-Control", "no-cache")
	}
	// A transport of its own: streams of one test must not share a connection.
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		cancel()
		return nil, err
	}
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		cancel()
		return nil, &StatusError{Status: response.StatusCode, Body: string(body), Header: response.Header}
	}
	s := &Stream{
		Header: response.Header, LastEventID: r.LastEventID, cancel: cancel, body: response.Body,
		events: make(chan Event, 1<<16), ids: make(chan string, 1<<16),
	}
	reader := bufio.NewReaderSize(response.Body, 1<<16)
	if first, err := reader.Peek(2); err != nil || string(first) != ":\n" {
		s.Close()
		return nil, fmt.Errorf("the stream began with %q, %w", first, err)
	}
	go s.read(reader) // ends when the response does, which Close makes it
	return s, nil
}

// read follows the HTML event-stream parser.
func (s *Stream) read(reader *bufio.Reader) {
	defer close(s.events)
	var data []string
	var event Event
	id := s.LastEventID
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			s.err = err
			return
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			s.ids <- id
			if data != nil {
				event.ID, event.Data = id, strings.Join(data, "\n")
				s.events <- event
			}
			data, event = nil, Event{}
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "data":
			data = append(data, value)
		case "event":
			event.Type = value
		case "id":
			id = value
		case "retry":
			s.retry = line
		}
	}
}

// ErrEnded is what TryNext returns when the hub has ended the stream.
var ErrEnded = errors.New("the stream has ended")

// TryNext returns the next event, or ErrEnded, or the error of ctx.
func (s *Stream) TryNext(ctx context.Context) (Event, error) {
	select {
	case event, ok := <-s.events:
		if !ok {
			return Event{}, ErrEnded
		}
		s.LastEventID = event.ID
		return event, nil
	case <-ctx.Done():
		return Event{}, context.Cause(ctx)
	}
}

// Retry is the last line that told the client when to come back, if any. Valid
// once TryNext has returned ErrEnded.
func (s *Stream) Retry() string { return s.retry }

// Next returns the next event, and fails the test if there is none in time.
func (s *Stream) Next(t testing.TB) Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Deadline)
	defer cancel()
	event, err := s.TryNext(ctx)
	if err != nil {
		t.Fatalf("servertest: waiting for an event: %v", err)
	}
	return event
}

// NextID returns the id after the next block, with or without data.
func (s *Stream) NextID(t testing.TB) string {
	t.Helper()
	select {
	case id := <-s.ids:
		return id
	case <-time.After(Deadline):
		t.Fatal("servertest: waiting for an id: nothing came")
		return ""
	}
}

// Close ends the stream from the client's side.
func (s *Stream) Close() {
	s.cancel()
	_ = s.body.Close()
}
