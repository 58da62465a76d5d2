package auth_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"hash"
	"net/http"
	"regexp"
	"strings"
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
	f.Add(`{"typ":"application/AT+jwt","alg":"HS256"}`, payload1.with(payload0).json())
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

		if twiceNamed(header) || grants.Dialect == auth.Dialect1 && twiceNamed(payload) {
			t.Errorf("accepted a member that occurs twice: %s %s", header, payload)
		}

		if want := dialectOf(header); grants.Dialect != want {
			t.Errorf("dialect %v, want %v: %s", grants.Dialect, want, header)
		}

		again, err := a.Authenticate(bearer(token), auth.Publisher, h, resource)
		if err != nil || again.Dialect != grants.Dialect || again.Subject != grants.Subject {
			t.Errorf("got %+v, then %+v, %v", grants, again, err)
		}

		grants.MayPublish(topics)
		grants.MayReceive(topics)
	})
}

// twiceNamed reports whether an object in a JSON text has a member twice.
func twiceNamed(text string) bool {
	decoder := json.NewDecoder(strings.NewReader(text))

	var value func() (twice bool)

	value = func() bool {
		token, err := decoder.Token()
		if err != nil {
			return false
		}

		twice := false

		switch token {
		case json.Delim('['):
			for decoder.More() {
				twice = value() || twice
			}
		case json.Delim('{'):
			seen := map[any]bool{}

			for decoder.More() {
				name, err := decoder.Token()
				if err != nil {
					return twice
				}

				twice = twice || seen[name]
				seen[name] = true
				twice = value() || twice
			}
		default:
			return false
		}

		_, _ = decoder.Token()

		return twice
	}

	return value()
}

// dialectOf is X-1 for headers without duplicates.
//
// Spec: X-1, V-1.
func dialectOf(header string) auth.Dialect {
	var members map[string]any
	if json.Unmarshal([]byte(header), &members) != nil {
		return 0
	}

	typ, _ := members["typ"].(string)
	if regexp.MustCompile(`^(?i)(application/)?at\+jwt$`).MatchString(typ) {
		return auth.Dialect1
	}

	return auth.Dialect0
}

// FuzzForgedToken presents tokens of all shapes with signatures that no key of
// ours made. None is let in, whatever the header says about algorithms and
// keys.
//
// Spec: V-2, V-3, V-6, L-2.
func FuzzForgedToken(f *testing.F) {
	f.Add(header1.json(), payload1.json(), "")
	f.Add(header0.json(), payload0.json(), "x")
	f.Add(`{"typ":"at+jwt","alg":"none"}`, payload1.json(), "")
	f.Add(`{"typ":"at+jwt","alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}}`, payload1.json(), strings.Repeat("\x00", 32))
	f.Add(`{"alg":"HS512","kid":""}`, payload0.json(), strings.Repeat("\x00", 64))

	a, h := newAuth(f, compat), hub(f)

	f.Fuzz(func(t *testing.T, header, payload, signature string) {
		signed := encode(header) + "." + encode(payload)

		for _, secret := range []string{publisherSecret, otherSecret, legacySecret} {
			for _, newHash := range []func() hash.Hash{sha256.New, sha512.New384, sha512.New} {
				mac := hmac.New(newHash, []byte(secret))
				mac.Write([]byte(signed))

				if signature == string(mac.Sum(nil)) {
					return // not a forgery
				}
			}
		}

		grants, err := a.Authenticate(bearer(signed+"."+encode(signature)), auth.Publisher, h, resource)
		if err == nil || grants != nil {
			t.Errorf("let in by %q: %s %s", signature, header, payload)
		}
	})
}
