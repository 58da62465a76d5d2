package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/cinnabar-hub/cinnabar/migrations"
	"github.com/cinnabar-hub/cinnabar/server"
)

type retentionCmd struct {
	databaseFlags
	PublicURL  string        `name:"public-url" setting:"MERCURE_PUBLIC_URL" placeholder:"URL" help:"URL of the hub, as for serve."`
	MaxAge     time.Duration `name:"history-max-age" setting:"MERCURE_HISTORY_MAX_AGE" default:"0s" placeholder:"DURATION" help:"As for serve."`
	MaxUpdates int           `name:"history-max-updates" setting:"MERCURE_HISTORY_MAX_UPDATES" default:"0" placeholder:"N" help:"As for serve."`
	MaxBytes   server.Bytes  `name:"history-max-bytes" setting:"MERCURE_HISTORY_MAX_BYTES" default:"0" placeholder:"SIZE" help:"As for serve."`
	Disabled   bool          `name:"with-disabled" help:"Count policies that are not enabled as if they were."`
}

// Help implements kong.HelpProvider.
func (*retentionCmd) Help() string {
	return `Reads the whole log and changes nothing: hubs remove updates by themselves. To try a policy, insert it with
enabled => false and look at it with --with-disabled.

Example:

    DATABASE_URL=postgres://owner@db/app cinnabar retention --history-max-age 720h`
}

// Run is called by kong.
func (c *retentionCmd) Run(ctx context.Context, a *app) error {
	return c.use(ctx, a, func(ctx context.Context, runner migrations.Runner) error {
		config := server.DefaultConfig()
		config.DatabaseURL, config.PublicURL = server.Secret(runner.DatabaseURL), c.PublicURL
		config.HistoryMaxAge, config.HistoryMaxUpdates, config.HistoryMaxBytes = c.MaxAge, c.MaxUpdates, c.MaxBytes
		preview, err := server.PreviewRetention(ctx, config, c.Disabled)
		if err != nil {
			return fmt.Errorf("retention: %w", err)
		}
		return c.print(a, &preview)
	})
}

func (c *retentionCmd) print(a *app, p *server.RetentionPreview) error {
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "In the log are %d updates of %d bytes; tables and indexes take %d bytes on disk.\n", p.Updates, p.Bytes, p.DiskBytes)
	if p.Updates > 0 {
		fmt.Fprintf(table, "The oldest is of %s, the newest of %s.\n", p.Oldest.UTC().Format(time.RFC3339), p.Newest.UTC().Format(time.RFC3339))
	}
	fmt.Fprintln(table, "\nPRIORITY\tMATCH\tTOPICS\tUPDATES\tBYTES\tTO GO\tBYTES\tREMARK")
	for i := range p.Policies {
		policy := &p.Policies[i]
		remark := policy.Problem
		if remark == "" && !policy.Enabled {
			remark = "not enabled"
		}
		fmt.Fprintf(table, "%d\t%s %s\t%d\t%d\t%d\t%d\t%d\t%s\n", policy.Priority, policy.MatchType, policy.Match, policy.Topics,
			policy.Governed.Updates, policy.Governed.Bytes, policy.Gone.Updates, policy.Gone.Bytes, remark)
	}
	fmt.Fprintf(table, "-\tthe whole log\t\t%d\t%d\t%d\t%d\t\n", p.Updates, p.Bytes, p.Log.Updates, p.Log.Bytes)
	if !p.OldestLeft.IsZero() {
		fmt.Fprintf(table, "\nClients could then resume from %s on.\n", p.OldestLeft.UTC().Format(time.RFC3339))
	}
	return table.Flush()
}
