package main

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// usageError says that the command line makes no sense.
type usageError struct {
	reason  string
	command string // to ask for help; empty: the one that was selected
}

func (e *usageError) Error() string { return e.reason }

// configError holds everything that is wrong with the settings. Each problem
// names its variable.
type configError struct {
	problems []string
	// warnings may hold the explanation.
	warnings []string
}

func (e *configError) Error() string {
	message := e.problems[0]
	if len(e.problems) > 1 {
		message = fmt.Sprintf("there are %d problems with the settings:\n  %s", len(e.problems), strings.Join(e.problems, "\n  "))
	}
	for _, warning := range e.warnings {
		message += "\nwarning: " + warning
	}
	return message
}

// report prints an error and returns the exit code it deserves.
func (a *app) report(err error) int {
	var (
		usage  *usageError
		config *configError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errSaid):
	case errors.As(err, &usage):
		command := usage.command
		if command == "" {
			command = "cinnabar"
			if a.parsed != nil && a.parsed.Selected() != nil {
				command += " " + strings.TrimPrefix(a.parsed.Selected().Path(), "cinnabar ")
			}
		}
		a.complain("%s\nRun %s --help to see what is possible.", oneLine(usage.reason), command)
		return exitUsage
	case errors.As(err, &config):
		a.complain("%s", config.Error())
	default:
		a.complain("%s", oneLine(explain(err)))
	}
	return exitFailure
}

// complain prints to stderr, without any secret that got into the text.
func (a *app) complain(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, "cinnabar: %s\n", a.env.scrub(fmt.Sprintf(format, args...)))
}

// explain puts the errors that happen to everybody into words that say what to
// do.
func explain(err error) string {
	var path *fs.PathError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return err.Error() + ": another program uses this address; stop it, or choose another one with --addr or MERCURE_ADDR"
	case errors.Is(err, syscall.EACCES) && !errors.As(err, &path):
		return err.Error() + ": this user may not use that address; choose a port above 1023 with --addr or MERCURE_ADDR"
	}
	return err.Error()
}

var (
	brokenAfterColon = regexp.MustCompile(`:\s*\n\s*`)
	broken           = regexp.MustCompile(`\s*\n\s*`)
)

// oneLine makes one line of a message that drivers spread over several.
func oneLine(message string) string {
	message = brokenAfterColon.ReplaceAllString(strings.TrimSpace(message), ": ")
	var parts []string
	for _, part := range broken.Split(message, -1) {
		// A driver that tries with and without TLS fails twice for one reason.
		if !slices.ContainsFunc(parts, func(p string) bool { return strings.HasSuffix(p, part) }) {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "; ")
}

// splitErrors takes joined errors apart.
func splitErrors(err error) []string {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var messages []string
		for _, e := range joined.Unwrap() {
			messages = append(messages, splitErrors(e)...)
		}
		return messages
	}
	return []string{oneLine(err.Error())}
}
