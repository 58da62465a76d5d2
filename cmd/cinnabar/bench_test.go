package main

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/bench"
	"github.com/cinnabar-hub/cinnabar/db/dbtest"
)

// benchKey is that of the hubs that are measured.
const benchKey = "a-secret-of-publishers-and-subscribers"

// startBenchedHub returns the flags that name a hub, a process of its own.
func startBenchedHub(t *testing.T) []string {
	t.Helper()
	database := dbtest.New(t).URL
	const issuer = "https://issuer.example"
	hub := startProcess(t, []string{
		"DATABASE_URL=" + database, "MERCURE_ADDR=127.0.0.1:0", "MERCURE_COMPAT=on", "MERCURE_TRUSTED_ISSUERS=" + issuer,
		"MERCURE_PUBLISHER_JWT_KEY=" + benchKey, "MERCURE_SUBSCRIBER_JWT_KEY=" + benchKey,
	}, "serve")
	address := jsonField(t, hub.stderr.await(t, `"hub started"`), "address")
	return []string{
		"--hub=http://" + address + hubPath, "--key=" + benchKey, "--issuer=" + issuer, "--database-url=" + database,
		"--pid=" + strconv.Itoa(hub.cmd.Process.Pid),
	}
}

// readReport fails the test unless the command has printed one.
func readReport(t *testing.T, p *process) (report bench.Report) {
	t.Helper()
	if code := waitLong(t, p); code != exitOK {
		t.Fatalf("exit code %d:\n%s%s", code, p.stdout, p.stderr)
	}
	if err := json.Unmarshal([]byte(p.stdout.String()), &report); err != nil {
		t.Fatalf("%v in:\n%s%s", err, p.stdout, p.stderr)
	}
	return report
}

// Every scenario, with small numbers, streams in other processes, and in
// goroutines of their own.
func TestBench(t *testing.T) {
	t.Parallel()
	hub := startBenchedHub(t)
	small := append([]string{"bench", "--json", "--streams=12", "--publishers=3", "--duration=200ms", "--updates=400"}, hub...)
	for name, flags := range map[string][]string{
		"every scenario":               nil,
		"0.x":                          {"fanout", "topics", "patterns", "connect", "--dialect=0.x"},
		"several processes":            {"fanout", "topics", "replay", "--processes=3"},
		"goroutines":                   {"fanout", "patterns", "replay", "--portable"},
		"floor":                        {"idle", "connect", "fanout", "--compare=floor", "--rounds=1"},
		"stored":                       {"replay", "topics", "--stored=2500", "--processes=2"},
		"at a rate":                    {"fanout", "--rate=100"},
		"more publishers than streams": {"topics", "--publishers=20"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := readReport(t, startProcess(t, nil, append(slices.Clone(small), flags...)...))
			if want, known := map[string]int{"every scenario": 13, "floor": 6, "stored": 5}[name]; known && len(report.Results) != want {
				t.Errorf("%d results, want %d", len(report.Results), want)
			}
			for _, r := range report.Results {
				checkResult(t, r)
			}
		})
	}
}

// checkResult knows what the numbers of TestBench come to.
func checkResult(t *testing.T, r *bench.Result) {
	t.Helper()
	copies := int64(r.Streams)
	switch scenario, place, _ := strings.Cut(r.Scenario, ", "); scenario {
	case "idle":
		if r.BytesPerStream == nil {
			t.Errorf("%s: no memory", r.Scenario)
		}
	case "connect":
		if r.Connected != copies || r.Opening == nil || r.Opening.Count != copies || r.CPUMicroseconds == nil && r.Seconds > 0.1 {
			t.Errorf("%s: %d connected: %+v", r.Scenario, r.Connected, r.Opening)
		}
	case "topics":
		if r.Published == 0 || r.Delivered > r.Published/2+1 || r.Delivered < r.Published/2-1 {
			t.Errorf("%s: %d published, %d delivered", r.Scenario, r.Published, r.Delivered)
		}
	case "replay":
		want := map[string]int64{"earliest": 400, "middle": 200, "near head": 100, "one topic": 100}[place] * copies
		if r.Delivered != want || r.Receipt != nil {
			t.Errorf("%s: %d delivered, want %d", r.Scenario, r.Delivered, want)
		}
	case "storm":
		if r.Delivered != 100*copies || r.Connected != copies || r.Transactions == nil {
			t.Errorf("%s: %d delivered, %d connected", r.Scenario, r.Delivered, r.Connected)
		}
	default:
		if scenario == "patterns" {
			copies = 1
		}
		if r.Published == 0 || r.Delivered != r.Published*copies || r.Receipt == nil || r.Answer == nil || r.Receipt.P50 <= 0 {
			t.Errorf("%s: %d published, %d delivered: %+v", r.Scenario, r.Published, r.Delivered, r.Receipt)
		}
	}
}

// Two hubs in turn, the first one of the program itself.
func TestBenchCompares(t *testing.T) {
	t.Parallel()
	hub := startBenchedHub(t)
	other := strings.TrimPrefix(hub[0], "--hub=")
	p := startProcess(t, nil, "bench", "publish", "connect", "--streams=3", "--publishers=2", "--duration=100ms", "--setting=MERCURE_SHARED_WRITES=off",
		"--compare="+other, hub[1], hub[2],
		"--stored=1000", strings.Replace(hub[3], "--", "--compare-", 1))
	code := waitLong(t, p)
	for _, want := range []string{"ratio", other, "There were 1000 updates in the log before."} {
		if code != exitOK || !strings.Contains(p.stdout.String(), want) {
			t.Fatalf("exit code %d, want %q:\n%s%s", code, want, p.stdout, p.stderr)
		}
	}
	if strings.Contains(p.stdout.String()+p.stderr.String(), benchKey) {
		t.Error("the key is shown")
	}
}

func TestBenchUsage(t *testing.T) {
	t.Parallel()
	if r := invoke(t, nil, "bench", "--help").want(t, exitOK); !strings.Contains(r.stdout, "Examples:") || strings.Contains(r.stdout, "--portable") {
		t.Errorf("help:\n%s", r.stdout)
	}
	const hub = "--hub=http://127.0.0.1:1/"
	for want, args := range map[string][]string{
		`cinnabar: "speed" is no scenario; there are idle, connect, fanout,`:                                                      {"speed"},
		"cinnabar: --streams: must be 0 or more":                                                                                  {"--streams=-1"},
		"cinnabar: --size: must be 64 or more":                                                                                    {"--size=1"},
		"cinnabar: --duration: must be more than 0s":                                                                              {"--duration=0s"},
		"cinnabar: --pid, --database-url and --dev are for a hub that is given":                                                   {"--pid=1"},
		"cinnabar: --setting is for the hub of this program":                                                                      {hub, "--setting=A=B"},
		"cinnabar: --stored: must be 1000 or more":                                                                                {"--stored=999"},
		"cinnabar: --stored needs the database of each hub: --database-url":                                                       {hub, "--stored=1000"},
		`cinnabar: topics cannot be compared with the floor, which sends every update to every stream; idle, connect, fanout can`: {"fanout", "topics", "--compare=floor"},
		"cinnabar: --compare-token, --compare-pid and --compare-database-url are for a hub":                                       {"--compare=floor", "--compare-pid=1"},
		`cinnabar: "floor" is not the http or https URL of a hub`:                                                                 {"--hub=floor"},
		`cinnabar: "ftp://x" is not the http or https URL of a hub`:                                                               {"--hub=ftp://x"},
		"cinnabar: --issuer is missing: tokens of protocol 1.0 need it":                                                           {hub, "--key=x"},
	} {
		if r := invoke(t, nil, append([]string{"bench"}, args...)...).want(t, exitUsage); !strings.HasPrefix(r.stderr, want) {
			t.Errorf("%q: got %q", args, r.stderr)
		}
	}
	for want, args := range map[string][]string{
		"cinnabar: fanout: nothing listens on 127.0.0.1:1: connect: connection refused; start the hub": {hub, "fanout"},
		"cinnabar: sql: the database of the hub is not known; give it with --database-url":             {hub, "sql"},
		"cinnabar: fanout: there is no process 1073741824; has the hub ended?":                         {hub, "fanout", "--pid=1073741824"},
		"cinnabar: connect: 90000000 streams need more than the":                                       {hub, "connect", "--streams=90000000", "--processes=1"},
	} {
		if r := invoke(t, nil, append([]string{"bench"}, args...)...).want(t, exitFailure); !strings.HasPrefix(r.stderr, want) {
			t.Errorf("%q: got %q", args, r.stderr)
		}
	}
	if r := invokeWith(t, nil, "", false, "bench-streams").want(t, exitFailure); !strings.Contains(r.stderr, "is for cinnabar bench") {
		t.Errorf("got %q", r.stderr)
	}
}
