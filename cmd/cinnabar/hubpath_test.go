package main

import (
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// Every command works with a hub at a path of its own. Spec: E-19.
func TestCommandsWithAnotherHubPath(t *testing.T) {
	t.Parallel()
	probe, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.Addr().String()
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	url := "http://" + address + "/push/hub"
	env := []string{"DATABASE_URL=" + dbtest.New(t).URL, "MERCURE_PUBLIC_URL=" + url, "MERCURE_ADDR=" + address, "MERCURE_ANONYMOUS=off"}
	hub := startProcess(t, env, "serve", "--dev")
	hub.stdout.await(t, "The hub is running at "+url+" for development.\n")
	hub.stdout.await(t, "curl "+url+" -H ")

	client := []string{"CINNABAR_HUB_URL=" + url}
	publish := func(data string, env []string, args ...string) {
		t.Helper()
		p := startProcess(t, env, append([]string{"publish", "--topic=https://e/1", data}, args...)...)
		if code := p.wait(t); code != exitOK {
			t.Fatalf("publish ended with %d: %s%s", code, p.stdout, p.stderr)
		}
	}
	publish("before", client, "--dev")
	subscriber := startProcess(t, client, "subscribe", "--dev", "--match=https://e/1", "--last-event-id=earliest")
	subscriber.stdout.await(t, "before\n")
	token := strings.TrimSpace(invoke(t, env, "token", "--dev", "--publish=*").want(t, exitOK).stdout)
	publish("live", append(client, "CINNABAR_TOKEN="+token))
	subscriber.stdout.await(t, "before\nlive\n")

	interrupt(t, subscriber, syscall.SIGINT)
	subscriber.wait(t)
	interrupt(t, hub, syscall.SIGTERM)
	if code := hub.wait(t); code != exitOK {
		t.Errorf("serve ended with %d: %s", code, hub.stderr)
	}
}

func TestMigrateSetsTheHubPath(t *testing.T) {
	t.Parallel()
	env := []string{"DATABASE_URL=" + dbtest.New(t).URL}
	at := func(url string) []string { return append([]string{"MERCURE_PUBLIC_URL=" + url}, env...) }
	status := func(env []string) string { return invoke(t, env, "migrate", "status").want(t, exitOK).stdout }

	if got := status(env); !strings.HasSuffix(got, "\n\nThe path of the hub is /.well-known/mercure.\n") {
		t.Errorf("migrate status printed:\n%s", got)
	}
	const advice = "MERCURE_PUBLIC_URL says /push/hub: stop the hubs and run cinnabar migrate up, or let serve do it.\n"
	if got := status(at("https://hub.example/push/h%75b")); !strings.HasSuffix(got, advice) {
		t.Errorf("migrate status printed:\n%s", got)
	}
	for _, line := range []string{"The path of the hub is /push/hub now.\n", ""} {
		r := invoke(t, at("https://hub.example/push/h%75b"), "migrate", "up").want(t, exitOK)
		if _, rest, _ := strings.Cut(r.stdout, "\n"); rest != line {
			t.Errorf("migrate up printed:\n%s", r.stdout)
		}
	}
	invoke(t, env, "migrate", "up").want(t, exitOK) // without a URL the path stays
	if got := status(at("https://other.example/push/hub")); !strings.HasSuffix(got, "The path of the hub is /push/hub.\n") {
		t.Errorf("migrate status printed:\n%s", got)
	}
	r := invoke(t, at("https://hub.example/?x"), "migrate", "up").want(t, exitFailure)
	if !strings.Contains(r.stderr, "MERCURE_PUBLIC_URL: ") {
		t.Errorf("a bad URL: %s", r.stderr)
	}
}
