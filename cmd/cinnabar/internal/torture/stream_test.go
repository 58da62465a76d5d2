package torture

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestReader(t *testing.T) {
	t.Parallel()
	lines := 0
	text := ":\n\nid: a\n\nretry: 5\nid: b\ndata: " + payload(7, 3) + "\n\nid: c\ndata: " + payload(4_000_000_000, 100_000) + "\n\nid: d\n"
	r := &reader{in: bufio.NewReaderSize(strings.NewReader(text), 4096), lastEventID: "start", alive: func() { lines++ }}
	for i, want := range []block{{id: "start"}, {id: "a"}, {id: "b", event: true, n: 7}, {id: "c", event: true, n: 4_000_000_000}} {
		if got, err := r.next(); err != nil || got != want || r.lastEventID != want.id {
			t.Errorf("block %d is %+v, %v, want %+v", i, got, err, want)
		}
	}
	if _, err := r.next(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if r.lastEventID != "c" || lines != 12 {
		t.Errorf("last event id %q after %d lines", r.lastEventID, lines)
	}
}

func TestReaderNoticesDamage(t *testing.T) {
	t.Parallel()
	whole := payload(7, 5000)
	for name, data := range map[string]string{
		"cut short":   whole[:4000],
		"cut by one":  whole[:len(whole)-1],
		"too long":    whole + "x",
		"no number":   "x" + whole,
		"two of them": whole + "\ndata: " + whole,
		"empty":       "",
	} {
		r := &reader{in: bufio.NewReaderSize(strings.NewReader("id: a\ndata: "+data+"\n\n"), 4096)}
		if b, err := r.next(); !errors.Is(err, errCorrupt) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
}
