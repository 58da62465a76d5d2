package main

import (
	"context"
	"fmt"
	"text/tabwriter"
)

type configCmd struct{ hubFlags }

// Help implements kong.HelpProvider.
func (*configCmd) Help() string {
	return `Reads flags, environment and files as serve does, connects to nothing, and shows no secret.
Exits with 1 if serve would refuse to start.

Example:

    MERCURE_ANONYMOUS=on DATABASE_URL=postgres://db/app cinnabar config`
}

// Run is called by kong.
func (c *configCmd) Run(ctx context.Context, a *app) error {
	list, problems, warnings := c.load(ctx, a)
	table := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SETTING\tVALUE\tORIGIN")
	for _, s := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\n", s.variable, oneLine(s.shown()), s.origin)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, warning := range warnings {
		a.complain("warning: %s", warning)
	}
	if len(problems) > 0 {
		return &configError{problems: problems}
	}
	return nil
}
