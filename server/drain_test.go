package server_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// A hub that stops is not ready at once, turns new streams away, ends those
// there are evenly, and takes updates until the last one has ended.
//
// Spec: S-20, S-22, S-24.
func TestShutdownIsSpread(t *testing.T) {
	t.Parallel()
	const streams = 30
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.DrainTimeout = 2 * time.Second })
	root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
	request := servertest.Request{Query: url.Values{"match": {"a"}}, AsEventSource: true}
	ended := make(chan struct{}, streams)
	var readers sync.WaitGroup
	for range streams {
		stream := hub.Subscribe(t, request)
		readers.Go(func() {
			if _, err := stream.TryNext(t.Context()); !errors.Is(err, servertest.ErrEnded) {
				t.Errorf("a stream got %v", err)
			}
			if !strings.HasPrefix(stream.Retry(), "retry: ") {
				t.Errorf("a stream ended without being told when to come back: %q", stream.Retry())
			}
			ended <- struct{}{}
		})
	}
	hub.Stop()
	<-ended
	if ready := send(t, "GET", root+"/readyz", ""); ready.status != http.StatusServiceUnavailable {
		t.Errorf("readyz answers %d", ready.status)
	}
	if status, body := hub.Post(t, servertest.PublisherToken(t), "topic=b"); status != http.StatusOK {
		t.Errorf("publish answers %d: %s", status, body)
	}
	if soft := send(t, "HEAD", hub.URL+"?match=a", "", "Accept: text/event-stream", "Cache-Control: no-cache"); soft.status != http.StatusOK {
		t.Errorf("a browser is answered %d", soft.status)
	}
	if hard := send(t, "GET", hub.URL+"?match=a", ""); hard.status != http.StatusServiceUnavailable || hard.header.Get("Retry-After") == "" {
		t.Errorf("another client is answered %d", hard.status)
	}
	readers.Wait()
	if err := hub.Wait(context.Background()); err != nil {
		t.Error(err)
	}
}
