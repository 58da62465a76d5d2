package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// patience is how long a test waits for something that should happen at once.
// Machines that compile beside the tests are slow.
const patience = time.Minute

// asCommand makes this test binary the command itself, which spares building
// it and has the race detector watch it.
const asCommand = "CINNABAR_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	dbtest.Main(m)
}

// result is what an invocation left.
type result struct {
	code           int
	stdout, stderr string
}

// invoke runs a command within this process, with no environment but env.
func invoke(t *testing.T, env []string, args ...string) result {
	t.Helper()
	return invokeWith(t, env, "", false, args...)
}

func invokeWith(t *testing.T, env []string, stdin string, terminal bool, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	a := &app{
		args: args, env: newEnvironment(env), stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr,
		onTerminal: func(any) bool { return terminal },
	}
	code := a.report(a.run(ctx))
	if ctx.Err() != nil {
		t.Fatalf("%q does not end\nstdout:\n%s\nstderr:\n%s", args, stdout.String(), stderr.String())
	}
	return result{code: code, stdout: stdout.String(), stderr: stderr.String()}
}

// want fails the test unless the command ended like this.
func (r result) want(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", r.code, code, r.stdout, r.stderr)
	}
	return r
}

// transcript collects output and lets tests wait for it.
type transcript struct {
	mu      sync.Mutex
	text    []byte
	changed chan struct{} // closed and replaced with every write
}

func newTranscript() *transcript { return &transcript{changed: make(chan struct{})} }

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	close(l.changed)
	l.changed = make(chan struct{})
	return len(p), nil
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// await waits until the text contains want, and returns all of it.
func (l *transcript) await(t *testing.T, want string) string {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		l.mu.Lock()
		text, changed := string(l.text), l.changed
		l.mu.Unlock()
		if strings.Contains(text, want) {
			return text
		}
		select {
		case <-changed:
		case <-timeout.C:
			t.Fatalf("waited for %q in:\n%s", want, text)
		}
	}
}

// process is a child.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr *transcript
	done           chan struct{} // closed when it has ended
}

// startProcess runs the command as a process of its own.
func startProcess(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return startCommand(t, append([]string{asCommand + "=1"}, env...), path, args...)
}

// startCommand runs a program with no environment but PATH, HOME and env. It
// is killed when the test ends.
func startCommand(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{stdout: newTranscript(), stderr: newTranscript(), done: make(chan struct{})}
	p.cmd = exec.CommandContext(t.Context(), name, args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process
		defer close(p.done)
		_ = p.cmd.Wait() // its state says more
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// wait returns the exit code, or -1 if a signal ended the process.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("the process does not end; stderr:\n%s", p.stderr)
		return 0
	}
}

// jsonField finds the first value of a field in a log of JSON lines.
func jsonField(t *testing.T, log, field string) string {
	t.Helper()
	_, after, ok := strings.Cut(log, `"`+field+`":"`)
	value, _, _ := strings.Cut(after, `"`)
	if !ok {
		t.Fatalf("no %s in:\n%s", field, log)
	}
	return value
}

// startHub runs serve within this process and returns the URL of the hub. It
// is stopped when the test ends.
func startHub(t *testing.T, env ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log := newTranscript()
	code := make(chan int, 1)
	go func() { // ends with ctx
		code <- run(ctx, []string{"serve", "--addr", "127.0.0.1:0"}, env, strings.NewReader(""), log, log)
	}()
	t.Cleanup(func() {
		cancel()
		if c := <-code; c != exitOK {
			t.Errorf("serve ended with %d:\n%s", c, log)
		}
	})
	started := log.await(t, `"hub started"`)
	_, started, _ = strings.Cut(started, `"hub started"`)
	return "http://" + jsonField(t, started, "address") + hubPath
}
