package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/localpg"
	"github.com/cinnabar-hub/cinnabar/server"
)

// privateDatabaseName is the database of the private PostgreSQL.
const privateDatabaseName = "cinnabar"

type serveCmd struct{ hubFlags }

// Help implements kong.HelpProvider.
func (*serveCmd) Help() string {
	return `Every setting has a flag and a variable; a flag wins over a variable, a variable over the default.
Each variable may also be given as a file: MERCURE_PUBLISHER_JWT_KEY_FILE=/run/secrets/key.

Hubs with the same DATABASE_URL are a cluster. The hub stops on SIGINT and SIGTERM, and at once on the second one.
On SIGHUP it reads the files of its keys again, and its JWK sets; streams whose key is gone end, others stay.

Examples:

    cinnabar serve --dev

    DATABASE_URL=postgres://app:secret@db/app MERCURE_TRUSTED_ISSUERS=https://app.example.com \
    MERCURE_PUBLISHER_JWT_KEY_FILE=/run/secrets/publisher MERCURE_SUBSCRIBER_JWT_KEY_FILE=/run/secrets/subscriber \
    MERCURE_PUBLIC_URL=https://hub.example.com/.well-known/mercure cinnabar serve`
}

// Run is called by kong.
func (c *serveCmd) Run(ctx context.Context, a *app) error {
	_, problems, warnings := c.load(ctx, a)
	if len(problems) > 0 {
		return &configError{problems: problems, warnings: warnings}
	}
	logger := a.logger(c.LogFormat, c.LogLevel)
	for _, warning := range warnings {
		logger.Warn("configuration", "warning", a.env.scrub(warning))
	}
	var hangups chan os.Signal // none, with --dev: there it means that the terminal was closed
	if !c.DevMode {
		hangups = make(chan os.Signal, 1)
		signal.Notify(hangups, syscall.SIGHUP)
		defer signal.Stop(hangups)
	}
	config := c.Config
	config.Logger = logger
	err := withDatabase(ctx, string(config.DatabaseURL), c.DataDir, logger, func(ctx context.Context, url string, private *localpg.Server) error {
		config.DatabaseURL = server.Secret(url)
		return c.serve(ctx, a, config, private, hangups)
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // stopped while starting
	}
	return err
}

func (c *serveCmd) serve(ctx context.Context, a *app, config server.Config, private *localpg.Server, hangups <-chan os.Signal) error {
	hub, err := server.New(config)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	ended := make(chan struct{})
	group.Go(func() error { // ends with ctx
		for {
			select {
			case <-hangups:
				c.reload(ctx, a, hub, config)
			case <-ctx.Done():
				return nil
			}
		}
	})
	group.Go(func() error {
		defer close(ended)
		return hub.Run(ctx)
	})
	if c.DevMode {
		group.Go(func() error { // ends when the hub has started, or never will
			select {
			case <-hub.Started():
				return c.banner(a, config, private).print(a.stdout)
			case <-ended:
				return nil
			}
		})
	}
	return group.Wait()
}

func (c *serveCmd) banner(a *app, config server.Config, private *localpg.Server) banner {
	b := banner{config: config, psql: "psql", database: `"$DATABASE_URL"`, ownDatabase: true}
	if private != nil {
		b.psql = psqlCommand(a.env.values["PATH"], private.Installation().BinDir)
		b.database, b.ownDatabase = shellQuote(private.URL(privateDatabaseName)), false
	}
	return b
}

// withDatabase calls use with the address of the database, which for "private"
// is one that lives as long as the call. It returns when that has ended. The
// context of use ends early if the database does.
func withDatabase(
	ctx context.Context, url, dir string, logger *slog.Logger,
	use func(ctx context.Context, url string, private *localpg.Server) error,
) (err error) {
	if url != privateDatabase {
		return use(ctx, url, nil)
	}
	if dir == "" {
		if dir, err = localpg.DefaultDir(); err != nil {
			return err
		}
	}
	private, err := localpg.Start(ctx, localpg.Options{Dir: dir, Database: privateDatabaseName, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, private.Stop()) }()

	ctx, cancel := context.WithCancelCause(ctx)
	lost := fmt.Errorf("the private PostgreSQL has ended; %s says why", filepath.Join(private.Dir(), "postgres.log"))
	watched := make(chan struct{})
	go func() { // ends with ctx
		defer close(watched)
		select {
		case <-private.Done():
			cancel(lost)
		case <-ctx.Done():
		}
	}()
	defer func() { <-watched }()
	defer cancel(nil)

	err = use(ctx, private.URL(privateDatabaseName), private)
	if errors.Is(context.Cause(ctx), lost) {
		return lost
	}
	return err
}
