package auth_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

const (
	cookieName = auth.DefaultCookieName + "="
	legacyName = auth.DefaultLegacyCookieName + "="
)

// Tokens of different subjects show which one was used.
//
// Spec, section 8.1.
func TestCredentialSelection(t *testing.T) {
	t.Parallel()

	sub := func(name string) members { return members{"sub": name} }
	header, cookie := token1(t, sub("header")), token1(t, sub("cookie"))
	query, legacy := token0(t, sub("query")), token0(t, sub("legacy"))
	in := func(name, token string) string { return hubURL + "?" + name + "=" + url.QueryEscape(token) }
	parts := strings.Split(header, ".")
	bad := func(token string) string { return token[:strings.LastIndexByte(token, '.')] + ".AAAA" }

	malformed := func(reason string) want { return want{auth.Malformed, reason} }
	nothing := ""

	for name, tc := range map[string]struct {
		strict bool // compat off
		method string
		target string
		fields []string
		want   want
		used   string // subject, empty for no credential
	}{
		"nothing":                  {used: nothing},
		"unrelated cookie":         {fields: []string{"Cookie", "session=1"}, used: nothing},
		"header":                   {fields: []string{"Authorization", "Bearer " + header}, used: "header"},
		"header, 0.x":              {fields: []string{"Authorization", "Bearer " + legacy}, used: "legacy"},
		"cookie":                   {fields: []string{"Cookie", cookieName + cookie}, used: "cookie"},
		"legacy cookie":            {fields: []string{"Cookie", legacyName + legacy}, used: "legacy"},
		"X-5 1.0 in legacy cookie": {fields: []string{"Cookie", legacyName + cookie}, used: "cookie"},
		"X-5 0.x in cookie":        {fields: []string{"Cookie", cookieName + legacy}, used: "legacy"},
		"query":                    {target: in("authorization", query), used: "query"},

		"A-1 header before query":           {target: in("authorization", query), fields: []string{"Authorization", "Bearer " + header}, used: "header"},
		"A-1 query before cookie":           {target: in("authorization", query), fields: []string{"Cookie", cookieName + cookie}, used: "query"},
		"A-1 cookie before legacy":          {fields: []string{"Cookie", legacyName + legacy + "; " + cookieName + cookie}, used: "cookie"},
		"A-2 header before cookie":          {fields: []string{"Authorization", "Bearer " + header, "Cookie", cookieName + cookie}, used: "header"},
		"A-2 header before bad cookie":      {fields: []string{"Authorization", "Bearer " + header, "Cookie", cookieName + "garbage"}, used: "header"},
		"A-1 bad header, good cookie":       {fields: []string{"Authorization", "Bearer " + bad(header), "Cookie", cookieName + cookie}, want: rejected("signature")},
		"A-1 malformed header, good cookie": {fields: []string{"Authorization", "Basic x", "Cookie", cookieName + cookie}, want: malformed("scheme")},
		"A-1 bad query, good cookie":        {target: in("authorization", bad(query)), fields: []string{"Cookie", cookieName + cookie}, want: rejected("signature")},
		"A-1 bad cookie, good legacy":       {fields: []string{"Cookie", cookieName + bad(cookie) + ";" + legacyName + legacy}, want: rejected("signature")},

		"A-3 access_token ignored":             {target: in("access_token", query), used: nothing},
		"A-3 access_token ignored, has cookie": {target: in("access_token", query), fields: []string{"Cookie", cookieName + cookie}, used: "cookie"},

		"A-4 scheme in any case":  {fields: []string{"Authorization", "bEARER " + header}, used: "header"},
		"A-4 more spaces":         {fields: []string{"Authorization", "Bearer   " + header + " "}, used: "header"},
		"A-4 tab":                 {fields: []string{"Authorization", "Bearer\t" + header}, want: malformed("scheme")},
		"A-4 two fields":          {fields: []string{"Authorization", "Bearer " + header, "Authorization", "Bearer " + header}, want: malformed("2 Authorization fields")},
		"A-4 empty":               {fields: []string{"Authorization", ""}, want: malformed("scheme")},
		"A-4 scheme only":         {fields: []string{"Authorization", "Bearer"}, want: malformed("compact JWS")},
		"A-4 token only":          {fields: []string{"Authorization", header}, want: malformed("scheme")},
		"A-4 Basic":               {fields: []string{"Authorization", "Basic " + header}, want: malformed("scheme")},
		"A-4 garbage":             {fields: []string{"Authorization", "Bearer garbage"}, want: malformed("compact JWS")},
		"A-4 two parts":           {fields: []string{"Authorization", "Bearer " + parts[0] + "." + parts[1]}, want: malformed("compact JWS")},
		"A-4 four parts":          {fields: []string{"Authorization", "Bearer " + header + ".x"}, want: malformed("compact JWS")},
		"A-4 empty payload":       {fields: []string{"Authorization", "Bearer " + parts[0] + ".." + parts[2]}, want: malformed("compact JWS")},
		"A-4 empty header part":   {fields: []string{"Authorization", "Bearer ." + parts[1] + "." + parts[2]}, want: malformed("compact JWS")},
		"A-4 empty signature":     {fields: []string{"Authorization", "Bearer " + parts[0] + "." + parts[1] + "."}, want: rejected("signature")},
		"A-4 padding":             {fields: []string{"Authorization", "Bearer " + header + "="}, want: malformed("compact JWS")},
		"A-4 standard base64":     {fields: []string{"Authorization", "Bearer a+/.b.c"}, want: malformed("compact JWS")},
		"A-4 two tokens":          {fields: []string{"Authorization", "Bearer " + header + " " + header}, want: malformed("compact JWS")},
		"A-4 comma":               {fields: []string{"Authorization", "Bearer " + header + ", Bearer " + header}, want: malformed("compact JWS")},
		"A-4 shaped like a token": {fields: []string{"Authorization", "Bearer a.b.c"}, want: rejected("header is not base64url")},
		"V-13 JWE in the header":  {fields: []string{"Authorization", "Bearer a.b.c.d.e"}, want: malformed("compact JWS")},
		"V-13 JWE in a cookie":    {fields: []string{"Cookie", cookieName + "a.b.c.d.e"}, want: rejected("compact JWS")},

		"A-5 garbage cookie":          {fields: []string{"Cookie", cookieName + "garbage"}, want: rejected("compact JWS")},
		"A-5 unusual bytes in cookie": {fields: []string{"Cookie", cookieName + `a\b` + "\xff"}, want: rejected("compact JWS")},
		"A-5 garbage legacy cookie":   {fields: []string{"Cookie", legacyName + "garbage"}, want: rejected("compact JWS")},
		"A-5 garbage query":           {target: in("authorization", "garbage"), want: rejected("compact JWS")},
		"A-5 empty query":             {target: in("authorization", ""), want: rejected("compact JWS")},
		"A-5 empty cookie":            {fields: []string{"Cookie", cookieName}, used: nothing},
		"A-5 empty quoted cookie":     {fields: []string{"Cookie", cookieName + `""`}, used: nothing},
		"A-5 empty cookie, legacy":    {fields: []string{"Cookie", cookieName + "; " + legacyName + legacy}, used: "legacy"},
		"A-5 first cookie counts":     {fields: []string{"Cookie", cookieName + cookie + "; " + cookieName + header}, used: "cookie"},
		"A-5 first cookie is bad":     {fields: []string{"Cookie", cookieName + "x; " + cookieName + cookie}, want: rejected("compact JWS")},
		"A-5 several cookie fields":   {fields: []string{"Cookie", "a=b", "Cookie", cookieName + cookie}, used: "cookie"},
		"A-5 quoted cookie":           {fields: []string{"Cookie", cookieName + `"` + cookie + `"`}, used: "cookie"},
		"A-5 name in other case":      {fields: []string{"Cookie", strings.ToUpper(cookieName) + cookie}, used: nothing},

		"A-9 HEAD":                 {method: http.MethodHead, target: in("authorization", query), used: "query"},
		"A-9 POST":                 {method: http.MethodPost, target: in("authorization", query), used: "query"},
		"A-9 QUERY":                {method: "QUERY", target: in("authorization", query), used: nothing},
		"A-9 encoded name":         {target: in("%61uthorization", query), used: "query"},
		"A-9 other case":           {target: in("Authorization", query), used: nothing},
		"A-9 among others":         {target: hubURL + "?topic=a;b&authorization=" + query + "&", used: "query"},
		"A-9 twice":                {target: in("authorization", query) + "&authorization=" + query, want: malformed("several times")},
		"A-9 twice, one empty":     {target: in("authorization", query) + "&authorization", want: malformed("several times")},
		"A-9 twice, but a header":  {target: in("authorization", query) + "&authorization=x", fields: []string{"Authorization", "Bearer " + header}, used: "header"},
		"X-6 1.0 in query":         {target: in("authorization", header), want: malformed("1.0 token came in the URL")},
		"X-6 broken 1.0 in query":  {target: in("authorization", header+"="), want: rejected("compact JWS")},
		"X-6 damaged 1.0 in query": {target: in("authorization", header[:len(header)-2]), want: malformed("1.0 token came in the URL")},
		"X-6 invalid 1.0 in query": {target: in("authorization", bad(header)), want: malformed("1.0 token came in the URL")},

		"strict: header":           {strict: true, fields: []string{"Authorization", "Bearer " + header}, used: "header"},
		"strict: cookie":           {strict: true, fields: []string{"Cookie", cookieName + cookie}, used: "cookie"},
		"strict: legacy cookie":    {strict: true, fields: []string{"Cookie", legacyName + cookie}, used: nothing},
		"strict: query":            {strict: true, target: in("authorization", query), used: nothing},
		"strict: query twice":      {strict: true, target: in("authorization", query) + "&authorization=x", used: nothing},
		"strict: X-6 1.0 in query": {strict: true, target: in("authorization", header), used: nothing},
		"strict: 0.x in cookie":    {strict: true, fields: []string{"Cookie", cookieName + legacy}, want: rejected("MERCURE_COMPAT")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			a := newAuth(t, func(cfg *auth.Config) { cfg.Compat = !tc.strict })

			method, target := tc.method, tc.target
			if method == "" {
				method = http.MethodGet
			}

			if target == "" {
				target = hubURL
			}

			grants, err := a.Authenticate(request(method, target, tc.fields...), auth.Publisher, hub(t), resource)

			if tc.want.kind == 0 && tc.used == nothing {
				if grants != nil || err != nil {
					t.Fatalf("got grants %+v, error %v; want neither", grants, err)
				}

				return
			}

			tc.want.check(t, grants, err, header)

			if grants != nil && grants.Subject != tc.used {
				t.Errorf("used the token of %q, want %q", grants.Subject, tc.used)
			}
		})
	}
}

// A 1.0 token is refused in the URL although the cache knows it.
//
// Spec: X-6.
func TestQueryTokenDoesNotUseTheCache(t *testing.T) {
	t.Parallel()

	a, token := newAuth(t, compat), token1(t, nil)

	grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	accepted.check(t, grants, err, token)

	grants, err = a.Authenticate(request(http.MethodGet, hubURL+"?authorization="+token), auth.Publisher, hub(t), resource)
	want{auth.Malformed, "1.0 token came in the URL"}.check(t, grants, err, token)
}

func TestCookieNames(t *testing.T) {
	t.Parallel()

	a := newAuth(t, func(cfg *auth.Config) {
		cfg.Compat, cfg.CookieName, cfg.LegacyCookieName = true, "token", "old-token"
	})

	for cookie, used := range map[string]string{
		"token=" + token1(t, nil):                         "alice",
		"old-token=" + token1(t, nil):                     "alice",
		cookieName + token1(t, nil):                       "",
		legacyName + token1(t, nil):                       "",
		"x-token=" + token1(t, members{"sub": "mallory"}): "",
	} {
		grants, err := a.Authenticate(request(http.MethodGet, hubURL, "Cookie", cookie), auth.Publisher, hub(t), resource)
		if err != nil {
			t.Fatal(err)
		}

		got := ""
		if grants != nil {
			got = grants.Subject
		}

		if got != used {
			t.Errorf("%.12s…: got %q, want %q", cookie, got, used)
		}
	}
}

// Spec: A-7, Z-8, X-7.
func TestCSRF(t *testing.T) {
	t.Parallel()

	const own, listed = "https://hub.example.com", "https://app.example.com"

	refused := want{auth.CSRF, "MERCURE_PUBLISH_ALLOWED_ORIGINS"}

	for name, tc := range map[string]struct {
		origins string
		method  string
		fields  []string
		want    want
	}{
		"neither":                    {listed, http.MethodPost, nil, refused},
		"own origin":                 {"", http.MethodPost, []string{"Origin", own}, accepted},
		"own origin, other case":     {"", http.MethodPost, []string{"Origin", "HTTPS://HUB.example.com"}, accepted},
		"own origin, with port":      {"", http.MethodPost, []string{"Origin", own + ":443"}, accepted},
		"own origin, other port":     {"", http.MethodPost, []string{"Origin", own + ":8443"}, refused},
		"own origin, other scheme":   {"", http.MethodPost, []string{"Origin", "http://hub.example.com"}, refused},
		"own origin as prefix":       {"", http.MethodPost, []string{"Origin", own + ".evil.example"}, refused},
		"own origin with path":       {"", http.MethodPost, []string{"Origin", own + "/"}, refused},
		"listed":                     {listed, http.MethodPost, []string{"Origin", listed}, accepted},
		"not listed":                 {listed, http.MethodPost, []string{"Origin", "https://evil.example"}, refused},
		"empty, all listed":          {"*", http.MethodPost, []string{"Origin", ""}, refused},
		"empty":                      {listed, http.MethodPost, []string{"Origin", ""}, refused},
		"two fields":                 {listed, http.MethodPost, []string{"Origin", own, "Origin", own}, want{auth.CSRF, "2 Origin fields"}},
		"null":                       {listed, http.MethodPost, []string{"Origin", "null"}, refused},
		"null, listed":               {"null", http.MethodPost, []string{"Origin", "null"}, accepted},
		"null, all listed":           {"*", http.MethodPost, []string{"Origin", "null"}, refused},
		"all listed":                 {"*", http.MethodPost, []string{"Origin", "https://any.example"}, accepted},
		"all listed, neither":        {"*", http.MethodPost, nil, refused},
		"referer, own":               {"", http.MethodPost, []string{"Referer", own + "/page?x#y"}, accepted},
		"referer, listed":            {listed, http.MethodPost, []string{"Referer", listed + ":443/"}, accepted},
		"referer, not listed":        {listed, http.MethodPost, []string{"Referer", "https://evil.example/" + own}, refused},
		"referer, user info":         {listed, http.MethodPost, []string{"Referer", own + "@evil.example/"}, refused},
		"referer, relative":          {listed, http.MethodPost, []string{"Referer", "/page"}, refused},
		"referer, unparsable":        {"*", http.MethodPost, []string{"Referer", "https://%zz/"}, want{auth.CSRF, "unusable Referer"}},
		"referer, about:blank":       {"*", http.MethodPost, []string{"Referer", "about:blank"}, want{auth.CSRF, "unusable Referer"}},
		"origin wins, bad":           {listed, http.MethodPost, []string{"Origin", "https://evil.example", "Referer", own + "/"}, refused},
		"origin wins, null":          {listed, http.MethodPost, []string{"Origin", "null", "Referer", own + "/"}, refused},
		"origin wins, good":          {listed, http.MethodPost, []string{"Origin", listed, "Referer", "https://evil.example/"}, accepted},
		"GET":                        {"", http.MethodGet, nil, accepted},
		"GET, other origin":          {"", http.MethodGet, []string{"Origin", "https://evil.example"}, accepted},
		"HEAD":                       {"", http.MethodHead, nil, accepted},
		"QUERY":                      {"", "QUERY", nil, accepted},
		"DELETE":                     {"", http.MethodDelete, nil, refused},
		"header token":               {"", http.MethodPost, []string{"Authorization", "Bearer " + token1(t, nil)}, accepted},
		"header token, other origin": {"", http.MethodPost, []string{"Authorization", "Bearer " + token1(t, nil), "Origin", "https://evil.example"}, accepted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			a := newAuth(t, compat, func(cfg *auth.Config) { cfg.PublishOrigins = origins(t, tc.origins) })

			for _, cookie := range []string{cookieName + token1(t, nil), legacyName + token0(t, nil)} {
				r := request(tc.method, hubURL, tc.fields...)
				r.Header.Set("Cookie", cookie)

				grants, err := a.Authenticate(r, auth.Publisher, hub(t), resource)
				tc.want.check(t, grants, err, cookie)
			}
		})
	}
}

// Spec: A-7 (query tokens), P-21 (the token comes first).
func TestCSRFOrderAndScope(t *testing.T) {
	t.Parallel()

	a := newAuth(t, compat)

	token := token0(t, nil)
	grants, err := a.Authenticate(request(http.MethodPost, hubURL+"?authorization="+token, "Origin", "https://evil.example"), auth.Publisher, hub(t), resource)
	accepted.check(t, grants, err, token)

	grants, err = a.Authenticate(request(http.MethodPost, hubURL, "Cookie", cookieName+"garbage"), auth.Publisher, hub(t), resource)
	rejected("compact JWS").check(t, grants, err, "")
}
