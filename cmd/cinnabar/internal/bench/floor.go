package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/hubproc"
)

// HiddenFloorCommand is what the program is called with to be the floor.
const HiddenFloorCommand = "bench-floor"

// floorName is the name of the target that is the floor.
const floorName = "floor"

// Floor starts what a hub cannot go below: a process that calls write(2) once
// for each stream and update, and does nothing else.
type Floor struct{ Program string }

// start runs one until stop is called.
func (f *Floor) start(ctx context.Context) (t Target, stop func() error, err error) {
	log, err := os.CreateTemp("", "cinnabar-bench-floor-*.log")
	if err != nil {
		return Target{}, nil, err
	}
	p := hubproc.Start(context.WithoutCancel(ctx), f.Program, HiddenFloorCommand, nil, log)
	stop = func() error {
		defer func() { _ = os.Remove(log.Name()) }()
		defer func() { _ = log.Close() }()
		return stopProcess(p)
	}
	if err := awaitStarted(ctx, p, log.Name()); err != nil {
		_ = stop()
		return Target{}, nil, err
	}
	t = Target{Name: floorName, URLs: []string{"http://" + p.Address + hubproc.Path}, Dialect: Dialect1, PIDs: []int{p.PID()}}
	return t, stop, nil
}

// ServeFloor is the floor until ctx ends. Like a hub it logs where it listens.
func ServeFloor(ctx context.Context, log io.Writer) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	f := newFloor()
	defer f.close()
	s := &http.Server{Handler: f, ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	slog.New(slog.NewJSONHandler(log, nil)).Info("hub started", "address", listener.Addr().String())
	if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// floor sends every update to every stream.
type floor struct {
	writers int

	mu  sync.Mutex
	fds []int // of the streams
	n   int   // of updates
}

func newFloor() *floor { return &floor{writers: runtime.GOMAXPROCS(0)} }

// ServeHTTP subscribes, or publishes.
func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		_, _ = io.WriteString(w, f.publish(r.PostFormValue("data")))
		return
	}
	if err := f.subscribe(w); err != nil {
		panic(err) // net/http logs it and closes the connection
	}
}

// floorHead is the head of a response that ends with its connection, and what a
// hub sends behind it.
const floorHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n:\n"

// subscribe takes a descriptor of the connection's own, out of the care of the
// runtime's poller.
func (f *floor) subscribe(w http.ResponseWriter) error {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.TCPConn).SyscallConn() //nolint:forcetypeassert // it listens for no other
	if err != nil {
		return err
	}
	fd := -1
	if controlErr := raw.Control(func(own uintptr) {
		fd, err = syscall.Dup(int(own)) // which does not block either
	}); controlErr != nil {
		return controlErr
	}
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	// With the lock held: who has the head gets every update from then on.
	f.mu.Lock()
	defer f.mu.Unlock()
	if writeAll(fd, []byte(floorHead)) {
		f.fds = append(f.fds, fd)
	}
	return nil
}

// publish returns when the update is written to every stream.
func (f *floor) publish(data string) (id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	id = fmt.Sprintf("urn:uuid:00000000-0000-4000-8000-%012d", f.n)
	block := []byte("id: " + id + "\ndata: " + data + "\n\n")
	var work sync.WaitGroup
	for i := range f.writers {
		part := f.fds[len(f.fds)*i/f.writers : len(f.fds)*(i+1)/f.writers]
		work.Go(func() { writeToEach(part, block) })
	}
	work.Wait()
	open := f.fds[:0]
	for _, fd := range f.fds {
		if fd >= 0 {
			open = append(open, fd)
		}
	}
	f.fds = open
	return id
}

// writeToEach puts -1 in the place of streams that have ended.
func writeToEach(fds []int, block []byte) {
	for i, fd := range fds {
		if !writeAll(fd, block) {
			fds[i] = -1
		}
	}
}

// writeAll closes a connection that does not take all of it at once: a hub
// would keep the rest, here the check shall find that it is missing.
func writeAll(fd int, b []byte) bool {
	for {
		n, err := syscall.Write(fd, b)
		if n == len(b) {
			return true
		}
		if !errors.Is(err, syscall.EINTR) {
			_ = syscall.Close(fd)
			return false
		}
	}
}

func (f *floor) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fd := range f.fds {
		_ = syscall.Close(fd)
	}
	f.fds = nil
}
