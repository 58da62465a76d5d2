package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/server"
)

// What `serve --dev` trusts, so that applications and commands need no set-up.
// One secret for both roles, since that is what most frameworks configure.
const (
	devSecret = "this-key-is-for-development-only-and-everybody-knows-it"
	devIssuer = "https://dev.cinnabar.example"
	devAddr   = "127.0.0.1:3000"
	devTopic  = "https://example.com/books/1"
	hubPath   = "/.well-known/mercure"
	// devTokenLifetime outlives any terminal scrollback.
	devTokenLifetime = 365 * 24 * time.Hour
)

// applyDev fills in what --dev means and the operator has left open.
func (h *hubFlags) applyDev(ctx context.Context, list []*setting) {
	byVariable := map[string]*setting{}
	for _, s := range list {
		byVariable[s.variable] = s
	}
	open := func(variable string) bool { return !byVariable[variable].given }
	apply := func(variable string, assign func()) {
		if open(variable) {
			assign()
			byVariable[variable].origin = "--dev"
		}
	}
	apply("DATABASE_URL", func() { h.DatabaseURL = privateDatabase })
	apply("MERCURE_ADDR", func() { h.Addr = devAddr })
	apply("MERCURE_ANONYMOUS", func() { h.Anonymous = true })
	apply("MERCURE_COMPAT", func() { h.Compat = "on" })
	apply("MERCURE_SUBSCRIPTIONS", func() { h.Subscriptions = true })
	h.Addr = freePort(ctx, h.Addr)
	apply("MERCURE_PUBLIC_URL", func() { h.PublicURL = devHubURL(h.Addr) })
	// All or nothing: a key of the operator's must not become valid for an
	// issuer that everybody knows.
	if open("MERCURE_PUBLISHER_JWT_KEY") && open("MERCURE_SUBSCRIBER_JWT_KEY") && open("MERCURE_TRUSTED_ISSUERS") {
		apply("MERCURE_PUBLISHER_JWT_KEY", func() { h.PublisherJWTKey = devSecret })
		apply("MERCURE_SUBSCRIBER_JWT_KEY", func() { h.SubscriberJWTKey = devSecret })
		apply("MERCURE_TRUSTED_ISSUERS", func() { h.TrustedIssuers = devIssuer })
	}
}

// devHubURL is where a hub that listens on addr is found from this machine.
func devHubURL(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "http://" + devAddr + hubPath // serve will say what is wrong with addr
	}
	if ip := net.ParseIP(host); host == "" || host == "localhost" || ip != nil && (ip.IsUnspecified() || ip.IsLoopback() && ip.To4() != nil) {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + hubPath
}

// banner is what serve --dev prints once the hub can be used.
type banner struct {
	config server.Config
	// database is the argument of psql, quoted for a shell.
	database string
	// psql is how to call it.
	psql string
	// ownDatabase: the address of the database is not printed.
	ownDatabase bool
}

func (b banner) print(w io.Writer) error {
	hub := b.config.PublicURL
	if hub == "" {
		hub = devHubURL(b.config.Addr)
	}
	var text strings.Builder
	section := func(title string, lines ...string) {
		fmt.Fprintf(&text, "\n%s\n\n", title)
		for _, line := range lines {
			fmt.Fprintf(&text, "  %s\n", line)
		}
	}
	fmt.Fprintf(&text, "\nThe hub is running at %s for development.\n", hub)
	text.WriteString("NOT FOR PRODUCTION: its keys are known to everybody, and anybody who reaches it can publish.\n")

	authorization := func(key server.Secret, alg, action string) string {
		token, err := b.mint(string(key), alg, action)
		if err != nil {
			return ` -H "Authorization: Bearer $TOKEN"`
		}
		return " -H " + shellQuote("Authorization: Bearer "+token)
	}
	subscribe := "curl -N " + shellQuote(hub+"?match="+devTopic)
	if !b.config.Anonymous {
		subscribe += authorization(b.config.SubscriberJWTKey, b.config.SubscriberJWTAlg, "subscribe")
	}
	section("Subscribe, in a terminal of its own:", subscribe)
	section("Publish over HTTP:",
		"curl "+shellQuote(hub)+authorization(b.config.PublisherJWTKey, b.config.PublisherJWTAlg, "publish")+
			" --data-urlencode "+shellQuote("topic="+devTopic)+" --data-urlencode "+shellQuote("data=Hello from HTTP"))
	if strings.Contains(text.String(), "$TOKEN") {
		text.WriteString("\n  where $TOKEN is signed with your key: see cinnabar token --help\n")
	}

	insert := func(data string) string {
		return fmt.Sprintf(`-c "INSERT INTO mercure.outbox (topics, data) VALUES (ARRAY['%s'], '%s')"`, devTopic, data)
	}
	psql := b.psql + " " + b.database
	section("Publish from SQL:", psql+" "+insert("Hello from SQL"))
	section("In a transaction, delivered if and only if it commits. This one does not:",
		psql+" -c BEGIN "+insert("Nobody will see this")+" -c ROLLBACK")
	if b.ownDatabase {
		text.WriteString("\n  where $DATABASE_URL is the address this hub was given.\n")
	}
	if b.config.PublisherJWTKey == devSecret {
		section("Applications sign their tokens (HS256) with this key, for this issuer:", devSecret, devIssuer)
	}
	text.WriteString("\nStop with Ctrl-C.\n\n")
	_, err := io.WriteString(w, text.String())
	return err
}

// mint makes a token that may do one thing with every topic.
func (b banner) mint(key, alg, action string) (string, error) {
	signing, err := server.ParseSigningKey(key, alg)
	if err != nil {
		return "", err
	}
	audience := b.config.ResourceIdentifier
	if audience == "" {
		audience = b.config.PublicURL
	}
	issuer := firstOf(b.config.TrustedIssuers)
	spec := server.TokenSpec{
		Dialect: server.Dialect1, Key: signing, Issuer: issuer, Audience: audience,
		Expires: time.Now().Add(devTokenLifetime),
	}
	if issuer == "" {
		spec.Dialect, spec.Audience = server.Dialect0, ""
	}
	everything := []server.MatcherSpec{{Match: "*"}}
	if action == "publish" {
		spec.Publish = everything
	} else {
		spec.Subscribe = everything
	}
	return server.MintToken(spec)
}

// firstOf is the first entry of a list of settings.
func firstOf(list string) string {
	for entry := range strings.FieldsFuncSeq(list, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
		return entry
	}
	return ""
}

// psqlCommand is plain psql where that works.
func psqlCommand(path, binDir string) string {
	inBinDir := filepath.Join(binDir, "psql")
	if _, err := os.Stat(inBinDir); binDir == "" || err != nil {
		return "psql"
	}
	for _, dir := range filepath.SplitList(path) {
		if info, err := os.Stat(filepath.Join(dir, "psql")); err == nil && info.Mode()&0o111 != 0 {
			return "psql"
		}
	}
	return shellQuote(inBinDir)
}

// shellQuote makes one word of a POSIX shell of any text.
func shellQuote(text string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:@%+=,"
	if text != "" && strings.Trim(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
