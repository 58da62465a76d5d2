package bench

import (
	"encoding/json"
	"math/bits"
	"time"
)

const (
	// subBuckets for each power of two make quantiles exact to 1.6 %.
	subBucketBits = 6
	subBuckets    = 1 << subBucketBits
	// powers cover 2^40 ns, a quarter of an hour.
	powers = 40 - subBucketBits + 1
)

// histogram counts durations in fixed buckets, so that those of several
// processes can be added up. Not safe for concurrent use.
type histogram struct {
	buckets [powers * subBuckets]int64
	count   int64
	max     int64
}

func (h *histogram) add(d time.Duration) {
	n := max(int64(d), 0)
	h.buckets[bucketOf(n)]++
	h.count++
	h.max = max(h.max, n)
}

// bucketOf is the number itself while that is small, and then the highest bits
// of it behind the number of the others.
func bucketOf(n int64) int {
	shift := max(bits.Len64(uint64(n))-subBucketBits-1, 0)
	return min(shift*subBuckets+int(n>>shift), powers*subBuckets-1)
}

// highest is the greatest number in a bucket.
func highest(bucket int) int64 {
	shift := max(bucket/subBuckets-1, 0)
	return int64(bucket-shift*subBuckets+1)<<shift - 1
}

func (h *histogram) merge(other *histogram) {
	for i, n := range &other.buckets {
		h.buckets[i] += n
	}
	h.count += other.count
	h.max = max(h.max, other.max)
}

// quantile returns the duration that the part q of all does not exceed; 0 if
// there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := max(int64(q*float64(h.count)+0.999999), 1)
	for i, n := range &h.buckets {
		if rank -= n; n > 0 && rank <= 0 {
			return time.Duration(min(highest(i), h.max))
		}
	}
	return 0
}

// sparseHistogram is how processes hand a histogram on.
type sparseHistogram struct {
	Buckets map[int]int64
	Max     int64
}

// MarshalJSON implements json.Marshaler.
func (h *histogram) MarshalJSON() ([]byte, error) {
	sparse := sparseHistogram{Buckets: map[int]int64{}, Max: h.max}
	for i, n := range &h.buckets {
		if n > 0 {
			sparse.Buckets[i] = n
		}
	}
	return json.Marshal(sparse)
}

// UnmarshalJSON implements json.Unmarshaler.
func (h *histogram) UnmarshalJSON(data []byte) error {
	var sparse sparseHistogram
	if err := json.Unmarshal(data, &sparse); err != nil {
		return err
	}
	*h = histogram{max: sparse.Max}
	for i, n := range sparse.Buckets {
		if i >= 0 && i < len(h.buckets) {
			h.buckets[i] = n
			h.count += n
		}
	}
	return nil
}
