package bench

import (
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestFloor(t *testing.T) {
	t.Parallel()
	f := newFloor()
	defer f.close()
	report, err := benchOf(t, f, func(b *bench) { b.Streams, b.Publishers = 9, 3 })
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Results[0]; len(r.Problems) > 0 || r.Published == 0 || r.Delivered != 9*r.Published {
		t.Errorf("%d published, %d delivered: %q", r.Published, r.Delivered, r.Problems)
	}
}

// What does not take an update as a whole is ended, so that the loss is seen; the
// others go on.
func TestFloorEndsSlowStreams(t *testing.T) {
	t.Parallel()
	f := newFloor()
	defer f.close()
	server := httptest.NewServer(f)
	defer server.Close()
	slow, quick := openAtFloor(t, server.URL), openAtFloor(t, server.URL)
	var updates []string
	for n := range 1000 {
		updates = append(updates, fmt.Sprint(n)+strings.Repeat("x", 50_000))
		want := "id: " + f.publish(updates[n]) + "\ndata: " + updates[n] + "\n\n"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(quick, got); err != nil || string(got) != want {
			t.Fatalf("update %d: %.50q, %v", n, got, err)
		}
		if len(f.fds) == 1 {
			break
		}
	}
	if len(f.fds) != 1 {
		t.Fatalf("%d streams are left", len(f.fds))
	}
	all, err := io.ReadAll(slow)
	if err != nil || strings.Count(string(all), "id: ") > len(updates) || strings.HasSuffix(string(all), "\n\n") {
		t.Errorf("the slow one got %d bytes, %v", len(all), err)
	}
}

// openAtFloor returns a stream behind its head.
func openAtFloor(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: floor\r\n\r\n")
	head := make([]byte, len(floorHead))
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != floorHead {
		t.Fatalf("%q, %v", head, err)
	}
	return conn
}
