package auth_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

// Spec: Z-19, Z-20, V-9, V-14.
func TestNewRefuses(t *testing.T) {
	t.Parallel()

	short := strings.Repeat("x", 31)

	for name, tc := range map[string]struct {
		change func(*auth.Config)
		want   string // empty: accepted
	}{
		"base":                              {func(*auth.Config) {}, ""},
		"nothing at all":                    {func(cfg *auth.Config) { *cfg = auth.Config{} }, ""},
		"Z-19 short 1.0 secret":             {func(cfg *auth.Config) { cfg.Issuers[0].Publisher = keys(t, short, "HS256") }, "publisher secret of issuer"},
		"Z-19 short 1.0 secret, subscriber": {func(cfg *auth.Config) { cfg.Issuers[1].Subscriber = keys(t, short, "HS512") }, "subscriber secret of issuer"},
		"Z-19 short 0.x secret":             {func(cfg *auth.Config) { cfg.Compat, cfg.Legacy.Publisher = true, keys(t, short, "HS256") }, ""},
		"Z-19 256 bits":                     {func(cfg *auth.Config) { cfg.Issuers[0].Publisher = keys(t, short+"x", "HS256") }, ""},
		"issuer without ID":                 {func(cfg *auth.Config) { cfg.Issuers[0].ID = "" }, "no identifier"},
		"issuer with space":                 {func(cfg *auth.Config) { cfg.Issuers[0].ID += " " }, "not a usable identifier"},
		"issuer, bad URL":                   {func(cfg *auth.Config) { cfg.Issuers[0].ID = "https://%zz" }, "not a usable identifier"},
		"issuer, plain word":                {func(cfg *auth.Config) { cfg.Issuers[0].ID = "shop" }, ""},
		"issuer twice":                      {func(cfg *auth.Config) { cfg.Issuers[1].ID = issuerA }, "configured twice"},
		"V-14 issuer without keys":          {func(cfg *auth.Config) { cfg.Issuers[1].Publisher = nil }, "has no keys"},
		"leeway 60s":                        {func(cfg *auth.Config) { cfg.NotBeforeLeeway = time.Minute }, ""},
		"leeway 61s":                        {func(cfg *auth.Config) { cfg.NotBeforeLeeway = 61 * time.Second }, "1m1s"},
		"leeway negative":                   {func(cfg *auth.Config) { cfg.NotBeforeLeeway = -1 }, "leeway"},
		"limit negative":                    {func(cfg *auth.Config) { cfg.Limits.Selectors = -1 }, "limit"},
		"cookie name":                       {func(cfg *auth.Config) { cfg.CookieName = "a=b" }, "MERCURE_COOKIE_NAME"},
		"legacy cookie name":                {func(cfg *auth.Config) { cfg.LegacyCookieName = "a b" }, "MERCURE_COOKIE_NAME"},
		"all problems at once": {func(cfg *auth.Config) {
			cfg.Issuers[0].ID, cfg.CookieName = "", ";"
		}, "no identifier"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			cfg := baseConfig(t)
			tc.change(&cfg)

			_, err := auth.New(cfg)

			switch {
			case tc.want == "" && err != nil:
				t.Fatal(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Fatalf("got %v, want %q", err, tc.want)
			case name == "all problems at once" && !strings.Contains(err.Error(), "MERCURE_COOKIE_NAME"):
				t.Errorf("got only %v", err)
			}

			if err != nil {
				checkNoSecrets(t, err.Error(), short)
			}
		})
	}
}

// Spec: Z-22, X-4.
func TestTrusts(t *testing.T) {
	t.Parallel()

	before := newAuth(t, compat)
	grants1, err := before.Authenticate(bearer(token1(t, nil)), auth.Publisher, hub(t), resource)
	if err != nil {
		t.Fatal(err)
	}

	grants0, err := before.Authenticate(bearer(token0(t, nil)), auth.Publisher, hub(t), resource)
	if err != nil {
		t.Fatal(err)
	}

	fresh := keys(t, "a-fresh-secret-0123456789abcdefgh", "HS256")
	old := keys(t, publisherSecret, "HS256")

	for name, tc := range map[string]struct {
		change func(*auth.Config)
		role   auth.Role
		want1  bool
		want0  bool
	}{
		"unchanged":    {compat, auth.Publisher, true, true},
		"other role":   {compat, auth.Subscriber, false, true}, // one legacy secret for both
		"compat off":   {func(*auth.Config) {}, auth.Publisher, true, false},
		"key added":    {func(cfg *auth.Config) { cfg.Issuers[0].Publisher = slices.Concat(fresh, old) }, auth.Publisher, true, false},
		"key replaced": {func(cfg *auth.Config) { cfg.Issuers[0].Publisher = fresh }, auth.Publisher, false, false},
		"key at other issuer": {func(cfg *auth.Config) {
			cfg.Issuers[0].Publisher, cfg.Issuers[1].Publisher = fresh, old
		}, auth.Publisher, false, false},
		"issuer removed":     {func(cfg *auth.Config) { cfg.Compat, cfg.Issuers = true, nil }, auth.Publisher, false, true},
		"legacy key removed": {func(cfg *auth.Config) { cfg.Compat, cfg.Legacy.Publisher = true, nil }, auth.Publisher, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			after := newAuth(t, tc.change)
			if got := after.Trusts(tc.role, grants1); got != tc.want1 {
				t.Errorf("1.0: got %v", got)
			}

			if got := after.Trusts(tc.role, grants0); got != tc.want0 {
				t.Errorf("0.x: got %v", got)
			}
		})
	}

	if before.Trusts(auth.Publisher, nil) {
		t.Error("trusts nobody's grants")
	}
}

// Spec: G-4.
func TestHasKeys(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		change             func(*auth.Config)
		publish, subscribe bool
	}{
		"base":            {func(*auth.Config) {}, true, true},
		"none":            {func(cfg *auth.Config) { *cfg = auth.Config{} }, false, false},
		"publishers only": {func(cfg *auth.Config) { cfg.Issuers[0].Subscriber = nil }, true, false},
		"legacy only":     {func(cfg *auth.Config) { cfg.Issuers, cfg.Compat = nil, true }, true, true},
		"legacy unused":   {func(cfg *auth.Config) { cfg.Issuers = nil }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			a := newAuth(t, tc.change)
			if a.HasKeys(auth.Publisher) != tc.publish || a.HasKeys(auth.Subscriber) != tc.subscribe {
				t.Errorf("got %v, %v", a.HasKeys(auth.Publisher), a.HasKeys(auth.Subscriber))
			}
		})
	}
}

// Spec: A-10, section 8.2.
func TestChallenge(t *testing.T) {
	t.Parallel()

	const metadata = "https://hub.example.com/.well-known/oauth-protected-resource/.well-known/mercure"

	for _, tc := range []struct {
		kind        auth.Kind
		status      int
		with, plain string
	}{
		{auth.NoCredential, 401, `Bearer resource_metadata="` + metadata + `"`, `Bearer`},
		{auth.Malformed, 400, `Bearer error="invalid_request", resource_metadata="` + metadata + `"`, `Bearer error="invalid_request"`},
		{auth.CSRF, 400, `Bearer error="invalid_request", resource_metadata="` + metadata + `"`, `Bearer error="invalid_request"`},
		{auth.InvalidToken, 401, `Bearer error="invalid_token", resource_metadata="` + metadata + `"`, `Bearer error="invalid_token"`},
		{auth.InsufficientScope, 403, `Bearer error="insufficient_scope", resource_metadata="` + metadata + `"`, `Bearer error="insufficient_scope"`},
	} {
		t.Run(tc.kind.String(), func(t *testing.T) {
			t.Parallel()

			if got := auth.Challenge(tc.kind, metadata); got != tc.with {
				t.Errorf("got %s", got)
			}

			if got := auth.Challenge(tc.kind, ""); got != tc.plain {
				t.Errorf("got %s", got)
			}

			if got := tc.kind.Status(); got != tc.status {
				t.Errorf("got %d", got)
			}
		})
	}

	if got, want := auth.Challenge(auth.NoCredential, `https://h/"x\`), `Bearer resource_metadata="https://h/\"x\\"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
