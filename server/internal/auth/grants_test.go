package auth_test

import (
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

func subscriberGrants(t *testing.T, payload string, legacy bool) *auth.Grants {
	t.Helper()

	a, token := newAuth(t), ""
	if legacy {
		a, token = newAuth(t, compat), compact(t, header0.json(), payload, "HS256", legacySecret)
	} else {
		token = compact(t, header1.json(), payload, "HS256", subscriberSecret)
	}

	grants, err := a.Authenticate(bearer(token), auth.Subscriber, hub(t), resource)
	if err != nil {
		t.Fatal(err)
	}

	return grants
}

func detailsPayload(entries string) string {
	return twice(payload1.with(members{"authorization_details": drop{}}).json(), `"authorization_details":[`+entries+`]`)
}

func entry(actions, topics, rest string) string {
	return `{"type":"` + detailType + `","actions":[` + actions + `],"topics":[` + topics + `]` + rest + `}`
}

// Spec: P-17, U-2, U-4, D-3.
func TestMayPublishAndReceive(t *testing.T) {
	t.Parallel()

	grants := subscriberGrants(t, detailsPayload(
		entry(`"publish"`, `{"match":"p1"},{"match":"p2"}`, "")+","+entry(`"subscribe"`, `{"match":"s1"}`, "")), false)

	for name, tc := range map[string]struct {
		topics           []string
		publish, receive bool
	}{
		"no topics":          {nil, false, false},
		"publish only":       {[]string{"p1"}, true, false},
		"two entries":        {[]string{"p1", "p2"}, true, false},
		"one is not covered": {[]string{"p1", "x"}, false, false},
		"subscribe only":     {[]string{"s1"}, false, true},
		"one is enough":      {[]string{"x", "s1"}, false, true},
		"neither":            {[]string{"x"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			topics := protocol.NewTopics(tc.topics)
			if grants.MayPublish(topics) != tc.publish || grants.MayReceive(topics) != tc.receive {
				t.Errorf("got %v, %v", grants.MayPublish(topics), grants.MayReceive(topics))
			}
		})
	}

	var none *auth.Grants
	if topics := protocol.NewTopics([]string{"p1"}); none.MayPublish(topics) || none.MayReceive(topics) {
		t.Error("no grants allow something")
	}
}

// Spec: D-25, L-5, Q-21, Q-22.
func TestPayloadFor(t *testing.T) {
	t.Parallel()

	matcher := func(m *protocol.Matcher, err error) *protocol.Matcher {
		t.Helper()

		if err != nil {
			t.Fatal(err)
		}

		return m
	}
	exact := func(v string) *protocol.Matcher { return matcher(protocol.NewExact(v)) }
	pattern := func(v string) *protocol.Matcher { return matcher(protocol.NewURLPattern(v, hub(t))) }
	selector := func(v string) *protocol.Matcher { return matcher(protocol.NewSelector(v)) }

	const (
		orders = `{"match":"https://shop.example/orders/:id","match_type":"urlpattern"}`
		group  = `{"match":"https://shop.example/:id(\\d+)","match_type":"urlpattern"}`
		star   = `{"match":"*"}`
	)

	for name, tc := range map[string]struct {
		legacy       bool
		payload      string
		subscription *protocol.Matcher
		want         string // empty: none
	}{
		"no entries":                   {false, detailsPayload(""), exact("a"), ""},
		"exact":                        {false, detailsPayload(entry(`"subscribe"`, `{"match":"a"}`, `,"payload":{"n":1}`)), exact("a"), `{"n":1}`},
		"not covered":                  {false, detailsPayload(entry(`"subscribe"`, `{"match":"a"}`, `,"payload":{"n":1}`)), exact("b"), ""},
		"publish entries do not count": {false, detailsPayload(entry(`"publish"`, star, `,"payload":{"n":1}`)), exact("a"), ""},
		"pattern covers a topic":       {false, detailsPayload(entry(`"subscribe"`, orders, `,"payload":{"n":1}`)), exact("https://shop.example/orders/1"), `{"n":1}`},
		"pattern covers its own text":  {false, detailsPayload(entry(`"subscribe"`, orders, `,"payload":{"n":1}`)), pattern("https://shop.example/orders/:id"), `{"n":1}`},
		"Q-21 pattern that does not":   {false, detailsPayload(entry(`"subscribe"`, group, `,"payload":{"n":1}`)), pattern(`https://shop.example/:id(\d+)`), `{"n":1}`},
		"Q-21 same text, other type":   {false, detailsPayload(entry(`"subscribe"`, group, `,"payload":{"n":1}`)), exact(`https://shop.example/:id(\d+)`), ""},
		"first entry wins": {false, detailsPayload(entry(`"subscribe"`, orders, `,"payload":{"n":1}`) + "," +
			entry(`"subscribe"`, star, `,"payload":{"n":2}`)), exact("https://shop.example/orders/1"), `{"n":1}`},
		"wildcard as default": {false, detailsPayload(entry(`"subscribe"`, orders, `,"payload":{"n":1}`) + "," +
			entry(`"subscribe"`, star, `,"payload":{"n":2}`)), exact("b"), `{"n":2}`},
		"Q-22 first entry without payload": {false, detailsPayload(entry(`"subscribe"`, orders, ``) + "," +
			entry(`"subscribe"`, star, `,"payload":{"n":2}`)), exact("https://shop.example/orders/1"), ""},
		"0.x subscription, 1.0 token": {false, detailsPayload(entry(`"subscribe"`, star, `,"payload":{"n":1}`)), selector("a/{b}"), `{"n":1}`},
		"L-5 any value":               {true, `{"mercure":{"payload":"text"}}`, selector("a"), `"text"`},
		"L-5 object":                  {true, `{"mercure":{"payload":{"n":1},"subscribe":["b"]}}`, exact("a"), `{"n":1}`},
		"L-5 null":                    {true, `{"mercure":{"payload":null}}`, selector("a"), ""},
		"L-5 none":                    {true, `{"mercure":{}}`, selector("a"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			if got := string(subscriberGrants(t, tc.payload, tc.legacy).PayloadFor(tc.subscription)); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}

	var none *auth.Grants
	if none.PayloadFor(exact("a")) != nil {
		t.Error("no grants have a payload")
	}
}

// Grants carry what streams need to end in time.
//
// Spec: V-18, S-21, X-7.
func TestGrantsExpire(t *testing.T) {
	t.Parallel()

	if got := subscriberGrants(t, payload1.json(), false).Expires; !got.Equal(now.Add(60e9)) {
		t.Errorf("got %v", got)
	}

	if got := subscriberGrants(t, payload1.with(members{"exp": 1800000060.25}).json(), false).Expires; !got.Equal(now.Add(60.25e9)) {
		t.Errorf("got %v", got)
	}

	if got := subscriberGrants(t, payload1.with(members{"exp": 1e300}).json(), false).Expires; got.Year() != 9999 {
		t.Errorf("got %v", got)
	}

	if got := subscriberGrants(t, payload0.json(), true).Expires; !got.IsZero() {
		t.Errorf("got %v", got)
	}
}
