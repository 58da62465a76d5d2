package localpg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MinMajor is the oldest major release of PostgreSQL that Cinnabar works with.
const MinMajor = 15

// ErrNotInstalled is what errors.Is finds in a [NotInstalledError].
var ErrNotInstalled = errors.New("PostgreSQL is not installed")

// NotInstalledError reports that no usable PostgreSQL was found. Its message is one sentence that says what to do.
type NotInstalledError struct {
	Variable string   // the environment variable that may name another server; empty: none
	Skipped  []string // what was found and why it does not do
}

func (e *NotInstalledError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no PostgreSQL %d or later was found on this machine", MinMajor)
	if len(e.Skipped) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(e.Skipped, "; "))
	}
	b.WriteString(": install it (Debian, Ubuntu: `apt-get install -y postgresql`; macOS: `brew install postgresql@17`)")
	if e.Variable != "" {
		fmt.Fprintf(&b, " or set %s to the address of a running one", e.Variable)
	}
	return b.String()
}

// Is makes errors.Is(err, ErrNotInstalled) work.
func (e *NotInstalledError) Is(target error) bool { return target == ErrNotInstalled }

// VersionError reports data that none of the installed releases can read.
type VersionError struct {
	Dir       string // the data directory
	Data      int    // major release that wrote it
	Installed int    // major release that was found
	BinDir    string // where
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("the data in %s was written by PostgreSQL %d, but the installed one is %d (%s): "+
		"install PostgreSQL %d, or convert the data with pg_upgrade, or use another directory",
		e.Dir, e.Data, e.Installed, e.BinDir, e.Data)
}

// Installation is a directory with the binaries of one PostgreSQL server.
type Installation struct {
	BinDir  string
	Version string // as in 17.2
	Major   int    // as in 17
}

// findFor chooses the binaries for a data directory of the given major release, 0 for new data: the first ones in the
// order of finder.dirs that fit.
func findFor(ctx context.Context, opts Options, major int, data string) (Installation, error) {
	f := finder{
		root:   "/",
		path:   os.Getenv("PATH"),
		home:   os.Getenv("HOME"),
		binDir: opts.BinDir,
		origin: "Options.BinDir",
	}
	if f.binDir == "" {
		f.binDir, f.origin = os.Getenv("CINNABAR_PG_BINDIR"), "CINNABAR_PG_BINDIR"
	}
	variable := cmp.Or(opts.URLVariable, "DATABASE_URL")
	if variable == "-" {
		variable = ""
	}
	return f.find(ctx, variable, major, data)
}

// finder looks for installations. Its fields are the parts of the environment that decide.
type finder struct {
	root   string // "/" outside of tests
	path   string // PATH
	home   string // HOME
	binDir string // the one directory to use; empty: search
	origin string // who set binDir
}

func (f finder) find(ctx context.Context, variable string, major int, data string) (Installation, error) {
	missing := &NotInstalledError{Variable: variable}
	var other *Installation
	seen := make(map[string]bool)
	for dir := range f.dirs(ctx) {
		bin, err := serverBinDir(dir)
		if err != nil {
			if f.binDir != "" {
				missing.Skipped = append(missing.Skipped, fmt.Sprintf("%s=%s: %v", f.origin, f.binDir, err))
			}
			continue
		}
		if seen[bin] {
			continue
		}
		seen[bin] = true
		in, err := inspect(ctx, bin)
		switch {
		case ctx.Err() != nil:
			return Installation{}, context.Cause(ctx)
		case err != nil:
			missing.Skipped = append(missing.Skipped, err.Error())
		case in.Major < MinMajor:
			missing.Skipped = append(missing.Skipped, fmt.Sprintf("%s in %s is too old", in.Version, bin))
		case major != 0 && in.Major != major:
			if other == nil {
				other = &in
			}
		default:
			return in, nil
		}
	}
	if other != nil {
		return Installation{}, &VersionError{Dir: data, Data: major, Installed: other.Major, BinDir: other.BinDir}
	}
	return Installation{}, missing
}

// dirs yields the directories that may hold the binaries, best first, with repetitions.
func (f finder) dirs(ctx context.Context) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if f.binDir != "" {
			yield(f.binDir)
			return
		}
		for _, next := range []func(context.Context) []string{f.inPath, f.byPgConfig, f.byConvention} {
			for _, dir := range next(ctx) {
				if !yield(dir) {
					return
				}
			}
		}
	}
}

// serverPrograms are what makes a directory a server's: clients, wrappers and development packages lack some.
var serverPrograms = []string{"initdb", "postgres", "pg_ctl"}

// inPath returns the directories that the programs found through PATH really are in. A directory such as /usr/local/bin
// often holds links to single programs.
func (f finder) inPath(context.Context) []string {
	var dirs []string
	for _, dir := range filepath.SplitList(f.path) {
		for _, name := range serverPrograms {
			if real, err := executable(filepath.Join(dir, name)); err == nil {
				dirs = append(dirs, filepath.Dir(real))
			}
		}
	}
	return dirs
}

// byPgConfig asks the pg_config of PATH. On Debian it may come with libpq-dev and name a directory without a server.
func (f finder) byPgConfig(ctx context.Context) []string {
	for _, dir := range filepath.SplitList(f.path) {
		program, err := executable(filepath.Join(dir, "pg_config"))
		if err != nil {
			continue
		}
		out, err := output(ctx, program, "--bindir")
		if err != nil {
			return nil
		}
		return []string{strings.TrimSpace(out)}
	}
	return nil
}

// byConvention returns where packagers put the binaries, the newest release of each first.
func (f finder) byConvention(context.Context) []string {
	var dirs []string
	for _, pattern := range []string{
		"usr/lib/postgresql/*/bin", // Debian, Ubuntu
		"usr/pgsql-*/bin",          // Red Hat with packages from postgresql.org
		"opt/homebrew/opt/postgresql@*/bin",
		"opt/homebrew/bin",
		"usr/local/opt/postgresql*/bin", // Homebrew on Intel
		"Applications/Postgres.app/Contents/Versions/*/bin",
		"usr/local/pgsql/bin",     // built from source
		"usr/libexec/postgresql*", // Alpine
		"nix/var/nix/profiles/default/bin",
		"run/current-system/sw/bin", // NixOS
	} {
		found, _ := filepath.Glob(filepath.Join(f.root, pattern)) // the patterns are well formed
		slices.SortStableFunc(found, func(a, b string) int {
			return cmp.Compare(numberIn(b), numberIn(a))
		})
		dirs = append(dirs, found...)
	}
	if f.home != "" {
		dirs = append(dirs, filepath.Join(f.home, ".nix-profile", "bin"))
	}
	return dirs
}

var number = regexp.MustCompile(`\d+`)

// numberIn returns the last number of a path; 0 if there is none.
func numberIn(path string) int {
	all := number.FindAllString(path, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1])
	return n
}

// serverBinDir resolves links and returns the directory that holds all of a server's programs.
func serverBinDir(dir string) (string, error) {
	var bin string
	for _, name := range serverPrograms {
		real, err := executable(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("there is no %s", name)
		}
		switch at := filepath.Dir(real); bin {
		case "", at:
			bin = at
		default:
			return "", fmt.Errorf("%s is from %s, but %s from %s", serverPrograms[0], bin, name, at)
		}
	}
	return bin, nil
}

// executable resolves links and returns the path of the program itself.
func executable(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	if real, err = filepath.Abs(real); err != nil {
		return "", err
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return "", fmt.Errorf("%s is not a program", real)
	}
	return real, nil
}

// versionOutput matches what `postgres --version` prints, also 18beta1 and 19devel.
var versionOutput = regexp.MustCompile(`\(PostgreSQL\) ((\d+)[^\s]*)`)

func inspect(ctx context.Context, bin string) (Installation, error) {
	out, err := output(ctx, filepath.Join(bin, "postgres"), "--version")
	if err != nil {
		return Installation{}, fmt.Errorf("%s/postgres does not run: %w", bin, err)
	}
	m := versionOutput.FindStringSubmatch(out)
	if m == nil {
		return Installation{}, fmt.Errorf("%s/postgres does not tell its version", bin)
	}
	major, err := strconv.Atoi(m[2])
	if err != nil {
		return Installation{}, fmt.Errorf("%s/postgres does not tell its version: %w", bin, err)
	}
	return Installation{BinDir: bin, Version: m[1], Major: major}, nil
}

// output runs a program that prints one fact; 10 s is for a machine that is swapping.
func output(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = environment()
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	return string(out), err
}
