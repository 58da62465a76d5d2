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
	if err := copyPassword(primary, dir); err != nil {
		return "", err
	}
	//nolint:gosec // a test's own server says where its programs are
	cmd := exec.CommandContext(ctx, filepath.Join(primary.Installation().BinDir, "pg_basebackup"),
		"--dbname="+primary.DB.URL, "--pgdata="+filepath.Join(dir, "data"), "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return dir, giveToOwner(dir, primary.Dir())
}

// copyPassword lets package localpg find the password of a server in a directory.
func copyPassword(of *Server, dir string) error {
	address, err := url.Parse(of.DB.URL)
	if err != nil {
		return err
	}
	password, _ := address.User.Password()
	return os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600)
}

// giveToOwner gives everything in a directory to the account that a server runs as.
func giveToOwner(dir, server string) error {
	owner, other := ownerOf(filepath.Join(server, "data"))
	if !other {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
}

// ownerOf is the account that a file belongs to; other: it is not ours, and we may act for it. PostgreSQL does not run
// as root.
func ownerOf(path string) (owner *syscall.Credential, other bool) {
	info, err := os.Stat(path)
	if err != nil || os.Geteuid() != 0 {
		return nil, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, false
	}
	return &syscall.Credential{Uid: stat.Uid, Gid: stat.Gid}, true
}
