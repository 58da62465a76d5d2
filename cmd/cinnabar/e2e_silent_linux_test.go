//go:build e2e

package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
)

// Hosts of the test. Their network exists nowhere else.
const (
	nearAddress = "192.0.2.1"
	farAddress  = "192.0.2.2"
	farHardware = "02:00:00:00:00:02"
	hubPort     = "3000"
)

// lateUpdate is how long after the cut one is published for a peer that was
// silent until then: shortly before the kernel would have given it up, it begins
// to wait for an answer anew. Heartbeats do the same.
const lateUpdate = 25 * time.Second

// TestEndToEndSilentPeers takes the network from peers in every state that a
// connection can be in: no FIN comes, no RST, no ICMP, nothing. The hub forgets
// them within a minute. Needs root and iproute2.
//
// Spec: S-23.
func TestEndToEndSilentPeers(t *testing.T) {
	t.Parallel()
	db := dbtest.New(t)
	conn := db.Conn(t)
	near, far := newMachine(t), newMachine(t)
	connect(t, near, far)
	h := newHub(t, build(t), throughSocket(t, db.URL), "http://localhost",
		"MERCURE_ADDR="+nearAddress+":"+hubPort, "MERCURE_ANONYMOUS=on", "MERCURE_HEARTBEAT=0s", "MERCURE_LOG_LEVEL=debug")
	h.launch(t, near.command(t, h.binary, "serve"))
	eventually(t, "the hub listens", func() bool {
		return h.runs(t) && strings.Contains(h.output.String(), "hub started")
	})

	token := h.token(t, server.TokenSpec{Dialect: server.Dialect0, Publish: []server.MatcherSpec{{Match: "*"}}})
	peers := far.peers(t, []peer{
		{name: "stream with nothing to send", request: get("?match=idle"), until: ":"},
		{name: "stream with something to send", request: get("?match=busy"), until: ":"},
		{name: "stream with something to send later", request: get("?match=late"), until: ":"},
		{name: "between two requests", request: "HEAD /healthz HTTP/1.1\r\nHost: hub\r\n\r\n", until: "HTTP/1.1 200 OK"},
		{
			name: "amid a request body", until: "HTTP/1.1 100 Continue",
			request: "POST " + hubPath + " HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer " + token + "\r\nExpect: 100-continue\r\n" +
				"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\n",
			rest: "topic=body&data=",
		},
		{name: "amid request headers", request: "GET " + hubPath + " HTTP/1.1\r\nHost: h"},
		{name: "before a request"},
	})
	eventually(t, "the hub has all connections", func() bool { return len(near.open(t)) == len(peers) })

	far.cut(t)
	began := time.Now()
	heard := near.heard(t)
	mustInsert(t, conn, "busy", false, "1")
	late := time.After(lateUpdate)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for len(peers) > 0 && time.Since(began) < time.Minute {
		select {
		case <-late:
			mustInsert(t, conn, "late", false, "1")
		case <-tick.C:
		}
		open := near.open(t)
		for address, name := range peers {
			if !open[address] {
				t.Logf("%-40s forgotten after %s", name, time.Since(began).Round(time.Second))
				delete(peers, address)
			}
		}
	}
	for _, name := range peers {
		t.Errorf("%s: not forgotten within a minute", name)
	}
	if n := near.heard(t); n != heard {
		t.Errorf("%d segments came from peers that were to be silent", n-heard)
	}
	if n := strings.Count(h.output.String(), `"stream ended"`); n != 3 {
		t.Errorf("%d streams ended, want 3", n)
	}
}

func get(query string) string {
	return "GET " + hubPath + query + " HTTP/1.1\r\nHost: hub\r\n\r\n"
}

// throughSocket makes a database reachable from every network, by a Unix socket.
func throughSocket(t *testing.T, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(directory, ".s.PGSQL."+u.Port()))
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	t.Cleanup(func() { // after the hub has been killed
		_ = listener.Close()
		_ = group.Wait()
	})
	target := u.Host
	group.Go(func() error { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return err
			}
			group.Go(func() error { return relay(conn, target) })
		}
	})
	query := u.Query()
	query.Set("host", directory)
	query.Set("port", u.Port())
	u.Host, u.RawQuery = "", query.Encode()
	return u.String()
}

// relay ends when one of both sides does.
func relay(conn net.Conn, target string) error {
	server, err := net.Dial("tcp", target) //nolint:noctx // on this machine
	if err != nil {
		return conn.Close()
	}
	var group errgroup.Group
	carry := func(to, from net.Conn) error {
		_, err := io.Copy(to, from)
		_, _ = to.Close(), from.Close()
		return err
	}
	group.Go(func() error { return carry(server, conn) })
	group.Go(func() error { return carry(conn, server) })
	return group.Wait()
}

// machine is one as far as the network is concerned.
type machine struct {
	pid string // of the process that holds its network
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	holder := exec.CommandContext(t.Context(), "cat") // ends with its input, also if this process is killed
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	input, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatalf("make a network, as root: %v", err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		_ = holder.Wait()
	})
	return &machine{pid: strconv.Itoa(holder.Process.Pid)}
}

// connect lays a cable. The near machine never asks again where the far one is:
// that it gets no answer to that would tell it that somebody is gone.
func connect(t *testing.T, near, far *machine) {
	t.Helper()
	ip := func(m *machine, args ...string) {
		t.Helper()
		run(t, m.command(t, "ip", args...))
	}
	run(t, exec.CommandContext(t.Context(), "ip", "link", "add", "eth0", "netns", near.pid, "type", "veth", "peer", "name", "eth0", "netns", far.pid))
	ip(far, "link", "set", "eth0", "address", farHardware)
	ip(near, "address", "add", nearAddress+"/24", "dev", "eth0")
	ip(far, "address", "add", farAddress+"/24", "dev", "eth0")
	ip(near, "link", "set", "eth0", "up")
	ip(far, "link", "set", "eth0", "up")
	ip(near, "neighbour", "add", farAddress, "lladdr", farHardware, "nud", "permanent", "dev", "eth0")
}

// command is run in the network of the machine.
func (m *machine) command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), "nsenter", append([]string{"--target", m.pid, "--net", "--", name}, args...)...)
}

// cut drops everything that the machine would say to the hub.
func (m *machine) cut(t *testing.T) {
	t.Helper()
	run(t, m.command(t, "ip", "route", "add", "blackhole", nearAddress+"/32"))
}

// open returns the remote addresses of connections that a process still has.
// Those that only the kernel remembers belong to none.
func (m *machine) open(t *testing.T) map[string]bool {
	t.Helper()
	const remote, state, inode = 2, 3, 9 // columns, from zero
	const listening = "0A"
	found := map[string]bool{}
	for line := range strings.Lines(m.read(t, "tcp")) {
		columns := strings.Fields(line)
		if len(columns) > inode && strings.Contains(columns[remote], ":") && columns[state] != listening && columns[inode] != "0" {
			found[columns[remote]] = true
		}
	}
	return found
}

// heard is how many TCP segments have come.
func (m *machine) heard(t *testing.T) int {
	t.Helper()
	var names []string
	for line := range strings.Lines(m.read(t, "snmp")) {
		columns := strings.Fields(line)
		if columns[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = columns
			continue
		}
		for i, name := range names {
			if name == "InSegs" {
				n, err := strconv.Atoi(columns[i])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
	}
	t.Fatal("the kernel does not count TCP segments")
	return 0
}

func (m *machine) read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile("/proc/" + m.pid + "/net/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// peer is a client that stops talking. It sends its request, waits until the
// answer has a line that begins with until, and sends the rest.
type peer struct {
	name, request, until, rest string
}

// peers connects them all, and returns their names by their addresses as the
// kernel writes them.
func (m *machine) peers(t *testing.T, peers []peer) map[string]string {
	t.Helper()
	names := map[string]string{}
	for _, p := range peers {
		conn := m.dial(t, nearAddress+":"+hubPort)
		p.begin(t, conn)
		address := conn.LocalAddr().(*net.TCPAddr) //nolint:forcetypeassert // dialed as such
		ip := address.IP.To4()
		names[fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], address.Port)] = p.name
	}
	return names
}

// dial opens a connection that stays open until the test ends. A socket belongs
// to the network that its thread was in when it was made.
func (m *machine) dial(t *testing.T, address string) net.Conn {
	t.Helper()
	var conn net.Conn
	var group errgroup.Group
	group.Go(func() error {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		network, err := os.Open("/proc/" + m.pid + "/ns/net")
		if err != nil {
			return err
		}
		defer func() { _ = network.Close() }()
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		conn, err = (&net.Dialer{Timeout: deadline}).DialContext(t.Context(), "tcp", address)
		return err
	})
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// begin talks until the peer is to be silent.
func (p peer) begin(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, p.request); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	lines := bufio.NewScanner(conn)
	for p.until != "" && !strings.HasPrefix(lines.Text(), p.until) {
		if !lines.Scan() {
			t.Fatalf("%s: waiting for %q: %v", p.name, p.until, lines.Err())
		}
	}
	if _, err := io.WriteString(conn, p.rest); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
}
