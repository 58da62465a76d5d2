package localpg

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"time"
)

//go:embed watchdog.sh
var watchdogScript string

// watchdog is a shell that ends the server when this process ends in a way that leaves no time for it.
//
// Asking the kernel instead (PR_SET_PDEATHSIG) exists on Linux only, and would end the server together with the thread
// that happened to start it. A shell is there wherever initdb works, because initdb itself needs one.
type watchdog struct {
	cmd    *exec.Cmd
	leash  *os.File      // what is running, see watchdog.sh; closed when we end
	life   *os.File      // inherited by every process of the server
	exited chan struct{} // closed when the shell has ended
	ending chan struct{} // closed when the shell may end
}

func newWatchdog(s *Server) (*watchdog, error) {
	leashEnd, leash, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer leashEnd.Close()
	lifeEnd, life, err := os.Pipe()
	if err != nil {
		leash.Close()
		return nil, err
	}
	defer lifeEnd.Close()

	first, remove := "INT", ""
	if s.temp {
		first, remove = "QUIT", s.dir
	}
	cmd := exec.CommandContext(context.Background(), // it ends after everything else
		"/bin/sh", "-c", watchdogScript, "cinnabar-watchdog", first, remove, s.data)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stdin = leashEnd
	cmd.ExtraFiles = []*os.File{lifeEnd}
	cmd.SysProcAttr = s.account.sysProcAttr()
	if err := cmd.Start(); err != nil {
		leash.Close()
		life.Close()
		return nil, fmt.Errorf("start the watchdog: %w", err)
	}
	w := &watchdog{
		cmd:    cmd,
		leash:  leash,
		life:   life,
		exited: make(chan struct{}),
		ending: make(chan struct{}),
	}
	go w.wait(s.log)
	return w, nil
}

// wait ends when the shell has ended.
func (w *watchdog) wait(log *slog.Logger) {
	err := w.cmd.Wait()
	select {
	case <-w.ending:
	default:
		log.Warn("watchdog of the private postgresql ended; the server would survive a kill of this process",
			"error", err)
	}
	close(w.exited)
}

func (w *watchdog) alive() bool {
	select {
	case <-w.exited:
		return false
	default:
		return true
	}
}

// forget tells that nothing is running any more, so that a process id is not signalled after its reuse.
func (w *watchdog) forget() {
	_, _ = w.leash.WriteString("none 0\n") // fails when the shell has ended, which wait has logged
}

// end lets the shell end and waits for that. Nothing of the server may be running.
func (w *watchdog) end() {
	close(w.ending)
	w.forget()
	w.leash.Close()
	w.life.Close()
	// It has nothing left to do but to exit, unless a process of the server that we gave up on is still there.
	select {
	case <-w.exited:
	case <-time.After(5 * time.Second):
		_ = w.cmd.Process.Kill()
		<-w.exited
	}
}
