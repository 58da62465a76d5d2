package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// tooLong is less than what the others watch a lease stand still for: a node
// that was kept from renewing it for so long may be given up.
const tooLong = 10 * time.Second

// presenceNode is one hub, in one life after the other, behind a proxy of its
// own to the database.
type presenceNode struct {
	index   int
	environ []string
	home    string
	proxy   *dbtest.Proxy

	mu sync.Mutex
	// present is the last process; nil: there was none yet.
	present *life
	// held is closed when it may be started again; nil: it may.
	held chan struct{}
}

// life is one process of a node.
type life struct {
	node   int
	cmd    *exec.Cmd
	log    *transcript
	exited chan struct{}
	// url is set once it serves.
	url string

	mu sync.Mutex
	// troubled is since when its subscriptions may be ended, because it was
	// killed, told to stop, or is cut off for too long; zero: they may not.
	troubled time.Time
	killed   bool
}

// trouble notes that from now on ends are not false.
func (l *life) trouble(killed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.troubled.IsZero() {
		l.troubled, l.killed = time.Now(), killed
	}
}

func (l *life) troubledSince() (since time.Time, killed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.troubled, l.killed
}

// run starts the process again and again until ctx ends, and then stops it in
// order.
func (n *presenceNode) run(ctx context.Context, problem func(string, ...any)) {
	for n.await(ctx) {
		l, err := n.start()
		if err != nil {
			problem("node %d: %v", n.index, err)
			return
		}
		n.serve(ctx, l)
		select {
		case <-l.exited:
			if since, _ := l.troubledSince(); l.url != "" && since.IsZero() {
				problem("node %d ended by itself:\n%s", n.index, l.log)
			}
		case <-ctx.Done():
			l.stop(problem)
		}
		pause(ctx, 100*time.Millisecond) // it does not start without its database
	}
}

// await waits until the node may be started; false: ctx has ended.
func (n *presenceNode) await(ctx context.Context) bool {
	n.mu.Lock()
	held := n.held
	n.mu.Unlock()
	if held == nil {
		return ctx.Err() == nil
	}
	select {
	case <-held:
		return true
	case <-ctx.Done():
		return false
	}
}

func (n *presenceNode) start() (*life, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l := &life{node: n.index, log: newTranscript(), exited: make(chan struct{})}
	l.cmd = exec.Command(program, "serve") //nolint:noctx // it is to end in order
	l.cmd.Env = append([]string{asCommand + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + n.home}, n.environ...)
	l.cmd.Stdout, l.cmd.Stderr = l.log, l.log
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // ends with the process
		defer close(l.exited)
		_ = l.cmd.Wait()
	}()
	return l, nil
}

// serve returns when the process serves, has ended, or ctx has.
func (n *presenceNode) serve(ctx context.Context, l *life) {
	for {
		l.log.mu.Lock()
		text, changed := string(l.log.text), l.log.changed
		l.log.mu.Unlock()
		if _, started, ok := strings.Cut(text, `"hub started","address":"`); ok {
			address, _, complete := strings.Cut(started, `"`)
			if complete {
				l.url = "http://" + address + hubPath
				n.mu.Lock()
				n.present = l
				n.mu.Unlock()
				return
			}
		}
		select {
		case <-changed:
		case <-l.exited:
			return
		case <-ctx.Done():
			return
		}
	}
}

// stop ends it in order.
func (l *life) stop(problem func(string, ...any)) {
	l.trouble(false)
	_ = l.cmd.Process.Signal(syscall.SIGCONT)
	_ = l.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-l.exited:
		if code := l.cmd.ProcessState.ExitCode(); code != exitOK && l.url != "" && !l.wasKilled() {
			problem("node %d stopped with %d:\n%s", l.node, code, l.log)
		}
	case <-time.After(patience):
		problem("node %d does not stop:\n%s", l.node, l.log)
		_ = l.cmd.Process.Kill()
		<-l.exited
	}
}

func (l *life) wasKilled() bool {
	_, killed := l.troubledSince()
	return killed
}

// current is the last process that served; nil: there was none.
func (n *presenceNode) current() *life {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.present
}

// hold keeps the node down, once it has ended, until release is called.
func (n *presenceNode) hold() (release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := make(chan struct{})
	n.held = held
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.held = nil
		close(held)
	}
}

// kill keeps it down until release is called.
func (n *presenceNode) kill() (release func()) {
	release = n.hold()
	l := n.current()
	l.trouble(true)
	_ = l.cmd.Process.Kill()
	return release
}

// term tells it to stop, and keeps it down until release is called.
func (n *presenceNode) term() (release func()) {
	release = n.hold()
	l := n.current()
	l.trouble(false)
	_ = l.cmd.Process.Signal(syscall.SIGTERM)
	return release
}

// freeze stops the process for a while.
func (n *presenceNode) freeze(length time.Duration) (lift func()) {
	l := n.current()
	if length >= tooLong {
		l.trouble(false)
	}
	_ = l.cmd.Process.Signal(syscall.SIGSTOP)
	return func() { _ = l.cmd.Process.Signal(syscall.SIGCONT) }
}

// cut takes the database away from it for a while: connections hang, or are
// refused.
func (n *presenceNode) cut(length time.Duration, hang bool) (lift func()) {
	if length >= tooLong {
		n.current().trouble(false)
	}
	if hang {
		n.proxy.Set(dbtest.Fault{Hold: true})
	} else {
		n.proxy.Set(dbtest.Fault{Refuse: true})
		n.proxy.Cut()
	}
	return func() {
		if hang {
			n.proxy.Cut() // what has hung for so long does not come back
		}
		n.proxy.Set(dbtest.Fault{})
	}
}

// terminate ends all connections to the database.
func terminate(ctx context.Context, db *dbtest.DB) error {
	return onDatabase(ctx, db, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		return err
	})
}

// onDatabase lends a connection of its own: the server goes away now and then.
func onDatabase(ctx context.Context, db *dbtest.DB, do func(*pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, db.URL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return do(conn)
}

func queryValue[T any](t *testing.T, db *dbtest.DB, sql string, args ...any) (v T) {
	t.Helper()
	err := onDatabase(t.Context(), db, func(conn *pgx.Conn) error {
		return conn.QueryRow(t.Context(), sql, args...).Scan(&v)
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// pause waits; false: ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (n *presenceNode) String() string { return fmt.Sprintf("node %d", n.index) }
