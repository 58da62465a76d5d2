package server

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/keyset"
)

// keySets keeps the JWK sets that the configuration names fresh. A set that
// stays in the configuration stays as it is when that is reloaded, keys
// included.
type keySets struct {
	logger *slog.Logger
	// changed is called after the keys of some set have.
	changed func()

	mu   sync.Mutex
	used map[setID]*keyset.Set
	// wake tells run that used is another one.
	wake chan struct{}
}

// setID is what makes two sets different.
type setID struct{ url, algs, networks string }

func newKeySets(logger *slog.Logger, changed func()) *keySets {
	return &keySets{logger: logger, changed: changed, used: map[setID]*keyset.Set{}, wake: make(chan struct{}, 1)}
}

// resolver returns what finds the sets of one configuration.
func (k *keySets) resolver(networks []netip.Prefix) *keySetResolver {
	return &keySetResolver{all: k, networks: networks, found: map[setID]*keyset.Set{}}
}

// use makes the sets of a configuration those that are kept fresh.
func (k *keySets) use(sets map[setID]*keyset.Set) {
	k.mu.Lock()
	k.used = sets
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keySets) current() map[setID]*keyset.Set {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.used
}

// reload reads every set again, however fresh it is. A set that cannot be read
// keeps its keys and says so in the log.
func (k *keySets) reload(ctx context.Context) {
	var group sync.WaitGroup
	for _, set := range k.current() {
		group.Go(func() { _ = set.Reload(ctx) })
	}
	group.Wait()
}

// run keeps the sets fresh until ctx ends.
func (k *keySets) run(ctx context.Context) {
	running := map[setID]context.CancelFunc{}
	var group sync.WaitGroup
	defer group.Wait()
	for {
		used := k.current()
		for id, stop := range running {
			if _, ok := used[id]; !ok {
				stop()
				delete(running, id)
			}
		}
		for id, set := range used {
			if _, ok := running[id]; ok {
				continue
			}
			setCtx, stop := context.WithCancel(ctx)
			running[id] = stop
			group.Go(func() {
				defer stop()
				set.Run(setCtx)
			})
		}
		select {
		case <-k.wake:
		case <-ctx.Done():
			return
		}
	}
}

// keySetResolver collects the sets of one configuration: the same URL in two
// places is one set.
type keySetResolver struct {
	all      *keySets
	networks []netip.Prefix
	found    map[setID]*keyset.Set
}

func (r *keySetResolver) of(url string, algs []string) (auth.KeySource, error) {
	networks := make([]string, len(r.networks))
	for i, network := range r.networks {
		networks[i] = network.String()
	}
	algs = slices.Sorted(slices.Values(algs))
	id := setID{url: url, algs: strings.Join(algs, " "), networks: strings.Join(networks, " ")}
	if set, ok := r.found[id]; ok {
		return set, nil
	}
	set, ok := r.all.current()[id]
	if !ok {
		var err error
		set, err = keyset.New(keyset.Config{
			URL: url, Algs: algs, Networks: r.networks, Logger: r.all.logger, OnChange: r.all.changed,
		})
		if err != nil {
			return nil, err
		}
	}
	r.found[id] = set
	return set, nil
}
