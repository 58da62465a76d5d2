package localpg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pidFile is what we need of a postmaster.pid.
type pidFile struct {
	pid          int
	standalone   bool // the process is a postgres --single
	dir          string
	sharedMemory string // id of its System V segment
	status       string // starting, stopping, ready, standby
}

// readPIDFile reads what is there: the postmaster writes the file in several steps.
func readPIDFile(data string) (pidFile, error) {
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return pidFile{}, err
	}
	lines := strings.Split(string(b), "\n")
	line := func(n int) string {
		if n > len(lines) {
			return ""
		}
		return strings.TrimSpace(lines[n-1])
	}
	var f pidFile
	if f.pid, err = strconv.Atoi(line(1)); err != nil {
		return pidFile{}, fmt.Errorf("read the postmaster.pid of %s: %w", data, err)
	}
	if f.pid == 0 {
		return pidFile{}, fmt.Errorf("read the postmaster.pid of %s: 0 is no process", data)
	}
	if f.pid < 0 {
		f.pid, f.standalone = -f.pid, true
	}
	f.dir, f.status = line(2), line(8)
	if _, id, ok := strings.Cut(line(7), " "); ok {
		f.sharedMemory = strings.TrimSpace(id)
	}
	return f, nil
}

// endLeftBehind ends a postmaster that is still running in our directory, whose lock we have: its owner and the watchdog
// were both killed, or the watchdog is ending it just now. It is ended rather than adopted, because it may be of another
// release or run with other settings, and nobody is watching over it. A standalone backend is none of ours, and ending
// it would interrupt a repair. It reports whether the last server did not end in order.
func (s *Server) endLeftBehind(ctx context.Context) (unclean bool, err error) {
	f, err := readPIDFile(s.data)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return true, nil // postgres itself knows what to do with a pid file that it cannot read
	}
	if !isPostmasterOf(ctx, f.pid, s.data) {
		if syscall.Kill(f.pid, 0) == nil {
			// The number belongs to another process now, as happens all the time in containers. postgres would
			// not start: to it any live process could be the old postmaster.
			return true, os.Remove(filepath.Join(s.data, "postmaster.pid"))
		}
		return true, nil
	}
	if f.standalone {
		return true, fmt.Errorf("process %d (postgres --single) is working on %s: start again when it has ended", f.pid, s.data)
	}
	s.log.Warn("private postgresql left behind by a killed process is being ended", "dir", s.dir, "pid", f.pid)
	for _, st := range inOrder {
		if err := syscall.Kill(f.pid, st.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return true, fmt.Errorf("end the server left behind in %s, process %d: %w", s.dir, f.pid, err)
		}
		for end := time.Now().Add(st.patience); time.Now().Before(end); {
			if !isPostmasterOf(ctx, f.pid, s.data) {
				return true, nil
			}
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return true, err
			}
		}
	}
	return true, fmt.Errorf("the server left behind in %s, process %d, does not end", s.dir, f.pid)
}

// isPostmasterOf reports whether the process is a postgres at work in the data directory. A process that has ended
// but has not been waited for, as PID 1 of a container often neglects to, is none.
func isPostmasterOf(ctx context.Context, pid int, data string) bool {
	if runtime.GOOS == "linux" {
		proc := filepath.Join("/proc", strconv.Itoa(pid))
		at, err := os.Stat(filepath.Join(proc, "cwd")) // postgres changes into its data directory
		if err != nil {
			return false
		}
		want, err := os.Stat(data)
		if err != nil || !os.SameFile(at, want) {
			return false
		}
		cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		return err == nil && bytes.Contains(cmdline, []byte("postgres"))
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && bytes.Contains(out, []byte("postgres")) && bytes.Contains(out, []byte("-D "+data))
}
