//go:build !linux

package sse

import (
	"io"
	"sync"
)

// watcher notices peers that close, with a goroutine for each that reads. What
// it reads is thrown away: nothing is expected.
type watcher struct {
	readers sync.WaitGroup
	stopped chan struct{}
}

type watchID struct{}

func newWatcher() (*watcher, error) { return &watcher{stopped: make(chan struct{})}, nil }

func (w *watcher) add(c *client) error {
	in := c.socket.transport.(io.Reader) //nolint:forcetypeassert // see newTransport
	w.readers.Go(func() {
		var buffer [64]byte
		for {
			if _, err := in.Read(buffer[:]); err != nil {
				c.peerGone()
				return
			}
		}
	})
	return nil
}

// remove does nothing: the reader ends when the connection is closed.
func (w *watcher) remove(*client) {}

// run ends with stop.
func (w *watcher) run() {
	<-w.stopped
	w.readers.Wait()
}

func (w *watcher) stop() { close(w.stopped) }
