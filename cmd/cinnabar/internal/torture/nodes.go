package torture

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/hubproc"
)

const (
	// startTimeout is how long a node may take to start. It may be waiting for
	// a database that does not answer.
	startTimeout = 30 * time.Second
	// stopTimeout is how long it may take to stop: its drain, and answering
	// publishers that wait for a database that does not answer.
	stopTimeout = 30 * time.Second
	// startPause is between two attempts to start. A hub does not start without
	// its database.
	startPause = 200 * time.Millisecond
)

// node is one hub, in one life after the other.
type node struct {
	index   int
	program string
	environ []string
	logPath string
	proxy   *proxy
	// problem is told about ends that nobody asked for.
	problem func(format string, args ...any)

	// turn is held by whoever disturbs the process.
	turn sync.Mutex

	mu sync.Mutex
	// process is the present or last one.
	process *hubproc.Process
	// held keeps it from being started; nil: it is not held.
	held chan struct{}
	// url is where it was last seen serving; empty: never.
	url string
	// serving is closed when url was set for the first time.
	serving chan struct{}
}

func newNode(index int, program string, environ []string, dir string, p *proxy, problem func(string, ...any)) *node {
	return &node{
		index: index, program: program, environ: environ, proxy: p, problem: problem,
		logPath: filepath.Join(dir, fmt.Sprintf("node-%d.log", index)), serving: make(chan struct{}),
	}
}

// run starts the process again and again until ctx ends.
func (n *node) run(ctx context.Context) error {
	log, err := os.OpenFile(n.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	for ctx.Err() == nil {
		p := n.start(ctx, log)
		if p == nil {
			break
		}
		n.watch(ctx, p)
		if !sleep(ctx, startPause) {
			break
		}
	}
	return nil
}

// start waits until the node is not held; nil: ctx has ended.
func (n *node) start(ctx context.Context, log *os.File) *hubproc.Process {
	for {
		n.mu.Lock()
		held := n.held
		if held == nil {
			// It outlives ctx, to be stopped in order.
			n.process = hubproc.Start(context.WithoutCancel(ctx), n.program, "serve", n.environ, log)
			p := n.process
			n.mu.Unlock()
			return p
		}
		n.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil
		}
	}
}

// watch returns when the process has ended, which it makes it do with ctx.
func (n *node) watch(ctx context.Context, p *hubproc.Process) {
	late := time.NewTimer(startTimeout)
	defer late.Stop()
	select {
	case <-p.Started:
		n.setURL("http://" + p.Address + hubproc.Path)
	case <-p.Exited:
		return // without its database, or killed: again
	case <-late.C:
		p.End(syscall.SIGKILL)
	case <-ctx.Done():
	}
	select {
	case <-p.Exited:
		if !p.WasAsked() {
			n.problem("node %d ended by itself: %v; see %s", n.index, p.Err, n.logPath)
		}
	case <-ctx.Done():
		n.stop(p)
	}
}

// stop ends a process in order, and the hard way if that takes too long.
func (n *node) stop(p *hubproc.Process) {
	select {
	case <-p.Exited:
		return
	default:
	}
	p.Signal(syscall.SIGCONT)
	p.End(syscall.SIGTERM)
	late := time.NewTimer(stopTimeout)
	defer late.Stop()
	select {
	case <-p.Exited:
		// It may have been told while it started, and then not succeed.
		if p.Err != nil && !p.Killed() && n.hasServed(p) {
			n.problem("node %d was told to stop and failed: %v; see %s", n.index, p.Err, n.logPath)
		}
	case <-late.C:
		n.problem("node %d did not stop within %s of SIGTERM; see %s", n.index, stopTimeout, n.logPath)
		p.End(syscall.SIGKILL)
		<-p.Exited
	}
}

func (n *node) hasServed(p *hubproc.Process) bool {
	select {
	case <-p.Started:
		return true
	default:
		return false
	}
}

// hold ends the process, in order or not, and keeps it down until release is
// called.
func (n *node) hold(inOrder bool) (release func()) {
	n.mu.Lock()
	held, p := make(chan struct{}), n.process
	n.held = held
	n.mu.Unlock()
	if inOrder {
		n.stop(p)
	} else {
		p.End(syscall.SIGKILL)
		<-p.Exited
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.held = nil
		close(held)
	}
}

// signal sends a signal to the present process.
func (n *node) signal(s syscall.Signal) {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	if p != nil {
		p.Signal(s)
	}
}

func (n *node) setURL(url string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.url == "" {
		close(n.serving)
	}
	n.url = url
}

// URL is where the hub is, or was.
func (n *node) URL() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.url
}

// root is the address without the path of the hub.
func (n *node) root() string { return strings.TrimSuffix(n.URL(), hubproc.Path) }
