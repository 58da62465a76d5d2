package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/localpg"
	"github.com/cinnabar-hub/cinnabar/migrations"
	"github.com/cinnabar-hub/cinnabar/server"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Run the migrations that are missing."`
	Down   migrateDownCmd   `cmd:"" help:"Take the newest migration back. Deletes what it created."`
	Status migrateStatusCmd `cmd:"" help:"List the migrations and when they were run."`
}

// Help implements kong.HelpProvider.
func (*migrateCmd) Help() string {
	return `Not needed as long as serve may migrate by itself (MERCURE_MIGRATE).

Example:

    cinnabar migrate up --database-url postgres://owner@db/app`
}

// databaseFlags are read as serve reads them, so that a migration run beside a
// hub may have the same environment.
type databaseFlags struct {
	DatabaseURL server.Secret `name:"database-url" setting:"DATABASE_URL" placeholder:"URL" help:"The database, as for serve."`
	ListenURL   server.Secret `name:"database-listen-url" setting:"MERCURE_DATABASE_LISTEN_URL" placeholder:"URL" help:"Direct address of the same database, used instead of DATABASE_URL if set."`
	DataDir     string        `name:"data-dir" setting:"MERCURE_DATA_DIR" placeholder:"DIR" help:"Where the private PostgreSQL keeps its data."`
}

func (f *databaseFlags) use(ctx context.Context, a *app, use func(ctx context.Context, runner migrations.Runner) error) error {
	problems, warnings := a.env.checkNames(a.knownVariables())
	for _, p := range a.env.problems {
		problems = append(problems, oneLine(p.err.Error()))
	}
	if f.DatabaseURL == "" && f.ListenURL == "" && !a.env.faulty("DATABASE_URL") {
		problems = append(problems, "DATABASE_URL: is not set; give the address of a PostgreSQL database, here or with --database-url")
	}
	if len(problems) > 0 {
		return &configError{problems: problems, warnings: warnings}
	}
	url := string(f.DatabaseURL)
	if f.ListenURL == privateDatabase {
		return &configError{problems: []string{"MERCURE_DATABASE_LISTEN_URL: must be an address; only DATABASE_URL can be private"}}
	}
	logger := a.logger("", logLevel(slog.LevelWarn))
	switch {
	case f.ListenURL == "":
	case listenURLIsForAnother(a.settings()):
		logger.Warn("configuration", "warning", listenURLIgnored)
	default:
		url = string(f.ListenURL)
	}
	return withDatabase(ctx, url, f.DataDir, logger, func(ctx context.Context, url string, _ *localpg.Server) error {
		return use(ctx, migrations.Runner{DatabaseURL: url, Logger: logger})
	})
}

// hubPathFlags say which path publishers are to be kept out of.
type hubPathFlags struct {
	PublicURL string `name:"public-url" setting:"MERCURE_PUBLIC_URL" placeholder:"URL" help:"URL of the hub, as for serve. Publishing under its path from SQL is refused. By default the path stays what it is."`
}

// reservedPath is empty if no URL was given.
func (f *hubPathFlags) reservedPath() (string, error) {
	if f.PublicURL == "" {
		return "", nil
	}
	path, err := server.ReservedPath(f.PublicURL)
	if err != nil {
		return "", &configError{problems: []string{err.Error()}}
	}
	return path, nil
}

type migrateUpCmd struct {
	databaseFlags
	hubPathFlags
}

// Help implements kong.HelpProvider.
func (*migrateUpCmd) Help() string {
	return `Several may run at once; one does the work, the others wait. The path of the hub can be changed only while no hub runs.

Example:

    DATABASE_URL=postgres://owner@db/app cinnabar migrate up`
}

// Run is called by kong.
func (c *migrateUpCmd) Run(ctx context.Context, a *app) error {
	path, err := c.reservedPath()
	if err != nil {
		return err
	}
	return c.use(ctx, a, func(ctx context.Context, runner migrations.Runner) error {
		applied, err := runner.Up(ctx)
		if len(applied) > 0 {
			table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "VERSION\tMIGRATION\tTOOK")
			for _, m := range applied {
				fmt.Fprintf(table, "%d\t%s\t%s\n", m.Version, m.Name, m.Duration.Round(time.Millisecond))
			}
			err = errors.Join(err, table.Flush())
		}
		if err != nil {
			return fmt.Errorf("migrate up: %w", err)
		}
		text := fmt.Sprintf("The database is at version %d.\n", migrations.Latest())
		if path != "" {
			changed, err := runner.SetHubPath(ctx, path)
			if err != nil {
				return fmt.Errorf("migrate up: %w", err)
			}
			if changed {
				text += fmt.Sprintf("The path of the hub is %s now.\n", path)
			}
		}
		_, err = io.WriteString(a.stdout, text)
		return err
	})
}

type migrateDownCmd struct {
	databaseFlags
	Yes bool `help:"Do not ask."`
}

// Help implements kong.HelpProvider.
func (*migrateDownCmd) Help() string {
	return `For development. Stop the hubs first.

Example:

    cinnabar migrate down --database-url postgres://owner@localhost/app`
}

// Run is called by kong.
func (c *migrateDownCmd) Run(ctx context.Context, a *app) error {
	if !c.Yes && !a.onTerminal(a.stdin) {
		return &usageError{reason: "migrate down deletes data and nobody can be asked; add --yes if that is what you want"}
	}
	return c.use(ctx, a, func(ctx context.Context, runner migrations.Runner) error {
		newest, err := newestApplied(ctx, runner)
		if err != nil {
			return err
		}
		if newest == nil {
			_, err := fmt.Fprintln(a.stdout, "There is nothing to take back.")
			return err
		}
		if !c.Yes {
			_, _ = fmt.Fprintf(a.stderr, "This takes back %s in %s and deletes what it created, updates included. Go on? [y/N] ",
				newest.Name, shownDatabase(runner.DatabaseURL))
			answer, _ := bufio.NewReader(a.stdin).ReadString('\n')
			if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
				return errors.New("nothing was changed")
			}
		}
		undone, err := runner.Down(ctx)
		if err != nil {
			return fmt.Errorf("migrate down: %w", err)
		}
		if undone == nil {
			return errors.New("migrate down: somebody else was faster; nothing was changed")
		}
		table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "VERSION\tTAKEN BACK\tTOOK")
		fmt.Fprintf(table, "%d\t%s\t%s\n", undone.Version, undone.Name, undone.Duration.Round(time.Millisecond))
		return table.Flush()
	})
}

// shownDatabase names a database without its password.
func shownDatabase(url string) string {
	if address := databaseAddress(url); address != "" {
		return address
	}
	return "the database that was given"
}

func newestApplied(ctx context.Context, runner migrations.Runner) (*migrations.Migration, error) {
	list, err := runner.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the state of the migrations: %w", err)
	}
	for i := len(list) - 1; i >= 0; i-- {
		if !list[i].AppliedAt.IsZero() {
			return &list[i], nil
		}
	}
	return nil, nil
}

type migrateStatusCmd struct {
	databaseFlags
	hubPathFlags
}

// Help implements kong.HelpProvider.
func (*migrateStatusCmd) Help() string {
	return `Example:

    DATABASE_URL=postgres://owner@db/app cinnabar migrate status`
}

// Run is called by kong.
func (c *migrateStatusCmd) Run(ctx context.Context, a *app) error {
	wanted, err := c.reservedPath()
	if err != nil {
		return err
	}
	return c.use(ctx, a, func(ctx context.Context, runner migrations.Runner) error {
		list, err := runner.Status(ctx)
		if err != nil {
			return fmt.Errorf("read the state of the migrations: %w", err)
		}
		table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "VERSION\tMIGRATION\tRUN")
		for _, m := range list {
			run := "pending"
			if !m.AppliedAt.IsZero() {
				run = m.AppliedAt.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(table, "%d\t%s\t%s\n", m.Version, m.Name, run)
		}
		path, err := runner.HubPath(ctx)
		if err != nil {
			return fmt.Errorf("read the path of the hub: %w", err)
		}
		if path != "" {
			fmt.Fprintf(table, "\nThe path of the hub is %s.\n", path)
		}
		if path != "" && wanted != "" && path != wanted {
			fmt.Fprintf(table, "MERCURE_PUBLIC_URL says %s: stop the hubs and run cinnabar migrate up, or let serve do it.\n", wanted)
		}
		return table.Flush()
	})
}
