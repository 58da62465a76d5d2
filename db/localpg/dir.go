package localpg

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// DefaultDir is where the private server of `cinnabar serve` keeps its data: /var/lib/cinnabar for root, else the
// directory `cinnabar` among the user's data ($XDG_DATA_HOME, ~/.local/share, ~/Library/Application Support).
func DefaultDir() (string, error) {
	return defaultDir(os.Geteuid(), runtime.GOOS, os.Getenv)
}

func defaultDir(uid int, goos string, getenv func(string) string) (string, error) {
	if uid == 0 {
		return "/var/lib/cinnabar", nil
	}
	// The base directory specification has relative values ignored.
	if xdg := getenv("XDG_DATA_HOME"); goos != "darwin" && filepath.IsAbs(xdg) {
		return filepath.Join(xdg, "cinnabar"), nil
	}
	home := getenv("HOME")
	if !filepath.IsAbs(home) {
		return "", errors.New("no directory for the private PostgreSQL: HOME is not set")
	}
	if goos == "darwin" {
		return filepath.Join(home, "Library", "Application Support", "cinnabar"), nil
	}
	return filepath.Join(home, ".local", "share", "cinnabar"), nil
}

// LockedError reports that a live process is using the directory.
type LockedError struct {
	Dir string
	PID int // the owner; 0 if it has not written its id yet
}

func (e *LockedError) Error() string {
	owner := "another process"
	if e.PID != 0 {
		owner = "process " + strconv.Itoa(e.PID)
	}
	return fmt.Sprintf("%s is in use by %s: set DATABASE_URL in both to share one database, or use another directory",
		e.Dir, owner)
}

// openDir makes the directory, takes its lock, and fills in account and paths.
func (s *Server) openDir(ctx context.Context, opts Options) error {
	if opts.Dir == "" {
		return s.openTempDir(ctx, opts.Throwaway)
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return err
	}
	perm := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		perm = 0o711 // the account of the server must get through to data
	}
	if err := os.MkdirAll(dir, perm); err != nil {
		return err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	s.setDir(dir)
	if err := refuseForeign(dir, s.data); err != nil {
		return err
	}
	if s.lock, err = lockDir(dir); err != nil {
		return err
	}
	if s.account, err = serverAccount(s.data); err != nil {
		return err
	}
	return s.account.canReach(ctx, dir)
}

// refuseForeign fails if there is a PostgreSQL that we did not make: in the directory itself, or in data without the
// password, which is on disk before any data of ours. It comes before the lock, because it is not for us to write there.
func refuseForeign(dir, data string) error {
	refusal := func(place, sign string) error {
		return fmt.Errorf("%s holds a PostgreSQL that is not cinnabar's (%s): "+
			"name another directory (MERCURE_DATA_DIR, --data-dir) or set DATABASE_URL", place, sign)
	}
	switch _, err := os.Lstat(filepath.Join(dir, "PG_VERSION")); {
	case err == nil:
		return refusal(dir, "its data is not in a directory data")
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	have, err := dataMajor(data)
	if err != nil || have == 0 {
		return err
	}
	password := filepath.Join(dir, "password")
	_, err = os.Lstat(password)
	if errors.Is(err, os.ErrNotExist) {
		return refusal(data, "there is no "+password)
	}
	return err
}

// openTempDir makes a directory that belongs to the account of the server, so that the watchdog, who runs as that
// account, can remove it. TMPDIR may be private to root; /tmp is not.
func (s *Server) openTempDir(ctx context.Context, throwaway bool) error {
	var err error
	if s.account, err = serverAccount(""); err != nil {
		return err
	}
	bases := []string{os.TempDir(), "/tmp"}
	if throwaway && os.Getenv("TMPDIR") == "" && hasRoomInMemory() {
		bases = append([]string{memoryDir}, bases...)
	}
	var first error
	for _, base := range bases {
		err := s.tryTempDir(ctx, base)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// memoryDir is a file system in memory that every account may use, where Linux is. Databases are files, and making some
// hundred of them is what a test waits for: cloning and dropping a small database takes 21 ms there and 300 ms on an
// ext4 disk (BenchmarkNew of package dbtest).
const memoryDir = "/dev/shm"

// hasRoomInMemory asks for enough that a handful of test binaries do not fill it. Containers often have 64 MB.
func hasRoomInMemory() bool {
	const tmpfs, enough = 0x01021994, 2 << 30
	var st syscall.Statfs_t
	return runtime.GOOS == "linux" && syscall.Statfs(memoryDir, &st) == nil &&
		uint64(st.Type) == tmpfs && uint64(st.Bavail)*uint64(st.Bsize) >= enough //nolint:unconvert // the types differ between systems
}

func (s *Server) tryTempDir(ctx context.Context, base string) error {
	base, err := filepath.EvalSymlinks(base)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(base, "cinnabar-pg-")
	if err != nil {
		return err
	}
	if err = s.account.own(dir); err == nil {
		err = s.account.canReach(ctx, dir)
	}
	if err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	s.temp = true
	s.setDir(dir)
	return nil
}

func (s *Server) setDir(dir string) {
	s.dir = dir
	s.data = filepath.Join(dir, "data")
	s.logPath = filepath.Join(dir, "postgres.log")
}

// lockDir takes the lock of a directory for as long as this process lives; the kernel drops it however that ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		defer f.Close()
		b, _ := io.ReadAll(io.LimitReader(f, 32))
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b))) // 0 when the owner is just about to write it
		return nil, &LockedError{Dir: dir, PID: pid}
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// unlockDir gives up the lock. Closing the file is not enough: a process that another goroutine is just starting has a
// copy of the descriptor until it executes its program.
func unlockDir(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}

// dataMajor returns the major release that wrote a data directory, 0 if it does not exist or is empty. A data
// directory appears by rename, so it is never half-made.
func dataMajor(data string) (int, error) {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err == nil {
		major, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", filepath.Join(data, "PG_VERSION"), err)
		}
		return major, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	entries, err := os.ReadDir(data)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty, but not the data of a PostgreSQL either", data)
	}
	return 0, err
}

// writeSecret writes a file that only we, or the given account, can read.
func writeSecret(path, secret string, owner *account) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(secret + "\n")
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && owner != nil {
		err = owner.own(path)
	}
	return err
}

// maxLogBytes is when a start sets the log of the server aside; one old log is kept.
const maxLogBytes = 16 << 20

func rotateLog(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() < maxLogBytes {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Rename(path, path+".1")
}

func openLog(path string) (f *os.File, end int64, err error) {
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// withLog adds the last lines that were logged after the offset to an error.
func withLog(err error, path string, offset int64) error {
	const maxLines, maxBytes = 12, 8 << 10
	f, oerr := os.Open(path)
	if oerr != nil {
		return err
	}
	defer f.Close()
	if info, serr := f.Stat(); serr == nil && info.Size()-offset > maxBytes {
		offset = info.Size() - maxBytes
	}
	b, _ := io.ReadAll(io.NewSectionReader(f, offset, maxBytes)) // what could be read is better than nothing
	var lines []string
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		lines = append(lines, "\t"+sc.Text())
	}
	if len(lines) == 0 {
		return fmt.Errorf("%w (nothing in %s)", err, path)
	}
	lines = lines[max(0, len(lines)-maxLines):]
	return fmt.Errorf("%w; the last lines of %s:\n%s", err, path, strings.Join(lines, "\n"))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
