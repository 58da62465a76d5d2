package main

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cinnabar-hub/cinnabar/server"
)

var update = flag.Bool("update", false, "rewrite the settings table of README.md")

const (
	readme        = "../../README.md"
	settingsBegin = "<!-- settings:begin -->\n"
	settingsEnd   = "<!-- settings:end -->"
)

// TestREADMEListsAllSettings regenerates the table of settings and compares.
func TestREADMEListsAllSettings(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begun := strings.Cut(string(content), settingsBegin)
	got, after, ended := strings.Cut(rest, settingsEnd)
	if !begun || !ended {
		t.Fatalf("README.md has no lines %q and %q; the settings table belongs between them", strings.TrimSpace(settingsBegin), settingsEnd)
	}
	want := settingsTable()
	if got == want {
		return
	}
	if !*update {
		t.Fatalf("the settings table of README.md is out of date: go test ./cmd/cinnabar -run README -update\n-want +got:\n%s", cmp.Diff(want, got))
	}
	if err := os.WriteFile(readme, []byte(before+settingsBegin+want+settingsEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func settingsTable() string {
	var table strings.Builder
	table.WriteString("| variable | flag | default | meaning |\n|---|---|---|---|\n")
	code := func(text string) string {
		if text == "" {
			return "-"
		}
		return "`" + text + "`"
	}
	for _, s := range append(server.Settings(), ownSettings()...) {
		fmt.Fprintf(&table, "| `%s` | `%s` | %s | %s |\n", s.Variable, s.Flag, code(s.Default), strings.NewReplacer("|", `\|`, "*", `\*`).Replace(s.Help))
	}
	return table.String()
}

// ownSettings are those of serve that are not the hub's.
func ownSettings() []server.Setting {
	var list []server.Setting
	for field := range reflect.TypeFor[hubFlags]().Fields() {
		tag := field.Tag
		if variable := tag.Get("setting"); variable != "" {
			list = append(list, server.Setting{Variable: variable, Flag: "--" + tag.Get("name"), Default: tag.Get("default"), Help: tag.Get("help")})
		}
	}
	return list
}
