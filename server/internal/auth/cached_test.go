package auth_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// clock is a time that tests move.
type clock struct{ unix atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.unix.Store(now.Unix())

	return c
}

func (c *clock) Now() time.Time       { return time.Unix(c.unix.Load(), 0) }
func (c *clock) use(cfg *auth.Config) { cfg.Now = c.Now }

// Equal pointers show that a token was not verified again.
func TestVerifiedTokensAreCached(t *testing.T) {
	t.Parallel()

	elsewhere, err := protocol.ParseHubURL("https://hub2.example.com/hub")
	if err != nil {
		t.Fatal(err)
	}

	token := token1(t, members{"aud": []string{resource, "https://hub2.example.com/hub"}})
	same := func(cfg *auth.Config) { cfg.Issuers[0].Subscriber = cfg.Issuers[0].Publisher }

	for name, tc := range map[string]struct {
		change   func(*auth.Config)
		role     auth.Role
		hub      *protocol.HubURL
		resource string
		hit      bool
	}{
		"same":           {same, auth.Publisher, hub(t), resource, true},
		"other role":     {same, auth.Subscriber, hub(t), resource, false},
		"other hub":      {same, auth.Publisher, elsewhere, resource, false},
		"other resource": {same, auth.Publisher, hub(t), "https://hub2.example.com/hub", false},
		"turned off":     {func(cfg *auth.Config) { cfg.CacheEntries = -1 }, auth.Publisher, hub(t), resource, false},
		"too small":      {func(cfg *auth.Config) { cfg.CacheBytes = 1 }, auth.Publisher, hub(t), resource, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			a := newAuth(t, tc.change)

			first, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
			if err != nil {
				t.Fatal(err)
			}

			second, err := a.Authenticate(bearer(token), tc.role, tc.hub, tc.resource)
			if err != nil {
				t.Fatal(err)
			}

			if hit := first == second; hit != tc.hit {
				t.Errorf("hit: got %v", hit)
			}
		})
	}
}

// A token valid for one role or resource stays invalid for another one.
func TestCacheDoesNotWiden(t *testing.T) {
	t.Parallel()

	a, token := newAuth(t), token1(t, nil)

	grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	accepted.check(t, grants, err, token)

	grants, err = a.Authenticate(bearer(token), auth.Subscriber, hub(t), resource)
	rejected("signature does not fit").check(t, grants, err, token)

	grants, err = a.Authenticate(bearer(token), auth.Publisher, hub(t), resource+"2")
	rejected("aud is").check(t, grants, err, token)

	damaged := token[:strings.LastIndexByte(token, '.')] + ".AAAA"
	grants, err = a.Authenticate(bearer(damaged), auth.Publisher, hub(t), resource)
	rejected("signature does not fit").check(t, grants, err, damaged)
}

// Spec: V-8, V-9, L-6, S-21.
func TestCacheObeysTheClock(t *testing.T) {
	t.Parallel()

	c := newClock()
	a := newAuth(t, c.use, compat)
	one := token1(t, members{"exp": now.Unix() + 10, "nbf": now.Unix() - 10})
	zero := token0(t, members{"exp": now.Unix() + 10, "nbf": now.Unix() - 10})

	for _, step := range []struct {
		offset int64
		want   want
	}{
		{0, accepted},
		{9, accepted},
		{10, rejected("expired")},
		{11, rejected("expired")},
		{9, accepted}, // the clock was set back
		{-10, accepted},
		{-11, rejected("nbf")},
		{0, accepted},
	} {
		c.unix.Store(now.Unix() + step.offset)

		for _, token := range []string{one, zero} {
			grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
			step.want.check(t, grants, err, token)
		}
	}
}

// A failure is judged anew each time.
func TestFailuresAreNotCached(t *testing.T) {
	t.Parallel()

	c := newClock()
	a := newAuth(t, c.use)
	token := token1(t, members{"nbf": now.Unix() + 5})

	grants, err := a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	rejected("nbf").check(t, grants, err, token)

	c.unix.Add(5)

	grants, err = a.Authenticate(bearer(token), auth.Publisher, hub(t), resource)
	accepted.check(t, grants, err, token)
}

func TestAuthenticateConcurrently(t *testing.T) {
	t.Parallel()

	a := newAuth(t, compat, func(cfg *auth.Config) { cfg.CacheEntries = 3 })
	h := hub(t)

	var tokens []string
	for _, subject := range []string{"a", "b", "c", "d", "e"} {
		tokens = append(tokens, token1(t, members{"sub": subject}), token0(t, members{"sub": subject}))
	}

	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 50 {
				grants, err := a.Authenticate(bearer(tokens[(worker+i)%len(tokens)]), auth.Publisher, h, resource)
				if err != nil || !grants.MayPublish(protocol.NewTopics([]string{"https://shop.example/orders/1"})) {
					t.Errorf("got %v, %v", grants, err)
				}
			}
		})
	}

	wg.Wait()
}
