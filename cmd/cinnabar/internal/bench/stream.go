package bench

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// sink is where streams report. The counters may be read at any time; the rest
// belongs to whoever reads the streams until that has ended.
type sink struct {
	opened, delivered, ended atomic.Int64
	// lastOpened and lastDelivered are when, in nanoseconds of the wall clock.
	lastOpened, lastDelivered atomic.Int64

	latency, opening histogram
}

// stream is one connection to a hub.
type stream struct {
	index  int
	began  int64
	opened bool
	// head is what has come of the head of the response.
	head    []byte
	framing framing
	events  events
	cursor  cursor
}

func newStream(p *plan, index int) *stream {
	return &stream{index: index, cursor: newCursor(p.slots(), p.Bases)}
}

// errEnded is how a stream ends.
var errEnded = errors.New("the hub has ended the stream")

// take reads what has come. The error is errEnded, or says what is wrong.
func (s *stream) take(data []byte, p *plan, to *sink) error {
	now := time.Now().UnixNano()
	if !s.opened {
		rest, err := s.takeHead(data)
		if err != nil || !s.opened {
			return err
		}
		data = rest
		to.opening.add(time.Duration(now - s.began))
		to.opened.Add(1)
		to.lastOpened.Store(now)
	}
	delivered := int64(0)
	for len(data) > 0 {
		body, rest, ended, err := s.framing.next(data)
		if err != nil {
			return err
		}
		if ended {
			return errEnded
		}
		data = rest
		for {
			m, after, ok := s.events.next(body, p.Run)
			if !ok {
				break
			}
			body = after
			if s.cursor.take(p.slot(s.index, m.source), m.seq) {
				delivered++
				to.latency.add(time.Duration(now - m.sent))
			}
		}
	}
	if delivered > 0 {
		to.delivered.Add(delivered)
		to.lastDelivered.Store(now)
	}
	return nil
}

// maxHeadBytes is more than any hub sends.
const maxHeadBytes = 32 << 10

var endOfHead = []byte("\r\n\r\n")

// takeHead returns what follows the head once that is complete.
func (s *stream) takeHead(data []byte) (rest []byte, err error) {
	s.head = append(s.head, data...)
	head, rest, complete := bytes.Cut(s.head, endOfHead)
	switch {
	case !complete && len(s.head) > maxHeadBytes:
		return nil, errNotHTTP
	case !complete:
		return nil, nil
	}
	s.opened, s.head = true, nil
	s.framing.chunked, err = parseHead(string(head))
	return rest, err
}

var errNotHTTP = errors.New("the answer is not HTTP; is this the URL of a hub?")

// parseHead reads the head of a response to a subscriber.
func parseHead(head string) (chunked bool, err error) {
	status, fields, _ := strings.Cut(head, "\r\n")
	protocol, status, _ := strings.Cut(status, " ")
	if !strings.HasPrefix(protocol, "HTTP/1.") {
		return false, errNotHTTP
	}
	code, _, _ := strings.Cut(status, " ")
	if code != "200" {
		return false, &statusError{action: "a subscriber", status: printable(status)}
	}
	isStream := false
	for line := range strings.SplitSeq(fields, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		value = strings.ToLower(strings.TrimSpace(value))
		switch strings.ToLower(name) {
		case "content-type":
			isStream = strings.HasPrefix(value, "text/event-stream")
		case "transfer-encoding":
			chunked = value == "chunked"
		case "content-encoding":
			return false, fmt.Errorf("the hub compresses its streams (%s) although nobody asked it to", printable(value))
		}
	}
	if !isStream {
		return false, errors.New("the answer is not an event stream; is this the URL of a hub?")
	}
	return chunked, nil
}

// statusError is an answer other than the one hoped for.
type statusError struct {
	action string // who got it
	status string
	detail string
}

func (e *statusError) Error() string {
	message := fmt.Sprintf("the hub answered %s to %s", e.status, e.action)
	if e.detail != "" {
		message += ": " + e.detail
	}
	switch e.code() {
	case 401, 403:
		message += "; give a token with --token, or the key of the hub with --key"
	case 429, 503:
		message += "; it has a limit below what was asked for: choose a smaller --streams, or raise it"
	}
	return message
}

func (e *statusError) code() int {
	text, _, _ := strings.Cut(e.status, " ")
	code, _ := strconv.Atoi(text)
	return code
}

// printable removes what a terminal would act on.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}
