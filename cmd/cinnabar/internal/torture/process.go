package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is one life of a node.
type process struct {
	cmd *exec.Cmd
	// spawned is closed when there is a process, or never will be.
	spawned chan struct{}
	// started is closed when the hub says that it serves; then address is set.
	started chan struct{}
	address string
	// exited is closed when the process has ended; then err says how.
	exited chan struct{}
	err    error

	mu sync.Mutex
	// asked: its end was, so it is no failure.
	asked bool
}

// startProcess runs the program until it ends or ctx does, and copies what it
// logs.
func startProcess(ctx context.Context, program string, environ []string, log io.Writer) *process {
	p := &process{spawned: make(chan struct{}), started: make(chan struct{}), exited: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, program, "serve")
	p.cmd.Env = environ
	p.cmd.Stderr = &startWatcher{out: log, found: p.hasStarted}
	p.cmd.Stdout = log
	p.cmd.SysProcAttr = childAttributes()
	p.cmd.WaitDelay = 5 * time.Second
	go p.run() // ends with the process
	return p
}

// run keeps its thread for as long as the process lives, since that ends with
// the thread that started it.
func (p *process) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.exited)
	p.err = p.cmd.Start()
	close(p.spawned)
	if p.err == nil {
		p.err = p.cmd.Wait()
	}
}

func (p *process) hasStarted(address string) {
	p.address = address
	close(p.started)
}

// signal sends a signal, unless the process has ended.
func (p *process) signal(s syscall.Signal) {
	<-p.spawned
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// end is signal for those that shall end the process.
func (p *process) end(s syscall.Signal) {
	p.mu.Lock()
	p.asked = true
	p.mu.Unlock()
	p.signal(s)
}

func (p *process) wasAsked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// killed says that SIGKILL ended the process.
func (p *process) killed() bool {
	exit, ok := errors.AsType[*exec.ExitError](p.err)
	if !ok {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// startWatcher finds the line that says where the hub listens.
type startWatcher struct {
	out   io.Writer
	found func(address string)
	line  []byte
	done  bool
}

func (w *startWatcher) Write(data []byte) (int, error) {
	for rest := data; !w.done && len(rest) > 0; {
		line, after, complete := bytes.Cut(rest, []byte("\n"))
		w.line = append(w.line, line...)
		rest = after
		if !complete {
			break
		}
		var entry struct{ Msg, Address string }
		if json.Unmarshal(w.line, &entry) == nil && entry.Msg == "hub started" {
			w.done = true
			w.found(entry.Address)
		}
		w.line = w.line[:0]
	}
	return w.out.Write(data)
}
