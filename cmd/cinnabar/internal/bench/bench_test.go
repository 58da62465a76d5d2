package bench

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/terminal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// liar is a hub that makes of each update what its faults say. It tells every
// stream everything.
type liar struct {
	// deliver returns what stream number i gets after the nth update.
	deliver func(stream, n int, data string) []string

	mu      sync.Mutex
	n       int
	streams []chan string
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		l.publish(w, r)
		return
	}
	events := make(chan string, 10_000)
	l.mu.Lock()
	l.streams = append(l.streams, events)
	l.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case event := <-events:
			if event == hangUp {
				return
			}
			_, _ = fmt.Fprintf(w, "data: %s\n\n", event)
			_ = http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// hangUp ends a stream.
const hangUp = "hang up"

func (l *liar) publish(w http.ResponseWriter, r *http.Request) {
	data := r.PostFormValue("data")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	for i, events := range l.streams {
		for _, event := range l.deliver(i, l.n, data) {
			events <- event
		}
	}
	_, _ = io.WriteString(w, "id")
}

// benchOf measures a hub of two streams and one publisher.
func benchOf(t *testing.T, hub http.Handler, change func(*bench)) (*Report, error) {
	t.Helper()
	server := httptest.NewServer(hub)
	defer server.Close()
	b := &bench{
		Config: Config{
			Scenarios: []string{"fanout"}, Streams: 2, Publishers: 1, Duration: 100 * time.Millisecond, Size: 128,
			Connecting: 4, Targets: []Target{{Name: "hub", URLs: []string{server.URL}, Dialect: Dialect0}},
		},
		patience: 200 * time.Millisecond, progress: terminal.NewProgress(io.Discard, false),
	}
	if change != nil {
		change(b)
	}
	return b.run(t.Context())
}

func TestViolationsAreFound(t *testing.T) {
	t.Parallel()
	var held string
	for _, test := range []struct {
		name    string
		deliver func(stream, n int, data string) []string
		want    string
	}{
		{"honest", func(_, _ int, data string) []string { return []string{data} }, ""},
		{"loses one", func(stream, n int, data string) []string {
			if stream == 1 && n == 3 {
				return nil
			}
			return []string{data}
		}, "1 updates lost"},
		{"repeats one", func(stream, n int, data string) []string {
			if stream == 1 && n == 3 {
				return []string{data, data}
			}
			return []string{data}
		}, "1 updates delivered twice"},
		{"exchanges two", func(stream, n int, data string) []string {
			switch {
			case stream == 1 && n == 3:
				held = data
				return nil
			case stream == 1 && n == 4:
				return []string{data, held}
			}
			return []string{data}
		}, "1 updates out of the order of their publisher"},
		{"ends a stream", func(stream, n int, data string) []string {
			if stream == 1 && n == 3 {
				return []string{data, hangUp}
			}
			return []string{data}
		}, "1 streams ended by the hub"},
	} {
		for _, portable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/portable=%t", test.name, portable), func(t *testing.T) {
				report, err := benchOf(t, &liar{deliver: test.deliver}, func(b *bench) { b.Portable = portable })
				if err != nil {
					t.Fatal(err)
				}
				r := report.Results[0]
				found := slices.Contains(r.Problems, test.want)
				if report.Passed() != (test.want == "") || test.want != "" && !found || r.Published < 4 {
					t.Errorf("%d published; problems %q, want %q", r.Published, r.Problems, test.want)
				}
			})
		}
	}
}

func TestMisroutedUpdates(t *testing.T) {
	t.Parallel()
	report, err := benchOf(t, &liar{deliver: func(_, _ int, data string) []string { return []string{data} }}, func(b *bench) {
		b.Scenarios = []string{"patterns"}
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := report.Results[0]; report.Passed() || r.Misrouted == 0 || r.Lost != 0 {
		t.Errorf("misrouted %d, lost %d: %q", r.Misrouted, r.Lost, r.Problems)
	}
}

func TestDifferentOrders(t *testing.T) {
	t.Parallel()
	// What each publisher publishes keeps its order everywhere, but stream 1
	// gets the first of the second publisher before those of the first one.
	var held []string
	first := ""
	report, err := benchOf(t, &liar{deliver: func(stream, _ int, data string) []string {
		source := strings.Split(data, ".")[1]
		if first == "" {
			first = source
		}
		switch {
		case stream == 0 || first == "none":
			return []string{data}
		case source == first:
			held = append(held, data)
			return nil
		}
		first = "none"
		return append([]string{data}, held...)
	}}, func(b *bench) { b.Publishers = 2 })
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"2 different orders of the same updates"}; !slices.Equal(report.Results[0].Problems, want) {
		t.Errorf("got %q, want %q", report.Results[0].Problems, want)
	}
}

func TestRefusedPublishes(t *testing.T) {
	t.Parallel()
	honest := &liar{deliver: func(_, _ int, data string) []string { return []string{data} }}
	var mu sync.Mutex
	n := 0
	overloaded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		refuse := r.Method == http.MethodPost && n%10 == 0
		mu.Unlock()
		if refuse {
			http.Error(w, "too much", http.StatusServiceUnavailable)
			return
		}
		honest.ServeHTTP(w, r)
	})
	report, err := benchOf(t, overloaded, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := report.Results[0]
	if r.Lost != 0 || r.Refused == 0 || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "503 Service Unavailable to a publisher: too much") {
		t.Errorf("%d refused, %d lost: %q", r.Refused, r.Lost, r.Problems)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		honest := &liar{deliver: func(_, _ int, data string) []string { return []string{data} }}
		_, err := benchOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == method {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, `{"title": "no token"}`)
				return
			}
			honest.ServeHTTP(w, r)
		}), nil)
		status, ok := errors.AsType[*statusError](err)
		if !ok || status.code() != http.StatusUnauthorized || !strings.Contains(err.Error(), "--token") {
			t.Errorf("%s: got %v", method, err)
		}
	}
}

func TestHubOverTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(&liar{})
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	_, err := benchOf(t, http.NotFoundHandler(), func(b *bench) { b.Targets[0].URLs = []string{server.URL} })
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody knows: got %v", err)
	}
}
