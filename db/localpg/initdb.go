package localpg

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// initialise makes the cluster beside its final place and moves it there when it is complete.
func (s *Server) initialise(ctx context.Context, throwaway bool) error {
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	halfMade, _ := filepath.Glob(filepath.Join(s.dir, "data.new-*")) // the pattern is well formed, unlike some paths
	for _, dir := range halfMade {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	fresh, err := os.MkdirTemp(s.dir, "data.new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh) // gone already if all went well
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
