package torture

import (
	"net/url"
	"slices"
)

// origin is where everything in the run pretends to live.
const origin = "https://torture.example"

const (
	order1 = origin + "/orders/1"
	order2 = origin + "/orders/2"
	book1  = origin + "/books/1"
	book2  = origin + "/books/2"
	opaque = "urn:torture:a"
)

// topicSets are the topics that updates have. The last one is for marks that
// every subscriber must see.
var topicSets = [...][]string{
	{order1},
	{order2},
	{book1},
	{book2},
	{opaque},
	{order2, book1}, // an alternate
	{order1, book2, opaque},
	{order1, order2, book1, book2, opaque},
}

const (
	// publishedSets is how many of them publishers choose from.
	publishedSets = len(topicSets) - 1
	markSet       = uint8(len(topicSets) - 1)
)

// credential is what a subscriber presents.
type credential int

const (
	anonymous credential = iota
	// grantsAll, grantsOrder1 and grantsNothing are tokens of protocol 1.0.
	grantsAll
	grantsOrder1
	grantsNothing
	// legacyGrantsAll is one of 0.x.
	legacyGrantsAll
)

// audience is what a subscriber asks for and may have.
type audience struct {
	name       string
	query      url.Values
	credential credential
	// For each set of topics: matched by the query, and granted if private.
	routed, granted [len(topicSets)]bool
}

// newAudience computes from plain lists what the hub computes from matchers and
// tokens. A nil list stands for every topic.
func newAudience(name string, query url.Values, c credential, routed, granted []string) *audience {
	a := &audience{name: name, query: query, credential: c}
	for i, set := range topicSets {
		in := func(list []string) bool {
			return list == nil || slices.ContainsFunc(set, func(t string) bool { return slices.Contains(list, t) })
		}
		a.routed[i], a.granted[i] = in(routed), in(granted)
	}
	return a
}

var nothing = []string{}

// audiences: the first is everything.
var audiences = []*audience{
	newAudience("everything", url.Values{"match": {"*"}}, grantsAll, nil, nil),
	newAudience("anonymous", url.Values{"match": {"*"}}, anonymous, nil, nothing),
	newAudience("pattern", url.Values{"match_urlpattern": {origin + "/orders/:id"}}, grantsAll, []string{order1, order2}, nil),
	newAudience("grant for one topic", url.Values{"match": {"*"}}, grantsOrder1, nil, []string{order1}),
	newAudience("exact", url.Values{"match": {order1, opaque}}, grantsAll, []string{order1, opaque}, nil),
	newAudience("selector", url.Values{"topic": {origin + "/books/{id}"}}, legacyGrantsAll, []string{book1, book2}, nil),
	newAudience("no grant", url.Values{"match": {"*"}}, grantsNothing, nil, nothing),
	newAudience("everything by selector", url.Values{"topic": {"*"}}, legacyGrantsAll, nil, nil),
}

// gets says whether a subscriber must receive an update.
func (a *audience) gets(e entry) bool {
	return a.routed[e.topics] && (!e.private || a.granted[e.topics])
}
