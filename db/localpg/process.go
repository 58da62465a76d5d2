package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// launcher tells the watchdog the process id before the program itself begins, and holds the watchdog's leash until it
// has: however soon we are killed, there is never a process that the watchdog does not know.
const launcher = `echo "$0 $$" >&4 && exec 4>&- && exec "$@"`

// process is initdb or a postmaster, guarded by the watchdog.
type process struct {
	cmd    *exec.Cmd
	pid    int
	exited chan struct{} // closed by wait
	err    error         // how it ended; read after exited
	life   *os.File      // its end means that the process and all its descendants have ended
}

// launch starts a program; kind is what watchdog.sh calls it. The process is not bound to ctx.
func launch(ctx context.Context, dog *watchdog, a account, kind string, log *os.File, argv ...string) (*process, error) {
	lifeEnd, life, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer life.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", append([]string{"-c", launcher, kind}, argv...)...)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{life, dog.leash, dog.life}
	cmd.SysProcAttr = a.sysProcAttr()
	if err := cmd.Start(); err != nil {
		lifeEnd.Close()
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	p := &process{cmd: cmd, pid: cmd.Process.Pid, exited: make(chan struct{}), life: lifeEnd}
	go p.wait(dog)
	return p, nil
}

// wait ends when the process has ended.
func (p *process) wait(dog *watchdog) {
	p.err = p.cmd.Wait()
	dog.forget()
	close(p.exited)
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// step is one attempt to end a process: a signal and the time it is given to work.
type step struct {
	signal   syscall.Signal
	patience time.Duration
}

// end signals until the process has ended, then waits for its descendants. It returns early when ctx ends.
func (p *process) end(ctx context.Context, steps ...step) error {
	for _, st := range steps {
		if p.hasExited() {
			break
		}
		if err := p.cmd.Process.Signal(st.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("signal process %d: %w", p.pid, err)
		}
		timer := time.NewTimer(st.patience)
		select {
		case <-p.exited:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
	if !p.hasExited() {
		return fmt.Errorf("process %d does not end", p.pid)
	}
	return p.waitGone(ctx)
}

// waitGone waits until the descendants of the process have ended, too.
func (p *process) waitGone(ctx context.Context) error {
	// A backend that computes looks for a dead postmaster only when it next waits for something.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := p.life.SetReadDeadline(time.Time{}); err != nil {
		return nil // closed: they had ended before
	}
	stop := context.AfterFunc(ctx, func() { _ = p.life.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := p.life.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) {
		return p.life.Close()
	}
	return fmt.Errorf("wait for the descendants of process %d: %w", p.pid, errors.Join(err, context.Cause(ctx)))
}

// killGroup ends the process and all of its session's first process group at once.
func (p *process) killGroup() { _ = syscall.Kill(-p.pid, syscall.SIGKILL) }
