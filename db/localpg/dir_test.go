package localpg

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// contents describes the entries of a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().IsRegular() {
			found[entry.Name()] = fmt.Sprintf("%v %d", info.Mode(), info.Size())
		} else {
			found[entry.Name()] = info.Mode().Type().String()
		}
	}
	return found
}

func TestForeignDirectory(t *testing.T) {
	t.Parallel()
	dir := keptDir(t)
	s := start(t, Options{Dir: dir, Throwaway: true, Settings: map[string]string{"autovacuum": "off"}})
	// What is left looks like a directory that a package of PostgreSQL made.
	for _, name := range []string{"password", "lock"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(s.logPath, maxLogBytes); err != nil {
		t.Fatal(err)
	}
	refused := func(dir string) {
		t.Helper()
		before := contents(t, dir)
		other, err := Start(t.Context(), Options{Dir: dir})
		if err == nil {
			t.Errorf("a server was started in %s", dir)
			if err := other.Stop(); err != nil {
				t.Error(err)
			}
			return
		}
		for _, want := range []string{dir, "PostgreSQL that is not cinnabar's", "MERCURE_DATA_DIR", "--data-dir", "DATABASE_URL"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in: %v", want, err)
			}
		}
		if after := contents(t, dir); !maps.Equal(after, before) {
			t.Errorf("%s was changed: %v, then %v", dir, before, after)
		}
	}
	refused(dir)
	refused(s.data)
	query[int](t, s.URL(""), "SELECT 1")
	select {
	case <-s.Done():
		t.Errorf("the server was ended: %v", s.Err())
	default:
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	refused(dir)
	refused(s.data)
}

func TestInterruptedInitialisation(t *testing.T) {
	t.Parallel()
	parent := keptDir(t)
	mkdir := func(path string, perm fs.FileMode) string {
		t.Helper()
		if err := os.MkdirAll(path, perm); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dir := mkdir(filepath.Join(parent, "any*"), 0o711)
	left := mkdir(filepath.Join(dir, initdbDir, "data-123", "base"), 0o700)
	others := []string{
		mkdir(filepath.Join(dir, "data.new-backup"), 0o700),
		mkdir(filepath.Join(parent, "anybody", "data.new-1"), 0o700),
		mkdir(filepath.Join(parent, "anybody", initdbDir), 0o700),
	}
	s := start(t, Options{Dir: dir, Throwaway: true})
	query[int](t, s.URL(""), "SELECT 1")
	for _, other := range others {
		if _, err := os.Stat(other); err != nil {
			t.Errorf("somebody else's directory: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, initdbDir)); err == nil {
		t.Errorf("%s is left", left)
	}
}

func TestLockEndsWithItsOwner(t *testing.T) {
	t.Parallel()
	dir := keptDir(t)
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	// As in a child process that has not executed its program yet.
	copied, err := syscall.Dup(int(lock.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(copied)
	if err := unlockDir(lock); err != nil {
		t.Fatal(err)
	}
	if lock, err = lockDir(dir); err != nil {
		t.Fatal(err)
	}
	lock.Close()
}
