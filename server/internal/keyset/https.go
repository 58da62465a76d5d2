package keyset

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// fetchTimeout is for everything: names, connection, redirects, body.
	// Longer than a request waits, so that the next one finds the set.
	fetchTimeout     = 10 * time.Second
	handshakeTimeout = 5 * time.Second
	maxRedirects     = 3
	maxHeaderBytes   = 64 << 10
)

// httpsSource fetches a set.
//
// Spec: V-15, Z-14.
type httpsSource struct {
	url       *url.URL
	transport *http.Transport
	timeout   time.Duration
}

// newHTTPSSource takes no proxy from the environment: the name would be
// resolved there, and the guard on addresses would see nothing but the proxy.
// Connections are not kept, as reads are minutes apart.
func newHTTPSSource(address *url.URL, networks []netip.Prefix, roots *x509.CertPool) *httpsSource {
	dialer := &net.Dialer{ControlContext: newGuard(networks).control}
	return &httpsSource{
		url: address,
		transport: &http.Transport{
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    handshakeTimeout,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
		timeout: fetchTimeout,
	}
}

func (s *httpsSource) read(ctx context.Context) (document, error) {
	limited, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	d, err := s.follow(limited)
	switch {
	case ctx.Err() != nil:
		return document{}, ctx.Err()
	case limited.Err() != nil:
		// Also without an error: a server that sees the connection being closed
		// may still manage to end its answer, as if that were all of it.
		return document{}, fmt.Errorf("it took longer than %s to fetch", s.timeout)
	}
	return d, err
}

func (s *httpsSource) follow(ctx context.Context) (document, error) {
	target := s.url
	for range maxRedirects + 1 {
		d, next, err := s.get(ctx, target)
		if err != nil || next == nil {
			return d, err
		}
		target = next
	}
	return document{}, fmt.Errorf("it redirects more than %d times: use the URL it leads to in the end", maxRedirects)
}

// get returns the document, or where to look for it instead.
func (s *httpsSource) get(ctx context.Context, target *url.URL) (d document, next *url.URL, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), http.NoBody)
	if err != nil {
		return d, nil, errors.New("no request can be made for its URL")
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	request.Header.Set("User-Agent", "cinnabar")
	if user := s.url.User; user != nil {
		password, _ := user.Password()
		request.SetBasicAuth(user.Username(), password)
	}
	// Not through a Client, whose errors quote URLs, and which follows them.
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		return d, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	switch response.StatusCode {
	case http.StatusOK:
		d.maxAge = maxAge(response.Header)
		d.body, err = readBounded(response.Body)
		return d, nil, err
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		next, err = redirect(target, response)
		return d, next, err
	default:
		return d, nil, fmt.Errorf("the answer has status %d, not 200", response.StatusCode)
	}
}

// Spec: V-15. Another origin could be anything, however well this one is
// guarded.
func redirect(from *url.URL, response *http.Response) (*url.URL, error) {
	to, err := response.Location()
	if err != nil {
		return nil, fmt.Errorf("the answer has status %d and no usable Location", response.StatusCode)
	}
	if origin(to) != origin(from) {
		return nil, fmt.Errorf("it redirects to another origin, %s: use the URL it leads to", origin(to))
	}
	return to, nil
}

func origin(u *url.URL) string {
	port := u.Port()
	if port == "" && u.Scheme == "https" {
		port = "443"
	}
	return u.Scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// maxAge is how much longer an answer may be used, or negative if it does not
// say. That it should not be stored says nothing about that: providers say so
// of everything they have.
func maxAge(header http.Header) time.Duration {
	for _, field := range header.Values("Cache-Control") {
		for directive := range strings.SplitSeq(field, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			if !strings.EqualFold(name, "max-age") {
				continue
			}
			age := seconds(header.Get("Age"))
			if whole := seconds(strings.Trim(value, `"`)); whole >= 0 {
				return max(whole-max(age, 0), 0)
			}
		}
	}
	return -1
}

// seconds is negative if the text is not a number.
func seconds(text string) time.Duration {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31)
	if err != nil {
		return -1
	}
	return time.Duration(n) * time.Second
}
