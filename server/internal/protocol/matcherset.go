package protocol

import "slices"

// MatcherSet is a list of matchers prepared for repeated use: literal ones are
// found by hashing. It is immutable and safe for concurrent use. A nil set is
// empty and matches nothing.
type MatcherSet struct {
	matchers []*Matcher
	// topics are those of matchers that match exactly one, without duplicates, in
	// order of first appearance.
	topics []string
	// literals finds them, if they are more than fewLiterals: a map takes more
	// memory than all else of a stream's matchers.
	literals map[string]struct{}
	// others are asked one by one.
	others []*Matcher
	// all is set if one of the matchers is the wildcard.
	all bool
}

const fewLiterals = 8

// NewMatcherSet returns the set of ms, in order. It keeps the slice.
func NewMatcherSet(ms []*Matcher) *MatcherSet {
	s := &MatcherSet{matchers: ms}
	if len(ms) > fewLiterals {
		s.literals = make(map[string]struct{}, len(ms))
	}
	for _, m := range ms {
		switch {
		case m.all:
			s.all = true
		case !m.literal():
			s.others = append(s.others, m)
		default:
			if s.hasLiteral(m.value) {
				continue
			}
			s.topics = append(s.topics, m.value)
			if s.literals != nil {
				s.literals[m.value] = struct{}{}
			}
		}
	}
	return s
}

// Matchers returns the matchers of the set in their original order. The slice
// must not be modified.
func (s *MatcherSet) Matchers() []*Matcher {
	if s == nil {
		return nil
	}
	return s.matchers
}

// Len returns the number of matchers.
func (s *MatcherSet) Len() int { return len(s.Matchers()) }

// MatchAny reports whether some matcher matches some topic. Spec: M-4
func (s *MatcherSet) MatchAny(topics []*Topic) bool {
	if s == nil {
		return false
	}
	return slices.ContainsFunc(topics, s.match)
}

// MatchAll reports whether every topic is matched by some matcher. It is false
// without topics: nobody is authorized for nothing. Spec: P-17
func (s *MatcherSet) MatchAll(topics []*Topic) bool {
	if s == nil || len(topics) == 0 {
		return false
	}
	for _, t := range topics {
		if !s.match(t) {
			return false
		}
	}
	return true
}

func (s *MatcherSet) match(t *Topic) bool {
	if s.all {
		return true
	}
	if s.hasLiteral(t.raw) {
		return true
	}
	for _, m := range s.others {
		if m.Match(t) {
			return true
		}
	}
	return false
}

func (s *MatcherSet) hasLiteral(topic string) bool {
	if s.literals == nil {
		return slices.Contains(s.topics, topic)
	}
	_, ok := s.literals[topic]
	return ok
}

// ExactTopics returns the topics that the set matches literally, without
// duplicates; the slice must not be modified. If only is true these are all the
// topics the set can ever match.
func (s *MatcherSet) ExactTopics() (topics []string, only bool) {
	if s == nil {
		return nil, true
	}
	return s.topics, !s.all && len(s.others) == 0
}
