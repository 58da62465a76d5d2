package auth

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

const (
	defaultCacheEntries = 20_000
	defaultCacheBytes   = 32 << 20
)

// cacheKey is a digest, so that the cache holds no token. It covers all that
// the grants depend on apart from the configuration.
type cacheKey [sha256.Size]byte

func newCacheKey(token string, role Role, hub, resource string) cacheKey {
	var stack [2048]byte

	// Lengths in front keep the parts apart.
	b := append(stack[:0], byte(role))
	for _, part := range [...]string{token, hub, resource} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}

	return sha256.Sum256(b)
}

type cached struct {
	grants    *Grants
	notBefore time.Time
	cost      int // bytes, estimated
}

// cacheCost estimates the memory behind an entry, with numbers measured on
// tokens of a few hundred bytes and rounded up. It cannot be exact for regular
// expressions, but only trusted issuers get theirs compiled.
func cacheCost(token string, matchers ...[]*protocol.Matcher) int {
	cost := 1024 + 2*len(token)

	for _, list := range matchers {
		for _, m := range list {
			if m.Wildcard() || m.Kind() == protocol.Exact {
				cost += 256 + len(m.Value())
			} else {
				cost += 3072 + 32*len(m.Value())
			}
		}
	}

	return cost
}

// cache remembers verified tokens. When it is full, entries are dropped at
// random: nearly as good as the oldest ones, and a hit changes nothing, so
// that concurrent hits do not wait for each other. A nil cache holds nothing.
type cache struct {
	maxEntries int
	maxBytes   int

	mu      sync.RWMutex
	entries map[cacheKey]cached
	bytes   int // sum of the entries' costs
}

func newCache(maxEntries, maxBytes int) *cache {
	if maxEntries < 0 || maxBytes < 0 {
		return nil
	}

	return &cache{maxEntries: maxEntries, maxBytes: maxBytes, entries: map[cacheKey]cached{}}
}

func (c *cache) get(key cacheKey) (cached, bool) {
	if c == nil {
		return cached{}, false
	}

	c.mu.RLock()
	defer c.mu.RUnlock()

	entry, ok := c.entries[key]

	return entry, ok
}

func (c *cache) put(key cacheKey, entry cached) {
	if c == nil || entry.cost > c.maxBytes || c.maxEntries == 0 {
		return
	}

	c.mu.Lock()
	defer c.mu.Unlock()

	c.removeLocked(key)

	for len(c.entries) >= c.maxEntries || c.bytes+entry.cost > c.maxBytes {
		for victim := range c.entries { // iteration starts anywhere
			c.removeLocked(victim)

			break
		}
	}

	c.entries[key] = entry
	c.bytes += entry.cost
}

func (c *cache) remove(key cacheKey) {
	c.mu.Lock()
	defer c.mu.Unlock()

	c.removeLocked(key)
}

func (c *cache) removeLocked(key cacheKey) {
	if entry, ok := c.entries[key]; ok {
		delete(c.entries, key)
		c.bytes -= entry.cost
	}
}
