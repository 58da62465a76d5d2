package localpg

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// initdbDir is where a cluster is made. It is ours alone: what is in it was left behind by an interrupted initialisation.
const initdbDir = ".cinnabar-initdb"

// initialise makes the cluster beside its final place and moves it there when it is complete.
func (s *Server) initialise(ctx context.Context, throwaway bool) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	place := filepath.Join(s.dir, initdbDir)
	if err := os.RemoveAll(place); err != nil {
		return err
	}
	if err := os.Mkdir(place, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(place)
	if s.account.other {
		const passable = os.FileMode(0o711) // to the account of the server, whatever the umask
		if err := os.Chmod(place, passable); err != nil {
			return err
		}
	}
	// An initdb that outlived its owner may still be writing: the name that it knows is never used again.
	fresh, err := os.MkdirTemp(place, "data-")
	if err != nil {
		return err
	}
	if err := s.account.own(fresh); err != nil {
		return err
	}
	pwfile := filepath.Join(s.dir, "password.initdb")
	if err := writeSecret(pwfile, s.password, &s.account); err != nil {
		return err
	}
	defer os.Remove(pwfile)

	argv := []string{
		filepath.Join(s.install.BinDir, "initdb"), "--pgdata", fresh,
		"--username", superuser, "--pwfile", pwfile, "--auth", "scram-sha-256",
		"--encoding", "UTF8", "--locale-provider", "libc", "--no-instructions",
	}
	if throwaway {
		argv = append(argv, "--no-sync")
	} else {
		argv = append(argv, "--data-checksums")
	}
	// Both sort by code point, so an index does not depend on the release of the C library. C.UTF-8 also knows
	// letters outside of ASCII, but not every system has it.
	locales := []string{"C.UTF-8", "C"}
	if runtime.GOOS == "darwin" {
		locales = locales[1:]
	}
	for _, locale := range locales {
		if err = s.initdb(ctx, append(argv, "--locale", locale)); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	if err := os.Rename(fresh, s.data); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func (s *Server) initdb(ctx context.Context, argv []string) error {
	log, offset, err := openLog(s.logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	p, err := launch(ctx, s.dog, s.account, "initdb", log, argv...)
	if err != nil {
		return err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.killGroup()
		<-p.exited
	}
	if err := p.waitGone(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("initialise %s: %w", s.data, context.Cause(ctx))
	}
	if p.err != nil {
		return withLog(fmt.Errorf("initialise %s: %w", s.data, p.err), s.logPath, offset)
	}
	return nil
}
