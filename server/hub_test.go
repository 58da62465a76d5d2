package server_test

import (
	"net/url"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

func TestPublishReachesSubscriber(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"topic": {"https://example.com/books/{id}"}}})
	id := hub.Publish(t, url.Values{"topic": {"https://example.com/books/1"}, "data": {"hello\nworld"}})
	if got, want := stream.Next(t), (servertest.Event{ID: id, Data: "hello\nworld"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
