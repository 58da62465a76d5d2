package main

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// TestProcesses runs everything as users do: a hub, a subscriber and a
// publisher, each a process of its own.
func TestProcesses(t *testing.T) {
	t.Parallel()
	env := []string{
		"DATABASE_URL=" + dbtest.New(t).URL, "MERCURE_ADDR=127.0.0.1:0", "MERCURE_ANONYMOUS=on",
		"MERCURE_PUBLISHER_JWT_KEY=secret-of-publishers",
	}
	hub := startProcess(t, env, "serve")
	address := "CINNABAR_HUB_URL=http://" + jsonField(t, hub.stderr.await(t, `"hub started"`), "address") + hubPath
	token := startProcess(t, env, "token", "--protocol=0.x", "--publish=*")
	if code := token.wait(t); code != exitOK {
		t.Fatalf("token ended with %d: %s", code, token.stderr)
	}
	publish := func(data string) {
		t.Helper()
		p := startProcess(t, []string{address, "CINNABAR_TOKEN=" + strings.TrimSpace(token.stdout.String())}, "publish", "--topic=https://e/1", data)
		if code := p.wait(t); code != exitOK || !strings.HasPrefix(p.stdout.String(), "urn:uuid:") {
			t.Fatalf("publish ended with %d: %s%s", code, p.stdout, p.stderr)
		}
	}
	publish("before")
	subscriber := startProcess(t, []string{address}, "subscribe", "--match=https://e/1", "--last-event-id=earliest")
	subscriber.stdout.await(t, "before\n")
	publish("live")
	subscriber.stdout.await(t, "before\nlive\n")

	interrupt(t, subscriber, syscall.SIGINT)
	if code := subscriber.wait(t); code != exitOK || subscriber.stderr.String() != "" {
		t.Errorf("subscribe ended with %d: %s", code, subscriber.stderr)
	}
	interrupt(t, hub, syscall.SIGTERM)
	if code := hub.wait(t); code != exitOK {
		t.Errorf("serve ended with %d: %s", code, hub.stderr)
	}
}

func interrupt(t *testing.T, p *process, signal os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// Spec: Z-22.
func TestHangupReloadsKeys(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key")
	write := func(secret string) {
		t.Helper()
		if err := os.WriteFile(key, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("the first secret of the publishers")
	hub := startProcess(t, []string{
		"DATABASE_URL=" + dbtest.New(t).URL, "MERCURE_ADDR=127.0.0.1:0", "MERCURE_ANONYMOUS=on", "MERCURE_PUBLISHER_JWT_KEY_FILE=" + key,
	}, "serve")
	address := "CINNABAR_HUB_URL=http://" + jsonField(t, hub.stderr.await(t, `"hub started"`), "address") + hubPath
	publish := func(secret string, want int) {
		t.Helper()
		token := invoke(t, []string{"MERCURE_PUBLISHER_JWT_KEY=" + secret}, "token", "--protocol=0.x", "--publish=*").want(t, exitOK)
		invoke(t, []string{address, "CINNABAR_TOKEN=" + strings.TrimSpace(token.stdout)}, "publish", "--topic=https://e/1", "x").want(t, want)
	}
	publish("the first secret of the publishers", exitOK)

	write("the second secret of the publishers")
	interrupt(t, hub, syscall.SIGHUP)
	hub.stderr.await(t, `"keys reloaded"`)
	publish("the second secret of the publishers", exitOK)
	publish("the first secret of the publishers", exitFailure)

	write("") // what cannot be used changes nothing
	interrupt(t, hub, syscall.SIGHUP)
	hub.stderr.await(t, "reload refused")
	publish("the second secret of the publishers", exitOK)
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	env := []string{"DATABASE_URL=" + dbtest.New(t).URL, "MERCURE_ADDR=127.0.0.1:0", "MERCURE_ANONYMOUS=on", "MERCURE_PUBLISHER_JWT_KEY=secret-of-publishers"}
	hub := startProcess(t, env, "serve")
	address := jsonField(t, hub.stderr.await(t, `"hub started"`), "address")
	token := strings.TrimSpace(invoke(t, env, "token", "--protocol=0.x", "--publish=*").want(t, exitOK).stdout)

	// A publish whose body does not come keeps an orderly stop waiting. The hub
	// says when it reads the body.
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
		"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n", hubPath, address, token)
	begun := make([]byte, len("HTTP/1.1 100 Continue"))
	if _, err := io.ReadFull(conn, begun); err != nil || string(begun) != "HTTP/1.1 100 Continue" {
		t.Fatalf("%q, %v", begun, err)
	}
	interrupt(t, hub, syscall.SIGTERM)
	hub.stderr.await(t, `"hub stopping"`)
	interrupt(t, hub, syscall.SIGTERM)
	if code := hub.wait(t); code != exitFailure || strings.Contains(hub.stderr.String(), "cinnabar: ") {
		t.Errorf("exit code %d, with an ordinary end:\n%s", code, hub.stderr)
	}
}

// TestDev takes the banner of serve --dev at its word.
func TestDev(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl", "psql"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed", tool)
			}
			t.Skipf("%s is not installed", tool) // the tests need Go and PostgreSQL only
		}
	}
	dir := dataDir(t)
	hub := startProcess(t, nil, "serve", "--dev", "--addr=127.0.0.1:0", "--data-dir", dir)
	banner := hub.stdout.await(t, "Stop with Ctrl-C.")
	if !strings.Contains(banner, "NOT FOR PRODUCTION") {
		t.Errorf("the banner does not say that this is not for production:\n%s", banner)
	}
	var commands []string
	for line := range strings.Lines(banner) {
		if command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "  "); ok && (strings.HasPrefix(command, "curl ") || strings.HasPrefix(command, "psql ")) {
			commands = append(commands, command)
		}
	}
	if len(commands) != 4 {
		t.Fatalf("%d commands in:\n%s", len(commands), banner)
	}
	subscribe, publish, insert, rolledBack := commands[0], commands[1], commands[2], commands[3]
	bash := func(command string) *process {
		t.Helper()
		p := startCommand(t, nil, "bash", "-c", command)
		if code := p.wait(t); code != 0 {
			t.Fatalf("%s\nended with %d: %s%s", command, code, p.stdout, p.stderr)
		}
		return p
	}

	curl := startCommand(t, nil, "bash", "-c", "exec "+subscribe)
	curl.stdout.await(t, ":\n")
	id := bash(publish).stdout.String()
	curl.stdout.await(t, "id: "+id+"\ndata: Hello from HTTP\n\n")
	bash(rolledBack)
	bash(insert)
	received := curl.stdout.await(t, "data: Hello from SQL\n\n")
	if n := strings.Count(received, "data: "); n != 2 {
		t.Errorf("%d updates arrived, want 2:\n%s", n, received)
	}

	// The same hub under its other name: the token names the first one.
	if id := bash(strings.Replace(publish, "127.0.0.1", "localhost", 1) + " --fail").stdout.String(); !strings.HasPrefix(id, "urn:uuid:") {
		t.Errorf("published to localhost: %q", id)
	}
	_, address, _ := strings.Cut(banner, "http://127.0.0.1:")
	port, _, _ := strings.Cut(address, "/")
	for _, host := range []string{"127.0.0.1", "localhost"} {
		hub := "http://" + host + ":" + port + hubPath
		invoke(t, nil, "publish", "--dev", "--hub", hub, "--topic=https://e/"+host, "--private", "dev").want(t, exitOK)
		r := invoke(t, nil, "subscribe", "--dev", "--hub", hub, "--match=https://e/"+host, "--last-event-id=earliest", "--count=1").want(t, exitOK)
		if r.stdout != "dev\n" {
			t.Errorf("received %q from %s", r.stdout, hub)
		}
		token := strings.TrimSpace(invoke(t, nil, "token", "--dev", "--publish=*", "--audience=http://127.0.0.1:"+port+hubPath).want(t, exitOK).stdout)
		invoke(t, nil, "publish", "--hub", hub, "--token", token, "--topic=a", "x").want(t, exitOK)
		token = strings.TrimSpace(invoke(t, nil, "token", "--dev", "--publish=*", "--protocol=0.x").want(t, exitOK).stdout)
		invoke(t, nil, "publish", "--hub", hub, "--token", token, "--topic=a", "x").want(t, exitOK)
	}

	interrupt(t, hub, syscall.SIGTERM)
	if code := hub.wait(t); code != exitOK {
		t.Errorf("serve ended with %d: %s", code, hub.stderr)
	}
	if left := processesOf(t, dir); len(left) > 0 {
		t.Errorf("left running: %q", left)
	}
}

// TestDevWithOwnDatabase does not print the address it was given.
func TestDevWithOwnDatabase(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t).URL
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	hub := startProcess(t, []string{
		"DATABASE_URL=" + database, "MERCURE_ANONYMOUS=off",
		"MERCURE_PUBLISHER_JWT_KEY=own-secret-of-publishers", "MERCURE_SUBSCRIBER_JWT_KEY=own-secret-of-subscribers",
	}, "serve", "--dev", "--addr=127.0.0.1:0")
	banner := hub.stdout.await(t, "Stop with Ctrl-C.")
	if password, ok := u.User.Password(); ok && strings.Contains(banner, password) || strings.Contains(banner, "own-secret") || strings.Contains(banner, devSecret) {
		t.Errorf("the banner shows a secret:\n%s", banner)
	}
	for _, want := range []string{`psql "$DATABASE_URL" -c "INSERT`, "where $DATABASE_URL is the address this hub was given"} {
		if !strings.Contains(banner, want) {
			t.Errorf("no %s in:\n%s", want, banner)
		}
	}
	// The tokens in it are signed with the operator's keys.
	var tokens []string
	for _, after := range strings.Split(banner, "Authorization: Bearer ")[1:] {
		token, _, _ := strings.Cut(after, "'")
		tokens = append(tokens, token)
	}
	if len(tokens) != 2 {
		t.Fatalf("%d tokens in:\n%s", len(tokens), banner)
	}
	hubURL := "http://" + jsonField(t, hub.stderr.await(t, `"hub started"`), "address") + hubPath
	invoke(t, nil, "publish", "--hub", hubURL, "--token", tokens[1], "--topic=a", "--private", "x").want(t, exitOK)
	r := invoke(t, nil, "subscribe", "--hub", hubURL, "--token", tokens[0], "--match=a", "--last-event-id=earliest", "--count=1").want(t, exitOK)
	if r.stdout != "x\n" {
		t.Errorf("received %q", r.stdout)
	}
	interrupt(t, hub, syscall.SIGINT)
	if code := hub.wait(t); code != exitOK {
		t.Errorf("serve ended with %d: %s", code, hub.stderr)
	}
}

// processesOf lists the command lines that mention a directory.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range list {
		line, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(line), dir) { // else it has just ended
			found = append(found, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// killPostgres kills the postmaster of a directory.
func killPostgres(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
