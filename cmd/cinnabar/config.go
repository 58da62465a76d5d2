package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/cinnabar-hub/cinnabar/db/localpg"
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
		value := s.shown()
		if value == unset {
			value = c.computed(a, s.variable)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", s.variable, oneLine(value), s.origin)
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

// computed is what a setting comes to that is left open, where that depends on
// other things.
func (h *hubFlags) computed(a *app, variable string) string {
	switch variable {
	case "MERCURE_COMPAT":
		if firstOf(h.TrustedIssuers) != "" || h.Issuers != "" {
			return "off (an issuer is trusted)"
		}
		return "on (no issuer is trusted)"
	case "MERCURE_DATA_DIR":
		if dir, err := localpg.DefaultDir(); err == nil {
			return dir
		}
	case "MERCURE_LOG_FORMAT":
		if a.onTerminal(a.stderr) {
			return "text (stderr is a terminal)"
		}
		return "json (stderr is no terminal)"
	}
	return unset
}
