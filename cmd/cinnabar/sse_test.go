package main

import (
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEventReader(t *testing.T) {
	t.Parallel()
	ms := func(n int) *time.Duration { return new(time.Duration(n) * time.Millisecond) }
	for _, test := range []struct {
		name   string
		stream string
		want   []event
		last   string
		retry  time.Duration
	}{
		{"one event", "id: 1\ndata: hello\n\n", []event{{id: "1", data: "hello"}}, "1", 0},
		{"all fields", "event: ping\nretry: 3000\nid: 1\ndata: a\n\n", []event{{id: "1", kind: "ping", data: "a", retry: ms(3000)}}, "1", 3 * time.Second},
		{"several lines of data", "id: 1\ndata: a\ndata: b\ndata:\n\n", []event{{id: "1", data: "a\nb\n"}}, "1", 0},
		{"empty data", "id: 1\ndata: \n\n", []event{{id: "1"}}, "1", 0},
		{"data without a colon", "id: 1\ndata\n\n", []event{{id: "1"}}, "1", 0},
		{"one space is stripped", "id: 1\ndata:  a\n\n", []event{{id: "1", data: " a"}}, "1", 0},
		{"no space", "id:1\ndata:a\n\n", []event{{id: "1", data: "a"}}, "1", 0},
		{"a tab is not stripped", "data:\ta\n\n", []event{{data: "\ta"}}, "", 0},
		{"colon in the value", "data: a: b\n\n", []event{{data: "a: b"}}, "", 0},
		{"CR", "id: 1\rdata: a\r\r", []event{{id: "1", data: "a"}}, "1", 0},
		{"CRLF", "id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\n", []event{{id: "1", data: "a"}, {id: "1", data: "b"}}, "1", 0},
		{"mixed ends", "id: 1\r\ndata: a\n\rdata: b\r\r\n", []event{{id: "1", data: "a"}, {id: "1", data: "b"}}, "1", 0},
		{"comments", ":\n: hello\nid: 1\n:\ndata: a\n\n:\n", []event{{id: "1", data: "a"}}, "1", 0},
		{"mark at the start", "\xef\xbb\xbfdata: a\n\n", []event{{data: "a"}}, "", 0},
		{"mark elsewhere", "data: a\n\n\xef\xbb\xbfdata: b\n\n", []event{{data: "a"}}, "", 0},
		{"unknown fields", "foo: bar\nDATA: x\n data: y\ndata: a\n\n", []event{{data: "a"}}, "", 0},
		{"id without data is kept", "id: 5\n\ndata: a\n\n", []event{{id: "5", data: "a"}}, "5", 0},
		{"only an id", "id: 5\n\n", nil, "5", 0},
		{"id is reset by an empty one", "id: 5\ndata: a\n\nid\ndata: b\n\n", []event{{id: "5", data: "a"}, {data: "b"}}, "", 0},
		{"id with NUL is ignored", "id: 5\ndata: a\n\nid: 6\x007\ndata: b\n\n", []event{{id: "5", data: "a"}, {id: "5", data: "b"}}, "5", 0},
		{"event without data is forgotten", "event: x\n\ndata: a\n\n", []event{{data: "a"}}, "", 0},
		{"last of several wins", "id: 1\nid: 2\nevent: x\nevent: y\ndata: a\n\n", []event{{id: "2", kind: "y", data: "a"}}, "2", 0},
		{"unfinished block", "id: 1\ndata: a\n\nid: 2\ndata: b\n", []event{{id: "1", data: "a"}}, "1", 0},
		{"unfinished line", "id: 1\ndata: a\n\nid: 2\ndata: b", []event{{id: "1", data: "a"}}, "1", 0},
		{"retry counts at once", "retry: 10\n", nil, "", 10 * time.Millisecond},
		{"retry that is no number", "retry: 1s\nretry: -1\nretry: +1\nretry:\nretry: 1.5\ndata: a\n\n", []event{{data: "a"}}, "", 0},
		{"retry with leading zeros", "retry: 0010\n\n", nil, "", 10 * time.Millisecond},
		{"retry beyond all bounds", "retry: 99999999999999999999\n\n", nil, "", math.MaxInt64},
		{"invalid UTF-8", "data: a\xffb\n\n", []event{{data: "a\ufffdb"}}, "", 0},
		{"nothing", "", nil, "", 0},
		{"less than a mark", "\xef\xbb", nil, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, reader := range []io.Reader{strings.NewReader(test.stream), iotest.OneByteReader(strings.NewReader(test.stream))} {
				r := newEventReader(reader, "")
				var got []event
				for {
					e, err := r.next()
					if errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						t.Fatal(err)
					}
					got = append(got, e)
				}
				if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(event{})); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				if r.lastEventID != test.last || r.retry != test.retry {
					t.Errorf("last event id %q, want %q; retry %s, want %s", r.lastEventID, test.last, r.retry, test.retry)
				}
			}
		})
	}
}

func TestEventReaderBoundsMemory(t *testing.T) {
	t.Parallel()
	r := newEventReader(io.MultiReader(strings.NewReader("data: "), endless{}), "")
	r.maxBytes = 1 << 20
	if _, err := r.next(); !errors.Is(err, errEventTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestEventReaderReportsBrokenStreams(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	r := newEventReader(io.MultiReader(strings.NewReader("data: a\n\n"), iotest.ErrReader(broken)), "7")
	if e, err := r.next(); err != nil || e.data != "a" || e.id != "7" {
		t.Fatalf("got %+v, %v", e, err)
	}
	if _, err := r.next(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// endless is a stream of one line that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

func FuzzEventReader(f *testing.F) {
	f.Add("id: 1\r\ndata: a\n\nretry: 5\n")
	f.Add("\xef\xbb\xbf:\n\n")
	f.Fuzz(func(t *testing.T, stream string) {
		r := newEventReader(strings.NewReader(stream), "")
		for {
			e, err := r.next()
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				return
			}
			if strings.ContainsAny(e.id+e.kind, "\r\n") || strings.Contains(e.data, "\r") {
				t.Fatalf("a line end within %+v", e)
			}
		}
	})
}
