package protocol

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The examples of section 5.5. Spec: W-1, W-2, W-3, W-4, W-5, W-6
func TestAppendBlock(t *testing.T) {
	t.Parallel()
	retry := func(n int64) *int64 { return &n }
	for _, tc := range []struct {
		name   string
		update Update
		want   string
	}{
		{"id and data", Update{ID: "e1", Data: "hello"}, "id: e1\ndata: hello\n\n"},
		{"every field", Update{ID: "e2", Type: "ping", Retry: retry(3000), Data: "a"}, "event: ping\nretry: 3000\nid: e2\ndata: a\n\n"},
		{"every line end", Update{ID: "e3", Data: "l1\nl2\r\nl3\rl4"}, "id: e3\ndata: l1\ndata: l2\ndata: l3\ndata: l4\n\n"},
		{"trailing line end", Update{ID: "e4", Data: "a\n"}, "id: e4\ndata: a\ndata: \n\n"},
		{"injection", Update{ID: "e5", Data: "x\nevent: evil\nid: 9"}, "id: e5\ndata: x\ndata: event: evil\ndata: id: 9\n\n"},
		{"leading space", Update{ID: "e6", Data: " z"}, "id: e6\ndata:  z\n\n"},
		{"no data", Update{ID: "e7"}, "id: e7\ndata: \n\n"},
		// Not in the table.
		{"retry zero", Update{ID: "e8", Retry: retry(0), Data: "a"}, "retry: 0\nid: e8\ndata: a\n\n"},
		{"leading space in id", Update{ID: " e9", Data: "a"}, "id:  e9\ndata: a\n\n"},
		{"topics and privacy are not sent", Update{ID: "a", Topics: []string{"t"}, Private: true}, "id: a\ndata: \n\n"},
		{"only line ends", Update{ID: "a", Data: "\r\n\n\r\r"}, "id: a\ndata: \ndata: \ndata: \ndata: \ndata: \n\n"},
		{"LF CR is two line ends", Update{ID: "a", Data: "x\n\ry"}, "id: a\ndata: x\ndata: \ndata: y\n\n"},
		{"CR CR LF is two line ends", Update{ID: "a", Data: "x\r\r\ny"}, "id: a\ndata: x\ndata: \ndata: y\n\n"},
		{"trailing CR", Update{ID: "a", Data: "x\r"}, "id: a\ndata: x\ndata: \n\n"},
		{"other line separators are data", Update{ID: "a", Data: "x\u2028y\u0085z\vw"}, "id: a\ndata: x\u2028y\u0085z\vw\n\n"},
		{"NUL and byte-order mark are data", Update{ID: "a", Data: "\uFEFF\x00"}, "id: a\ndata: \uFEFF\x00\n\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, string(AppendBlock(nil, &tc.update))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := string(AppendBlock([]byte("before"), &tc.update)); got != "before"+tc.want {
				t.Errorf("did not append: got %q", got)
			}
		})
	}
}

// Spec: S-26, W-7
func TestCheckpointAndComment(t *testing.T) {
	t.Parallel()
	if got, want := string(AppendCheckpoint([]byte("a"), "e1")), "aid: e1\n\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	stream := "id: 0\ndata: x\n\n" + Comment + string(AppendCheckpoint(nil, "e1"))
	events, lastID := parseEventStream(stream)
	if len(events) != 1 || lastID != "e1" {
		t.Errorf("got events %+v, last id %q; want the cursor to move without an event", events, lastID)
	}
}

func TestAppendBlockDoesNotAllocate(t *testing.T) {
	retry := int64(3000)
	u := &Update{ID: "e1", Type: "ping", Retry: &retry, Data: "l1\nl2\r\nl3\rl4"}
	dst := make([]byte, 0, 1024)
	if allocs := testing.AllocsPerRun(100, func() { dst = AppendBlock(dst[:0], u) }); allocs != 0 {
		t.Errorf("got %v allocations, want none", allocs)
	}
}

// sseEvent is what a browser dispatches.
type sseEvent struct {
	typ, data, lastID string
}

// parseEventStream follows the parsing rules of the HTML standard, written
// without looking at the encoder.
func parseEventStream(stream string) (events []sseEvent, lastID string) {
	stream = strings.TrimPrefix(stream, "\uFEFF")
	stream = strings.ReplaceAll(stream, "\r\n", "\n")
	stream = strings.ReplaceAll(stream, "\r", "\n")
	var typ, data, idBuffer string
	lines := strings.Split(stream, "\n")
	for _, line := range lines[:len(lines)-1] { // the last one is unterminated
		if line == "" {
			lastID = idBuffer
			if data != "" {
				event := sseEvent{typ: typ, data: strings.TrimSuffix(data, "\n"), lastID: lastID}
				if event.typ == "" {
					event.typ = "message"
				}
				events = append(events, event)
			}
			typ, data = "", ""
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			typ = value
		case "data":
			data += value + "\n"
		case "id":
			if !strings.Contains(value, "\x00") {
				idBuffer = value
			}
		}
	}
	return events, lastID
}

// Whatever is published arrives as exactly one event with its own id and type.
//
// Spec: W-4, Z-4
func FuzzAppendBlock(f *testing.F) {
	f.Add("e1", "ping", "hello", int64(-1))
	f.Add("e1", "", "x\r\n\r\nid: 9\n\nevent: evil\rdata:", int64(0))
	f.Add(" ", " ", "\n\r\n\r", int64(3000))
	f.Add("a:b", ":", ":\ufeff", int64(1))
	f.Fuzz(func(t *testing.T, id, typ, data string, retry int64) {
		u := &Update{ID: EventID(id), Type: typ, Data: data}
		if ValidateID(id) != nil || typ != "" && ValidateType(typ) != nil {
			return // no publisher can send this
		}
		if retry >= 0 {
			u.Retry = &retry
		}
		block := string(AppendBlock(nil, u))
		if strings.Contains(block, "\r") || !strings.HasSuffix(block, "\n\n") || strings.Count(block, "\n\n") != 1 {
			t.Fatalf("not one block: %q", block)
		}
		// Another block behind it shows that nothing leaks out of the first.
		events, lastID := parseEventStream(Comment + block + "id: next\ndata: n\n\n")
		want := []sseEvent{
			{typ: typ, data: strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(data), lastID: id},
			{typ: "message", data: "n", lastID: "next"},
		}
		if typ == "" {
			want[0].typ = "message"
		}
		if diff := cmp.Diff(want, events, cmp.AllowUnexported(sseEvent{})); diff != "" || lastID != "next" {
			t.Fatalf("block %q (-want +got):\n%s", block, diff)
		}
		if line := "retry: " + strconv.FormatInt(retry, 10) + "\n"; retry >= 0 && !strings.Contains(block, line+"id: ") {
			t.Fatalf("block %q lacks %q", block, line)
		}
	})
}
