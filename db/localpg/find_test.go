package localpg

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program writes a program that answers --version and --bindir with one line.
func program(t *testing.T, path, answer string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho '" + answer + "'\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

func installation(t *testing.T, dir, version string) {
	t.Helper()
	for _, name := range serverPrograms {
		program(t, filepath.Join(dir, name), name+" (PostgreSQL) "+version+" (Some Distribution)")
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		setup   func(t *testing.T, root string, f *finder)
		major   int    // of the data
		want    string // directory below root
		version string
		wantErr []string // parts of the message
	}{
		{
			name: "Debian, the newest first",
			setup: func(t *testing.T, root string, _ *finder) {
				installation(t, filepath.Join(root, "usr/lib/postgresql/9.6/bin"), "9.6.24")
				installation(t, filepath.Join(root, "usr/lib/postgresql/15/bin"), "15.13")
				installation(t, filepath.Join(root, "usr/lib/postgresql/17/bin"), "17.2")
			},
			want: "usr/lib/postgresql/17/bin", version: "17.2",
		},
		{
			name: "the release that wrote the data",
			setup: func(t *testing.T, root string, _ *finder) {
				installation(t, filepath.Join(root, "usr/lib/postgresql/15/bin"), "15.13")
				installation(t, filepath.Join(root, "usr/lib/postgresql/17/bin"), "17.2")
			},
			major: 15, want: "usr/lib/postgresql/15/bin", version: "15.13",
		},
		{
			name: "data of a release that is not there",
			setup: func(t *testing.T, root string, _ *finder) {
				installation(t, filepath.Join(root, "usr/lib/postgresql/17/bin"), "17.2")
			},
			major:   16,
			wantErr: []string{"the data in /some/data was written by PostgreSQL 16", "installed one is 17"},
		},
		{
			name: "single links in a directory of PATH",
			setup: func(t *testing.T, root string, f *finder) {
				real := filepath.Join(root, "opt/pg/bin")
				installation(t, real, "18beta1")
				local := filepath.Join(root, "usr/local/bin")
				if err := os.MkdirAll(local, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(filepath.Join(real, "pg_ctl"), filepath.Join(local, "pg_ctl")); err != nil {
					t.Fatal(err)
				}
				f.path = local
			},
			want: "opt/pg/bin", version: "18beta1",
		},
		{
			name: "a wrapper in PATH is no server",
			setup: func(t *testing.T, root string, f *finder) {
				program(t, filepath.Join(root, "usr/bin/pg_ctl"), "wrapper")
				installation(t, filepath.Join(root, "usr/lib/postgresql/16/bin"), "16.1")
				f.path = filepath.Join(root, "usr/bin")
			},
			want: "usr/lib/postgresql/16/bin", version: "16.1",
		},
		{
			name: "pg_config",
			setup: func(t *testing.T, root string, f *finder) {
				bin := filepath.Join(root, "strange/place")
				installation(t, bin, "17.0")
				program(t, filepath.Join(root, "usr/bin/pg_config"), bin)
				f.path = filepath.Join(root, "usr/bin")
			},
			want: "strange/place", version: "17.0",
		},
		{
			name: "PATH before convention",
			setup: func(t *testing.T, root string, f *finder) {
				installation(t, filepath.Join(root, "mine"), "15.1")
				installation(t, filepath.Join(root, "usr/lib/postgresql/17/bin"), "17.2")
				f.path = filepath.Join(root, "mine")
			},
			want: "mine", version: "15.1",
		},
		{
			name: "only the directory that was set",
			setup: func(t *testing.T, root string, f *finder) {
				installation(t, filepath.Join(root, "usr/lib/postgresql/17/bin"), "17.2")
				f.binDir, f.origin = filepath.Join(root, "empty"), "CINNABAR_PG_BINDIR"
			},
			wantErr: []string{"CINNABAR_PG_BINDIR=", "there is no initdb"},
		},
		{
			name: "too old",
			setup: func(t *testing.T, root string, _ *finder) {
				installation(t, filepath.Join(root, "usr/pgsql-14/bin"), "14.9")
			},
			wantErr: []string{"14.9 in ", "is too old", "apt-get install -y postgresql", "brew install postgresql@17", "THE_URL"},
		},
		{
			name:    "nothing",
			setup:   func(*testing.T, string, *finder) {},
			wantErr: []string{"no PostgreSQL 15 or later was found on this machine: install it", "or set THE_URL"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			f := finder{root: root}
			tt.setup(t, root, &f)
			got, err := f.find(t.Context(), "THE_URL", tt.major, "/some/data")
			if tt.wantErr != nil {
				var version *VersionError
				if errors.Is(err, ErrNotInstalled) == errors.As(err, &version) {
					t.Errorf("error %v is not of one of the two types", err)
				}
				for _, part := range tt.wantErr {
					if !strings.Contains(fmt.Sprint(err), part) {
						t.Errorf("error %q lacks %q", err, part)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(root, tt.want); got.BinDir != want || got.Version != tt.version {
				t.Errorf("got %+v, want version %s in %s", got, tt.version, want)
			}
		})
	}
}

func TestDefaultDir(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		uid       int
		goos      string
		xdg, home string
		want      string
	}{
		{"root", 0, "linux", "/x", "/root", "/var/lib/cinnabar"},
		{"XDG", 1000, "linux", "/x", "/home/a", "/x/cinnabar"},
		{"relative XDG is ignored", 1000, "linux", "x", "/home/a", "/home/a/.local/share/cinnabar"},
		{"home", 1000, "linux", "", "/home/a", "/home/a/.local/share/cinnabar"},
		{"macOS", 501, "darwin", "/x", "/Users/a", "/Users/a/Library/Application Support/cinnabar"},
		{"no home", 1000, "linux", "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"XDG_DATA_HOME": tt.xdg, "HOME": tt.home}
			got, err := defaultDir(tt.uid, tt.goos, func(name string) string { return env[name] })
			if got != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}
