package localpg

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStandaloneBackend(t *testing.T) {
	t.Parallel()
	dir := keptDir(t)
	s := start(t, Options{Dir: dir, Throwaway: true})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	single := exec.CommandContext(t.Context(), filepath.Join(s.install.BinDir, "postgres"), "--single", "-D", s.data, "postgres")
	single.Dir = "/"
	single.Env = environment()
	single.SysProcAttr = s.account.sysProcAttr()
	stdin, err := single.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := single.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- single.Wait() }() // ends with stdin
	defer stdin.Close()

	eventually(t, "no pid file", func() bool {
		f, err := readPIDFile(s.data)
		return err == nil && f.standalone && f.pid == single.Process.Pid
	})
	_, err = Start(t.Context(), Options{Dir: dir, Throwaway: true})
	if err == nil || !strings.Contains(err.Error(), "postgres --single") {
		t.Errorf("got %v", err)
	}
	if f, err := readPIDFile(s.data); err != nil || f.pid != single.Process.Pid {
		t.Errorf("the pid file of a live process is %+v, %v", f, err)
	}
	stdin.Close()
	if err := <-ended; err != nil {
		t.Errorf("the other process was disturbed: %v", err)
	}
	query[int](t, start(t, Options{Dir: dir, Throwaway: true}).URL(""), "SELECT 1")
}

// TestRecoveryTakesLong has recovery wait for a pipe, until the time to begin is over.
func TestRecoveryTakesLong(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(keptDir(t), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{Throwaway: true, Settings: map[string]string{"restore_command": "cat '" + pipe + "'"}})
	if err := s.account.own(pipe); err != nil {
		t.Fatal(err)
	}
	if err := s.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	signal := filepath.Join(s.data, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.account.own(signal); err != nil {
		t.Fatal(err)
	}
	over := make(chan time.Time)
	s.after = func(time.Duration) <-chan time.Time { return over }
	restarted := make(chan error, 1)
	go func() { restarted <- s.Restart(t.Context()) }() // ends when the pipe is gone

	var recovery *os.File
	eventually(t, "recovery does not begin", func() bool {
		var err error
		recovery, err = os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0) // fails while nobody reads
		return err == nil
	})
	close(over)
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	recovery.Close()
	if err := <-restarted; err != nil {
		t.Fatal(err)
	}
	query[int](t, s.URL(""), "SELECT 1")
}

func TestPostmasterDoesNotBegin(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Throwaway: true})
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	over := make(chan time.Time)
	close(over)
	s.after = func(time.Duration) <-chan time.Time { return over }
	err := s.Restart(t.Context())
	if err == nil || !strings.Contains(err.Error(), "has not begun to start") {
		t.Errorf("got %v", err)
	}
	s.after = time.After
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}
