package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/bench"
	"github.com/cinnabar-hub/cinnabar/server"
)

type benchCmd struct {
	Scenario []string `arg:"" optional:"" help:"What to measure. By default everything."`

	Hub             []string      `sep:"none" placeholder:"URL" help:"URL of the hub; repeatable, for the nodes of one. By default a hub of this program with a private PostgreSQL."`
	Token           server.Secret `setting:"CINNABAR_TOKEN" placeholder:"TOKEN" help:"Access token to present, to publish and to subscribe to everything."`
	SubscribeToken  server.Secret `placeholder:"TOKEN" help:"Another token to subscribe with."`
	Key             server.Secret `placeholder:"KEY" help:"Secret of the hub to make tokens with. Other users of the machine can see arguments: prefer --key-file."`
	KeyFile         string        `placeholder:"FILE" help:"File with that secret."`
	Issuer          string        `placeholder:"URL" help:"The iss of tokens of protocol 1.0 that are made."`
	Dev             bool          `help:"Make tokens for a hub that runs with --dev."`
	Dialect         string        `enum:"1.0,0.x" default:"1.0" placeholder:"1.0|0.x" help:"Dialect of the hub."`
	DatabaseURL     server.Secret `name:"database-url" placeholder:"URL" help:"The database of the hub, to publish from SQL."`
	PID             []int         `name:"pid" placeholder:"PID" help:"Process of the hub, if it runs on this machine: its processor time and memory are measured; repeatable."`
	Setting         []string      `sep:"none" placeholder:"NAME=VALUE" help:"Setting of the hub of this program; repeatable."`
	Compare         string        `placeholder:"URL|floor" help:"Measure another hub as well, in turn, and print how many times more the first one does; or the floor, a bare loop of write calls."`
	CompareToken    server.Secret `placeholder:"TOKEN" help:"Token for it. By default one made with the same key."`
	CompareDialect  string        `enum:"1.0,0.x" default:"1.0" placeholder:"1.0|0.x" help:"Its dialect."`
	ComparePID      []int         `name:"compare-pid" placeholder:"PID" help:"Its processes."`
	CompareDatabase server.Secret `name:"compare-database-url" placeholder:"URL" help:"Its database."`

	Streams    int           `placeholder:"N" help:"How many streams. By default what suits the scenario, at most 10000."`
	Publishers int           `placeholder:"N" help:"How many publish. By default what suits the scenario, mostly 64."`
	Rate       float64       `placeholder:"N" help:"Updates a second. By default as many as get through."`
	Duration   time.Duration `default:"10s" placeholder:"DURATION" help:"How long to publish, and how long idle streams are idle."`
	Size       int           `default:"128" placeholder:"BYTES" help:"Size of an update's data, at least 64."`
	Updates    int           `default:"100000" placeholder:"N" help:"How many updates there are to replay."`
	Stored     int           `placeholder:"N" help:"How many updates, at least 1000, there are in the log before, on 100000 other topics. Needs the database; in that of a hub that was given they stay."`
	Connecting int           `default:"64" placeholder:"N" help:"How many streams to open at once."`
	Processes  int           `placeholder:"N" help:"How many processes hold the streams. By default as few as the descriptor limit allows."`
	Rounds     int           `placeholder:"N" help:"How often to measure. By default twice with --compare, else once."`
	JSON       bool          `name:"json" help:"Print the report as JSON."`
	Portable   bool          `hidden:"" help:"Read each stream in a goroutine of its own."`
}

// Help implements kong.HelpProvider.
func (*benchCmd) Help() string {
	var text strings.Builder
	text.WriteString(`Puts load on a hub, any Mercure hub, and measures what it does. What arrives is checked: the exit code is 1 if anything
was lost, repeated or out of order. Without --hub, each measurement gets a hub with a new database in a private
PostgreSQL that is as durable as a real one. The load generator needs processor time as well: on the machine of the hub,
what an operation costs (CPU) says more than how many there are in a second.

Scenarios:

`)
	for _, s := range bench.Scenarios() {
		fmt.Fprintf(&text, "    %-10s%s\n", s.Name, s.Help)
	}
	text.WriteString(`
Examples:

    cinnabar bench fanout --streams 1000

    cinnabar bench fanout --streams 10000 --rate 5 --hub http://127.0.0.1:3000/.well-known/mercure --dev

    cinnabar bench fanout --rate 50 --compare floor

    cinnabar bench replay topics --stored 1000000 --setting MERCURE_TAIL_BYTES=1MiB   # from the table, hardly from memory

    cinnabar bench publish connect --dialect 0.x --hub https://hub.example.com/.well-known/mercure --key-file secret.txt \
      --compare https://other.example.com/.well-known/mercure --compare-dialect 0.x`)
	return text.String()
}

// Run is called by kong.
func (c *benchCmd) Run(ctx context.Context, a *app) error {
	config, err := c.config(a)
	if err != nil {
		return err
	}
	report, err := bench.Run(ctx, config)
	if ctx.Err() != nil {
		return errors.New("interrupted before everything was measured")
	}
	if err != nil {
		return err
	}
	if c.JSON {
		err = report.WriteJSON(a.stdout)
	} else {
		err = report.Write(a.stdout)
	}
	if err == nil && !report.Passed() {
		err = errors.New("not everything arrived as it should; see the problems in the report")
	}
	return err
}

func (c *benchCmd) config(a *app) (config bench.Config, err error) {
	if err := c.check(a); err != nil {
		return config, err
	}
	program, err := os.Executable()
	if err != nil {
		return config, err
	}
	config = bench.Config{
		Streams: c.Streams, Publishers: c.Publishers, Duration: c.Duration, Rate: c.Rate, Size: c.Size, Updates: c.Updates, Stored: c.Stored,
		Connecting: c.Connecting, Processes: c.Processes, Program: program, Rounds: c.Rounds, Portable: c.Portable,
		Log: a.stderr, Terminal: a.onTerminal(a.stderr),
	}
	if c.Rounds == 0 && c.Compare != "" {
		config.Rounds = 2
	}
	if len(c.Hub) == 0 {
		config.Own = &bench.OwnHub{Program: program, Settings: c.Setting}
		for name, value := range a.env.values {
			config.Own.Environ = append(config.Own.Environ, name+"="+value)
		}
	}
	if c.Compare == floor {
		config.Floor = &bench.Floor{Program: program}
	}
	if config.Targets, err = c.targets(); err != nil {
		return config, err
	}
	config.Scenarios = c.scenarios(config)
	return config, nil
}

// scenarios are those that were asked for, in the order of the list.
func (c *benchCmd) scenarios(config bench.Config) (names []string) {
	haveDatabases := !slices.ContainsFunc(config.Targets, func(t bench.Target) bool { return t.DatabaseURL == "" })
	for _, s := range bench.Scenarios() {
		all := len(c.Scenario) == 0 && (s.Name != "sql" || haveDatabases) && (s.Floor || c.Compare != floor)
		if all || slices.Contains(c.Scenario, s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}

func (c *benchCmd) check(a *app) error {
	if len(a.env.problems) > 0 {
		return a.env.problems[0].err
	}
	var names []string
	for _, s := range bench.Scenarios() {
		names = append(names, s.Name)
	}
	for _, name := range c.Scenario {
		if !slices.Contains(names, name) {
			return &usageError{reason: fmt.Sprintf("%q is no scenario; there are %s", name, strings.Join(names, ", "))}
		}
	}
	if err := c.checkFloor(); err != nil {
		return err
	}
	addresses := slices.Clone(c.Hub)
	if c.Compare != floor {
		addresses = append(addresses, c.Compare)
	}
	for _, address := range addresses {
		u, err := url.Parse(address)
		if address != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			return &usageError{reason: fmt.Sprintf("%q is not the http or https URL of a hub", address)}
		}
	}
	for _, number := range []struct {
		flag         string
		value, least int
	}{
		{"--streams", c.Streams, 0},
		{"--publishers", c.Publishers, 0},
		{"--processes", c.Processes, 0},
		{"--rounds", c.Rounds, 0},
		{"--connecting", c.Connecting, 1},
		{"--size", c.Size, 64},
		{"--updates", c.Updates, 300},
	} {
		if number.value < number.least {
			return &usageError{reason: fmt.Sprintf("%s: must be %d or more", number.flag, number.least)}
		}
	}
	switch {
	case c.Stored != 0 && c.Stored < 1000:
		return &usageError{reason: "--stored: must be 1000 or more"}
	case c.Stored > 0 && (len(c.Hub) > 0 && c.DatabaseURL == "" || c.Compare != "" && c.Compare != floor && c.CompareDatabase == ""):
		return &usageError{reason: "--stored needs the database of each hub: --database-url, --compare-database-url"}
	case c.Rate < 0:
		return &usageError{reason: "--rate: must be more than 0"}
	case c.Duration <= 0:
		return &usageError{reason: "--duration: must be more than 0s"}
	case len(c.Hub) == 0 && (len(c.PID) > 0 || c.DatabaseURL != "" || c.Dev):
		return &usageError{reason: "--pid, --database-url and --dev are for a hub that is given with --hub"}
	case len(c.Hub) > 0 && len(c.Setting) > 0:
		return &usageError{reason: "--setting is for the hub of this program, not for one that is given with --hub"}
	}
	return nil
}

// floor is what --compare calls a loop of write calls.
const floor = "floor"

// checkFloor refuses what a loop of write calls does not have.
func (c *benchCmd) checkFloor() error {
	if c.Compare != floor {
		return nil
	}
	if c.CompareToken != "" || len(c.ComparePID) > 0 || c.CompareDatabase != "" {
		return &usageError{reason: "--compare-token, --compare-pid and --compare-database-url are for a hub, not for --compare floor"}
	}
	var names []string
	for _, s := range bench.Scenarios() {
		if s.Floor {
			names = append(names, s.Name)
		}
	}
	for _, name := range c.Scenario {
		if !slices.Contains(names, name) {
			return &usageError{reason: fmt.Sprintf("%s cannot be compared with the floor, which sends every update to every stream; %s can",
				name, strings.Join(names, ", "))}
		}
	}
	return nil
}

// targets are the hubs that were given.
func (c *benchCmd) targets() (targets []bench.Target, err error) {
	if len(c.Hub) > 0 {
		t := bench.Target{
			Name: strings.Join(c.Hub, " "), URLs: c.Hub, Dialect: bench.Dialect(c.Dialect), PIDs: c.PID,
			DatabaseURL: string(c.DatabaseURL), PublishToken: string(c.Token), SubscribeToken: string(cmp.Or(c.SubscribeToken, c.Token)),
		}
		if err := c.addTokens(&t); err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	if c.Compare != "" && c.Compare != floor {
		t := bench.Target{
			Name: c.Compare, URLs: []string{c.Compare}, Dialect: bench.Dialect(c.CompareDialect), PIDs: c.ComparePID,
			DatabaseURL: string(c.CompareDatabase), PublishToken: string(c.CompareToken), SubscribeToken: string(c.CompareToken),
		}
		if err := c.addTokens(&t); err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// addTokens makes those that were not given.
func (c *benchCmd) addTokens(t *bench.Target) (err error) {
	if t.PublishToken == "" {
		if t.PublishToken, err = c.token(t, true); err != nil {
			return err
		}
	}
	if t.SubscribeToken == "" {
		t.SubscribeToken, err = c.token(t, false)
	}
	return err
}

// token makes one; empty if there is no key.
func (c *benchCmd) token(t *bench.Target, publish bool) (string, error) {
	hub, err := url.Parse(t.URLs[0])
	if err != nil {
		return "", err
	}
	if c.Dev {
		return devToken(hub, publish)
	}
	text := string(c.Key)
	if c.KeyFile != "" {
		content, err := os.ReadFile(c.KeyFile)
		if err != nil {
			return "", fmt.Errorf("--key-file: %w", err)
		}
		text = strings.TrimRight(string(content), "\r\n")
	}
	if text == "" {
		return "", nil
	}
	spec := server.TokenSpec{Dialect: server.Dialect0, Expires: time.Now().Add(24 * time.Hour)}
	if t.Dialect == bench.Dialect1 {
		if c.Issuer == "" {
			return "", &usageError{reason: "--issuer is missing: tokens of protocol 1.0 need it, one of those the hub trusts; or choose --dialect 0.x"}
		}
		spec.Dialect, spec.Issuer, spec.Audience = server.Dialect1, c.Issuer, t.URLs[0]
	}
	if spec.Key, err = server.ParseSigningKey(text, "HS256"); err != nil {
		return "", fmt.Errorf("--key: %w", err)
	}
	everything := []server.MatcherSpec{{Match: "*"}}
	if publish {
		spec.Publish = everything
	} else {
		spec.Subscribe = everything
	}
	return server.MintToken(spec)
}

// benchStreamsCmd is what bench runs when one process cannot hold all streams.
type benchStreamsCmd struct{}

// Run is called by kong.
func (*benchStreamsCmd) Run(ctx context.Context, a *app) error {
	return bench.HoldStreams(ctx, a.stdin, a.stdout)
}

// benchFloorCmd is what bench compares hubs with.
type benchFloorCmd struct{}

// Run is called by kong.
func (*benchFloorCmd) Run(ctx context.Context, a *app) error {
	return bench.ServeFloor(ctx, a.stderr)
}
