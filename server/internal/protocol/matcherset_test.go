package protocol

import (
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Spec: M-4
func TestMatcherSet(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		set      *MatcherSet
		topics   []string
		any, all bool
	}{
		{"nil set", nil, []string{"a"}, false, false},
		{"empty set", NewMatcherSet(nil), []string{"a"}, false, false},
		{"no topics", NewMatcherSet([]*Matcher{mustExact(t, "*")}), nil, false, false},
		{"wildcard", NewMatcherSet([]*Matcher{mustExact(t, "*")}), []string{"a", "http://["}, true, true},
		{"one of two", NewMatcherSet([]*Matcher{mustExact(t, "a")}), []string{"b", "a"}, true, false},
		{"none", NewMatcherSet([]*Matcher{mustExact(t, "a"), mustPattern(t, "/b/:x")}), []string{"c"}, false, false},
		{
			"each by another kind",
			NewMatcherSet([]*Matcher{mustExact(t, "a"), mustPattern(t, "/b/:x"), mustSelector(t, "c{/x}")}),
			[]string{"c/1", "/b/1", "a"},
			true, true,
		},
		{"one of many", NewMatcherSet(exacts(t, 2*fewLiterals)), []string{"15", "x"}, true, false},
		{"none of many", NewMatcherSet(exacts(t, 2*fewLiterals)), []string{"16"}, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			topics := NewTopics(tc.topics)
			if got := tc.set.MatchAny(topics); got != tc.any {
				t.Errorf("MatchAny: got %t, want %t", got, tc.any)
			}
			if got := tc.set.MatchAll(topics); got != tc.all {
				t.Errorf("MatchAll: got %t, want %t", got, tc.all)
			}
		})
	}
}

// exacts match 0, 1, and so on, each twice.
func exacts(t *testing.T, n int) (matchers []*Matcher) {
	t.Helper()
	for i := range 2 * n {
		matchers = append(matchers, mustExact(t, strconv.Itoa(i%n)))
	}
	return matchers
}

func TestMatcherSetExactTopics(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		matchers []*Matcher
		topics   []string
		only     bool
	}{
		{"empty", nil, nil, true},
		{"many", exacts(t, 10), []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, true},
		{"exact", []*Matcher{mustExact(t, "b"), mustExact(t, "a"), mustExact(t, "b")}, []string{"b", "a"}, true},
		{"plain selector", []*Matcher{mustSelector(t, "https://h/a"), mustSelector(t, "{")}, []string{"https://h/a", "{"}, true},
		{"template", []*Matcher{mustExact(t, "a"), mustSelector(t, "{a}")}, []string{"a"}, false},
		{"pattern", []*Matcher{mustPattern(t, "https://h/a")}, nil, false},
		{"wildcard", []*Matcher{mustExact(t, "a"), mustExact(t, "*")}, []string{"a"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			set := NewMatcherSet(tc.matchers)
			topics, only := set.ExactTopics()
			if !cmp.Equal(topics, tc.topics) || only != tc.only {
				t.Errorf("got %q, %t; want %q, %t", topics, only, tc.topics, tc.only)
			}
			if set.Len() != len(tc.matchers) || len(set.Matchers()) != len(tc.matchers) {
				t.Errorf("got %d matchers, want %d", set.Len(), len(tc.matchers))
			}
		})
	}
	var none *MatcherSet
	if topics, only := none.ExactTopics(); topics != nil || !only || none.Len() != 0 {
		t.Error("a nil set is not like an empty one")
	}
}
