package server_test

import (
	"bytes"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// A private update keeps its mark on the way through the database to another
// node, and each connection is judged by the token it has now: one that comes
// back with fewer rights does not get what it once could have had.
//
// Spec: U-1, U-5, U-7, Z-6, H-2.
func TestPrivateUpdatesOnAnotherNode(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	var logged lockedBuffer
	publisher := servertest.Start(t, database)
	hub := servertest.Start(t, database, func(c *server.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	})
	const topic = "https://example.com/orders/17"
	query := url.Values{"topic": {topic}}
	granted := servertest.Token(t, servertest.SubscriberSecret, nil, []string{topic})
	other := servertest.Token(t, servertest.SubscriberSecret, nil, []string{"https://example.com/orders/18"})
	tokens := map[string]string{"granted": granted, "granted something else": other, "no token": ""}
	live := map[string]*servertest.Stream{}
	for name, token := range tokens {
		live[name] = hub.Subscribe(t, servertest.Request{Query: query, Token: token})
	}

	first := publisher.Publish(t, url.Values{"topic": {topic}, "data": {"first"}})
	publisher.Publish(t, url.Values{"topic": {topic}, "data": {"secret"}, "private": {"on"}})
	if _, err := database.Pool(t).Exec(t.Context(),
		"INSERT INTO mercure.outbox (topics, data, private) VALUES (ARRAY[$1], 'secret from SQL', true)", topic); err != nil {
		t.Fatal(err)
	}
	publisher.Publish(t, url.Values{"topic": {topic}, "data": {"end"}})

	for name, stream := range live {
		want := []string{"first", "end"}
		if name == "granted" {
			want = []string{"first", "secret", "secret from SQL", "end"}
		}
		if got := untilEnd(t, stream); !slices.Equal(got, want) {
			t.Errorf("%s, live: got %q, want %q", name, got, want)
		}
		stream.Close()
		// Whoever saw the first update comes back with this token.
		replay := hub.Subscribe(t, servertest.Request{Query: query, Token: tokens[name], LastEventID: first})
		if got := untilEnd(t, replay); !slices.Equal(got, want[1:]) {
			t.Errorf("%s, replayed: got %q, want %q", name, got, want[1:])
		}
	}
	if text := logged.String(); strings.Contains(text, "secret") {
		t.Errorf("the log shows a private update:\n%s", text)
	}
}

func untilEnd(t *testing.T, stream *servertest.Stream) []string {
	t.Helper()
	var got []string
	for len(got) == 0 || got[len(got)-1] != "end" {
		got = append(got, stream.Next(t).Data)
	}
	return got
}

// lockedBuffer is a bytes.Buffer that a hub may write to while a test reads.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
