package dbtest

import (
	"context"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/localpg"
)

// NewStandby starts a streaming replica of a server, for tests that lose the primary. SELECT pg_promote() makes it one.
// It has the passwords of the primary, and settings of its own.
func NewStandby(t testing.TB, primary *Server, settings ...string) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), setupTimeout)
	defer cancel()
	parsed, err := parseSettings(settings)
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	dir, err := baseBackup(ctx, primary)
	if err != nil {
		t.Fatalf("dbtest: copy the primary: %v", err)
	}
	server, err := localpg.Start(ctx, localpg.Options{Dir: dir, Settings: parsed, Throwaway: true, URLVariable: "-"})
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Errorf("dbtest: %v", err)
		}
	})
	return &Server{Server: server, DB: &DB{URL: server.URL("cinnabar")}}
}

// baseBackup makes a directory that package localpg can start, within that of the primary: it goes away with it.
func baseBackup(ctx context.Context, primary *Server) (dir string, err error) {
	dir, err = os.MkdirTemp(primary.Dir(), "standby-")
	if err != nil {
		return "", err
	}
	address, err := url.Parse(primary.DB.URL)
	if err != nil {
		return "", err
	}
	password, _ := address.User.Password()
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(primary.Installation().BinDir, "pg_basebackup"),
		"--dbname="+primary.DB.URL, "--pgdata="+filepath.Join(dir, "data"), "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return dir, giveToOwner(dir, primary.Dir())
}

// giveToOwner makes whoever owns one directory the owner of everything in another: PostgreSQL does not run as root.
func giveToOwner(dir, of string) error {
	info, err := os.Stat(filepath.Join(of, "data"))
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
}
