package localpg

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// childState is what the child process of a test tells about its server.
type childState struct {
	PID, Watchdog int
	Dir, URL      string
}

// child is the main function of the child process: it starts a server and waits to be killed.
func child(mode string) int {
	s, err := Start(context.Background(), Options{Dir: os.Getenv("LOCALPG_TEST_DIR"), Throwaway: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if mode == "down" {
		if err := s.Crash(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	state := childState{PID: s.PID(), Watchdog: s.dog.cmd.Process.Pid, Dir: s.Dir(), URL: s.URL("")}
	if err := json.NewEncoder(os.Stdout).Encode(state); err != nil {
		return 1
	}
	if mode == "exit" {
		return 0
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent has ended
	return 1
}

// family is a child process and whatever it starts.
type family struct {
	cmd    *exec.Cmd
	stdout *bufio.Reader
	all    *os.File // its end means that all of them have ended
}

func startChild(t *testing.T, mode, dir string) *family {
	t.Helper()
	all, inherited, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { all.Close() })
	defer inherited.Close()
	// The number of the descriptor must be one that Start does not use for the processes it starts.
	extra := []*os.File{inherited, inherited, inherited, inherited, inherited, inherited}
	stdoutEnd, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdoutEnd.Close() })
	defer stdout.Close()

	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "LOCALPG_TEST_CHILD="+mode, "LOCALPG_TEST_DIR="+dir)
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	cmd.ExtraFiles = extra
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &family{cmd: cmd, stdout: bufio.NewReader(stdoutEnd), all: all}
	t.Cleanup(func() { f.kill() })
	return f
}

func (f *family) kill() {
	_ = f.cmd.Process.Kill()
	_ = f.cmd.Wait()
}

func (f *family) state(t *testing.T) childState {
	t.Helper()
	line, err := f.stdout.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var state childState
	if err := json.Unmarshal(line, &state); err != nil {
		t.Fatal(err)
	}
	return state
}

// awaitEnd waits until no process of the family is left.
func (f *family) awaitEnd(t *testing.T) {
	t.Helper()
	if err := f.all.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.all.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("something is left of the killed process: %v", err)
	}
}

func TestNothingSurvivesTheOwner(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"up", "down", "exit"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := startChild(t, mode, "")
			state := f.state(t)
			if mode == "exit" {
				_ = f.cmd.Wait()
			} else {
				f.kill()
			}
			f.awaitEnd(t)
			if _, err := os.Stat(state.Dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", state.Dir, err)
			}
		})
	}
}

func TestOwnerOfKeptDataIsKilled(t *testing.T) {
	t.Parallel()
	dir := keptDir(t)
	f := startChild(t, "up", dir)
	state := f.state(t)
	execute(t, state.URL, "CREATE TABLE t AS SELECT 1 AS n")

	_, err := Start(t.Context(), Options{Dir: dir})
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != f.cmd.Process.Pid {
		t.Errorf("got %v, want the process id %d", err, f.cmd.Process.Pid)
	}
	f.kill()
	// The watchdog is still at it.
	s := start(t, Options{Dir: dir, Throwaway: true})
	if got := query[int](t, s.URL(""), "SELECT n FROM t"); got != 1 {
		t.Errorf("got %d", got)
	}
	f.awaitEnd(t)
}

func TestOwnerAndWatchdogAreKilled(t *testing.T) {
	t.Parallel()
	dir := keptDir(t)
	f := startChild(t, "up", dir)
	state := f.state(t)
	execute(t, state.URL, "CREATE TABLE t AS SELECT 1 AS n")
	if err := syscall.Kill(state.Watchdog, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.kill()
	query[int](t, state.URL, "SELECT n FROM t") // the server does survive this

	s := start(t, Options{Dir: dir, Throwaway: true})
	if got := query[int](t, s.URL(""), "SELECT n FROM t"); got != 1 {
		t.Errorf("got %d", got)
	}
	f.awaitEnd(t)
}

func TestOwnerIsKilledDuringInitialisation(t *testing.T) {
	t.Parallel()
	dir := keptDir(t)
	f := startChild(t, "up", dir)
	eventually(t, "initdb does not begin", func() bool { return initialising(dir) })
	f.kill()
	s := start(t, Options{Dir: dir, Throwaway: true})
	query[int](t, s.URL(""), "SELECT 1")
	if initialising(dir) {
		t.Error("half-made data is left")
	}
	f.awaitEnd(t)
}

func TestWatchdogIsReplaced(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Throwaway: true})
	old := s.dog
	if err := old.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-old.exited
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.dog == old {
		t.Error("nobody watches")
	}
}

func TestWatchdogCannotBeReplaced(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Throwaway: true})
	if err := s.dog.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.dog.exited
	data := s.data
	s.data = "\x00" // no argument of a program
	for range 2 {
		if err := s.Restart(t.Context()); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("got %v", err)
		}
	}
	s.data = data
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !s.dog.alive() {
		t.Error("nobody watches")
	}
}
