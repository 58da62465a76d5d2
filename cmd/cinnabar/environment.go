package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// fileSuffix makes the name of the variable that names a file with the value.
const fileSuffix = "_FILE"

// environment is the environment of the process, and what was found to be
// wrong in it. A variable that is empty counts as not set: that is what
// compose files and manifests make of a value nobody gave.
type environment struct {
	values map[string]string
	// found remembers lookups, so that a problem is reported once.
	found map[string]lookup

	problems []problem
}

// lookup is what a setting is set to.
type lookup struct {
	value string
	// name is the variable it comes from: the setting's, or the one with _FILE.
	name string
	// origin is for people.
	origin string
	ok     bool
}

// problem is something wrong with the setting of a variable.
type problem struct {
	variable string
	err      error
}

func newEnvironment(environ []string) *environment {
	e := &environment{values: make(map[string]string, len(environ)), found: map[string]lookup{}}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if value == "" {
			delete(e.values, name) // of two entries the last counts
			continue
		}
		e.values[name] = value
	}
	return e
}

// fresh returns the environment as if nothing had been looked up: files are
// read again.
func (e *environment) fresh() *environment {
	return &environment{values: e.values, found: map[string]lookup{}}
}

func (e *environment) addProblem(variable string, err error) {
	e.problems = append(e.problems, problem{variable: variable, err: err})
}

// faulty says whether the variable of a setting has a problem.
func (e *environment) faulty(variable string) bool {
	return slices.ContainsFunc(e.problems, func(p problem) bool { return p.variable == variable })
}

// lookup returns the value of a setting from its variable, or from the file
// that VARIABLE_FILE names, without the newline at its end.
func (e *environment) lookup(variable string) lookup {
	if known, ok := e.found[variable]; ok {
		return known
	}
	result, err := e.read(variable)
	if err != nil {
		e.addProblem(variable, err)
	}
	e.found[variable] = result
	return result
}

// variable is lookup where a problem is the caller's.
func (e *environment) variable(name string) (string, error) {
	found, err := e.read(name)
	return found.value, err
}

func (e *environment) read(variable string) (lookup, error) {
	value, direct := e.values[variable]
	file := variable + fileSuffix
	path, indirect := e.values[file]
	switch {
	case direct && indirect:
		return lookup{}, fmt.Errorf("%s: is set, and so is %s; set only one of them", variable, file)
	case direct:
		return lookup{value: value, name: variable, origin: "$" + variable, ok: true}, nil
	case !indirect:
		return lookup{}, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		if pathError, ok := errors.AsType[*os.PathError](err); ok {
			err = pathError.Err
		}
		return lookup{}, fmt.Errorf("%s: cannot read %s: %w", file, path, err)
	}
	value = strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if value == "" {
		return lookup{}, fmt.Errorf("%s: the file %s is empty", file, path)
	}
	return lookup{value: value, name: file, origin: "$" + file + " " + path, ok: true}, nil
}

// secretVariables are never shown.
var secretVariables = regexp.MustCompile(`^(DATABASE_URL|MERCURE_DATABASE_LISTEN_URL|MERCURE_ISSUERS|.*_KEY|.*_TOKEN|.*_SECRET)$`)

// passwords finds what looks like one in an address, and access tokens.
var passwords = []*regexp.Regexp{
	regexp.MustCompile(`(://[^:/?#\s]*:)\S+(@)`),
	regexp.MustCompile(`(?i)(password=)(?:'[^']*'|[^\s&]+)()`),
	regexp.MustCompile(`()\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?()`),
}

// scrub is the last line of defence: messages should not contain secrets in
// the first place.
func (e *environment) scrub(text string) string {
	const tooShort = 8 // would blank out ordinary words
	hide := func(name, secret string) {
		if secretVariables.MatchString(name) && len(secret) >= tooShort {
			text = strings.ReplaceAll(text, secret, "[redacted]")
		}
	}
	for name, secret := range e.values {
		hide(name, secret)
	}
	for name, l := range e.found {
		hide(name, l.value)
	}
	for _, password := range passwords {
		text = password.ReplaceAllString(text, "${1}[redacted]${2}")
	}
	return text
}
