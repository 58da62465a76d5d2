package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// event is one event of a stream, as an EventSource would dispatch it.
type event struct {
	// id is the last event id at its end, which an earlier block may have set.
	id string
	// kind is the event field, empty if there was none.
	kind string
	data string
	// retry is the retry field of this block; nil if there was none.
	retry *time.Duration
}

// maxEventBytes bounds the memory a hub can make us use. Far above the largest
// update a hub takes unless told otherwise.
const maxEventBytes = 64 << 20

var errEventTooLarge = errors.New("the hub sent an event of more than 64 MiB")

// eventReader takes an event stream apart by the rules of the HTML standard:
// lines end with LF, CR or CRLF, one byte order mark at the start is skipped,
// unknown fields are ignored, and a block that is not finished by an empty
// line does not count.
type eventReader struct {
	in *bufio.Reader
	// maxBytes bounds each block.
	maxBytes int

	begun bool
	// afterCR: the line ended with CR, so that an LF that follows belongs to it.
	afterCR bool

	// lastEventID is what to resume after.
	lastEventID string
	// retry is how long to wait before; 0 if the hub has not said.
	retry time.Duration

	// The block being read.
	id    string // becomes lastEventID when the block ends
	kind  string
	data  []byte
	any   bool // there was a data field
	pause *time.Duration
	size  int
}

// newEventReader reads a stream that resumes after an event.
func newEventReader(r io.Reader, lastEventID string) *eventReader {
	return &eventReader{in: bufio.NewReaderSize(r, 16<<10), maxBytes: maxEventBytes, lastEventID: lastEventID, id: lastEventID}
}

// next returns the next event, or the error that ended the stream: io.EOF for
// an ordinary end. Blocks without data only change lastEventID and retry.
func (r *eventReader) next() (event, error) {
	for {
		line, err := r.line()
		if err != nil {
			return event{}, err
		}
		if len(line) > 0 {
			r.field(line)
			continue
		}
		// Kept apart from the last event id, which also blocks without data set.
		r.lastEventID = r.id
		e := event{id: r.id, kind: r.kind, data: valid(bytes.TrimSuffix(r.data, []byte("\n"))), retry: r.pause}
		dispatch := r.any
		r.kind, r.data, r.any, r.pause, r.size = "", nil, false, nil, 0
		if dispatch {
			return e, nil
		}
	}
}

func (r *eventReader) field(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "data":
		r.data = append(append(r.data, value...), '\n')
		r.any = true
	case "event":
		r.kind = valid(value)
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			r.id = valid(value)
		}
	case "retry":
		if delay, ok := milliseconds(value); ok {
			r.retry, r.pause = delay, &delay
		}
	}
}

// line returns one line without its end. It is valid until the next call.
func (r *eventReader) line() ([]byte, error) {
	if !r.begun {
		r.begun = true
		mark := []byte("\xef\xbb\xbf")
		if start, _ := r.in.Peek(len(mark)); bytes.Equal(start, mark) {
			_, _ = r.in.Discard(len(mark))
		}
	}
	var line []byte
	for {
		b, err := r.in.ReadByte()
		if err != nil {
			return nil, err // a line without an end does not count
		}
		if r.afterCR {
			r.afterCR = false
			if b == '\n' {
				continue
			}
		}
		switch b {
		case '\r':
			r.afterCR = true
			return line, nil
		case '\n':
			return line, nil
		}
		if r.size++; r.size > r.maxBytes {
			return nil, errEventTooLarge
		}
		line = append(line, b)
	}
}

// milliseconds takes ASCII digits and nothing else.
func milliseconds(value []byte) (time.Duration, bool) {
	if len(value) == 0 || len(bytes.Trim(value, "0123456789")) > 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64, true // for ever, nearly
	}
	return time.Duration(n) * time.Millisecond, true
}

func valid(text []byte) string { return strings.ToValidUTF8(string(text), "\ufffd") }
