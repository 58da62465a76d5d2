package bench

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var cmpMarks = cmp.AllowUnexported(mark{})

// readMarks feeds a stream in pieces of the given sizes, again and again.
func readMarks(text string, sizes ...int) (marks []mark) {
	var e events
	for i := 0; len(text) > 0; i++ {
		n := min(max(sizes[i%len(sizes)], 1), len(text))
		piece := []byte(text[:n])
		for {
			m, rest, ok := e.next(piece, "run")
			if !ok {
				break
			}
			marks = append(marks, m)
			piece = rest
		}
		text = text[n:]
	}
	return marks
}

// plainMarks reads a stream as the HTML standard has it: all at once, line by
// line.
func plainMarks(text string) (marks []mark) {
	text = strings.TrimPrefix(text, "\xef\xbb\xbf")
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	var data []string
	lines := strings.Split(text, "\n")
	for _, line := range lines[:len(lines)-1] { // a line without an end does not count
		name, value, _ := strings.Cut(line, ":")
		switch {
		case line == "":
			if len(data) == 1 {
				if m, ok := parsePayload([]byte(data[0]), "run"); ok {
					marks = append(marks, m)
				}
			}
			data = nil
		case name == "data":
			data = append(data, strings.TrimPrefix(value, " "))
		}
	}
	return marks
}

func TestEvents(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		want []mark
	}{
		"one":            {"id: a\ndata: run.1.2.3.xx\n\n", []mark{{1, 2, 3}}},
		"no space":       {"data:run.1.2.3.\n\n", []mark{{1, 2, 3}}},
		"CR":             {"data: run.1.2.3.\r\rdata: run.1.3.3.\r\r", []mark{{1, 2, 3}, {1, 3, 3}}},
		"CRLF":           {"data: run.1.2.3.\r\n\r\n", []mark{{1, 2, 3}}},
		"byte order":     {"\xef\xbb\xbfdata: run.1.2.3.\n\n", []mark{{1, 2, 3}}},
		"comments":       {":\n\ndata: run.1.2.3.\n: x\n\n:\n\n", []mark{{1, 2, 3}}},
		"id only":        {"id: a\n\ndata: run.1.2.3.\n\n", []mark{{1, 2, 3}}},
		"of another run": {"data: ran.1.2.3.\n\ndata: run1.2.3.\n\n", nil},
		"no number":      {"data: run.1.x.3.\n\ndata: run.1.2\n\ndata\n\ndata: run.1..3.\n\n", nil},
		"several lines":  {"data: run.1.2.3.\ndata: more\n\n", nil},
		"several, CRLF":  {"data: run.1.2.3.\r\ndata: more\r\n\r\n", nil},
		"not finished":   {"data: run.1.2.3.\n", nil},
		"similar field":  {"datas: run.1.2.3.\n\n", nil},
		"long":           {"data: run.1.2.3." + strings.Repeat("x", 10_000) + "\nid: " + strings.Repeat("y", 10_000) + "\n\n", []mark{{1, 2, 3}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 2, 3, 7, 100, 1 << 20} {
				if diff := cmp.Diff(test.want, readMarks(test.text, size), cmpMarks); diff != "" {
					t.Errorf("in pieces of %d bytes:\n%s", size, diff)
				}
			}
		})
	}
}

func TestEventsKeepLittle(t *testing.T) {
	t.Parallel()
	var e events
	for range 1000 {
		e.next(bytes.Repeat([]byte("x"), 1000), "run")
	}
	if cap(e.partial) > 4*maxPartial {
		t.Errorf("%d bytes are kept of a line", cap(e.partial))
	}
}

func FuzzEvents(f *testing.F) {
	f.Add("\xef\xbb\xbfid: a\r\ndata: run.1.2.3.xx\r\n\r\n", 1, 2)
	f.Add("data\ndata:\n\n\rdata:run.4294967295.1.1.\n\n", 3, 1)
	f.Add("data: run.1.2.3."+strings.Repeat("x", 200)+"\n\n", 50, 50)
	f.Add("data: run.12345678901234567890.2.3.\n\n", 50, 50)
	f.Fuzz(func(t *testing.T, text string, first, second int) {
		if diff := cmp.Diff(plainMarks(text), readMarks(text, first, second), cmpMarks); diff != "" {
			t.Errorf("%q in pieces of %d and %d bytes:\n%s", text, first, second, diff)
		}
	})
}

func TestPayload(t *testing.T) {
	t.Parallel()
	want := mark{source: 7, seq: 1<<32 - 1, sent: 1<<63 - 1}
	data := appendPayload([]byte("data: "), "run", want, 128)
	if len(data) != len("data: ")+128 {
		t.Errorf("%d bytes", len(data))
	}
	if got, ok := parsePayload(data[len("data: "):], "run"); !ok || got != want {
		t.Errorf("got %v, %t", got, ok)
	}
	longest := appendPayload(nil, newRun(), mark{source: 1<<32 - 1, seq: 1<<32 - 1, sent: 1<<63 - 1}, 0)
	if len(longest) > maxMarkBytes {
		t.Errorf("a mark has %d bytes, more than %d", len(longest), maxMarkBytes)
	}
	if slices.ContainsFunc(longest, func(c byte) bool { return strings.IndexByte("&=+%", c) >= 0 }) {
		t.Errorf("%q has to be escaped in a form", longest)
	}
}

// A delivery costs no allocation: on the machine of the hub, what the load
// generator does is missing there.
func TestDeliveriesDoNotAllocate(t *testing.T) {
	p := &plan{Run: "run", Audience: everything, Sources: 1}
	s, to := newStream(p, 0), &sink{}
	if err := s.take([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"), p, to); err != nil {
		t.Fatal(err)
	}
	seq := uint32(0)
	block := make([]byte, 0, 200)
	allocations := testing.AllocsPerRun(1000, func() {
		seq++
		block = append(appendPayload(append(block[:0], "92\r\nid: 12345\ndata: "...), "run", mark{seq: seq}, 128), "\n\n\r\n"...)
		if err := s.take(block[:50], p, to); err != nil {
			t.Fatal(err)
		}
		if err := s.take(block[50:], p, to); err != nil {
			t.Fatal(err)
		}
	})
	if allocations != 0 || to.delivered.Load() != 1001 || s.cursor.lost([]uint32{1001}, nil) != 0 {
		t.Errorf("%v allocations; %d deliveries", allocations, to.delivered.Load())
	}
}

func BenchmarkDelivery(b *testing.B) {
	p := &plan{Run: "run", Audience: everything, Sources: 1}
	s, to := newStream(p, 0), &sink{}
	s.opened = true
	block := make([]byte, 0, 200)
	b.ReportAllocs()
	for i := range b.N {
		block = append(appendPayload(append(block[:0], "id: 12345\ndata: "...), "run", mark{seq: uint32(i + 1)}, 128), "\n\n"...)
		if err := s.take(block, p, to); err != nil {
			b.Fatal(err)
		}
	}
}
