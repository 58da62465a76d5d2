package protocol

import (
	"sync"
	"sync/atomic"
)

// Topic is one topic of one update. It is parsed as a URL when the first URL
// pattern asks, and then never again: an update is matched against many
// patterns. Safe for concurrent use.
type Topic struct {
	raw string
	// resolutions is a list that only grows at its head; read without lock.
	resolutions atomic.Pointer[resolution]
	// mu is held while parsing, so that concurrent readers parse once.
	mu sync.Mutex
}

// resolution is what a topic parsed to with one base.
type resolution struct {
	// base is the hub URL used, empty if every hub URL gives the same result.
	base string
	// components is nil if the topic does not parse.
	components *components
	next       *resolution
	depth      int
}

// maxResolutions bounds the memory a topic can take when requests arrive
// under ever new hub URLs. Further bases are parsed again on every use.
const maxResolutions = 8

// NewTopic wraps a topic. Any string is allowed: one that breaks TP-2 merely
// matches what it matches.
func NewTopic(raw string) *Topic { return &Topic{raw: raw} }

// NewTopics wraps the topics of one update, in order.
func NewTopics(raw []string) []*Topic {
	backing := make([]Topic, len(raw))
	topics := make([]*Topic, len(raw))
	for i, r := range raw {
		backing[i].raw = r
		topics[i] = &backing[i]
	}
	return topics
}

// Raw returns the topic as published, byte for byte.
func (t *Topic) Raw() string { return t.raw }

// resolve returns the components of the topic seen from hub; nil if it cannot
// be parsed, which means that no pattern matches it. Spec: M-10
func (t *Topic) resolve(hub *HubURL) *components {
	if r := t.find(hub); r != nil {
		return r.components
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.find(hub); r != nil {
		return r.components
	}
	head := t.resolutions.Load()
	r := &resolution{base: hub.href, components: hub.resolve(t.raw), next: head, depth: 1}
	if resolvesWithoutBase(t.raw) {
		r.base = ""
	}
	if head != nil {
		r.depth += head.depth
	}
	if r.depth <= maxResolutions {
		t.resolutions.Store(r)
	}
	return r.components
}

func (t *Topic) find(hub *HubURL) *resolution {
	for r := t.resolutions.Load(); r != nil; r = r.next {
		if r.base == "" || r.base == hub.href {
			return r
		}
	}
	return nil
}
