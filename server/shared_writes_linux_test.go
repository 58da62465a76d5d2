package server_test

import (
	"encoding/binary"
	"net"
	"net/url"
	"syscall"
	"testing"
	"unsafe"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// Spec: W-8, W-9. What waits already is sent together; the head and the comment
// are alone.
func TestSharedWrites(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t))
	stream := ":\n"
	for _, data := range []string{"1", "2", "3"} {
		id := hub.Publish(t, url.Values{"topic": {"a"}, "data": {data}})
		stream += "id: " + id + "\ndata: " + data + "\n\n"
	}
	conn := connect(t, hub)
	_, reader := openOn(t, conn, "last_event_id=earliest&match=a")
	expect(t, reader, stream)
	if got := segmentsReceived(t, conn); got != 3 {
		t.Errorf("came in %d segments", got)
	}
}

// segmentsReceived is how many segments with data have come: each write of the
// hub makes one, if it is small.
func segmentsReceived(t *testing.T, conn net.Conn) (n uint32) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn() //nolint:forcetypeassert // dialed so
	if err != nil {
		t.Fatal(err)
	}
	const dataSegsIn = 152 // its place in the kernel's struct tcp_info
	var info [dataSegsIn + 4]byte
	size := uint32(len(info))
	var failed syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, failed = syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err != nil || failed != 0 || int(size) < len(info) {
		t.Fatalf("TCP_INFO: %v, %v, %d bytes", err, failed, size)
	}
	return binary.NativeEndian.Uint32(info[dataSegsIn:])
}
