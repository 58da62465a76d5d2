package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"github.com/cinnabar-hub/cinnabar/server"
)

type tokenCheckCmd struct {
	Token []server.Secret `arg:"" optional:"" sep:"none" help:"The token, or - to read it from stdin. Other users of the machine can see arguments: prefer the other ways. By default $CINNABAR_TOKEN."`

	TokenFile string   `placeholder:"FILE" help:"File with the token."`
	As        string   `enum:"publisher,subscriber,both" default:"both" placeholder:"publisher|subscriber|both" help:"What the token shall be used as."`
	Topic     []string `sep:"none" placeholder:"TOPIC" help:"A topic of an update that shall be published, or received although it is private; repeatable."`
	JSON      bool     `name:"json" help:"Print JSON."`

	hubFlags
}

// shownInTokenCheck are the settings worth a line in its help. The others work,
// too.
var shownInTokenCheck = []string{"public-url", "resource-identifier"}

// hideSettings keeps the help of token check to what is special about it.
func hideSettings(k *kong.Kong) error {
	return kong.Visit(k.Model.Node, func(node kong.Visitable, next kong.Next) error {
		if command, ok := node.(*kong.Node); ok && command.Path() == "token check" {
			for _, flag := range command.Flags {
				flag.Hidden = flag.Hidden || flag.Tag.Get("setting") != "" && !slices.Contains(shownInTokenCheck, flag.Name)
			}
		}
		return next(nil)
	})
}

// Help implements kong.HelpProvider.
func (*tokenCheckCmd) Help() string {
	return `The settings are those of the hub: run it in the environment of serve, or with its flags, all of which are understood.
No database is needed. A hub without MERCURE_PUBLIC_URL takes its URL from each request; give --public-url then.

Each rule comes with what was found, or what to change. Rules behind a failure are checked as far as that makes sense.
The token and the keys are not printed.

Exits with 0 if the token can be used (with both roles asked for: in one of them), else with 1.

Examples:

    cinnabar token --dev --publish '*' | cinnabar token check --dev --topic https://example.com/books/1 -

    CINNABAR_TOKEN_FILE=token.txt cinnabar token check --as publisher --public-url https://hub.example.com/.well-known/mercure`
}

// Run is called by kong.
func (c *tokenCheckCmd) Run(ctx context.Context, a *app) error {
	token, err := c.read(a)
	if err != nil {
		return err
	}
	problems, warnings := c.loadForTokens(ctx, a)
	if len(problems) > 0 {
		return &configError{problems: problems, warnings: warnings}
	}
	question := server.TokenQuestion{Token: token, Topics: c.Topic}
	for _, role := range []server.TokenRole{server.Publisher, server.Subscriber} {
		if c.As == "both" || c.As == role.String() {
			question.Roles = append(question.Roles, role)
		}
	}
	answer, err := server.ExplainToken(ctx, c.Config, question)
	if err != nil {
		return err
	}
	for _, warning := range slices.Concat(warnings, answer.Warnings, c.hints(answer)) {
		a.complain("warning: %s", warning)
	}
	if c.JSON {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(answer)
	} else {
		err = printAnswer(a.stdout, answer)
	}
	if err == nil && !answer.Usable {
		return errSaid
	}
	return err
}

// loadForTokens is load for a command that needs no database.
func (c *tokenCheckCmd) loadForTokens(ctx context.Context, a *app) (problems, warnings []string) {
	c.DatabaseURL, c.ListenURL, c.Anonymous = privateDatabase, "", true
	_, problems, warnings = c.load(ctx, a)
	return slices.DeleteFunc(problems, func(problem string) bool {
		return strings.HasPrefix(problem, "DATABASE_URL") || strings.HasPrefix(problem, "MERCURE_DATABASE_LISTEN_URL")
	}), warnings
}

// hints are about settings that were probably forgotten.
func (c *tokenCheckCmd) hints(answer *server.TokenAnswer) []string {
	switch {
	case c.PublisherJWTKey+c.SubscriberJWTKey+c.Issuers == "" && c.PublisherJWKSURL+c.SubscriberJWKSURL == "":
		return []string{"there are no keys here: run this in the environment of the hub, or with --dev for a hub that runs with --dev"}
	case answer.Protocol == server.Dialect1.String() && c.PublicURL == "" && c.ResourceIdentifier == "":
		return []string{"aud cannot be checked, since the hub takes its URL from each request: give --public-url with the one that clients use"}
	}
	return nil
}

// maxTokenFile is more than any hub takes.
const maxTokenFile = 16 << 20

func (c *tokenCheckCmd) read(a *app) (token string, err error) {
	switch {
	case len(c.Token) > 1:
		return "", &usageError{reason: "there is more than one token; give one"}
	case len(c.Token) == 1 && c.TokenFile != "":
		return "", &usageError{reason: "the token and --token-file exclude each other"}
	case len(c.Token) == 1 && c.Token[0] == "-":
		var content []byte
		if content, err = io.ReadAll(io.LimitReader(a.stdin, maxTokenFile)); err != nil {
			return "", fmt.Errorf("read the token from stdin: %w", err)
		}
		token = string(content)
	case len(c.Token) == 1:
		token = string(c.Token[0])
	case c.TokenFile != "":
		content, err := os.ReadFile(c.TokenFile)
		if err != nil {
			return "", fmt.Errorf("--token-file: %w", err)
		}
		token = string(content)
	default:
		if token, err = a.env.variable("CINNABAR_TOKEN"); err != nil {
			return "", err
		}
	}
	if token = strings.TrimSpace(token); token == "" {
		return "", &usageError{reason: "the token is missing: give it as an argument, with - on stdin, with --token-file, or in CINNABAR_TOKEN"}
	}
	return token, nil
}

// errSaid is a failure that has been explained on stdout.
var errSaid = errors.New("the token cannot be used")

func printAnswer(w io.Writer, answer *server.TokenAnswer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var verdicts []string
	for _, role := range answer.Roles {
		fmt.Fprintf(table, "As a %s:\n", role.Role)
		for _, rule := range role.Rules {
			line := fmt.Sprintf("  %s\t%s\t%s", rule.Text, rule.Outcome, rule.Detail)
			fmt.Fprintln(table, strings.TrimRight(line, "\t"))
		}
		fmt.Fprintln(table)
		verdict := role.Role + ": not usable"
		if role.Usable {
			verdict = role.Role + ": usable"
		}
		verdicts = append(verdicts, verdict)
	}
	fmt.Fprintln(table, strings.Join(verdicts, ", "))
	return table.Flush()
}
