package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// canPoll: sockets can be read without a goroutine for each.
const canPoll = true

const (
	// pollWait is how long a poller may not notice that it shall end.
	pollWait = 10 // milliseconds
	pollSize = 512
	// readSize is as much as is read of a stream before it is another's turn.
	readSize = 256 << 10
	// bindAddressNoPort leaves the choice of the port to connect, which knows
	// that ports may be used once for each pair of addresses.
	bindAddressNoPort = 24
)

// poller reads streams from sockets that do not block: all of it, from
// connecting to the last event, happens in one goroutine.
type poller struct {
	plan    *plan
	targets []*target
	to      *sink
	epoll   int
	streams []*socket
	// next is the first stream that has not been begun, oldest the first that is
	// not open; connecting is how many are between the two states.
	next, oldest, connecting int
	buffer                   []byte
}

// socket is a stream and its descriptor.
type socket struct {
	*stream
	// place is where it is in the poller's list.
	place int
	fd    int
	// request is what has not been sent of it.
	request []byte
}

// poll opens the streams and reads them until ctx ends. The error is the first
// that keeps a stream from being opened.
func poll(ctx context.Context, p *plan, targets []*target, streams []*stream, to *sink) error {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	w := &poller{plan: p, targets: targets, to: to, epoll: epoll, buffer: make([]byte, readSize)}
	for i, s := range streams {
		w.streams = append(w.streams, &socket{stream: s, place: i, fd: -1})
	}
	defer w.close()
	ready := make([]syscall.EpollEvent, pollSize)
	for ctx.Err() == nil {
		if err := w.connect(); err != nil {
			return err
		}
		n, err := syscall.EpollWait(epoll, ready, pollWait)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, event := range ready[:max(n, 0)] {
			if err := w.handle(w.streams[event.Fd], event.Events); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *poller) close() {
	for _, s := range w.streams {
		if s.fd >= 0 {
			_ = syscall.Close(s.fd)
		}
	}
	_ = syscall.Close(w.epoll)
}

// connect begins as many as may be connecting, and gives up if one takes too
// long. Those that do are the oldest.
func (w *poller) connect() error {
	for w.connecting < w.plan.Connecting && w.next < len(w.streams) {
		if err := w.begin(w.streams[w.next]); err != nil {
			return err
		}
		w.next++
		w.connecting++
	}
	for w.oldest < w.next && w.streams[w.oldest].opened {
		w.oldest++
	}
	if w.oldest < w.next && time.Now().UnixNano()-w.streams[w.oldest].began > int64(openTimeout) {
		return errSilent
	}
	return nil
}

func (w *poller) begin(s *socket) error {
	t := w.targets[s.index%len(w.targets)]
	s.began = time.Now().UnixNano()
	s.request = w.plan.request(t.url, s.index)
	family := syscall.AF_INET6
	if t.address.Addr().Is4() {
		family = syscall.AF_INET
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return explainDial(t, os.NewSyscallError("socket", err))
	}
	s.fd = fd
	if source := sourceAddress(t.address.Addr(), s.index); source.IsValid() {
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, bindAddressNoPort, 1)
		if err := syscall.Bind(fd, sockaddr(netip.AddrPortFrom(source, 0))); err != nil {
			return explainDial(t, os.NewSyscallError("bind", err))
		}
	}
	if err := syscall.Connect(fd, sockaddr(t.address)); err != nil && !errors.Is(err, syscall.EINPROGRESS) {
		return explainDial(t, os.NewSyscallError("connect", err))
	}
	event := syscall.EpollEvent{Events: syscall.EPOLLOUT, Fd: int32(s.place)}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(w.epoll, syscall.EPOLL_CTL_ADD, fd, &event))
}

func (w *poller) handle(s *socket, events uint32) error {
	if len(s.request) > 0 {
		return w.send(s, events)
	}
	wasOpen := s.opened
	err := w.read(s)
	if s.opened && !wasOpen {
		w.connecting--
	}
	switch {
	case err == nil:
		return nil
	case !wasOpen && !s.opened, !errors.Is(err, errEnded):
		return err
	}
	_ = syscall.Close(s.fd)
	s.fd = -1
	w.to.ended.Add(1)
	return nil
}

// send sends the request once the socket is connected.
func (w *poller) send(s *socket, events uint32) error {
	t := w.targets[s.index%len(w.targets)]
	code, err := syscall.GetsockoptInt(s.fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
	if err == nil && code != 0 {
		err = syscall.Errno(code)
	}
	if err != nil {
		return explainDial(t, os.NewSyscallError("connect", err))
	}
	if events&syscall.EPOLLOUT == 0 {
		return nil
	}
	n, err := syscall.Write(s.fd, s.request)
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		return explainDial(t, os.NewSyscallError("write", err))
	}
	s.request = s.request[max(n, 0):]
	if len(s.request) > 0 {
		return nil
	}
	s.request = nil
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(s.place)}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(w.epoll, syscall.EPOLL_CTL_MOD, s.fd, &event))
}

// read takes what is there. Reading once is enough: what is left is announced
// again.
func (w *poller) read(s *socket) error {
	n, err := syscall.Read(s.fd, w.buffer)
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return nil
	case err != nil && s.opened, n == 0 && s.opened:
		return errEnded
	case err != nil:
		return fmt.Errorf("open a stream: %w", os.NewSyscallError("read", err))
	case n == 0:
		return errors.New("the hub closed a connection without an answer")
	}
	return s.take(w.buffer[:n], w.plan, w.to)
}

func sockaddr(a netip.AddrPort) syscall.Sockaddr {
	if a.Addr().Is4() {
		return &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	to := &syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone, err := net.InterfaceByName(a.Addr().Zone()); err == nil {
		to.ZoneId = uint32(zone.Index)
	}
	return to
}
