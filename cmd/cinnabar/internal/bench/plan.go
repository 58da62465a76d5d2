package bench

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"
)

// Dialect is that of the protocol.
type Dialect string

// Dialects.
const (
	Dialect1 Dialect = "1.0"
	Dialect0 Dialect = "0.x"
)

// audience is what the streams of a plan ask for.
type audience string

const (
	// everything: all streams the one topic of the run.
	everything audience = "everything"
	// ownTopic: each stream a topic of its own.
	ownTopic audience = "topic"
	// ownPattern: each stream a pattern of its own.
	ownPattern audience = "pattern"
)

// plan is the streams that a process opens.
type plan struct {
	// URLs are those of the nodes, in turn.
	URLs  []string
	Token string
	// Run keeps the updates of one measurement apart from all others.
	Run      string
	Dialect  Dialect
	Audience audience
	// First is the number of the first stream, Streams how many there are.
	First, Streams int
	// LastEventID is where they resume; empty: nowhere.
	LastEventID string
	// Sources is how many publish to everybody; Bases is what they had
	// published before.
	Sources int
	Bases   []uint32
	// Connecting is how many connect at once.
	Connecting int
	// Portable: one goroutine for each stream, also where that can be avoided.
	Portable bool
}

// part is what one of several processes opens.
func (p plan) part(i, of int) plan {
	first, end := p.Streams*i/of, p.Streams*(i+1)/of
	p.First, p.Streams = first, end-first
	p.Connecting = max(p.Connecting/of, 1)
	return p
}

func topicOfAll(run string) string { return "https://bench.example/" + run + "/all" }

// topicOf a stream. For a pattern there are as many as one likes.
func topicOf(a audience, run string, index int, n uint32) string {
	switch a {
	case ownTopic:
		return fmt.Sprintf("https://bench.example/%s/topics/%d", run, index)
	case ownPattern:
		return fmt.Sprintf("https://bench.example/%s/patterns/%d/%d", run, index, n)
	default:
		return topicOfAll(run)
	}
}

// matcher returns the query parameter with which a stream asks for its topics.
func (p *plan) matcher(index int) (name, value string) {
	name = "match"
	if p.Dialect == Dialect0 {
		name = "topic"
	}
	if p.Audience != ownPattern {
		return name, topicOf(p.Audience, p.Run, index, 0)
	}
	base := fmt.Sprintf("https://bench.example/%s/patterns/%d/", p.Run, index)
	if p.Dialect == Dialect0 {
		return name, base + "{id}"
	}
	return "match_urlpattern", base + ":id"
}

// request is what a stream sends.
func (p *plan) request(u *url.URL, index int) []byte {
	name, value := p.matcher(index)
	query := u.Query()
	query.Set(name, value)
	var text strings.Builder
	fmt.Fprintf(&text, "GET %s?%s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n",
		cmp.Or(u.EscapedPath(), "/"), query.Encode(), u.Host)
	if p.Token != "" {
		fmt.Fprintf(&text, "Authorization: Bearer %s\r\n", p.Token)
	}
	if p.LastEventID != "" {
		fmt.Fprintf(&text, "Last-Event-ID: %s\r\n", p.LastEventID)
	}
	text.WriteString("\r\n")
	return []byte(text.String())
}

// slots is how many sources a stream of the plan hears.
func (p *plan) slots() int {
	if p.Audience == everything {
		return p.Sources
	}
	return 1
}

// slot is the one of a source; -1: it is not for this stream.
func (p *plan) slot(index int, source uint32) int {
	switch {
	case p.Audience == everything:
		return int(source)
	case int(source) == index:
		return 0
	default:
		return -1
	}
}
