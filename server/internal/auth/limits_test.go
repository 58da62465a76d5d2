package auth_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

// matchers makes the topics of an entry, all of the same length.
func matchers(count, length int) []members {
	topics := make([]members, count)
	for i := range topics {
		match := fmt.Sprintf("https://shop.example/%05d/", i)
		topics[i] = members{"match": match + strings.Repeat("x", length-len(match)), "match_type": "exact"}
	}

	return topics
}

func grantOf(topics ...members) members {
	return members{"type": detailType, "actions": []string{"publish", "subscribe"}, "topics": topics}
}

// Spec: D-4, L-8, Z-10.
func TestTokenLength(t *testing.T) {
	t.Parallel()

	var entries []members
	for _, topic := range matchers(100, 4096) {
		entries = append(entries, grantOf(topic))
	}

	selectors := make([]string, 100)
	for i, topic := range matchers(100, 4096) {
		selectors[i] = topic["match"].(string)
	}

	const (
		longest = (64<<10 + 100*(4096+256)) * 4 / 3
		tooLong = "bytes, more than the 667648"
	)

	// padded makes a token of that many bytes or up to two less, as not every
	// length is one of base64.
	padded := func(token func(testing.TB, members) string, length int) string {
		empty := len(token(t, members{"pad": ""}))
		padding := strings.Repeat("x", (length-empty)*3/4)

		return token(t, members{"pad": padding})
	}

	most := members{"authorization_details": []members{grantOf(matchers(100, 4096)...)}}
	raised := func(cfg *auth.Config) { cfg.Limits = auth.Limits{Matchers: 150, PatternBytes: 8192} }
	lowered := func(cfg *auth.Config) { cfg.Limits = auth.Limits{Matchers: 1, PatternBytes: 100} }
	huge := func(cfg *auth.Config) { cfg.Limits = auth.Limits{Matchers: 1 << 62, PatternBytes: 1 << 62} }

	for name, tc := range map[string]struct {
		token  string
		change func(*auth.Config)
		want   want
	}{
		"most matchers":            {token1(t, most), compat, accepted},
		"most matchers, each own":  {token1(t, members{"authorization_details": entries}), compat, accepted},
		"0.x, as many":             {token0(t, members{"mercure": members{"publish": selectors}}), compat, accepted},
		"longest":                  {padded(token1, longest), compat, accepted},
		"longest, 0.x":             {padded(token0, longest), compat, accepted},
		"too long":                 {padded(token1, longest+4), compat, rejected(tooLong)},
		"too long, 0.x":            {padded(token0, longest+4), compat, rejected(tooLong)},
		"too long, no JSON at all": {strings.Repeat("A", longest) + ".A.", compat, rejected(tooLong)},
		"limits raised":            {token1(t, members{"authorization_details": []members{grantOf(matchers(150, 8192)...)}}), raised, accepted},
		"limits lowered":           {token1(t, most), lowered, rejected("bytes, more than the 87856")},
		"limits without end":       {padded(token1, longest+4), huge, accepted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			grants, err := newAuth(t, tc.change).Authenticate(bearer(tc.token), auth.Publisher, hub(t), resource)
			tc.want.check(t, grants, err, "")
		})
	}

	// A token is malformed in a URL whatever its length.
	//
	// Spec: X-6.
	t.Run("in the URL", func(t *testing.T) {
		t.Parallel()

		for token, w := range map[string]want{
			padded(token1, longest+4): {auth.Malformed, "URL"},
			padded(token0, longest+4): rejected(tooLong),
		} {
			r := request(http.MethodPost, hubURL+"?authorization="+token)
			grants, err := newAuth(t, compat).Authenticate(r, auth.Publisher, hub(t), resource)
			w.check(t, grants, err, "")
		}
	})
}

// Spec: V-1, Z-10.
func TestHeaderLength(t *testing.T) {
	t.Parallel()

	for length, w := range map[int]want{4096: accepted, 4097: rejected("header is longer than 4096 bytes")} {
		padded := header1.with(members{"x": strings.Repeat("x", length-len(header1.with(members{"x": ""}).json()))})
		token := compact(t, padded.json(), payload1.json(), "HS256", publisherSecret)
		grants, err := newAuth(t).Authenticate(bearer(token), auth.Publisher, hub(t), resource)
		w.check(t, grants, err, "")
	}
}

// Spec: V-5.
func TestIssuerLength(t *testing.T) {
	t.Parallel()

	long := "https://" + strings.Repeat("i", 4096-len("https://"))
	a := newAuth(t, func(cfg *auth.Config) { cfg.Issuers[0].ID = long })

	token := token1(t, members{"iss": long})
	grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	accepted.check(t, grants, err, "")

	escaped := strings.Replace(payload1.with(members{"iss": ""}).json(), `"iss":""`, `"iss":"`+
		strings.NewReplacer("h", `\u0068`, "i", `\u0069`).Replace(long)+`"`, 1)
	token = compact(t, header1.json(), escaped, "HS256", publisherSecret)
	grants, err = a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	accepted.check(t, grants, err, "")

	token = token1(t, members{"iss": strings.Repeat(long, 7)})
	grants, err = a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	rejected("iss is longer than 4096 bytes").check(t, grants, err, "")

	cfg := baseConfig(t)
	cfg.Issuers[0].ID = long + "x"

	if _, err := auth.New(cfg); err == nil || !strings.Contains(err.Error(), "not a usable identifier") {
		t.Errorf("got %v", err)
	}
}

// forgeries are tokens that are as much work as we could think of, and signed
// by somebody else.
func forgeries(t testing.TB) map[string]string {
	t.Helper()

	small := func(n int, member string) string { return strings.Repeat(member, n) }
	nested := func(n int) string { return strings.Repeat(`[`, n) + strings.Repeat(`]`, n) }
	sign1 := func(payload string) string { return compact(t, header1.json(), payload, "HS256", "not ours") }
	sign0 := func(payload string) string { return compact(t, header0.json(), payload, "HS256", "not ours") }

	var names strings.Builder
	for i := range 30_000 {
		fmt.Fprintf(&names, `"m%d":{},`, i)
	}

	return map[string]string{
		"members":       sign1(`{` + names.String() + `"iss":"` + issuerA + `"}`),
		"members, 0.x":  sign0(`{` + names.String() + `"mercure":{}}`),
		"objects":       sign1(`{"iss":"` + issuerA + `","x":[` + small(150_000, `{},`) + `{}]}`),
		"objects, 0.x":  sign0(`{"mercure":[` + small(150_000, `{},`) + `{}]}`),
		"depth":         sign1(`{"x":` + nested(9_000) + `,"iss":"` + issuerA + `"}`),
		"escapes":       sign1(`{` + small(30_000, `"\u0069s":1,`) + `"iss":"` + issuerA + `"}`),
		"issuer":        sign1(`{"iss":"` + small(80_000, `\u0069`) + `"}`),
		"header":        compact(t, `{"alg":"HS256","typ":"at+jwt","x":[`+small(150_000, `{},`)+`{}]}`, "{}", "HS256", "not ours"),
		"beyond length": sign1(`{"x":[` + small(300_000, `{},`) + `{}]}`),
	}
}

// Not parallel, because it counts the allocations of the whole program.
//
// Spec: Z-10.
func TestForgeriesCostLittle(t *testing.T) {
	const most = 100 // as many as a token of a hundred bytes needs, with room

	a, h := newAuth(t, compat), hub(t)

	for name, token := range forgeries(t) {
		r := bearer(token)

		allocs := testing.AllocsPerRun(5, func() {
			if _, err := a.Authenticate(r, auth.Publisher, h, resource); err == nil {
				t.Fatal("accepted")
			}
		})
		if allocs > most {
			t.Errorf("%s: %.0f allocations for %d bytes", name, allocs, len(token))
		}
	}
}

// BenchmarkForgery measures what a large token with a bad signature costs.
func BenchmarkForgery(b *testing.B) {
	a, h := newAuth(b, compat), hub(b)

	for name, token := range forgeries(b) {
		b.Run(name, func(b *testing.B) {
			r := bearer(token)

			b.SetBytes(int64(len(token)))
			b.ReportAllocs()

			for b.Loop() {
				if _, err := a.Authenticate(r, auth.Publisher, h, resource); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}
