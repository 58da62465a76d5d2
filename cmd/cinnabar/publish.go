package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

type publishCmd struct {
	clientFlags
	Topic   []string `required:"" sep:"none" placeholder:"TOPIC" help:"Topic of the update; repeatable, the first one is the canonical one."`
	Private bool     `help:"Only for subscribers whose token grants one of the topics."`
	Type    string   `placeholder:"NAME" help:"Type of the event, message by default."`
	ID      string   `name:"id" placeholder:"ID" help:"Id of the event. By default the hub makes one."`
	Retry   *uint64  `placeholder:"MILLISECONDS" help:"How long clients shall wait before they reconnect."`
	Key     string   `name:"idempotency-key" placeholder:"KEY" help:"Within 24 hours, publishing again with the same key is the same update."`
	Data    *string  `arg:"" optional:"" help:"The data. Read from stdin if missing, without the newline at its end."`
}

// Help implements kong.HelpProvider.
func (*publishCmd) Help() string {
	return `Prints the id of the update once it is stored. If it does not, the exit code is 1 and stderr says why.

Examples:

    cinnabar publish --dev --topic https://example.com/books/1 '{"available": true}'

    jq -c . book.json | CINNABAR_TOKEN_FILE=token cinnabar publish --hub https://hub.example.com/.well-known/mercure \
      --topic https://example.com/books/1 --private`
}

// publishTimeout is longer than a hub takes that waits for its database.
const publishTimeout = 30 * time.Second

// Run is called by kong.
func (c *publishCmd) Run(ctx context.Context, a *app) error {
	hub, token, err := c.prepare(a, true)
	if err != nil {
		return err
	}
	form, err := c.form(a)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, hub.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if c.Key != "" {
		request.Header.Set("Idempotency-Key", quotedKey(c.Key))
	}
	client := newClient()
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("publish to %s: %w", hub.Redacted(), reason(err))
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return newStatusError(response)
	}
	id, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
	if err != nil {
		return fmt.Errorf("the update was published, but reading its id: %w", err)
	}
	_, err = fmt.Fprintln(a.stdout, printable(string(id)))
	return err
}

// quotedKey is a string of a structured field (RFC 9651).
func quotedKey(key string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
}

func (c *publishCmd) form(a *app) (url.Values, error) {
	form := url.Values{"topic": c.Topic}
	switch {
	case c.Data != nil:
		form.Set("data", *c.Data)
	case a.onTerminal(a.stdin):
		return nil, &usageError{reason: "the data is missing: give it as an argument ('' for none) or on stdin"}
	default:
		data, err := io.ReadAll(a.stdin)
		if err != nil {
			return nil, fmt.Errorf("read the data from stdin: %w", err)
		}
		form.Set("data", strings.TrimSuffix(string(data), "\n"))
	}
	if c.Private {
		form.Set("private", "on")
	}
	for name, value := range map[string]string{"type": c.Type, "id": c.ID} {
		if value != "" {
			form.Set(name, value)
		}
	}
	if c.Retry != nil {
		form.Set("retry", strconv.FormatUint(*c.Retry, 10))
	}
	return form, nil
}
