package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/torture"
	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// A short run of every kind of disturbance. Spec: H-8, H-9, U-1.
func TestTorture(t *testing.T) {
	t.Parallel()
	p := startProcess(t, nil, "torture", "--json", "--seed=8", "--nodes=2", "--duration=12s", "--publishers=4", "--subscribers=8")
	code := waitLong(t, p)
	var report torture.Report
	if err := json.Unmarshal([]byte(p.stdout.String()), &report); err != nil {
		t.Fatalf("%v in:\n%s%s", err, p.stdout, p.stderr)
	}
	if code != exitOK || !report.Passed() || report.Acknowledged < 100 || report.Delivered < 500 || report.Disturbances < 5 {
		t.Errorf("exit code %d:\n%s%s", code, p.stdout, p.stderr)
	}
}

// With positions given out at insert, readers pass by what is committed later.
// Torture must notice. Spec: H-8.
func TestTortureFindsLoss(t *testing.T) {
	t.Parallel()
	p := startProcess(t, nil, "torture", "--json", "--seed=1", "--nodes=2", "--duration=4s", "--faults=none", "--subscribers=4", "--sabotage=positions-at-insert")
	code := waitLong(t, p)
	var report torture.Report
	if err := json.Unmarshal([]byte(p.stdout.String()), &report); err != nil {
		t.Fatalf("%v in:\n%s%s", err, p.stdout, p.stderr)
	}
	if code != exitFailure || report.Lost == 0 || report.Seed != 1 || !strings.Contains(p.stderr.String(), "a promise was broken (seed 1)") {
		t.Errorf("exit code %d:\n%s%s", code, p.stdout, p.stderr)
	}
	if i := slices.IndexFunc(report.Violations, func(v torture.Violation) bool { return v.Kind == "lost" && v.Position > 0 && v.ID != "" }); i < 0 {
		t.Errorf("no lost update is named:\n%s", p.stdout)
	}
	for _, name := range []string{"node-0.log", "node-1.log", "postgres.log"} {
		if info, err := os.Stat(filepath.Join(report.Dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("the log %s was not kept: %v", name, err)
		}
	}
	if report.Dir != "" {
		os.RemoveAll(report.Dir)
	}
}

// On somebody else's server it leaves nothing behind.
func TestTortureIsInterrupted(t *testing.T) {
	t.Parallel()
	server := dbtest.NewServer(t)
	p := startProcess(t, nil, "torture", "--database-url", server.DB.URL, "--seed=1", "--nodes=2", "--duration=10m")
	p.stderr.await(t, "for ") // the first disturbance
	nodes := childrenOf(t, p.cmd.Process.Pid)
	if len(nodes) != 2 || len(tortureDatabases(t, server.DB)) != 1 {
		t.Errorf("nodes %v, databases %q", nodes, tortureDatabases(t, server.DB))
	}
	interrupt(t, p, syscall.SIGINT)
	if code := waitLong(t, p); code != exitFailure || !strings.Contains(p.stderr.String(), "interrupted before anything was decided") {
		t.Errorf("exit code %d:\n%s", code, p.stderr)
	}
	if left := tortureDatabases(t, server.DB); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	awaitGone(t, nodes)
}

func TestTortureIsKilled(t *testing.T) {
	t.Parallel()
	server := dbtest.NewServer(t)
	p := startProcess(t, []string{"TMPDIR=" + t.TempDir()}, "torture", "--database-url", server.DB.URL, "--seed=1", "--nodes=2", "--duration=10m", "--faults=none")
	var nodes []int
	for deadline := time.Now().Add(patience); len(nodes) < 2; {
		if nodes = childrenOf(t, p.cmd.Process.Pid); time.Now().After(deadline) {
			t.Fatalf("no nodes:\n%s", p.stderr)
		}
	}
	interrupt(t, p, syscall.SIGKILL)
	p.wait(t)
	awaitGone(t, nodes)

	left := tortureDatabases(t, server.DB)
	next := startProcess(t, nil, "torture", "--database-url", server.DB.URL, "--seed=1", "--nodes=1", "--duration=1s", "--faults=none")
	if code := waitLong(t, next); code != exitOK {
		t.Errorf("exit code %d:\n%s", code, next.stderr)
	}
	for _, name := range left {
		if !strings.Contains(next.stderr.String(), "DROP DATABASE "+name) {
			t.Errorf("nothing is said about %s:\n%s", name, next.stderr)
		}
	}
}

func TestTortureMayNotCreateDatabases(t *testing.T) {
	t.Parallel()
	server := dbtest.NewServer(t)
	if _, err := server.DB.Conn(t).Exec(t.Context(), "CREATE ROLE poor LOGIN PASSWORD 'poor'"); err != nil {
		t.Fatal(err)
	}
	config, err := pgx.ParseConfig(server.DB.URL)
	if err != nil {
		t.Fatal(err)
	}
	url := "postgres://poor:poor@127.0.0.1:" + strconv.Itoa(int(config.Port)) + "/cinnabar?sslmode=disable"
	r := invoke(t, nil, "torture", "--database-url", url).want(t, exitFailure)
	if !strings.Contains(r.stderr, `ALTER ROLE "poor" CREATEDB`) {
		t.Errorf("got %q", r.stderr)
	}
}

func TestTortureUsage(t *testing.T) {
	t.Parallel()
	if r := invoke(t, nil, "torture", "--help").want(t, exitOK); !strings.Contains(r.stdout, "Examples:") || strings.Contains(r.stdout, "sabotage") {
		t.Errorf("help:\n%s", r.stdout)
	}
	for flag, want := range map[string]string{
		"--faults=quake": `cinnabar: --faults: "quake" is none of all, none, kill,`,
		"--nodes=0":      "cinnabar: --nodes: must be 1 or more",
		"--duration=0s":  "cinnabar: --duration: must be more than 0s",
	} {
		if r := invoke(t, nil, "torture", flag).want(t, exitUsage); !strings.HasPrefix(r.stderr, want) {
			t.Errorf("%s: got %q", flag, r.stderr)
		}
	}
}

// waitLong is wait for a process that works for a while.
func waitLong(t *testing.T, p *process) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(4 * patience):
		t.Fatalf("the process does not end; stderr:\n%s", p.stderr)
		return 0
	}
}

func tortureDatabases(t *testing.T, d *dbtest.DB) []string {
	t.Helper()
	rows, err := d.Conn(t).Query(t.Context(), "SELECT datname::text FROM pg_database WHERE starts_with(datname, 'cinnabar_torture_')")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// childrenOf lists the processes that a process has started.
func childrenOf(t *testing.T, parent int) (children []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Skip("there is no /proc, and nodes are bound to their parent on Linux only")
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, after, _ := strings.Cut(string(stat), ") ") // behind the name
		fields := strings.Fields(after)
		if len(fields) > 1 && fields[0] != "Z" && fields[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, pid)
		}
	}
	return children
}

// awaitGone waits until processes that are nobody's children any more have
// ended.
func awaitGone(t *testing.T, pids []int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for _, pid := range pids {
		for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) && !isZombie(pid) {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("process %d is still there", pid)
			}
		}
	}
}

// isZombie: it has ended, and where nobody reaps, stays in the list.
func isZombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}
