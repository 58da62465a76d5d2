package localpg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("LOCALPG_TEST_CHILD"); mode != "" {
		os.Exit(child(mode))
	}
	goleak.VerifyTestMain(m)
}

// start starts a server that ends with the test.
func start(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// keptDir makes a directory that the account of the server can reach.
func keptDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "localpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func query[T any](t *testing.T, url, sql string, args ...any) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}

// eventually is for the state of other processes, which cannot be waited for in another way.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func TestStartInTemporaryDirectory(t *testing.T) {
	t.Parallel()
	for _, throwaway := range []bool{true, false} {
		t.Run(fmt.Sprintf("throwaway=%t", throwaway), func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{
				Throwaway: throwaway,
				Database:  "Some Name",
				Settings:  map[string]string{"work_mem": "5MB", "port": "1", "listen_addresses": "*"},
			})
			url := s.URL("Some Name")
			want := "on"
			if throwaway {
				want = "off"
			}
			for setting, want := range map[string]string{
				"fsync": want, "synchronous_commit": "on", "server_encoding": "UTF8", "work_mem": "5MB",
				"listen_addresses": "127.0.0.1", "unix_socket_directories": "",
			} {
				if got := query[string](t, url, "SELECT current_setting($1)", setting); got != want {
					t.Errorf("%s is %q, want %q", setting, got, want)
				}
			}
			if got := query[bool](t, url, `SELECT 'B' < 'a'`); !got {
				t.Error("text does not sort by code point")
			}

			stolen := strings.Replace(url, s.password, "wrong", 1)
			if conn, err := pgx.Connect(t.Context(), stolen); err == nil {
				conn.Close(t.Context())
				t.Error("a wrong password is let in")
			}

			dir := s.Dir()
			if err := s.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := s.Stop(); err != nil {
				t.Errorf("second Stop: %v", err)
			}
			if err := s.Restart(t.Context()); !errors.Is(err, ErrStopped) {
				t.Errorf("Restart after Stop: %v", err)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", dir, err)
			}
		})
	}
}

func TestDataIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(keptDir(t), "new", "directory")
	first := start(t, Options{Dir: dir, Database: "cinnabar"})
	execute(t, first.URL("cinnabar"), "CREATE TABLE t AS SELECT 1 AS n")

	_, err := Start(t.Context(), Options{Dir: dir})
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.Dir != dir {
		t.Errorf("second server in the directory: %v", err)
	}
	if got := query[int](t, first.URL("cinnabar"), "SELECT n FROM t"); got != 1 {
		t.Errorf("the first server has %d", got)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}

	second := start(t, Options{Dir: dir, Database: "cinnabar"})
	if got := query[int](t, second.URL("cinnabar"), "SELECT n FROM t"); got != 1 {
		t.Errorf("after a restart: %d", got)
	}
	if err := second.Stop(); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("14\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), Options{Dir: dir})
	var version *VersionError
	if !errors.As(err, &version) || version.Data != 14 || version.Installed < MinMajor || !strings.Contains(err.Error(), dir) {
		t.Errorf("data of another release: %v", err)
	}
}

func TestStalePIDFile(t *testing.T) {
	t.Parallel()
	dir := keptDir(t)
	s := start(t, Options{Dir: dir, Throwaway: true})
	account := s.account
	if err := s.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(dir, "data", "postmaster.pid")
	content, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}

	t.Log("the process is gone")
	s = start(t, Options{Dir: dir, Throwaway: true})
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}

	t.Log("the number is another process's")
	other := exec.CommandContext(t.Context(), "sleep", "600")
	other.SysProcAttr = account.sysProcAttr()
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Wait() }()
	defer func() { _ = other.Process.Kill() }()
	_, rest, _ := strings.Cut(string(content), "\n")
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(other.Process.Pid)+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := account.own(pidFile); err != nil {
		t.Fatal(err)
	}
	s = start(t, Options{Dir: dir, Throwaway: true})
	query[int](t, s.URL(""), "SELECT 1")
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process was ended: %v", err)
	}
}

func TestInterruptAndRestart(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Throwaway: true, Settings: map[string]string{"autovacuum": "off"}})
	url := s.URL("")
	execute(t, url, "CREATE TABLE t (n int)")
	for n, interrupt := range []func(context.Context) error{s.Crash, s.Kill, s.Shutdown, s.Restart} {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "INSERT INTO t VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		before := s.PID()
		if err := interrupt(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := conn.Ping(t.Context()); err == nil {
			t.Error("a session survived")
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.PID() == before || s.URL("") != url {
			t.Errorf("pid %d -> %d, URL %s -> %s", before, s.PID(), url, s.URL(""))
		}
		if got := query[int](t, url, "SELECT count(*) FROM t"); got != n+1 {
			t.Errorf("%d of %d rows are left", got, n+1)
		}
		select {
		case <-s.Done():
			t.Errorf("an end that was asked for is reported: %v", s.Err())
		default:
		}
	}
}

func TestUnexpectedEnd(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Throwaway: true})
	if err := syscall.Kill(s.PID(), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(time.Minute):
		t.Fatal("nobody noticed")
	}
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "immediate shutdown") {
		t.Errorf("error without the end of the log: %v", err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Err(); err != nil {
		t.Errorf("a new life begins with %v", err)
	}
	query[int](t, s.URL(""), "SELECT 1")
}

func TestPortTakenWhileDown(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Throwaway: true})
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.logPath)
	if err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port())))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	restarted := make(chan error, 1)
	go func() { restarted <- s.Restart(t.Context()) }()
	eventually(t, "no attempt to start", func() bool {
		now, err := os.Stat(s.logPath)
		return err != nil || now.Size() > info.Size()
	})
	l.Close()
	if err := <-restarted; err != nil {
		t.Fatal(err)
	}
	query[int](t, s.URL(""), "SELECT 1")
}

func TestStartFailures(t *testing.T) {
	t.Parallel()
	t.Run("a setting that does not exist", func(t *testing.T) {
		t.Parallel()
		_, err := Start(t.Context(), Options{Throwaway: true, Settings: map[string]string{"no_such_setting": "1"}})
		if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
			t.Errorf("error without the reason: %v", err)
		}
	})
	t.Run("something that is no setting", func(t *testing.T) {
		t.Parallel()
		_, err := Start(t.Context(), Options{Settings: map[string]string{"a=b": "1"}})
		if err == nil || !strings.Contains(err.Error(), `"a=b"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no binaries", func(t *testing.T) {
		t.Parallel()
		dir := keptDir(t)
		_, err := Start(t.Context(), Options{Dir: dir, BinDir: dir, URLVariable: "MY_URL"})
		if !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), "or set MY_URL") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a directory with something else in it", func(t *testing.T) {
		t.Parallel()
		dir := keptDir(t)
		if err := os.MkdirAll(filepath.Join(dir, "data", "precious"), 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := Start(t.Context(), Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "not the data of a PostgreSQL") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		dir := keptDir(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("changed my mind")
		failed := make(chan error, 1)
		go func() {
			_, err := Start(ctx, Options{Dir: dir})
			failed <- err
		}()
		eventually(t, "initdb does not begin", func() bool { return initialising(dir) })
		cancel(why)
		if err := <-failed; !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
		if initialising(dir) {
			t.Error("half-made data is left")
		}
	})
	t.Run("a directory that the server's account cannot enter", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() != 0 {
			t.Skip("only root runs the server under another account")
		}
		private := filepath.Join(keptDir(t), "private")
		if err := os.Mkdir(private, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := Start(t.Context(), Options{Dir: filepath.Join(private, "below")})
		if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), "may not enter "+private+":") {
			t.Errorf("got %v", err)
		}
	})
}

// initialising reports whether initdb has begun.
func initialising(dir string) bool {
	found, _ := filepath.Glob(filepath.Join(dir, initdbDir, "*", "PG_VERSION"))
	return len(found) > 0
}
