package keyset

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Spec: V-15.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	for name, tc := range map[string]struct{ url, want string }{
		"empty":           {"", "must be https://host/path or file:///path"},
		"http":            {"http://a.example/jwks.json", "use https://"},
		"no host":         {"https:///jwks.json", "must be https://host/path"},
		"port only":       {"https://:443/jwks.json", "must be https://host/path"},
		"other scheme":    {"ftp://a.example/", "must be https://host/path"},
		"path":            {"/etc/jwks.json", "must be https://host/path"},
		"file, relative":  {"file:jwks.json", "must be https://host/path"},
		"file, host":      {"file://etc/jwks.json", "must be https://host/path"},
		"unreadable":      {"https://a b/%", "cannot be read"},
		"file missing":    {"file://" + directory + "/none.json", "no such file"},
		"file, directory": {"file://" + directory, "is not a file"},
		"file, broken":    {"file://" + newFile(t, "{"), "not valid JSON"},
		"file, too large": {"file://" + newFile(t, strings.Repeat(" ", maxBytes+1)), "longer than"},
		"file, private":   {"file://" + newFile(t, setOf(jwkOf(p256(), "a", true))), "private key"},
	} {
		if _, err := New(Config{URL: tc.url}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	if _, err := New(Config{URL: "https://a.example/", Algs: []string{"ES256", "HS256"}}); err == nil || !strings.Contains(err.Error(), "HS256") {
		t.Errorf("HMAC in a set: %v", err)
	}
}

// A source that is down does not keep the hub from starting; a file does.
//
// Spec: V-15.
func TestFileIsReadAtOnce(t *testing.T) {
	t.Parallel()
	set := newSet(t, Config{URL: "file://" + newFile(t, setOf(p256JWK("a")))})
	if keys, ok := set.Keys(); !ok || len(keys) != 1 {
		t.Errorf("got %v, %v", keys, ok)
	}
	set = newSet(t, Config{URL: "https://no.such.host.invalid/jwks.json"})
	if keys, ok := set.Keys(); ok || keys != nil {
		t.Errorf("got %v, %v", keys, ok)
	}
}

// An issuer that publishes no key at all has taken them back. Spec: Z-22.
func TestEmptySetHasNoKeys(t *testing.T) {
	t.Parallel()
	path := newFile(t, setOf(p256JWK("a")))
	var changes atomic.Int32
	set := newSet(t, Config{URL: "file://" + path, OnChange: func() { changes.Add(1) }})
	writeFile(t, path, setOf())
	if err := set.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keys, ok := set.Keys(); !ok || len(keys) != 0 || changes.Load() != 1 {
		t.Errorf("got %v, %v after %d changes", keys, ok, changes.Load())
	}
}

// Time goes by without waiting: the bubble's clock moves when all is idle.
//
// Spec: V-15.
func TestRunReadsAgain(t *testing.T) {
	t.Parallel()
	path := newFile(t, setOf(p256JWK("a")))
	synctest.Test(t, func(t *testing.T) {
		var changes atomic.Int32
		set := newSet(t, Config{URL: "file://" + path, OnChange: func() { changes.Add(1) }})
		run(t, set)
		before := kids(set)

		time.Sleep(defaultInterval * 12 / 10) //nolint:forbidigo // no real time passes
		synctest.Wait()
		if changes.Load() != 0 {
			t.Error("told of a change that was none")
		}
		writeFile(t, path, setOf(p256JWK("renamed")))
		time.Sleep(defaultInterval * 12 / 10) //nolint:forbidigo // no real time passes
		synctest.Wait()
		if changes.Load() != 0 || !slices.Equal(kids(set), before) {
			t.Error("another kid of the same key counts as a change")
		}
		writeFile(t, path, setOf(jwkOf(edKey().Public(), "b", false)))
		time.Sleep(defaultInterval * 12 / 10) //nolint:forbidigo // no real time passes
		synctest.Wait()
		if changes.Load() != 1 || len(kids(set)) != 1 || slices.Equal(kids(set), before) {
			t.Errorf("%d changes, keys %v", changes.Load(), kids(set))
		}
	})
}

// Spec: V-15.
func TestOutageIsLoggedOnce(t *testing.T) {
	t.Parallel()
	path := newFile(t, setOf(p256JWK("a")))
	synctest.Test(t, func(t *testing.T) {
		var out logs
		set := newSet(t, Config{URL: "file://" + path, Logger: out.logger()})
		run(t, set)
		before := kids(set)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}

		time.Sleep(3 * time.Hour) //nolint:forbidigo // no real time passes
		synctest.Wait()
		if !slices.Equal(kids(set), before) {
			t.Error("the last keys are gone")
		}
		if n := strings.Count(out.String(), "cannot be read; its last keys stay in use"); n != 1 {
			t.Errorf("the outage was logged %d times:\n%s", n, out.String())
		}

		writeFile(t, path, setOf(p256JWK("a")))
		time.Sleep(maxRetry * 12 / 10) //nolint:forbidigo // no real time passes
		synctest.Wait()
		if n := strings.Count(out.String(), "can be read again"); n != 1 {
			t.Errorf("the end was logged %d times:\n%s", n, out.String())
		}
	})
}

// Spec: V-15.
func TestReloadTellsOfAnOutageAgain(t *testing.T) {
	t.Parallel()
	var out logs
	path := newFile(t, setOf(p256JWK("a"), jwkOf(rsaKey(), "leaked", true)))
	set := newSet(t, Config{URL: "file://" + path, Logger: out.logger()})
	for range 2 {
		if err := set.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(out.String(), "it is a private key"); n != 1 || !strings.Contains(out.String(), "level=WARN") {
		t.Errorf("the private key was logged %d times:\n%s", n, out.String())
	}
	writeFile(t, path, setOf(jwkOf(rsaKey(), "leaked", true)))
	for range 2 {
		if err := set.Reload(t.Context()); err == nil {
			t.Fatal("no error")
		}
	}
	if n := strings.Count(out.String(), "cannot be read;"); n != 2 {
		t.Errorf("the outage was logged %d times:\n%s", n, out.String())
	}
	if n := strings.Count(out.String(), "key of a key set is not used"); n != 2 {
		t.Errorf("the private key was logged %d times, want once for each document:\n%s", n, out.String())
	}
}

// Spec: V-15.
func TestUnknownKeysRefreshOnceAMinute(t *testing.T) {
	t.Parallel()
	path := newFile(t, setOf(p256JWK("a")))
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, Config{URL: "file://" + path})
		run(t, set)
		synctest.Wait()
		first := kids(set)

		writeFile(t, path, setOf(jwkOf(edKey().Public(), "b", false)))
		set.Refresh(t.Context())
		second := kids(set)
		if slices.Equal(first, second) {
			t.Error("the new key was not found at once")
		}

		writeFile(t, path, setOf(jwkOf(rsaKey().Public(), "c", false)))
		for range 59 {
			set.Refresh(t.Context())
			time.Sleep(time.Second) //nolint:forbidigo // no real time passes
		}
		if !slices.Equal(kids(set), second) {
			t.Error("read again within the minute")
		}
		time.Sleep(time.Second) //nolint:forbidigo // no real time passes
		set.Refresh(t.Context())
		if slices.Equal(kids(set), second) {
			t.Error("not read again after a minute")
		}
	})
}

// As long as there is nothing, every second is not too often.
//
// Spec: V-15, Q-17.
func TestFirstSetIsAskedForOften(t *testing.T) {
	t.Parallel()
	path := newFile(t, setOf(p256JWK("a")))
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, Config{URL: "file://" + path})
		set.keys.Store(nil)
		set.plan(time.Hour)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		run(t, set)
		set.Refresh(t.Context())
		writeFile(t, path, setOf(p256JWK("a")))
		set.Refresh(t.Context())
		if _, ok := set.Keys(); ok {
			t.Error("read twice within a second")
		}
		time.Sleep(firstInterval) //nolint:forbidigo // no real time passes
		set.Refresh(t.Context())
		if _, ok := set.Keys(); !ok {
			t.Error("not read again after a second")
		}
	})
}

// However many wait, one request is under way; who does not want to wait
// leaves, and the others get the answer.
//
// Spec: V-15, Z-14.
func TestOneReadAtATime(t *testing.T) {
	t.Parallel()
	p := newProvider(t, "")
	arrived, release := make(chan struct{}), make(chan struct{})
	p.handle(func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		_, _ = w.Write([]byte(setOf(p256JWK("a"))))
	})
	set := newSet(t, p.config())
	run(t, set)
	<-arrived

	gone, leave := context.WithCancel(t.Context())
	var waiting, left sync.WaitGroup
	left.Go(func() { set.Refresh(gone) })
	for range 50 {
		waiting.Go(func() {
			set.Refresh(t.Context())
			if _, ok := set.Keys(); !ok {
				t.Error("did not wait for the read that was under way")
			}
		})
	}
	leave()
	left.Wait()
	close(release)
	waiting.Wait()
	if n := p.asked(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// Spec: V-15.
func TestMaxAgeDecidesWithinBounds(t *testing.T) {
	t.Parallel()
	for control, want := range map[string]time.Duration{
		"":                  defaultInterval,
		"no-store":          defaultInterval,
		"max-age=1":         minInterval,
		"max-age=600":       10 * time.Minute,
		"max-age=100000000": maxInterval,
	} {
		p := newProvider(t, "")
		p.handle(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", control)
			_, _ = w.Write([]byte(setOf(p256JWK("a"))))
		})
		set := newSet(t, p.config())
		if set.wait() != 0 {
			t.Error("the first read has to wait")
		}
		for range 2 { // the second one is of the same document
			if err := set.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := set.wait(); got < want*9/10 || got > want*11/10 {
				t.Errorf("%q: got %s, want about %s", control, got, want)
			}
		}
	}
}

func TestRetriesBackOff(t *testing.T) {
	t.Parallel()
	set := newSet(t, Config{URL: "https://a.example/"})
	for i, want := range []time.Duration{2, 4, 8, 16, 32, 60, 60} {
		set.note(fmt.Errorf("failure %d", i))
		if set.next != want*time.Second {
			t.Errorf("after %d failures: %s", i+1, set.next)
		}
	}
}

// OnChange may do what it likes.
func TestOnChangeHoldsNoLock(t *testing.T) {
	t.Parallel()
	p := newProvider(t, setOf(p256JWK("a")))
	var (
		set     *Set
		changes atomic.Int32
	)
	config := p.config()
	config.OnChange = func() {
		if changes.Add(1) == 1 {
			set.Keys()
			if err := set.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	set = newSet(t, config)
	if err := set.Reload(t.Context()); err != nil || changes.Load() != 1 {
		t.Errorf("%v, %d changes", err, changes.Load())
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := newProvider(t, "")
	arrived := make(chan struct{}, 1)
	p.handle(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	var out logs
	config := p.config()
	config.Logger = out.logger()
	set := newSet(t, config)
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { set.Run(ctx) })
	<-arrived
	stop()
	group.Wait()
	if out.String() != "" {
		t.Errorf("the end was logged as a failure: %s", out.String())
	}
}

// Spec: V-15.
func TestStartAndStop(t *testing.T) {
	t.Parallel()
	p := newProvider(t, setOf(p256JWK("a")))
	set := newSet(t, p.config())
	for range 10 {
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { set.Run(ctx) })
		for range 4 {
			group.Go(func() { set.Refresh(ctx) })
			group.Go(func() { _ = set.Reload(ctx) })
		}
		stop()
		group.Wait()
	}
	if err := set.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}
