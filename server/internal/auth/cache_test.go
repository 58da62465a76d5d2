package auth

import (
	"encoding/binary"
	"sync"
	"testing"
)

func numberedKey(i int) (key cacheKey) {
	binary.BigEndian.PutUint64(key[:], uint64(i))

	return key
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		entries, bytes, cost, want int
	}{
		"by entries":   {10, 1000, 1, 10},
		"by bytes":     {1000, 100, 9, 11},
		"too big":      {1000, 100, 101, 0},
		"just fits":    {1000, 100, 100, 1},
		"no entries":   {0, 100, 1, 0},
		"no bytes":     {10, 0, 1, 0},
		"off, entries": {-1, 100, 1, 0},
		"off, bytes":   {10, -1, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()

			c := newCache(tc.entries, tc.bytes)
			for i := range 100 {
				c.put(numberedKey(i), cached{cost: tc.cost})
				c.put(numberedKey(i), cached{cost: tc.cost}) // again: counted once
			}

			found := 0
			for i := range 100 {
				if _, ok := c.get(numberedKey(i)); ok {
					found++
				}
			}

			if found != tc.want {
				t.Errorf("got %d entries, want %d", found, tc.want)
			}

			if c != nil && c.bytes != found*tc.cost {
				t.Errorf("counted %d bytes, want %d", c.bytes, found*tc.cost)
			}
		})
	}
}

func TestCacheKeyCoversEverything(t *testing.T) {
	t.Parallel()

	seen := map[cacheKey]bool{}
	for _, key := range []cacheKey{
		newCacheKey("t", Publisher, "h", "r"),
		newCacheKey("t", Subscriber, "h", "r"),
		newCacheKey("u", Publisher, "h", "r"),
		newCacheKey("t", Publisher, "i", "r"),
		newCacheKey("t", Publisher, "h", "s"),
		newCacheKey("th", Publisher, "", "r"),
		newCacheKey("t", Publisher, "hr", ""),
		newCacheKey("t", Publisher, "", "hr"),
	} {
		if seen[key] {
			t.Error("two requests share a key")
		}

		seen[key] = true
	}
}

func TestCacheConcurrently(t *testing.T) {
	t.Parallel()

	var wg sync.WaitGroup

	c := newCache(16, 1000)
	for worker := range 4 {
		wg.Go(func() {
			for i := range 500 {
				key := numberedKey((worker + i) % 40)
				c.put(key, cached{cost: 10})
				c.get(key)
				c.remove(key)
			}
		})
	}

	wg.Wait()

	if len(c.entries) != 0 || c.bytes != 0 {
		t.Errorf("left with %d entries, %d bytes", len(c.entries), c.bytes)
	}
}
