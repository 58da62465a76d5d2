package sse

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
)

// watcher notices peers that close, with one epoll instance for all. It never
// reads.
type watcher struct {
	epoll int
	// wakeRead and wakeWrite are a pipe: writing to it ends run.
	wakeRead, wakeWrite *os.File

	mu      sync.Mutex
	last    watchID
	clients map[watchID]*client
}

// watchID is never given twice, unlike a descriptor: an event that is late
// cannot be taken for another client's.
type watchID int64

const (
	// The system call package has this one as a negative number.
	edgeTriggered = 1 << 31
	peerClosed    = syscall.EPOLLRDHUP | syscall.EPOLLHUP | syscall.EPOLLERR
)

func newWatcher() (*watcher, error) {
	w := &watcher{clients: map[watchID]*client{}}
	var err error
	if w.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("watch connections: %w", err)
	}
	if w.wakeRead, w.wakeWrite, err = os.Pipe(); err != nil {
		_ = syscall.Close(w.epoll)
		return nil, fmt.Errorf("watch connections: %w", err)
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLIN}
	if err = syscall.EpollCtl(w.epoll, syscall.EPOLL_CTL_ADD, int(w.wakeRead.Fd()), &event); err != nil {
		w.close()
		return nil, fmt.Errorf("watch connections: %w", err)
	}
	return w, nil
}

func (w *watcher) add(c *client) error {
	w.mu.Lock()
	w.last++
	c.watch = w.last
	w.clients[c.watch] = c
	w.mu.Unlock()
	id := int64(c.watch)
	event := syscall.EpollEvent{Events: peerClosed | edgeTriggered, Fd: int32(id >> 32), Pad: int32(id)} //nolint:gosec // both halves
	var failed error
	err := c.socket.control(func(fd uintptr) {
		failed = syscall.EpollCtl(w.epoll, syscall.EPOLL_CTL_ADD, int(fd), &event)
	})
	return errors.Join(err, failed)
}

// remove forgets a client, whose descriptor leaves the epoll instance when it is
// closed.
func (w *watcher) remove(c *client) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.clients, c.watch)
}

// run ends with stop.
func (w *watcher) run() {
	defer w.close()
	events := make([]syscall.EpollEvent, 256)
	for {
		n, err := syscall.EpollWait(w.epoll, events, -1)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return // only a programming error is left
		}
		for _, event := range events[:max(n, 0)] {
			id := watchID(int64(event.Fd)<<32 | int64(uint32(event.Pad))) //nolint:gosec // both halves
			if id == 0 {
				return
			}
			w.mu.Lock()
			c := w.clients[id]
			w.mu.Unlock()
			if c != nil {
				c.peerGone()
			}
		}
	}
}

func (w *watcher) stop() { _, _ = w.wakeWrite.Write([]byte{0}) }

func (w *watcher) close() {
	_ = w.wakeRead.Close()
	_ = w.wakeWrite.Close()
	_ = syscall.Close(w.epoll)
}
