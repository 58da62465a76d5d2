package protocol

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func subscribeOptions(t testing.TB, compat bool) SubscribeOptions {
	return SubscribeOptions{Compat: compat, Hub: mustHub(t, defaultHub), Limits: DefaultLimits()}
}

func describeMatchers(ms []*Matcher) []string {
	var out []string
	for _, m := range ms {
		out = append(out, m.Kind().String()+" "+m.Value())
	}
	return out
}

// Spec: S-2, S-4, S-7, S-9, S-10, S-11
func TestParseSubscribeMatchers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name        string
		compat      bool
		query, body string
		want        []string
	}{
		{"default type", false, "match=a", "", []string{"exact a"}},
		{"exact", false, "match_exact=a", "", []string{"exact a"}},
		{"pattern", false, "match_urlpattern=%2Fa%2F:b", "", []string{"urlpattern /a/:b"}},
		{"wildcards", false, "match=*&match_urlpattern=*", "", []string{"exact *", "urlpattern *"}},
		{"encoded name", false, "m%61tch=a", "", []string{"exact a"}},
		{"several, in order", false, "match=b&match_urlpattern=%2Fa&match=a", "", []string{"exact b", "urlpattern /a", "exact a"}},
		{"merged", false, "match=a&match_exact=a&match=a", "", []string{"exact a"}},
		{"same text, other type", false, "match=%2Fa&match_urlpattern=%2Fa", "", []string{"exact /a", "urlpattern /a"}},
		{"union with body", false, "match=a", "match=b&match=a", []string{"exact a", "exact b"}},
		{"body only", false, "", "match=b", []string{"exact b"}},
		{"unknown parameters", false, "x=1&match=a&authorization=b&mat=c&amatch=d&topics=e&%FF=%FF", "", []string{"exact a"}},
		{"selector", true, "topic=%2Fa%2F%7Bb%7D", "", []string{"selector /a/{b}"}},
		{"invalid template", true, "topic={", "", []string{"selector {"}},
		{"selector with control character", true, "topic=a%00", "", []string{"selector a\x00"}},
		{"mixed dialects", true, "topic=a&match=a&topic=a", "", []string{"selector a", "exact a"}},
		{"tolerant parsing", true, "topic=https://h/a b;c&", "", []string{"selector https://h/a b;c"}},
		{"case-sensitive topic parameter", true, "Topic=a&match=b", "", []string{"exact b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := ParseSubscribe(tc.query, tc.body, nil, subscribeOptions(t, tc.compat))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, describeMatchers(r.Matchers)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseSubscribeRefuses(t *testing.T) {
	t.Parallel()
	many := func(name string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%s=%d&", name, i)
		}
		return b.String()
	}
	long := strings.Repeat("x", 4097)
	for _, tc := range []struct {
		name        string
		compat      bool
		query, body string
		field       string
		tooLarge    bool
	}{
		// Spec: S-6, Q-6
		{"nothing", false, "", "", "request", false},
		{"nothing but a cursor", true, "last_event_id=x", "", "request", false},
		{"empty matcher", false, "match=", "", "match", false},
		{"matcher without equals sign", false, "match", "", "match", false},
		{"empty pattern", false, "match_urlpattern=", "", "match_urlpattern", false},
		{"empty selector", true, "match=a&topic=", "", "topic", false},
		// Spec: S-4, M-1, M-3, Q-20
		{"Match", false, "match=a&Match=b", "", "request", false},
		{"MATCH_urlpattern", false, "match=a&MATCH_urlpattern=b", "", "request", false},
		{"matchurlpattern", false, "match=a&matchurlpattern=b", "", "request", false},
		{"match_regexp", false, "match=a&match_regexp=b", "", "request", false},
		{"match_", false, "match=a&match_=b", "", "request", false},
		{"matches", false, "match=a&matches=b", "", "request", false},
		{"matching-id", false, "match=a&matching-id=b", "", "request", false},
		{"match_Exact", false, "match=a&match_Exact=b", "", "request", false},
		{"unknown type with wildcard", false, "match=a&match_unknown=*", "", "request", false},
		{"encoded", false, "match=a&m%61tch_x=b", "", "request", false},
		{"in the body", false, "match=a", "match_x=b", "request", false},
		{"with compat", true, "topic=a&match_x=b", "", "request", false},
		// Spec: S-3, S-5
		{"invalid UTF-8 in name", false, "match=a&match%FF=b", "", "request", false},
		{"invalid UTF-8", false, "match=%FF", "", "match", false},
		{"invalid UTF-8 in selector", true, "topic=%FF", "", "topic", false},
		{"invalid UTF-8 in cursor", false, "match=a&last_event_id=%FF", "", "last_event_id", false},
		{"invalid UTF-8 in a cursor that does not count", false, "match=a&lastEventId=x&lastEventID=%FF", "", "lastEventID", false},
		{"control character", false, "match=a%0A", "", "match", false},
		{"format character", false, "match_exact=%E2%80%8D", "", "match_exact", false},
		{"control character in pattern", false, "match_urlpattern=%2Fa%00", "", "match_urlpattern", false},
		{"malformed pattern", false, "match_urlpattern={", "", "match_urlpattern", false},
		{"malformed pattern in body", false, "match=a", "match_urlpattern={", "match_urlpattern", false},
		// Spec: S-9, Q-7
		{"selector without compat", false, "match=a&topic=b", "", "topic", false},
		// Spec: S-12
		{"101 matchers", false, many("match", 101), "", "request", false},
		{"101 selectors", true, many("topic", 101), "", "request", false},
		{"101 matchers in two places", false, many("match", 60), many("match", 41), "request", false},
		{"long matcher", false, "match=" + long, "", "match", false},
		{"long pattern", false, "match_urlpattern=" + long, "", "match_urlpattern", false},
		{"long selector", true, "topic=" + long, "", "topic", false},
		// Spec: S-7
		{"long body", false, "match=a", "x=" + strings.Repeat("x", 1<<20), "body", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseSubscribe(tc.query, tc.body, nil, subscribeOptions(t, tc.compat))
			wantFieldError(t, err, tc.field, tc.tooLarge)
		})
	}
	_, err := ParseSubscribe("match=a", "", []string{"\xFF"}, subscribeOptions(t, false))
	wantFieldError(t, err, "Last-Event-ID header", false)
	if _, err := ParseSubscribe("topic=a", "", nil, subscribeOptions(t, false)); !strings.Contains(err.Error(), "use match") {
		t.Errorf("%v does not point to match", err)
	}
	full := strings.Repeat("x", 4096)
	if r, err := ParseSubscribe(many("match", 99)+"match="+full, "", nil, subscribeOptions(t, false)); err != nil || len(r.Matchers) != 100 {
		t.Errorf("at the limits: got %v", err)
	}
}

// Spec: H-3, H-4, H-12, S-8, Q-23, Q-24, Q-41
func TestParseSubscribeCursor(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name        string
		header      []string
		query, body string
		cursor      EventID
		present     bool
		legacy      bool
	}{
		{"none", nil, "", "", "", false, false},
		{"header", []string{"h"}, "", "", "h", true, false},
		{"header beats everything", []string{"h"}, "lastEventId=a&last_event_id=b&lastEventID=c&Last-Event-ID=d", "last_event_id=e", "h", true, true},
		{"empty header gives way", []string{""}, "last_event_id=b", "", "b", true, false},
		{"last non-empty header", []string{"x", "h", ""}, "", "", "h", true, false},
		{"polyfill beats parameters", nil, "last_event_id=b&lastEventID=c&Last-Event-ID=d&lastEventId=a", "", "a", true, true},
		{"1.0 parameter beats 0.x", nil, "Last-Event-ID=d&lastEventID=c&last_event_id=b", "", "b", true, true},
		{"query beats body", nil, "last_event_id=b", "last_event_id=e", "b", true, false},
		{"empty in query gives way to body", nil, "last_event_id=", "last_event_id=e", "e", true, false},
		{"body", nil, "", "last_event_id=e", "e", true, false},
		{"body beats lower ranks", nil, "lastEventID=c", "last_event_id=e", "e", true, true},
		{"0.14", nil, "Last-Event-ID=d&lastEventID=c", "", "c", true, true},
		{"0.13", nil, "Last-Event-ID=d", "", "d", true, true},
		{"polyfill is not 0.x", nil, "lastEventId=a", "", "a", true, false},
		{"last non-empty occurrence", nil, "lastEventId=stale&lastEventId=fresh&lastEventId=", "", "fresh", true, false},
		{"empty", nil, "last_event_id", "", "", true, false},
		{"all empty", []string{""}, "lastEventId=&last_event_id=&lastEventID=&Last-Event-ID=", "last_event_id=", "", true, true},
		{"empty header", []string{""}, "", "", "", true, false},
		{"earliest", nil, "last_event_id=earliest", "", Earliest, true, false},
		{"header as it is", []string{"%41+ \u00E9"}, "", "", "%41+ \u00E9", true, false},
		{"decoded", nil, "last_event_id=a+b%2Bc%C3%A9", "", "a b+c\u00E9", true, false},
		{"other spelling is another parameter", nil, "Last_Event_Id=x&last-event-id=y", "", "", false, false},
	} {
		for _, compat := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, compat %t", tc.name, compat), func(t *testing.T) {
				t.Parallel()
				r, err := ParseSubscribe("match=a&"+tc.query, tc.body, tc.header, subscribeOptions(t, compat))
				if err != nil {
					t.Fatal(err)
				}
				if r.Cursor != tc.cursor || r.HasCursor != tc.present || r.LegacyField != tc.legacy {
					t.Errorf("got %q, %t, legacy %t; want %q, %t, legacy %t", r.Cursor, r.HasCursor, r.LegacyField, tc.cursor, tc.present, tc.legacy)
				}
			})
		}
	}
	r, err := ParseSubscribe("topic=a&last_event_id=x", "", nil, subscribeOptions(t, true))
	if err != nil || !r.LegacyField {
		t.Errorf("a request with a selector does not get the 0.x field: %v", err)
	}
}

// No request makes the parser panic, and it keeps its promises.
func FuzzParseSubscribe(f *testing.F) {
	f.Add("match=a&topic={b}", "match_urlpattern=/:a", "x")
	f.Add("match_urlpattern=https://h/(a|b){:c}*/..", "lastEventID=%FF", "")
	f.Add("match_urlpattern={:x.}?h/:a(\\d+)", "topic=https://h{/a*}{?b:3}", "")
	f.Add("match_urlpattern=https://[\\:\\:1]:8080/*", "", "")
	opts := subscribeOptions(f, true)
	topic := NewTopic("https://h/a/b?c#d")
	f.Fuzz(func(t *testing.T, query, body, header string) {
		r, err := ParseSubscribe(query, body, []string{header}, opts)
		if err != nil {
			if len(err.Error()) > 500 {
				t.Fatalf("long error: %v", err)
			}
			return
		}
		if len(r.Matchers) == 0 || !r.HasCursor {
			t.Fatalf("got %+v", r)
		}
		for _, m := range r.Matchers {
			key, ok := m.IndexKey(topic)
			if m.Match(topic) && !(ok && strings.HasPrefix(key, m.IndexPrefix())) {
				t.Fatalf("%s %q matches but is not found by %q", m.Kind(), m.Value(), key)
			}
		}
	})
}
