package dbtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/localpg"
)

// NewUpgraded starts what pg_upgrade makes of a server that was shut down: another cluster, with its own identifier and
// its first timeline, that has the databases and the passwords. The release is the same.
func NewUpgraded(t testing.TB, old *Server) *Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), setupTimeout)
	defer cancel()
	dir, err := os.MkdirTemp(old.Dir(), "upgraded-")
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	if err := copyPassword(old, dir); err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	if err := giveToOwner(dir, old.Dir()); err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	server, err := localpg.Start(ctx, localpg.Options{Dir: dir, Throwaway: true, URLVariable: "-"})
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Errorf("dbtest: %v", err)
		}
	})
	if err := server.Shutdown(ctx); err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	if err := pgUpgrade(ctx, old, dir); err != nil {
		t.Fatalf("dbtest: pg_upgrade: %v", err)
	}
	if err := server.Restart(ctx); err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	return &Server{Server: server, DB: &DB{URL: server.URL("cinnabar")}}
}

func pgUpgrade(ctx context.Context, old *Server, dir string) error {
	// It connects over a socket in a directory that nobody else may enter.
	from, to := filepath.Join(old.Dir(), "data"), filepath.Join(dir, "data")
	for _, data := range []string{from, to} {
		if err := trustSocket(filepath.Join(data, "pg_hba.conf")); err != nil {
			return err
		}
	}
	bin := old.Installation().BinDir
	//nolint:gosec // a test's own server says where its programs are
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "pg_upgrade"), "--old-bindir="+bin, "--new-bindir="+bin,
		"--old-datadir="+from, "--new-datadir="+to, "--socketdir="+dir, "--username=cinnabar", "--no-sync")
	cmd.Dir = dir
	if owner, other := ownerOf(from); other {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
	}
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

func trustSocket(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte("local all all trust\n"), content...), 0o600) //nolint:gosec // a file of a test's own server; its owner stays
}
