package protocol

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// SubscribeOptions is what the meaning of a subscribe request depends on.
type SubscribeOptions struct {
	// Compat accepts 0.x selectors.
	Compat bool
	// Hub is the URL the request was made to, never nil.
	Hub    *HubURL
	Limits Limits
}

// SubscribeRequest is what a subscriber asks for.
type SubscribeRequest struct {
	// Matchers holds at least one matcher and no two with equal keys.
	Matchers []*Matcher
	// Cursor asks for what came after this id. It may be empty although
	// HasCursor is true: then nothing is replayed.
	Cursor    EventID
	HasCursor bool
	// LegacyField means that the response repeats its cursor field under its
	// 0.x name. Spec: Q-41
	LegacyField bool
	// Checkpoints asks for ids without data (S-26): the parameter
	// cursor_checkpoints=on, for clients that are no browser's EventSource but
	// can read such blocks.
	Checkpoints bool
	// GapEvent is the type of the event that tells of a cursor that was not
	// found (S-27), ExpiryEvent that of the warning before the token expires;
	// empty: not asked for.
	GapEvent, ExpiryEvent string
	// NoAnonymous is the parameter anonymous=off: a subscriber that expects to
	// have a credential wants to be refused without one.
	NoAnonymous bool
	// Legacy is what of 0.x was used.
	Legacy LegacyUse
}

// LegacyUse says which parameters of 0.x a request has.
type LegacyUse struct {
	Selector, LastEventID014, LastEventID013 bool
}

// ParseSubscribe reads the parameters of a subscribe request: its raw query
// component, the body of a QUERY request, and the values of its Last-Event-ID
// header fields. Every error is a *FieldError.
//
// Spec: S-2, S-3, S-4, S-5, S-6, S-7, S-8, S-9, S-10, S-11, S-12, H-3, Q-24
func ParseSubscribe(query, body string, header []string, opts SubscribeOptions) (*SubscribeRequest, error) {
	if exceeds(len(body), opts.Limits.BodyBytes) {
		return nil, tooLarge("body", 0, fmt.Sprintf("must be at most %d bytes long", opts.Limits.BodyBytes))
	}
	p := subscribeParser{opts: opts, known: make(map[MatcherKey]struct{})}
	for _, value := range header {
		if err := p.cursors.add("Last-Event-ID header", cursorHeader, sourceQuery, value); err != nil {
			return nil, err
		}
	}
	for pair := range formPairs(query) {
		if err := p.parameter(pair, sourceQuery); err != nil {
			return nil, err
		}
	}
	for pair := range formPairs(body) {
		if err := p.parameter(pair, sourceBody); err != nil {
			return nil, err
		}
	}
	if len(p.request.Matchers) == 0 {
		return nil, &FieldError{Field: "request", Problem: p.missingMatcher()}
	}
	p.request.Cursor, p.request.HasCursor = p.cursors.choose()
	p.request.Legacy = LegacyUse{
		Selector:       p.selectors,
		LastEventID014: p.cursors.present[cursorParameter014],
		LastEventID013: p.cursors.present[cursorParameter013],
	}
	p.request.LegacyField = p.request.Legacy != LegacyUse{}
	return &p.request, nil
}

type subscribeParser struct {
	opts    SubscribeOptions
	request SubscribeRequest
	known   map[MatcherKey]struct{}
	// count includes duplicates, which cost as much to compile.
	count     int
	selectors bool
	cursors   cursorSources
}

func (p *subscribeParser) missingMatcher() string {
	if p.opts.Compat {
		return "needs at least one match, match_exact, match_urlpattern or topic parameter"
	}
	return "needs at least one match, match_exact or match_urlpattern parameter"
}

func (p *subscribeParser) parameter(pair Pair, source cursorSource) error {
	switch pair.Name {
	case "match", "match_exact":
		return p.matcher(pair, NewExact)
	case "match_urlpattern":
		return p.matcher(pair, func(value string) (*Matcher, error) { return NewURLPattern(value, p.opts.Hub) })
	case "topic":
		if !p.opts.Compat {
			return &FieldError{Field: "topic", Problem: "is not supported by this hub; use match for a topic and match_urlpattern for a pattern"}
		}
		p.selectors = true
		return p.matcher(pair, NewSelector)
	case "cursor_checkpoints":
		p.request.Checkpoints = pair.Value == "on"
	case "anonymous":
		p.request.NoAnonymous = pair.Value == "off"
	case "gap_event":
		return eventName(&p.request.GapEvent, pair)
	case "expiry_event":
		return eventName(&p.request.ExpiryEvent, pair)
	}
	if len(pair.Name) >= len("match") && strings.EqualFold(pair.Name[:len("match")], "match") {
		// Reserved for future matcher types; ignoring one would silently drop
		// a subscription. Spec: S-4, M-3, Q-20
		return &FieldError{
			Field:   "request",
			Problem: "has a parameter with a name that is not a supported matcher; use match, match_exact or match_urlpattern",
			Excerpt: excerpt(pair.Name),
		}
	}
	if rank, ok := cursorParameters[pair.Name]; ok {
		return p.cursors.add(pair.Name, rank, source, pair.Value)
	}
	return nil // Spec: S-10
}

// eventName takes the type of an event that the hub is to send on this stream.
// The rules are those of publishers, or it could forge fields.
//
// Spec: S-27, P-9
func eventName(into *string, pair Pair) error {
	if exceeds(len(pair.Value), maxEventNameBytes) {
		return &FieldError{Field: pair.Name, Problem: fmt.Sprintf("must be at most %d bytes long", maxEventNameBytes)}
	}
	if err := validateType(pair.Value); err != nil {
		err.Field = pair.Name
		if pair.Value == "" {
			err.Problem = "must not be empty; give the type that the event shall have"
		}
		return err
	}
	*into = pair.Value
	return nil
}

// maxEventNameBytes bounds what a client makes the hub repeat.
const maxEventNameBytes = 256

func (p *subscribeParser) matcher(pair Pair, compile func(string) (*Matcher, error)) error {
	p.count++
	if exceeds(p.count, p.opts.Limits.Matchers) {
		return &FieldError{
			Field:   "request",
			Problem: fmt.Sprintf("must have at most %d matchers; open several streams", p.opts.Limits.Matchers),
		}
	}
	if exceeds(len(pair.Value), p.opts.Limits.MatcherBytes) {
		return &FieldError{Field: pair.Name, Problem: fmt.Sprintf("must be at most %d bytes long", p.opts.Limits.MatcherBytes)}
	}
	m, err := compile(pair.Value)
	if err != nil {
		if fieldErr, ok := errors.AsType[*FieldError](err); ok {
			fieldErr.Field = pair.Name
		}
		return err
	}
	if _, ok := p.known[m.Key()]; !ok {
		p.known[m.Key()] = struct{}{}
		p.request.Matchers = append(p.request.Matchers, m)
	}
	return nil
}

// cursorRank orders the places a cursor can be in; the first one that is not
// empty counts. Spec: H-3
type cursorRank uint8

const (
	cursorHeader cursorRank = iota
	cursorPolyfill
	cursorParameter
	cursorParameter014
	cursorParameter013
	cursorRanks
)

var cursorParameters = map[string]cursorRank{
	"lastEventId":   cursorPolyfill,
	"last_event_id": cursorParameter,
	"lastEventID":   cursorParameter014,
	"Last-Event-ID": cursorParameter013,
	"Last-Event-Id": cursorParameter013, // as much code that uses the polyfill spells it
}

// cursorSource tells the query component from the body; the former comes first
// within a rank. Spec: S-8
type cursorSource uint8

const (
	sourceQuery cursorSource = iota
	sourceBody
	cursorSourceCount
)

// cursorSources collects what a request says about its cursor.
type cursorSources struct {
	present [cursorRanks]bool
	values  [cursorRanks][cursorSourceCount]string
}

// add notes a value; the last one that is not empty counts, since old
// polyfills append the fresh value after the stale one. Spec: S-3, Q-24
func (c *cursorSources) add(name string, rank cursorRank, source cursorSource, value string) error {
	if !utf8.ValidString(value) {
		return &FieldError{Field: name, Problem: "must be valid UTF-8", Excerpt: excerpt(value)}
	}
	c.present[rank] = true
	if value != "" {
		c.values[rank][source] = value
	}
	return nil
}

func (c *cursorSources) choose() (cursor EventID, present bool) {
	for rank, sources := range c.values {
		present = present || c.present[rank]
		for _, value := range sources {
			if value != "" {
				return EventID(value), true
			}
		}
	}
	return "", present
}
