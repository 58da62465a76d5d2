package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/torture"
	"github.com/cinnabar-hub/cinnabar/server"
)

type tortureCmd struct {
	DatabaseURL server.Secret `name:"database-url" placeholder:"URL" help:"A PostgreSQL server whose role may create databases; a database of its own is made there and dropped. By default a private one, which can be crashed as well."`
	Nodes       int           `default:"3" placeholder:"N" help:"How many hubs to run."`
	Duration    time.Duration `default:"1m" placeholder:"DURATION" help:"How long to publish and disturb. Catching up and checking come on top."`
	Seed        *uint64       `placeholder:"N" help:"Makes the plan of an earlier run again. By default another one each time."`
	Publishers  int           `default:"8" placeholder:"N" help:"How many publish, half of them over HTTP and half from SQL."`
	Subscribers int           `default:"12" placeholder:"N" help:"How many subscribe, besides one for each node that never leaves."`
	Faults      string        `default:"all" placeholder:"LIST" help:"What to do to them: all, none, or some of kill, term, stop, cut, blackhole, halfopen, slow, terminate, crash, backend, restart, stall, flood."`
	JSON        bool          `name:"json" help:"Print the report as JSON."`
	Sabotage    string        `hidden:"" help:"Spoil the database first, to see the checks fail: positions-at-insert."`
}

// Help implements kong.HelpProvider.
func (*tortureCmd) Help() string {
	return `Runs a cluster of hubs on this machine, publishes numbered updates to it over HTTP and SQL, and meanwhile kills
nodes, cuts their connections to PostgreSQL, crashes PostgreSQL and stalls subscribers. Then it checks that every update
that was acknowledged was delivered to every subscriber exactly once and in one order, and nothing else was. The exit
code is 0 if so.

A private PostgreSQL is as durable as a real one. Of a server that is given with --database-url only backends that use
the database of the run are disturbed.

Examples:

    cinnabar torture

    cinnabar torture --nodes 5 --duration 10m --faults kill,stop,crash

    cinnabar torture --seed 42 --database-url postgres://postgres@localhost`
}

// Run is called by kong.
func (c *tortureCmd) Run(ctx context.Context, a *app) error {
	config, err := c.config(a)
	if err != nil {
		return err
	}
	a.say("seed %d: %d nodes, %d publishers, %d subscribers, %s", config.Seed, c.Nodes, c.Publishers, c.Subscribers, c.Duration)
	report, err := torture.Run(ctx, config)
	if err != nil {
		return err
	}
	if c.JSON {
		err = report.WriteJSON(a.stdout)
	} else {
		err = report.Write(a.stdout)
	}
	if err == nil && !report.Passed() {
		err = fmt.Errorf("a promise was broken (seed %d); the logs are in %s", report.Seed, report.Dir)
	}
	return err
}

func (c *tortureCmd) config(a *app) (torture.Config, error) {
	faults, err := torture.ParseFaults(c.Faults)
	if err != nil {
		return torture.Config{}, &usageError{reason: "--faults: " + err.Error()}
	}
	for _, number := range []struct {
		flag  string
		value int
	}{{"--nodes", c.Nodes}, {"--publishers", c.Publishers}, {"--subscribers", c.Subscribers}} {
		if number.value < 1 {
			return torture.Config{}, &usageError{reason: number.flag + ": must be 1 or more"}
		}
	}
	if c.Duration <= 0 {
		return torture.Config{}, &usageError{reason: "--duration: must be more than 0s"}
	}
	sabotage, ok := sabotages[c.Sabotage]
	if !ok {
		return torture.Config{}, &usageError{reason: "--sabotage: is not known"}
	}
	program, err := os.Executable()
	if err != nil {
		return torture.Config{}, err
	}
	var environ []string
	for name, value := range a.env.values {
		environ = append(environ, name+"="+value)
	}
	seed := rand.Uint64N(1_000_000) // short enough to be typed
	if c.Seed != nil {
		seed = *c.Seed
	}
	return torture.Config{
		DatabaseURL: string(c.DatabaseURL), Nodes: c.Nodes, Duration: c.Duration, Seed: seed,
		Publishers: c.Publishers, Subscribers: c.Subscribers, Faults: faults,
		Program: program, Environ: environ, Sabotage: sabotage,
		Log: a.stderr, Terminal: a.onTerminal(a.stderr),
	}, nil
}

// sabotages spoil the database in ways that the checks must find.
var sabotages = map[string]string{
	"": "",
	// Rows enter the log at the position they have when they are inserted, as
	// with an identity column.
	"positions-at-insert": `
		CREATE FUNCTION mercure.at_insert() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO mercure.updates (position, id, topics, data, private, size)
			VALUES (nextval('mercure.updates_position_seq'), NEW.id, NEW.topics, NEW.data, NEW.private, 1);
			RETURN NULL;
		END $$;
		CREATE TRIGGER at_insert BEFORE INSERT ON mercure.outbox FOR EACH ROW EXECUTE FUNCTION mercure.at_insert();`,
}

// say prints to stderr.
func (a *app) say(format string, args ...any) {
	_, _ = fmt.Fprintln(a.stderr, strings.TrimSpace(fmt.Sprintf(format, args...)))
}
