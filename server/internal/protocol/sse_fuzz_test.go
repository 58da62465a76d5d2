package protocol

import (
	"strconv"
	"strings"
	"testing"
)

// blockByRules is W-2 to W-6 field by field.
func blockByRules(u *Update) string {
	var lines []string
	if u.Type != "" {
		lines = append(lines, "event: "+u.Type)
	}
	if u.Retry != nil {
		lines = append(lines, "retry: "+strconv.FormatInt(*u.Retry, 10))
	}
	lines = append(lines, "id: "+string(u.ID))
	data := strings.ReplaceAll(strings.ReplaceAll(u.Data, "\r\n", "\n"), "\r", "\n")
	for piece := range strings.SplitSeq(data, "\n") {
		lines = append(lines, "data: "+piece)
	}
	return strings.Join(lines, "\n") + "\n\n"
}

// Spec: W-2, W-3, W-4, W-5, W-6, S-26
func FuzzAppendBlockByRules(f *testing.F) {
	f.Add("e1", "ping", "hello", int64(-1), "e0")
	f.Add("e1", "", "x\r\n\r\nid: 9\n\nevent: evil\rdata:", int64(0), " ")
	f.Add(":", " ", "\n\r\n\r\r\n", int64(3000), "id: x")
	f.Fuzz(func(t *testing.T, id, typ, data string, retry int64, checkpoint string) {
		if ValidateID(id) != nil || ValidateID(checkpoint) != nil || typ != "" && ValidateType(typ) != nil {
			return // no publisher can send this
		}
		u := &Update{ID: EventID(id), Type: typ, Data: data}
		if retry >= 0 {
			u.Retry = &retry
		}
		block := AppendBlock([]byte(Comment), u)
		if want := Comment + blockByRules(u); string(block) != want {
			t.Fatalf("got %q, want %q", block, want)
		}
		// A checkpoint moves the cursor, and no event comes of it.
		stream := string(AppendCheckpoint(block, EventID(checkpoint)))
		events, lastID := parseEventStream(stream)
		if len(events) != 1 || events[0].lastID != id || lastID != checkpoint {
			t.Fatalf("%q is read as %+v with the last id %q", stream, events, lastID)
		}
	})
}
