package localpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is who PostgreSQL runs as.
type account struct {
	name     string
	uid, gid uint32
	other    bool // not who we are
}

// serverAccount chooses the account for a data directory, which may not exist yet. PostgreSQL insists on owning its
// data, so whoever owns existing data it is.
func serverAccount(data string) (account, error) {
	if os.Geteuid() != 0 {
		return account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	if info, err := os.Stat(data); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			return account{name: "user " + strconv.Itoa(int(st.Uid)), uid: st.Uid, gid: st.Gid, other: true}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		// Signed and 64 bits wide: macOS calls nobody -2.
		uid, err1 := strconv.ParseInt(u.Uid, 10, 64)
		gid, err2 := strconv.ParseInt(u.Gid, 10, 64)
		if err1 != nil || err2 != nil || uint32(uid) == 0 {
			continue
		}
		return account{name: "user " + name, uid: uint32(uid), gid: uint32(gid), other: true}, nil
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")
}

// sysProcAttr makes a process of the account in a session of its own, so that a Ctrl-C meant for us does not reach it:
// we stop it when we no longer need it. The supplementary groups are cleared.
func (a account) sysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if a.other {
		attr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return attr
}

// own gives a file to the account.
func (a account) own(path string) error {
	if !a.other {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// canReach fails unless the account may pass through every directory on the way to dir. It asks the system, as that
// account, since permission bits are not all there is to know.
func (a account) canReach(ctx context.Context, dir string) error {
	var way []string
	for d := dir; ; d = filepath.Dir(d) {
		way = append([]string{d}, way...)
		if d == filepath.Dir(d) {
			break
		}
	}
	blocked, err := a.firstBlocked(ctx, way)
	if err != nil {
		return err
	}
	if blocked != "" {
		return fmt.Errorf("PostgreSQL runs as %s, who may not enter %s: use a directory elsewhere or `chmod o+x %s`: %w",
			a.name, blocked, blocked, fs.ErrPermission)
	}
	return nil
}

// canRun fails unless the account may execute the program.
func (a account) canRun(ctx context.Context, program string) error {
	blocked, err := a.firstBlocked(ctx, []string{program})
	if err == nil && blocked != "" {
		err = fmt.Errorf("PostgreSQL runs as %s, who may not execute %s: %w", a.name, program, fs.ErrPermission)
	}
	return err
}

// firstBlocked returns the first of the paths that the account may not execute (a file) or enter (a directory).
func (a account) firstBlocked(ctx context.Context, paths []string) (string, error) {
	if !a.other {
		return "", nil
	}
	const script = `for p do [ -x "$p" ] || { printf '%s' "$p"; exit 0; }; done`
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", script, "sh"}, paths...)...)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.SysProcAttr = a.sysProcAttr()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run a command as %s: %w", a.name, err)
	}
	return string(out), nil
}

// environment is what PostgreSQL and the watchdog get to see of ours. It is a list of what is needed rather than of
// what to leave out: our environment holds keys and passwords, and NOTIFY_SOCKET or PGDATA would mislead the server.
func environment() []string {
	env := []string{"LC_ALL=C"} // messages we can read; macOS needs a valid locale, or postgres refuses to start
	for _, name := range []string{
		"PATH", "HOME", "TZ", "TMPDIR",
		"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "LOCALE_ARCHIVE",
	} {
		if v, ok := os.LookupEnv(name); ok && !strings.ContainsRune(v, 0) {
			env = append(env, name+"="+v)
		}
	}
	return env
}
