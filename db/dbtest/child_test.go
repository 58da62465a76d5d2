package dbtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	childMode   = "DBTEST_TEST_CHILD" // how TestInChild ends; empty: it is not in a child
	withoutMain = "returns without Main"
)

const stateMark = "server of the child: "

// TestInChild is what a test binary does that TestNothingIsLeftBehind starts.
func TestInChild(t *testing.T) {
	mode := os.Getenv(childMode)
	if mode == "" {
		t.Skip("runs in a child process only")
	}
	New(t).Conn(t)
	state, err := json.Marshal(binary.cluster.server.Dir())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\n%s%s\n", stateMark, state)
	switch mode {
	case "returns", withoutMain:
	case "fails":
		t.Error("on purpose")
	case "panics":
		panic("on purpose")
	case "exits":
		os.Exit(0)
	case "is killed", "times out":
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	// A -timeout ends the binary by a panic, too; it takes part only when there is time.
	modes := []string{"returns", withoutMain, "fails", "panics", "exits", "is killed"}
	if os.Getenv("CI") != "" {
		modes = append(modes, "times out")
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			all, inherited, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer all.Close()
			defer inherited.Close()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInChild$")
			if mode == "times out" {
				cmd.Args = append(cmd.Args, "-test.timeout=15s")
			}
			cmd.Env = []string{childMode + "=" + mode}
			for _, kv := range os.Environ() {
				if !strings.HasPrefix(kv, urlVariable+"=") {
					cmd.Env = append(cmd.Env, kv)
				}
			}
			// The first few numbers are used for other things in the processes of the server.
			cmd.ExtraFiles = []*os.File{inherited, inherited, inherited, inherited, inherited, inherited}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cmd.StdinPipe(); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			inherited.Close()

			var dir string
			lines := bufio.NewScanner(stdout)
			for lines.Scan() {
				if state, ok := strings.CutPrefix(lines.Text(), stateMark); ok {
					if err := json.Unmarshal([]byte(state), &dir); err != nil {
						t.Fatal(err)
					}
					break
				}
			}
			if dir == "" {
				t.Fatal("the child did not get as far as its server")
			}
			if mode == "is killed" {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			_, _ = io.Copy(io.Discard, stdout)
			if err := cmd.Wait(); (err == nil) != (mode == "returns" || mode == withoutMain || mode == "exits") {
				t.Errorf("the child ended with %v", err)
			}

			if err := all.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := all.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("some process is left: %v", err)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		})
	}
}
