package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/server"
)

// clientFlags say which hub to talk to, and as who. Their variables do not
// begin with MERCURE_, where everything is a setting of the hub.
type clientFlags struct {
	Hub   string        `setting:"CINNABAR_HUB_URL" default:"http://127.0.0.1:3000/.well-known/mercure" placeholder:"URL" help:"URL of the hub."`
	Token server.Secret `setting:"CINNABAR_TOKEN" placeholder:"TOKEN" help:"Access token to present."`
	Dev   bool          `help:"Make a token for a hub that runs with --dev."`
}

// connectTimeout is more than any reachable host needs.
const connectTimeout = 10 * time.Second

// client does not follow redirects: a POST would come out as a GET, and a
// token could end up where it does not belong.
func newClient() *http.Client {
	transport := &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: connectTimeout}).DialContext, TLSHandshakeTimeout: connectTimeout,
		ForceAttemptHTTP2: true,
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// prepare checks the flags and returns the URL of the hub and the token, which
// may be empty.
func (f *clientFlags) prepare(a *app, publish bool) (hub *url.URL, token string, err error) {
	if len(a.env.problems) > 0 {
		return nil, "", a.env.problems[0].err
	}
	hub, err = url.Parse(f.Hub)
	if err != nil || hub.Host == "" || hub.Scheme != "http" && hub.Scheme != "https" {
		return nil, "", &usageError{reason: fmt.Sprintf("--hub: %q is not the http or https URL of a hub", f.Hub)}
	}
	token = string(f.Token)
	if token != "" || !f.Dev {
		return hub, token, nil
	}
	token, err = devToken(hub, publish)
	return hub, token, err
}

// devToken makes a token for the hub that runs with --dev at a URL.
func devToken(hub *url.URL, publish bool) (string, error) {
	key, err := server.ParseSigningKey(devSecret, "HS256")
	if err != nil {
		return "", err
	}
	port := hub.Port()
	if port == "" {
		port = "80"
	}
	spec := server.TokenSpec{
		Dialect: server.Dialect1, Key: key, Issuer: devIssuer, Expires: time.Now().Add(time.Hour),
		Audience: devHubURL(net.JoinHostPort(hub.Hostname(), port)),
	}
	if hub.Path != hubPath {
		// Its operator has set MERCURE_PUBLIC_URL, and this is it.
		spec.Audience = (&url.URL{Scheme: hub.Scheme, Host: hub.Host, Path: hub.Path, RawPath: hub.RawPath}).String()
	}
	everything := []server.MatcherSpec{{Match: "*"}}
	if publish {
		spec.Publish = everything
	} else {
		spec.Subscribe = everything
	}
	return server.MintToken(spec)
}

// statusError is an answer other than the one hoped for.
type statusError struct {
	status string // as in "403 Forbidden"
	code   int
	detail string
	// retryAfter is when the hub wants to be asked again; 0: it did not say.
	retryAfter time.Duration
}

func (e *statusError) Error() string {
	message := "the hub answered " + e.status
	if e.detail != "" {
		message += ": " + e.detail
	}
	return message
}

// temporary says whether the same request may succeed later.
func (e *statusError) temporary() bool {
	return e.code == http.StatusTooManyRequests || e.code == http.StatusRequestTimeout || e.code >= 500 && e.code != http.StatusNotImplemented
}

// maxErrorBytes is as much of an answer as is read for its explanation.
const maxErrorBytes = 16 << 10

func newStatusError(response *http.Response) *statusError {
	e := &statusError{code: response.StatusCode, status: strings.TrimSpace(fmt.Sprintf("%d %s", response.StatusCode, http.StatusText(response.StatusCode)))}
	if seconds, err := time.ParseDuration(response.Header.Get("Retry-After") + "s"); err == nil && seconds > 0 {
		e.retryAfter = seconds
	}
	if location := response.Header.Get("Location"); location != "" && response.StatusCode/100 == 3 {
		e.detail = "it has moved to " + location + "; give that as --hub"
		return e
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
	mediaType, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	var document struct{ Title, Detail string }
	switch {
	case strings.HasSuffix(mediaType, "json") && json.Unmarshal(body, &document) == nil:
		e.detail = either(document.Detail, document.Title)
	case mediaType == "text/plain":
		e.detail = firstLine(string(body))
	}
	e.detail = printable(e.detail)
	return e
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(line)
}

// printable removes what a terminal would act on.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}

// reason is the part of an error of net/http that is worth reading.
func reason(err error) error {
	if urlError, ok := errors.AsType[*url.Error](err); ok {
		return urlError.Err
	}
	return err
}
