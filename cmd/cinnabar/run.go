package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/cinnabar-hub/cinnabar/server"
)

const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// commands is the command line.
type commands struct {
	Help helpFlag `short:"h" help:"Show this text."`

	Serve     serveCmd        `cmd:"" help:"Run a hub."`
	Config    configCmd       `cmd:"" help:"Show the settings serve would use, where each comes from, and what is wrong with them."`
	Migrate   migrateCmd      `cmd:"" help:"Create, update or inspect the database schema."`
	Attach    attachCmd       `cmd:"" help:"Print a migration that makes a table publish its changes."`
	Detach    detachCmd       `cmd:"" help:"Print a migration that takes this back."`
	Retention retentionCmd    `cmd:"" help:"Show what history there is, and what retention would remove now."`
	Token     tokenCmd        `cmd:"" help:"Make an access token, or explain one."`
	Publish   publishCmd      `cmd:"" help:"Publish an update to a hub."`
	Subscribe subscribeCmd    `cmd:"" help:"Print the updates of a hub as they come."`
	Bench     benchCmd        `cmd:"" help:"Measure what a hub does under load, and check what it delivers."`
	Torture   tortureCmd      `cmd:"" help:"Test a cluster under faults on this machine, and check what it promises."`
	Version   versionCmd      `cmd:"" help:"Show which build this is."`
	Streams   benchStreamsCmd `cmd:"" name:"bench-streams" hidden:""`
	Floor     benchFloorCmd   `cmd:"" name:"bench-floor" hidden:""`
	HelpOn    helpCmd         `cmd:"" name:"help" help:"Show what a command does and understands."`
}

// app is one invocation: what it was given and where it writes.
type app struct {
	args   []string
	env    *environment
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	// onTerminal tells a person from a pipe.
	onTerminal func(stream any) bool

	// Set once the command line has been understood.
	parsed *kong.Context
}

// run is the whole program. It returns the exit code.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{
		args: args, env: newEnvironment(environ), stdin: stdin, stdout: stdout, stderr: stderr, onTerminal: isTerminal,
	}
	return a.report(a.run(ctx))
}

func (a *app) run(ctx context.Context) error {
	parser, err := a.parser()
	if err != nil {
		return err
	}
	parsed, err := parser.Parse(a.args)
	switch {
	case errors.Is(err, errHelpShown):
		return nil
	case err != nil:
		return &usageError{reason: err.Error(), command: commandOf(err)}
	}
	a.parsed = parsed
	parsed.BindTo(ctx, (*context.Context)(nil))
	return parsed.Run(a)
}

func (a *app) parser() (*kong.Kong, error) {
	return kong.New(&commands{},
		kong.Name("cinnabar"),
		kong.Description("A Mercure hub on PostgreSQL. To try it on this machine: cinnabar serve --dev"),
		kong.Writers(a.stdout, a.stderr),
		kong.NoDefaultHelp(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ValueFormatter(describeFlag),
		kong.Resolvers(kong.ResolverFunc(a.resolve)),
		kong.PostBuild(func(k *kong.Kong) error {
			k.Model.HelpFlag = k.Model.Flags[0]
			return hideSettings(k)
		}),
		kong.TypeMapper(reflect.TypeFor[server.Switch](), switchMapper{}),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(decodeDuration)),
	)
}

// resolve takes the value of a flag that was not given from the environment.
// What is wrong there is collected, so that all of it is reported at once.
func (a *app) resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	variable := flag.Tag.Get("setting")
	if variable == "" {
		return nil, nil
	}
	found := a.env.lookup(variable)
	if !found.ok {
		return nil, nil
	}
	scan := kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: found.value})
	scratch := reflect.New(flag.Target.Type()).Elem()
	if err := flag.Mapper.Decode(&kong.DecodeContext{Value: flag.Value, Scan: scan}, scratch); err != nil {
		a.env.addProblem(variable, fmt.Errorf("%s: %w", found.name, err))
		return nil, nil
	}
	return found.value, nil
}

// describeFlag is the help text of a flag with its default and its variable.
func describeFlag(value *kong.Value) string {
	text := value.Help
	if value.HasDefault && value.Default != "" {
		text += " [" + value.Default + "]"
	}
	if variable := value.Tag.Get("setting"); variable != "" {
		text += " ($" + variable + ")"
	}
	return text
}

var errHelpShown = errors.New("help was shown")

// helpFlag shows the help of the command it stands behind.
type helpFlag bool

// BeforeReset is called by kong before anything is checked, so that help is
// also to be had for a command line with errors in it.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return err
	}
	return errHelpShown
}

// switchMapper reads --anonymous, --anonymous=off and --anonymous off.
type switchMapper struct{}

func (switchMapper) IsBool() bool { return true }

func (switchMapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	next := ctx.Scan.Peek()
	value := server.Switch(true)
	if text, ok := next.Value.(string); ok && next.IsValue() {
		switch err := value.UnmarshalText([]byte(text)); {
		case err == nil:
			ctx.Scan.Pop()
		case next.Type == kong.FlagValueToken:
			return err
		default:
			value = true // the next argument is something else
		}
	}
	target.SetBool(bool(value))
	return nil
}

func decodeDuration(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("duration", &text); err != nil {
		return err
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 90s, 10m or 24h", text)
	}
	target.SetInt(int64(d))
	return nil
}

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

func commandOf(err error) string {
	var parseError *kong.ParseError
	if !errors.As(err, &parseError) || parseError.Context == nil {
		return "cinnabar"
	}
	if node := parseError.Context.Selected(); node != nil {
		return "cinnabar " + strings.TrimPrefix(node.Path(), "cinnabar ")
	}
	return "cinnabar"
}
