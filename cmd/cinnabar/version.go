package main

import (
	"fmt"
	"runtime/debug"
	"strings"
)

type versionCmd struct{}

// Help implements kong.HelpProvider.
func (versionCmd) Help() string {
	return `Example:

    cinnabar version`
}

// Run is called by kong.
func (versionCmd) Run(a *app) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	_, err := fmt.Fprintln(a.stdout, describeBuild(info))
	return err
}

func describeBuild(info *debug.BuildInfo) string {
	version := info.Main.Version
	if version == "" {
		version = "(devel)"
	}
	details := []string{}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			details = append(details, "commit "+s.Value[:min(12, len(s.Value))])
		case s.Key == "vcs.modified" && s.Value == "true":
			details = append(details, "modified")
		}
	}
	if info.GoVersion != "" {
		details = append(details, info.GoVersion)
	}
	if len(details) == 0 {
		return "cinnabar " + version
	}
	return fmt.Sprintf("cinnabar %s (%s)", version, strings.Join(details, ", "))
}
