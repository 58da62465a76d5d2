package main

import (
	"context"
	"slices"
)

type helpCmd struct {
	Command []string `arg:"" optional:"" help:"The command, in one word or several, such as migrate up."`
}

// Help implements kong.HelpProvider.
func (*helpCmd) Help() string {
	return `Example:

    cinnabar help serve`
}

// Run is called by kong.
func (c *helpCmd) Run(ctx context.Context, a *app) error {
	other := *a
	other.args = append(slices.Clone(c.Command), "--help")
	return other.run(ctx)
}
