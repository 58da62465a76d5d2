package protocol

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// matcherOf makes a matcher of a kind.
func matcherOf(t testing.TB, kind MatcherKind, value string) *Matcher {
	t.Helper()
	switch kind {
	case URLPattern:
		return mustPattern(t, value)
	case Selector:
		return mustSelector(t, value)
	default:
		return mustExact(t, value)
	}
}

// Spec.
func TestSubscriptionDocuments(t *testing.T) {
	t.Parallel()
	const (
		hub        = "https://hub.example.com/.well-known/mercure"
		subscriber = "urn:uuid:6f0f3a57-0d0c-4c8e-9f55-2a7d2c0e9c11"
		encoded    = "/urn%3Auuid%3A6f0f3a57-0d0c-4c8e-9f55-2a7d2c0e9c11"
		root       = "/.well-known/mercure/subscriptions/"
	)
	for name, test := range map[string]struct {
		hub                  string
		kind                 MatcherKind
		value, payload       string
		collection, document string // $ID is the topic
	}{
		"URL pattern": {
			hub, URLPattern, "https://shop.example/orders/:id", `{"team":"ops"}`,
			root + "urlpattern/https%3A%2F%2Fshop.example%2Forders%2F%3Aid",
			`{"id":"$ID","type":"subscription","match_type":"urlpattern","match":"https://shop.example/orders/:id","subscriber":"` + subscriber + `","active":true,"payload":{"team":"ops"}}`,
		},
		"selector": {
			hub, Selector, "https://shop.example/orders/{id}", "",
			root + "https%3A%2F%2Fshop.example%2Forders%2F%7Bid%7D",
			`{"@context":"https://mercure.rocks/","id":"$ID","type":"Subscription","topic":"https://shop.example/orders/{id}","subscriber":"` + subscriber + `","active":true}`,
		},
		"exact": {
			hub, Exact, "a", "", root + "exact/a",
			`{"id":"$ID","type":"subscription","match_type":"exact","match":"a","subscriber":"` + subscriber + `","active":true}`,
		},
		"wildcard": {
			hub, Exact, "*", "", root + "exact/%2A",
			`{"id":"$ID","type":"subscription","match_type":"exact","match":"*","subscriber":"` + subscriber + `","active":true}`,
		},
		"wildcard of another type": {
			hub, URLPattern, "*", "", root + "urlpattern/%2A",
			`{"id":"$ID","type":"subscription","match_type":"urlpattern","match":"*","subscriber":"` + subscriber + `","active":true}`,
		},
		"a payload in several lines": {
			hub, Exact, "a", "{\n\t\"b\" : [1,\r\n 2]\n}", root + "exact/a",
			`{"id":"$ID","type":"subscription","match_type":"exact","match":"a","subscriber":"` + subscriber + `","active":true,"payload":{"b":[1,2]}}`,
		},
		"a payload that is no object": {
			hub, Selector, "a", `null`, root + "a",
			`{"@context":"https://mercure.rocks/","id":"$ID","type":"Subscription","topic":"a","subscriber":"` + subscriber + `","active":true,"payload":null}`,
		},
		"another hub": {
			"https://shop.example/push/hub", Exact, "a", "", "/push/hub/subscriptions/exact/a",
			`{"id":"$ID","type":"subscription","match_type":"exact","match":"a","subscriber":"` + subscriber + `","active":true}`,
		},
		"nothing is escaped without need": {
			hub, Exact, `<a&"b">`, `"<&>"`, root + "exact/%3Ca%26%22b%22%3E",
			`{"id":"$ID","type":"subscription","match_type":"exact","match":"<a&\"b\">","subscriber":"` + subscriber + `","active":true,"payload":"<&>"}`,
		},
		"a selector with a control character": {
			hub, Selector, "a\n\x00", "", root + "a%0A%00",
			`{"@context":"https://mercure.rocks/","id":"$ID","type":"Subscription","topic":"a\n\u0000","subscriber":"` + subscriber + `","active":true}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var payload json.RawMessage
			if test.payload != "" {
				payload = json.RawMessage(test.payload)
			}
			got := NewSubscription(mustHub(t, test.hub), matcherOf(t, test.kind, test.value), subscriber, payload)
			topic := test.collection + encoded
			want := Subscription{
				Selector: test.kind == Selector, Topic: topic, Collection: test.collection,
				Document: strings.ReplaceAll(test.document, "$ID", topic),
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Spec: R-6.
func TestEncodeSegment(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://shop.example/orders/:id":  "https%3A%2F%2Fshop.example%2Forders%2F%3Aid",
		"https://shop.example/orders/{id}": "https%3A%2F%2Fshop.example%2Forders%2F%7Bid%7D",
		"a b":                              "a%20b",
		"a+b":                              "a%2Bb",
		"*":                                "%2A",
		"50%":                              "50%25",
		"%2F":                              "%252F",
		"\u00E9":                           "%C3%A9",
		"urn:uuid:6f0f":                    "urn%3Auuid%3A6f0f",
		"AZaz09-._~":                       "AZaz09-._~",
		"\xFF\x00":                         "%FF%00",
		"!'()*;@&=$,?#[]|\\^`\"<>":         "%21%27%28%29%2A%3B%40%26%3D%24%2C%3F%23%5B%5D%7C%5C%5E%60%22%3C%3E",
	} {
		if got := EncodeSegment(raw); got != want {
			t.Errorf("%q is encoded as %s, want %s", raw, got, want)
		}
	}
}

// Whatever a client sends, its document is one line of JSON that says so, and
// the event of its end can be made by replacing the first "active":true. Nobody
// else can publish under its topic. Spec, N-1.
func TestAnySubscription(t *testing.T) {
	t.Parallel()
	hub := mustHub(t, "https://shop.example/push/hub")
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.SampledFrom([]string{`"active":true`, `\`, `"`, "\n", "\u2028", ",", "a", "%", "/", "..", "{x}"})
		value := strings.Join(rapid.SliceOfN(part, 1, 5).Draw(t, "value"), "")
		m, err := NewExact(value)
		if rapid.Bool().Draw(t, "selector") || err != nil {
			if m, err = NewSelector(value); err != nil {
				t.Fatal(err)
			}
		}
		s := NewSubscription(hub, m, "urn:uuid:x", json.RawMessage(`{"x": {"active":true}}`))
		if strings.ContainsAny(s.Document, "\r\n") {
			t.Fatalf("several lines: %q", s.Document)
		}
		var parsed struct {
			ID, Match, Topic, Subscriber string
			Active                       bool
			Payload                      struct{ X struct{ Active bool } }
		}
		ended := strings.Replace(s.Document, `"active":true`, `"active":false`, 1)
		if err := json.Unmarshal([]byte(ended), &parsed); err != nil {
			t.Fatal(err)
		}
		if parsed.Active || !parsed.Payload.X.Active || parsed.Match+parsed.Topic != value || parsed.ID != s.Topic || parsed.Subscriber != "urn:uuid:x" {
			t.Fatalf("%q became %+v", value, parsed)
		}
		if !hub.Reserved(s.Topic) {
			t.Fatalf("%q is not reserved", s.Topic)
		}
	})
}
