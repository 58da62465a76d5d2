package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/server"
)

type tokenCmd struct {
	Make  tokenMakeCmd  `cmd:"" default:"withargs" help:"Make an access token; the word make can be left out."`
	Check tokenCheckCmd `cmd:"" help:"Explain, rule by rule, what a hub makes of a token."`
}

type tokenMakeCmd struct {
	Publish   []string `sep:"none" placeholder:"MATCHER" help:"Topics to publish to; repeatable. A topic, exact:TOPIC, urlpattern:PATTERN, or *. In 0.x tokens a topic, a URI template, or *."`
	Subscribe []string `sep:"none" placeholder:"MATCHER" help:"Topics whose private updates may be received; repeatable."`
	Payload   string   `placeholder:"JSON" help:"What active subscriptions show about the subscriber: a JSON object, in 0.x tokens any value."`

	Protocol string        `enum:"1.0,0.x" default:"1.0" placeholder:"1.0|0.x" help:"Dialect of the token."`
	Issuer   string        `placeholder:"URL" help:"The iss of the token. By default the first of MERCURE_TRUSTED_ISSUERS."`
	Audience string        `placeholder:"URL" help:"The aud of the token. By default MERCURE_RESOURCE_IDENTIFIER or MERCURE_PUBLIC_URL."`
	Subject  string        `placeholder:"NAME" help:"The sub of the token. By default the issuer."`
	Expires  time.Duration `default:"1h" placeholder:"DURATION" help:"How long the token is valid; 0 for a 0.x token that always is."`

	Key     server.Secret `placeholder:"KEY" help:"Secret, or PEM private key, to sign with. Other users of the machine can see arguments: prefer --key-file."`
	KeyFile string        `placeholder:"FILE" help:"File with that key."`
	Alg     string        `placeholder:"ALG" help:"Algorithm of the key. By default HS256, or the MERCURE_..._JWT_ALG that belongs to the key."`
	Kid     string        `placeholder:"ID" help:"The kid of the token."`
	Dev     bool          `help:"Sign for a hub that runs with --dev."`
}

// Help implements kong.HelpProvider.
func (*tokenMakeCmd) Help() string {
	return `The key is, in this order: --key or --key-file; that of --dev; MERCURE_PUBLISHER_JWT_KEY if only --publish is given,
else MERCURE_SUBSCRIBER_JWT_KEY. (These also exist with _FILE.) So in the environment of a hub this makes tokens for it,
as long as its keys are secrets; with public keys in the hub, the private one has to be given here.

Only the token is printed. What a hub makes of a token is explained by: cinnabar token check.

Examples:

    cinnabar token --dev --publish '*'

    cinnabar token --subscribe urlpattern:https://example.com/users/7/* --expires 15m \
      --issuer https://app.example.com --audience https://hub.example.com/.well-known/mercure --key-file secret.txt

    cinnabar token --protocol 0.x --publish '*' --expires 0 --key-file secret.txt`
}

// Run is called by kong.
func (c *tokenMakeCmd) Run(a *app) error {
	token, err := c.mint(a)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, token)
	return err
}

func (c *tokenMakeCmd) mint(a *app) (string, error) {
	spec, err := c.spec(a)
	if err != nil {
		return "", err
	}
	token, err := server.MintToken(spec)
	if err != nil && spec.Dialect == server.Dialect1 && spec.Issuer == "" {
		err = fmt.Errorf("%w; hubs without MERCURE_TRUSTED_ISSUERS take tokens of protocol 0.x: add --protocol 0.x", err)
	}
	return token, err
}

func (c *tokenMakeCmd) spec(a *app) (spec server.TokenSpec, err error) {
	spec = server.TokenSpec{
		Dialect: server.Dialect1, KeyID: c.Kid, Subject: c.Subject,
		Issuer: c.Issuer, Audience: c.Audience,
	}
	if c.Payload != "" {
		spec.Payload = json.RawMessage(c.Payload)
	}
	if c.Protocol == "0.x" {
		spec.Dialect = server.Dialect0
	} else {
		spec.Issuer, spec.Audience = c.defaults(a)
	}
	switch {
	case c.Expires < 0:
		return spec, &usageError{reason: "--expires: the token would have expired already"}
	case c.Expires > 0:
		spec.Expires = time.Now().Add(c.Expires)
	case spec.Dialect == server.Dialect1:
		return spec, &usageError{reason: "--expires: a 1.0 token cannot live for ever; only --protocol 0.x may have 0"}
	}
	if spec.Key, err = c.signingKey(a); err != nil {
		return spec, err
	}
	spec.Publish = matchers(c.Publish, spec.Dialect == server.Dialect1)
	spec.Subscribe = matchers(c.Subscribe, spec.Dialect == server.Dialect1)
	return spec, nil
}

// defaults are those of the hub whose environment this is.
func (c *tokenMakeCmd) defaults(a *app) (issuer, audience string) {
	issuer, audience = c.Issuer, c.Audience
	if c.Dev {
		issuer = either(issuer, devIssuer)
	}
	if issuer == "" {
		issuer = firstOf(a.env.lookup("MERCURE_TRUSTED_ISSUERS").value)
	}
	for _, variable := range []string{"MERCURE_RESOURCE_IDENTIFIER", "MERCURE_PUBLIC_URL"} {
		if audience == "" {
			audience = a.env.lookup(variable).value
		}
	}
	if c.Dev {
		audience = either(audience, devHubURL(devAddr))
	}
	return issuer, audience
}

func (c *tokenMakeCmd) signingKey(a *app) (server.SigningKey, error) {
	material, source, alg := string(c.Key), "--key", c.Alg
	switch {
	case material != "" && c.KeyFile != "":
		return server.SigningKey{}, &usageError{reason: "--key and --key-file exclude each other"}
	case material != "":
	case c.KeyFile != "":
		content, err := os.ReadFile(c.KeyFile)
		if err != nil {
			return server.SigningKey{}, fmt.Errorf("--key-file: %w", err)
		}
		material, source = strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r"), "--key-file"
	case c.Dev:
		material = devSecret
	default:
		role := "SUBSCRIBER"
		if len(c.Publish) > 0 && len(c.Subscribe) == 0 {
			role = "PUBLISHER"
		}
		source = "MERCURE_" + role + "_JWT_KEY"
		material = a.env.lookup(source).value
		if alg == "" {
			alg = a.env.lookup("MERCURE_" + role + "_JWT_ALG").value
		}
		if len(a.env.problems) > 0 {
			return server.SigningKey{}, a.env.problems[0].err
		}
		if material == "" {
			return server.SigningKey{}, fmt.Errorf("there is no key to sign with: give --key-file, or set %s, or use --dev for a hub that runs with --dev", source)
		}
		a.warnAboutOtherKey(c)
	}
	key, err := server.ParseSigningKey(material, either(alg, "HS256"))
	if err != nil {
		return key, fmt.Errorf("%s: %w", source, err)
	}
	return key, nil
}

// warnAboutOtherKey speaks up where one token cannot serve both roles.
func (a *app) warnAboutOtherKey(c *tokenMakeCmd) {
	publisher := a.env.lookup("MERCURE_PUBLISHER_JWT_KEY")
	if len(c.Publish) > 0 && len(c.Subscribe) > 0 && publisher.ok && publisher.value != a.env.lookup("MERCURE_SUBSCRIBER_JWT_KEY").value {
		a.complain("warning: publishers have another key here, so this token can be used to subscribe only; make two")
	}
}

func matchers(list []string, typed bool) []server.MatcherSpec {
	var specs []server.MatcherSpec
	for _, entry := range list {
		spec := server.MatcherSpec{Match: entry}
		for _, matchType := range []string{"exact", "urlpattern"} {
			if match, ok := strings.CutPrefix(entry, matchType+":"); typed && ok {
				spec = server.MatcherSpec{Match: match, Type: matchType}
			}
		}
		specs = append(specs, spec)
	}
	return specs
}

func either(value, fallback string) string {
	if value != "" {
		return value
	}
	return fallback
}
