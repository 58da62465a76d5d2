package hubproc

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

// Process is one life of a hub.
type Process struct {
	cmd *exec.Cmd
	// spawned is closed when there is a process, or never will be.
	spawned chan struct{}
	// Started is closed when the hub says that it serves; then Address is set.
	Started chan struct{}
	Address string
	// Exited is closed when the process has ended; then Err says how.
	Exited chan struct{}
	Err    error

	mu sync.Mutex
	// asked: its end was, so it is no failure.
	asked bool
}

// Start runs a command of the program, serve or one that logs its start like it,
// until it ends or ctx does, and copies what it logs, which has to be JSON. No
// environ is that of this process.
func Start(ctx context.Context, program, command string, environ []string, log io.Writer) *Process {
	p := &Process{spawned: make(chan struct{}), Started: make(chan struct{}), Exited: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, program, command) //nolint:gosec // both are ours
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
func (p *Process) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.Exited)
	p.Err = p.cmd.Start()
	close(p.spawned)
	if p.Err == nil {
		p.Err = p.cmd.Wait()
	}
}

func (p *Process) hasStarted(address string) {
	p.Address = address
	close(p.Started)
}

// Signal sends a signal, unless the process has ended.
func (p *Process) Signal(s syscall.Signal) {
	<-p.spawned
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// End is Signal for those that shall end the process.
func (p *Process) End(s syscall.Signal) {
	p.mu.Lock()
	p.asked = true
	p.mu.Unlock()
	p.Signal(s)
}

func (p *Process) WasAsked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// Killed says that SIGKILL ended the process.
func (p *Process) Killed() bool {
	exit, ok := errors.AsType[*exec.ExitError](p.Err)
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

// PID is that of the process, once it has started.
func (p *Process) PID() int { return p.cmd.Process.Pid }
