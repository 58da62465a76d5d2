package auth_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// FuzzAuthenticate presents arbitrary fields. Nothing panics, every error is
// one of ours, and only our own tokens would be let in.
func FuzzAuthenticate(f *testing.F) {
	token := token1(f, nil)

	f.Add("Bearer "+token, "", "", "")
	f.Add("", cookieName+token, "", "https://hub.example.com")
	f.Add("", legacyName+`"a.b.c"; =; ;`, "authorization=a.b.c&%61uthorization", "null")
	f.Add("Bearer e30.e30.", "", "authorization=e30.e30.", "://")
	f.Add("Bearer eyJ0eXAiOiJhdCtqd3QifQ.e30.", "", "", "")

	a, h := newAuth(f, compat), hub(f)

	f.Fuzz(func(t *testing.T, authorization, cookie, query, origin string) {
		r := request(http.MethodPost, hubURL)
		r.URL.RawQuery = query

		for name, value := range map[string]string{"Authorization": authorization, "Cookie": cookie, "Origin": origin} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}

		_, err := a.Authenticate(r, auth.Publisher, h, resource)

		var e *auth.Error
		if err != nil && !errors.As(err, &e) {
			t.Errorf("got %v", err)
		}
	})
}

// FuzzSignedToken signs arbitrary headers and payloads with trusted keys, so
// that everything behind the signature is reached. Whatever is accepted obeys
// the rules that can be checked from outside.
func FuzzSignedToken(f *testing.F) {
	const details = `"authorization_details":[{"type":"` + detailType + `","actions":["publish"],"topics":[{"match":"/:a","match_type":"urlpattern"}]}]`

	f.Add(header1.json(), payload1.json())
	f.Add(header0.json(), payload0.json())
	f.Add(`{"typ":"application/at+jwt","alg":"HS256","kid":"\ud800"}`, twice(payload1.json(), details))
	f.Add(`{"alg":"HS256","crit":[]}`, `{"mercure":{"publish":["{"],"publish_exclude":[]}}`)
	f.Add(`{"alg":"HS256"}`, `{"mercure":{"publish":["*",""],"payload":1},"exp":1e999,"nbf":-1}`)
	f.Add(`{"alg":"none"}`, `[`)

	a := newAuth(f, func(cfg *auth.Config) {
		cfg.Compat = true
		cfg.Legacy.Publisher = cfg.Issuers[0].Publisher
	})
	h := hub(f)
	topics := protocol.NewTopics([]string{"https://hub.example.com/a", "x"})

	f.Fuzz(func(t *testing.T, header, payload string) {
		if header == "" || payload == "" {
			return
		}

		token := compact(t, header, payload, "HS256", publisherSecret)

		grants, err := a.Authenticate(bearer(token), auth.Publisher, h, resource)
		if err != nil {
			var e *auth.Error
			if !errors.As(err, &e) || e.Kind != auth.InvalidToken || grants != nil {
				t.Errorf("got %v, %v", grants, err)
			}

			return
		}

		if grants.Dialect == auth.Dialect1 && (grants.Issuer != issuerA || grants.Expires.IsZero()) ||
			!grants.Expires.IsZero() && !grants.Expires.After(now) {
			t.Errorf("accepted %+v", grants)
		}

		grants.MayPublish(topics)
		grants.MayReceive(topics)
	})
}
