package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// answerTimeout is longer than a hub takes that waits for its database.
const answerTimeout = 30 * time.Second

// maxAnswerBytes is as much of an answer as is read.
const maxAnswerBytes = 16 << 10

// publisher publishes one update after the other. The data must not need
// escaping.
type publisher interface {
	// publish returns the id of the update, if that is known, once it is
	// accepted.
	publish(ctx context.Context, topic string, data []byte) (id string, err error)
	close()
}

// httpPublisher publishes over one connection, which it keeps. It writes requests
// by itself, since on a machine that also runs the hub what it costs is missing
// there.
type httpPublisher struct {
	target  *target
	index   int
	fields  string // of the head, behind the request line
	path    string
	conn    net.Conn
	in      *bufio.Reader
	request []byte
	body    []byte
}

func newHTTPPublisher(t *target, token string, index int) *httpPublisher {
	p := &httpPublisher{target: t, index: index, path: t.url.RequestURI()}
	p.fields = "Host: " + t.url.Host + "\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	if token != "" {
		p.fields += "Authorization: Bearer " + token + "\r\n"
	}
	return p
}

// refusal says that an update was not published, or that nobody knows.
type refusal struct {
	error
	// temporary: another one may be accepted.
	temporary bool
}

func (r *refusal) Unwrap() error { return r.error }

func (p *httpPublisher) publish(ctx context.Context, topic string, data []byte) (id string, err error) {
	if p.conn == nil {
		if p.conn, err = p.target.dial(ctx, p.index); err != nil {
			return "", err
		}
		p.in = bufio.NewReaderSize(p.conn, 4<<10)
	}
	p.body = append(p.body[:0], "topic="...)
	p.body = append(p.body, url.QueryEscape(topic)...)
	p.body = append(append(p.body, "&data="...), data...)
	p.request = fmt.Appendf(p.request[:0], "POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n", p.path, p.fields, len(p.body))
	p.request = append(p.request, p.body...)
	_ = p.conn.SetDeadline(time.Now().Add(answerTimeout))
	stop := context.AfterFunc(ctx, func() { _ = p.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := p.conn.Write(p.request); err != nil {
		p.close()
		return "", &refusal{error: fmt.Errorf("publish: %w", err), temporary: true}
	}
	id, err = p.answer()
	if err != nil && !errors.As(err, new(*statusError)) {
		p.close()
		return "", &refusal{error: fmt.Errorf("publish: %w", err), temporary: true}
	}
	return id, err
}

func (p *httpPublisher) answer() (string, error) {
	response, err := http.ReadResponse(p.in, nil)
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			err = errors.New("the hub closed the connection without an answer")
		}
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	if err != nil {
		return "", err
	}
	if response.Close || len(body) == maxAnswerBytes {
		p.close()
	}
	if response.StatusCode == http.StatusOK {
		return strings.TrimSpace(string(body)), nil
	}
	failed := &statusError{action: "a publisher", status: response.Status, detail: printable(detail(response.Header, body))}
	code := response.StatusCode
	return "", &refusal{error: failed, temporary: code == http.StatusTooManyRequests || code >= 500}
}

func detail(header http.Header, body []byte) string {
	var document struct{ Title, Detail string }
	switch mediaType := header.Get("Content-Type"); {
	case strings.Contains(mediaType, "json") && json.Unmarshal(body, &document) == nil:
		if document.Detail != "" {
			return document.Detail
		}
		return document.Title
	case strings.HasPrefix(mediaType, "text/plain"):
		line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
		return line
	}
	return ""
}

func (p *httpPublisher) close() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}
