package auth_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Spec: D-1 to D-24.
func TestAuthorizationDetails(t *testing.T) {
	t.Parallel()

	const (
		head = `{"type":"` + detailType + `",`
		star = `"topics":[{"match":"*"}]`
		full = head + `"actions":["publish"],` + star + `}`
	)

	topics := func(v string) string { return `[` + head + `"actions":["publish"],"topics":` + v + `}]` }
	actions := func(v string) string { return `[` + head + `"actions":` + v + `,` + star + `}]` }
	payload := func(v string) string {
		return `[` + head + `"actions":["subscribe"],` + star + `,"payload":` + v + `}]`
	}
	many := func(n int, element string) string { return strings.TrimSuffix(strings.Repeat(element+",", n), ",") }
	long := strings.Repeat("a", 4096)

	grantsAll := want{}
	const all, some, none = 3, 2, 1 // what may be published, if accepted

	for name, tc := range map[string]struct {
		claim string // "" for absent
		want  want
		may   int
	}{
		"D-6 wildcard":                   {`[` + full + `]`, grantsAll, all},
		"D-7 known and unknown action":   {actions(`["publish","delete"]`), grantsAll, all},
		"D-8 unknown action":             {actions(`["delete"]`), accepted, none},
		"D-8 unknown action, bad topics": {`[` + head + `"actions":["delete"],"topics":[]}]`, rejected("topics"), 0},
		"D-9 upper-case action":          {actions(`["Publish"]`), accepted, none},
		"D-10 empty":                     {actions(`[]`), rejected("actions"), 0},
		"D-10 missing":                   {`[` + head + star + `}]`, rejected("actions"), 0},
		"D-10 string":                    {actions(`"publish"`), rejected("actions"), 0},
		"D-10 number inside":             {actions(`["publish",1]`), rejected("actions"), 0},
		"D-10 null":                      {actions(`null`), rejected("actions"), 0},
		"D-11 empty":                     {topics(`[]`), rejected("topics"), 0},
		"D-11 missing":                   {`[` + head + `"actions":["publish"]}]`, rejected("topics"), 0},
		"D-11 null":                      {topics(`null`), rejected("topics"), 0},
		"D-11 string":                    {topics(`"a"`), rejected("topics"), 0},
		"D-11 bare strings":              {topics(`["https://h/a"]`), rejected("topics[0]"), 0},
		"D-11 null inside":               {topics(`[null]`), rejected("topics[0]"), 0},
		"D-12 no match":                  {topics(`[{"match_type":"exact"}]`), rejected("match is missing"), 0},
		"D-12 number":                    {topics(`[{"match":1}]`), rejected("match is missing or not"), 0},
		"D-12 empty":                     {topics(`[{"match":""}]`), rejected("empty"), 0},
		"D-12 empty pattern":             {topics(`[{"match":"","match_type":"urlpattern"}]`), rejected("empty"), 0},
		"D-13 upper case":                {topics(`[{"match":"a","match_type":"Exact"}]`), rejected("match_type"), 0},
		"D-13 unknown":                   {topics(`[{"match":"a","match_type":"regexp"}]`), rejected("match_type"), 0},
		"D-13 empty":                     {topics(`[{"match":"a","match_type":""}]`), rejected("match_type"), 0},
		"D-13 null":                      {topics(`[{"match":"a","match_type":null}]`), rejected("match_type"), 0},
		"D-13 second is bad":             {topics(`[{"match":"a"},{"match":"a","match_type":"regexp"}]`), rejected("topics[1]"), 0},
		"D-14 malformed pattern":         {topics(`[{"match":"https://h/[(","match_type":"urlpattern"}]`), rejected("topics[0]"), 0},
		"D-14 same text, exact":          {topics(`[{"match":"https://h/[("}]`), accepted, none},
		"D-15 control":                   {topics(`[{"match":"a\u0000b"}]`), rejected("topics[0]"), 0},
		"D-15 format":                    {topics(`[{"match":"a\u200bb"}]`), rejected("topics[0]"), 0},
		"D-15 format in pattern":         {topics(`[{"match":"https://h/\u200b:x","match_type":"urlpattern"}]`), rejected("topics[0]"), 0},
		"D-16 wildcard pattern":          {topics(`[{"match":"*","match_type":"urlpattern"}]`), grantsAll, all},
		"D-17 wildcard, unknown type":    {topics(`[{"match":"*","match_type":"regexp"}]`), rejected("match_type"), 0},
		"D-18 string":                    {payload(`"x"`), rejected("payload"), 0},
		"D-18 array":                     {payload(`[]`), rejected("payload"), 0},
		"D-18 null":                      {payload(`null`), rejected("payload"), 0},
		"D-18 object":                    {payload(`{}`), accepted, none},
		"D-18 publish entry":             {`[` + head + `"actions":["publish"],` + star + `,"payload":1}]`, rejected("payload"), 0},
		"D-19 foreign entry":             {`[{"type":"payment","topics":"acme","actions":{"x":1}},` + full + `]`, accepted, all},
		"D-20 almost our type":           {`[{"type":"` + detailType + `/","actions":["publish"],` + star + `}]`, accepted, none},
		"D-20 almost our type, bad":      {`[{"type":"` + detailType + `/","actions":1}]`, accepted, none},
		"D-21 empty":                     {`[]`, accepted, none},
		"D-21 absent":                    {``, accepted, none},
		"D-22 object":                    {`{}`, rejected("not an array"), 0},
		"D-22 string":                    {`"x"`, rejected("not an array"), 0},
		"D-22 null":                      {`null`, rejected("not an array"), 0},
		"D-22 number inside":             {`[1]`, rejected("not an object"), 0},
		"D-22 no type":                   {`[{"actions":[]}]`, rejected("type"), 0},
		"D-22 type is a number":          {`[{"type":1}]`, rejected("type"), 0},
		"D-23 second entry bad":          {`[` + full + `,` + head + `"actions":["publish"],"topics":[]}]`, rejected("authorization_details[1]"), 0},
		"D-24 extra members":             {`[` + head + `"foo":1,"actions":["publish"],"topics":[{"match":"*","bar":2}]}]`, accepted, all},

		"names are case-sensitive": {`[{"Type":"` + detailType + `","actions":["publish"],` + star + `}]`, rejected("type"), 0},
		"exact matcher":            {topics(`[{"match":"https://shop.example/orders/1"}]`), accepted, some},
		"exact matcher, named":     {topics(`[{"match":"https://shop.example/orders/1","match_type":"exact"}]`), accepted, some},
		"pattern":                  {topics(`[{"match":"https://shop.example/orders/:id","match_type":"urlpattern"}]`), accepted, some},
		"pattern text, exact":      {topics(`[{"match":"https://shop.example/orders/:id"}]`), accepted, none},
		"entries add up":           {`[` + head + `"actions":["subscribe"],` + star + `},` + full + `]`, accepted, all},

		"D-4 most entries":         {`[` + many(100, full) + `]`, accepted, all},
		"D-4 too many entries":     {`[` + many(101, full) + `]`, rejected("entries"), 0},
		"D-4 foreign do not count": {`[` + many(101, `{"type":"x"}`) + `,` + full + `]`, accepted, all},
		"D-4 most matchers":        {topics(`[` + many(100, `{"match":"*"}`) + `]`), accepted, all},
		"D-4 too many matchers":    {topics(`[` + many(101, `{"match":"*"}`) + `]`), rejected("matchers"), 0},
		"D-4 too many matchers, split": {
			`[` + head + `"actions":["publish"],"topics":[` + many(60, `{"match":"*"}`) + `]},` +
				head + `"actions":["delete"],"topics":[` + many(41, `{"match":"*"}`) + `]}]`, rejected("matchers"), 0,
		},
		"D-4 longest":           {topics(`[{"match":"` + long + `"}]`), accepted, none},
		"D-4 too long":          {topics(`[{"match":"` + long + `a"}]`), rejected("longer than 4096"), 0},
		"D-4 too long in bytes": {topics(`[{"match":"` + strings.Repeat("é", 2049) + `"}]`), rejected("longer than 4096"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			payload := payload1.with(members{"authorization_details": drop{}}).json()
			if tc.claim != "" {
				payload = twice(payload, `"authorization_details":`+tc.claim)
			}

			token := compact(t, header1.json(), payload, "HS256", publisherSecret)
			grants, err := authenticate(t, newAuth(t), token, auth.Publisher, resource)
			tc.want.check(t, grants, err, token)

			if err != nil {
				return
			}

			got := none
			if grants.MayPublish(protocol.NewTopics([]string{"https://shop.example/orders/1"})) {
				got = some
			}

			if got == some && grants.MayPublish(protocol.NewTopics([]string{"anything"})) {
				got = all
			}

			if got != tc.may {
				t.Errorf("may publish: got %d, want %d", got, tc.may)
			}
		})
	}
}

// Spec: D-4 (configurable upwards).
func TestLimitsAreConfigurable(t *testing.T) {
	t.Parallel()

	var topics []members
	for i := range 150 {
		topics = append(topics, members{"match": fmt.Sprintf("topic-%d", i)})
	}

	token := token1(t, members{"authorization_details": []members{
		{"type": detailType, "actions": []string{"publish"}, "topics": topics},
	}})

	a := newAuth(t, func(cfg *auth.Config) { cfg.Limits.Matchers = 150 })
	grants, err := authenticate(t, a, token, auth.Publisher, resource)
	accepted.check(t, grants, err, token)
}
