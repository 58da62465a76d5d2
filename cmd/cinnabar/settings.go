package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/cinnabar-hub/cinnabar/server"
)

// hubFlags are the settings of serve: those of the hub, and those of the
// command around it.
type hubFlags struct {
	DevMode bool `name:"dev" help:"Everything a developer's machine needs and nothing else does: a private PostgreSQL unless DATABASE_URL is set, well-known keys, anonymous subscribers. Not for production."`

	server.Config

	DataDir   string    `name:"data-dir" setting:"MERCURE_DATA_DIR" placeholder:"DIR" help:"Where the private PostgreSQL keeps its data. By default cinnabar in the user's data directory, /var/lib/cinnabar for root."`
	LogFormat logFormat `name:"log-format" setting:"MERCURE_LOG_FORMAT" placeholder:"text|json" help:"Format of the log on stderr. By default text on a terminal, else json."`
	LogLevel  logLevel  `name:"log-level" setting:"MERCURE_LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"Least level to log: debug, info, warn or error."`
}

// logFormat is text, json, or empty for whatever suits stderr.
type logFormat string

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *logFormat) UnmarshalText(text []byte) error {
	switch v := logFormat(strings.ToLower(string(text))); v {
	case "text", "json":
		*f = v
		return nil
	}
	return fmt.Errorf("%q is neither text nor json", text)
}

// logLevel is a slog.Level by its plain name.
type logLevel slog.Level

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *logLevel) UnmarshalText(text []byte) error {
	switch strings.ToLower(string(text)) {
	case "debug":
		*l = logLevel(slog.LevelDebug)
	case "info":
		*l = logLevel(slog.LevelInfo)
	case "warn", "warning":
		*l = logLevel(slog.LevelWarn)
	case "error":
		*l = logLevel(slog.LevelError)
	default:
		return fmt.Errorf("%q is none of debug, info, warn, error", text)
	}
	return nil
}

// String implements fmt.Stringer.
func (l logLevel) String() string { return strings.ToLower(slog.Level(l).String()) }

// logger is where the hub logs to.
func (a *app) logger(format logFormat, level logLevel) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.Level(level), ReplaceAttr: readableDuration}
	if format == "json" || format == "" && !a.onTerminal(a.stderr) {
		return slog.New(slog.NewJSONHandler(a.stderr, options))
	}
	return slog.New(slog.NewTextHandler(a.stderr, options))
}

// readableDuration writes 1.5s where JSON would have bare nanoseconds.
func readableDuration(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() == slog.KindDuration {
		attr.Value = slog.StringValue(attr.Value.Duration().String())
	}
	return attr
}

// setting is one setting of the selected command, and where its value is from.
type setting struct {
	flag     *kong.Flag
	variable string
	origin   string
	given    bool // by the operator, in whatever way
}

// settings lists those of the selected command, in the order of its help.
func (a *app) settings() []*setting {
	onCommandLine := map[*kong.Flag]bool{}
	for _, path := range a.parsed.Path {
		if path.Flag != nil && !path.Resolved {
			onCommandLine[path.Flag] = true
		}
	}
	var list []*setting
	for _, flag := range a.parsed.Selected().Flags {
		variable := flag.Tag.Get("setting")
		if variable == "" {
			continue
		}
		s := &setting{flag: flag, variable: variable, origin: "default"}
		switch found := a.env.lookup(variable); {
		case onCommandLine[flag]:
			s.origin, s.given = "--"+flag.Name, true
		case a.env.faulty(variable):
			s.origin, s.given = "not usable", true
		case found.ok:
			s.origin, s.given = found.origin, true
		}
		list = append(list, s)
	}
	return list
}

// knownVariables are those of all commands.
func (a *app) knownVariables() []string {
	var known []string
	_ = kong.Visit(a.parsed.Model.Node, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			if variable := flag.Tag.Get("setting"); variable != "" {
				known = append(known, variable)
			}
		}
		return next(nil)
	})
	return known
}

// listenURLIsForAnother says that the address of the database was given on the
// command line and the one for LISTEN was not: a variable must not lead
// elsewhere than the flag.
func listenURLIsForAnother(list []*setting) bool {
	given := map[string]string{}
	for _, s := range list {
		given[s.variable] = s.origin
	}
	isFlag := func(variable string) bool { return strings.HasPrefix(given[variable], "--") }
	return isFlag("DATABASE_URL") && !isFlag("MERCURE_DATABASE_LISTEN_URL")
}

const listenURLIgnored = "MERCURE_DATABASE_LISTEN_URL: is not used, since --database-url may name another database; give --database-listen-url as well"

// privateDatabase is the DATABASE_URL that asks for a PostgreSQL of our own.
const privateDatabase = server.PrivateDatabase

// load completes the settings and finds everything that is wrong with them.
func (h *hubFlags) load(ctx context.Context, a *app) (list []*setting, problems, warnings []string) {
	list = a.settings()
	if h.DevMode {
		h.applyDev(ctx, list)
	}
	h.Dev = h.DevMode

	problems, warnings = a.env.checkNames(a.knownVariables())
	for _, p := range a.env.problems {
		problems = append(problems, oneLine(p.err.Error()))
	}
	if !h.DevMode {
		for _, key := range []struct {
			variable string
			value    server.Secret
		}{{"MERCURE_PUBLISHER_JWT_KEY", h.PublisherJWTKey}, {"MERCURE_SUBSCRIBER_JWT_KEY", h.SubscriberJWTKey}} {
			if key.value == devSecret {
				problems = append(problems, key.variable+": is the development key, which everybody knows; make one of your own (openssl rand -hex 32), or use --dev")
			}
		}
	}
	if h.ListenURL != "" && listenURLIsForAnother(list) {
		h.ListenURL = ""
		warnings = append(warnings, listenURLIgnored)
	}
	if h.DatabaseURL == privateDatabase && h.ListenURL != "" {
		problems = append(problems, "MERCURE_DATABASE_LISTEN_URL: cannot be used with a private PostgreSQL; remove it")
	}
	_, err := server.New(h.Config)
	for _, message := range splitErrors(err) {
		// A value that could not be read must not be called missing as well.
		blamed := func(p problem) bool { return strings.Contains(message, p.variable) }
		if !slices.ContainsFunc(a.env.problems, blamed) {
			problems = append(problems, message)
		}
	}
	return list, problems, warnings
}

// unset is shown for no value.
const unset = "-"

// shown is a value as it may be printed.
func (s *setting) shown() string {
	switch value := s.flag.Target.Interface().(type) {
	case server.Secret:
		return shownSecret(s.variable, string(value))
	case fmt.Stringer:
		return value.String()
	default:
		text := fmt.Sprint(value)
		switch {
		case text == "":
			return unset
		case strings.HasSuffix(s.variable, "_JWKS_URL"):
			return keySetAddress(text)
		}
		return text
	}
}

// keySetAddress is a URL without its user and query, by which the source of
// the set may know who asks.
func keySetAddress(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || strings.Contains(u.Host+u.Path, "@") {
		return server.Secret(raw).String()
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func shownSecret(variable, value string) string {
	if value == "" {
		return unset
	}
	if value == privateDatabase {
		return value
	}
	if strings.HasSuffix(variable, "_URL") {
		if address := databaseAddress(value); address != "" {
			return address
		}
	}
	return server.Secret(value).String()
}

// databaseAddress is the part of a URL that may be shown; empty for everything
// that is not written as a URL.
func databaseAddress(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || strings.Contains(u.Host+u.Path, "@") {
		return "" // with another @ the password is not where it seems to be
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	if u.User != nil {
		shown.User = url.User(u.User.Username())
	}
	return shown.String()
}

// freePort finds one for an address that leaves it open, and returns other
// addresses as they are.
func freePort(ctx context.Context, addr string) string {
	if host, port, err := net.SplitHostPort(addr); err != nil || port != "0" || host == "" {
		return addr
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return addr
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}
