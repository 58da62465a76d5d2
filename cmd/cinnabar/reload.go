package main

import (
	"context"
	"fmt"
	"reflect"

	"github.com/cinnabar-hub/cinnabar/server"
)

// reload makes the hub take over its keys anew. It never stops the hub:
// settings that cannot be used leave it with those it has.
func (c *serveCmd) reload(ctx context.Context, a *app, hub *server.Server, running server.Config) {
	logger := running.Logger
	fresh := *a
	fresh.env = a.env.fresh()
	refuse := func(problems []string) {
		for _, problem := range problems {
			logger.Error("reload refused; the hub goes on with the settings it has", "problem", fresh.env.scrub(problem))
		}
	}
	config, problems := fresh.readAgain(ctx)
	if len(problems) > 0 {
		refuse(problems)
		return
	}
	if config.DatabaseURL == privateDatabase {
		config.DatabaseURL = running.DatabaseURL // its address
	}
	ignored, err := hub.Reload(ctx, config)
	if err != nil {
		refuse(splitErrors(err))
		return
	}
	for _, variable := range ignored {
		logger.Warn("configuration", "warning", variable+": has changed, which takes a restart")
	}
	logger.Info("keys reloaded")
}

// readAgain is how serve read its settings, with the files as they are now.
func (a *app) readAgain(ctx context.Context) (config server.Config, problems []string) {
	parser, err := a.parser()
	if err != nil {
		return config, []string{err.Error()}
	}
	if a.parsed, err = parser.Parse(a.args); err != nil {
		return config, []string{err.Error()}
	}
	serve, ok := reflect.TypeAssert[*serveCmd](a.parsed.Selected().Target.Addr())
	if !ok {
		return config, []string{fmt.Sprintf("serve is a %T", a.parsed.Selected().Target.Interface())}
	}
	_, problems, _ = serve.load(ctx, a)
	return serve.Config, problems
}
