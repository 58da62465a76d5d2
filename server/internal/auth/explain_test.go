package auth_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// authenticate is Authenticate, and makes sure that Explain agrees with it on
// the verdict and, where a token is refused, on the reason.
func authenticate(t *testing.T, a *auth.Authenticator, token string, role auth.Role, resource string) (*auth.Grants, error) {
	t.Helper()

	grants, err := a.Authenticate(bearer(token), role, hub(t), resource)
	checkExplanation(t, a.Explain(t.Context(), token, role, hub(t), resource), err, token)

	return grants, err
}

func checkExplanation(t *testing.T, e auth.Explanation, err error, token string) {
	t.Helper()

	if (e.Err == nil) != (err == nil) || (e.Grants == nil) != (err != nil) {
		t.Errorf("Authenticate says %v, Explain says %v", err, e.Err)
	}

	var (
		refused *auth.Error
		failed  []string
	)

	for _, rule := range e.Rules {
		checkNoSecrets(t, rule.Text+rule.Detail, token)

		if rule.Outcome == auth.Failed {
			failed = append(failed, rule.Detail)
		}
		// The rule for what no other rule explains.
		if rule.Text == "the hub accepts the token" {
			t.Errorf("no rule explains %v", err)
		}
	}

	if (err == nil) != (len(failed) == 0) {
		t.Errorf("Authenticate says %v, these rules fail: %q", err, failed)
	}

	// One says which part it was, the other may know more.
	agrees := func(detail string) bool {
		return detail != "" && strings.HasSuffix(refused.Reason, detail) || strings.HasPrefix(detail, refused.Reason)
	}
	if errors.As(err, &refused) && refused.Kind != auth.Malformed && !slices.ContainsFunc(failed, agrees) {
		t.Errorf("Authenticate says %q, the rules that fail say %q", refused.Reason, failed)
	}
}

// outcomes is what Explain says in short: p, f or n for each rule.
func outcomes(rules []auth.Rule) string {
	var short strings.Builder
	for _, rule := range rules {
		short.WriteByte(strings.ToLower(rule.Outcome.String())[0])
	}

	return short.String()
}

// Rules are in the order of section 8.3, and go on behind a failure.
//
// Spec: V-1 to V-13.
func TestExplain(t *testing.T) {
	t.Parallel()

	header := func(changes members) string { return header1.with(changes).json() }
	sign := func(header, payload string) string {
		return compact(t, header, payload, "HS256", publisherSecret)
	}
	change := func(changes members) string { return token1(t, changes) }

	// form, header, typ, alg, payload, iss, signature, exp, nbf, aud, details, recommended
	for name, tc := range map[string]struct {
		token string
		want  string
		says  string // in a detail
	}{
		"valid":           {change(nil), "pppppppppppp", "absent: client_id, iat, jti"},
		"several at once": {change(members{"exp": 0, "nbf": "x", "aud": 1, "authorization_details": 1}), "pppppppffffp", "nbf is not a number"},
		"unknown issuer":  {change(members{"iss": "https://evil.example"}), "pppppfnppppp", "add it to MERCURE_TRUSTED_ISSUERS"},
		"alg":             {sign(header(members{"alg": "ES256"}), payload1.json()), "pppfppnppppp", "no key has this alg"},
		"member twice":    {sign(header(nil), twice(payload1.json(), `"exp":1`)), "ppppfppn", "occurs twice"},
		"crit":            {sign(header(members{"crit": []string{"x"}}), payload1.json()), "pfpn", "crit names"},
		"bad payload":     {encode(header(nil)) + ".A.A", "fppn", "payload is not base64url"},
		"bad header":      {"A." + encode(payload1.json()) + ".A", "pfn", "header is not base64url"},
		"no token":        {"secret-of-somebody", "fn", "not a compact JWS"},
		"too long":        {change(members{"x": strings.Repeat("x", 700<<10)}), "fn", "more than the"},
		"0.x":             {token0(t, members{"exp": 0}), "ppfnppfp", "MERCURE_COMPAT is off"},
		"other role": {
			compact(t, header(nil), payload1.json(), "HS256", subscriberSecret), "ppppppfppppp",
			"it fits the subscriber key, so this is a token for a subscriber",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			a := newAuth(t)
			_, err := a.Authenticate(bearer(tc.token), auth.Publisher, hub(t), resource)
			e := a.Explain(t.Context(), tc.token, auth.Publisher, hub(t), resource)
			checkExplanation(t, e, err, tc.token)

			if got := outcomes(e.Rules); got != tc.want {
				t.Errorf("got %s, want %s: %+v", got, tc.want, e.Rules)
			}

			if !slices.ContainsFunc(e.Rules, func(r auth.Rule) bool { return strings.Contains(r.Detail, tc.says) }) {
				t.Errorf("nothing says %q: %+v", tc.says, e.Rules)
			}
		})
	}
}

// Spec: L-1 to L-6.
func TestExplain0(t *testing.T) {
	t.Parallel()

	// form, header, typ, signature, payload, mercure, exp, nbf
	for name, tc := range map[string]struct {
		token string
		want  string
	}{
		"valid":           {token0(t, nil), "pppppppp"},
		"several at once": {compact(t, header0.json(), `{"mercure":1,"exp":0,"nbf":"x"}`, "HS256", publisherSecret), "pppfpfff"},
		"no object":       {compact(t, header0.json(), `[]`, "HS256", legacySecret), "ppppfn"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			a := newAuth(t, compat)
			_, err := a.Authenticate(bearer(tc.token), auth.Publisher, hub(t), resource)
			e := a.Explain(t.Context(), tc.token, auth.Publisher, hub(t), resource)
			checkExplanation(t, e, err, tc.token)

			if got := outcomes(e.Rules); got != tc.want {
				t.Errorf("got %s, want %s: %+v", got, tc.want, e.Rules)
			}
		})
	}
}

// Spec: P-17, U-2, N-1, TP-1.
func TestExplainRights(t *testing.T) {
	t.Parallel()

	const order = "https://shop.example/orders/1"

	allow := func(actions ...string) members {
		return members{"authorization_details": []members{{
			"type": detailType, "actions": actions,
			"topics": []members{{"match": "https://shop.example/orders/:id", "match_type": "urlpattern"}, {"match": "x"}},
		}}}
	}

	for name, tc := range map[string]struct {
		change members
		role   auth.Role
		topics []string
		want   []auth.Rule
	}{
		"publish": {allow("publish"), auth.Publisher, []string{order, "other", hubURL + "/subscriptions/x", ""}, []auth.Rule{
			{Text: "it may publish something", Outcome: auth.Passed, Detail: `urlpattern "https://shop.example/orders/:id", exact "x"`},
			{Text: `it may publish to "https://shop.example/orders/1"`, Outcome: auth.Passed, Detail: `by urlpattern "https://shop.example/orders/:id"`},
			{Text: `it may publish to "other"`, Outcome: auth.Failed, Detail: "no matcher covers it, and all topics of an update must be covered"},
			{Text: `it may publish to "https://hub.example.com/.well-known/mercure/subscriptions/x"`, Outcome: auth.Failed, Detail: "nobody may: "},
			{Text: `it may publish to ""`, Outcome: auth.Failed, Detail: "nobody may: "},
		}},
		"publish nothing": {allow("subscribe"), auth.Publisher, nil, []auth.Rule{
			{Text: "it may publish something", Outcome: auth.Failed, Detail: "no entry of authorization_details has the action publish: whatever is published is answered 403"},
		}},
		"receive": {allow("subscribe"), auth.Subscriber, []string{"other", "x"}, []auth.Rule{
			{Text: "it may receive public updates", Outcome: auth.Passed, Detail: `and private ones of urlpattern "https://shop.example/orders/:id", exact "x"`},
			{Text: `it may receive private updates with "other", "x"`, Outcome: auth.Passed, Detail: `"x" by exact "x"`},
		}},
		"receive nothing private": {allow("publish"), auth.Subscriber, []string{"x"}, []auth.Rule{
			{Text: "it may receive public updates", Outcome: auth.Passed, Detail: "and no private ones: no entry of authorization_details has the action subscribe"},
			{Text: `it may receive private updates with "x"`, Outcome: auth.Failed, Detail: "no matcher covers a topic of them; public ones it receives"},
		}},
		"no token": {members{"exp": 0}, auth.Publisher, []string{"x"}, []auth.Rule{
			{Text: "rights", Outcome: auth.NotChecked, Detail: "the token is not valid"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			secret := publisherSecret
			if tc.role == auth.Subscriber {
				secret = subscriberSecret
			}

			token := compact(t, header1.json(), payload1.with(tc.change).json(), "HS256", secret)
			e := newAuth(t).Explain(t.Context(), token, tc.role, hub(t), resource)
			got := e.ExplainRights(tc.role, tc.topics, hub(t), protocol.DefaultLimits())

			for i, rule := range got { // why nobody may is said elsewhere
				if strings.HasPrefix(rule.Detail, "nobody may: ") {
					got[i].Detail = "nobody may: "
				}
			}

			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// FuzzExplain: whatever a trusted key has signed, and whatever it has not,
// Explain and Authenticate agree.
func FuzzExplain(f *testing.F) {
	f.Add(header1.json(), payload1.json(), "")
	f.Add(header0.json(), payload0.json(), "")
	f.Add(header1.json(), payload1.json(), "AAAA")
	f.Add(`{"typ":"application/at+jwt","alg":"HS256","kid":"\ud800"}`, twice(payload1.json(), `"exp":1`), "")
	f.Add(`{"alg":"HS256","crit":[]}`, `{"mercure":{"publish":["{"],"publish_exclude":[]}}`, "")
	f.Add(`{"alg":"HS256"}`, `{"mercure":{"publish":["*",""],"payload":1},"exp":1e999,"nbf":-1}`, "")
	f.Add(`{"alg":"none"}`, `[`, "=")
	f.Add(header0.json(), payload0.json(), " \t")

	a := newAuth(f, func(cfg *auth.Config) {
		cfg.Compat = true
		cfg.Legacy.Publisher = cfg.Issuers[0].Publisher
	})
	h := hub(f)

	f.Fuzz(func(t *testing.T, header, payload, tail string) {
		token := compact(t, header, payload, "HS256", publisherSecret) + tail
		e := a.Explain(t.Context(), token, auth.Publisher, h, resource)
		_, err := a.Authenticate(bearer(token), auth.Publisher, h, resource)
		checkExplanation(t, e, err, "")
	})
}
