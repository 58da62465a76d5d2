package protocol

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// Whatever the fields are, the parser takes them as they are or says which of
// them is wrong; and it is right about that.
//
// Spec: P-4, P-5, P-6, P-7, P-8, P-9, P-10, P-20
func FuzzPublishFields(f *testing.F) {
	f.Add("https://shop.example/1", "a", "x", "1", "t", "2", true)
	f.Add("*", "", "\x00\r\n", "#1", "mercure", "-1", false)
	f.Add("/.well-known/mercure", "", "", "earliest", "Mercure", "1e3", false)
	f.Add("a\u200Bb", "a", "\xFF", "", "", "", false)
	f.Add(strings.Repeat("a", 4097), "a", "", " ", " ", "999999999999999", false)
	f.Add("a", "a", "", "", "", "0000000000000001", true)
	hub := mustHub(f, defaultHub)
	limits := DefaultLimits()
	f.Fuzz(func(t *testing.T, first, second, data, id, typ, retry string, private bool) {
		body := url.Values{"topic": {first, second}, "data": {data}, "id": {id}, "type": {typ}, "retry": {retry}}
		if private {
			body.Set("private", "off")
		}
		text := func(s string) bool {
			return utf8.ValidString(s) && !strings.ContainsFunc(s, forbidden)
		}
		topic := func(s string) bool { return s != "" && s != "*" && text(s) && !hub.Reserved(s) }
		large := len(first) > 4096 || len(second) > 4096 || len(id) > 4096 || len(typ) > 4096 || len(retry) > 15
		digits := strings.Trim(retry, "0123456789") == ""
		valid := !large && topic(first) && topic(second) && utf8.ValidString(data) && text(id) && text(typ) && digits &&
			!strings.HasPrefix(id, "#") && id != "earliest" && typ != "mercure"

		u, err := ParsePublish(body.Encode(), hub, limits)
		if err != nil {
			fieldErr := wantFieldError(t, err, err.(*FieldError).Field, large) //nolint:errorlint // documented
			if _, known := body[fieldErr.Field]; valid || !known {
				t.Fatalf("%q is refused: %v", body, err)
			}
			return
		}
		if !valid {
			t.Fatalf("%q is accepted", body)
		}
		topics := slices.Compact([]string{first, second})
		if !slices.Equal(u.Topics, topics) || u.Data != data || string(u.ID) != id || u.Type != typ || u.Private != private ||
			(u.Retry == nil) != (retry == "") {
			t.Fatalf("%q became %+v", body, u)
		}
		if want, _ := strconv.ParseInt(retry, 10, 64); u.Retry != nil && *u.Retry != want {
			t.Fatalf("retry %q became %d", retry, *u.Retry)
		}
	})
}

// Every refusal names its field and is short; what is accepted keeps to the
// limits.
//
// Spec: S-4, S-5, S-6, S-12
func FuzzSubscribeErrors(f *testing.F) {
	for _, seed := range []string{
		"match=a", "match=", "Match=a&match=b", "match_urlpattern=/(", "match_urlpattern=https://h/*a/..", "topic={", "topic=", "topic=%FF", "match=%E2%80%8B",
		"lastEventID=%FF&match=a", "match_=a&match=b", "match=*&topic=*&match_urlpattern=*",
	} {
		f.Add(seed, "")
		f.Add("", seed)
	}
	opts := subscribeOptions(f, true)
	f.Fuzz(func(t *testing.T, query, body string) {
		r, err := ParseSubscribe(query, body, nil, opts)
		if err != nil {
			var field string
			if fieldErr, ok := err.(*FieldError); ok { //nolint:errorlint // documented
				field = fieldErr.Field
			}
			wantFieldError(t, err, field, len(body) > opts.Limits.BodyBytes)
			return
		}
		if len(r.Matchers) == 0 || len(r.Matchers) > opts.Limits.Matchers {
			t.Fatalf("%d matchers", len(r.Matchers))
		}
		for _, pair := range append(parseFormByRules(query), parseFormByRules(body)...) {
			lower := strings.ToLower(pair.Name)
			if strings.HasPrefix(lower, "match") && !slices.Contains([]string{"match", "match_exact", "match_urlpattern"}, pair.Name) {
				t.Fatalf("accepted a parameter called %q", pair.Name)
			}
			if strings.HasPrefix(pair.Name, "match") && (pair.Value == "" || !utf8.ValidString(pair.Value) || strings.ContainsFunc(pair.Value, forbidden)) {
				t.Fatalf("accepted %q", pair)
			}
		}
	})
}
