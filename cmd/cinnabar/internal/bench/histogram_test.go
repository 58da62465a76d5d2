package bench

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramIsExactEnough(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var h histogram
	var all []time.Duration
	for range 20_000 {
		d := time.Duration(math.Exp(random.Float64()*25)) + time.Duration(random.Int64N(200))
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		if got := h.quantile(q); got < want || float64(got) > float64(want)*1.016+1 {
			t.Errorf("quantile %v: got %d, want %d", q, got, want)
		}
	}
	if got := h.quantile(1); got != all[len(all)-1] {
		t.Errorf("greatest: got %d, want %d", got, all[len(all)-1])
	}
}

func TestHistogramEdges(t *testing.T) {
	t.Parallel()
	var h histogram
	if h.quantile(0.5) != 0 {
		t.Error("an empty one has a median")
	}
	h.add(-time.Second) // clocks are set
	h.add(math.MaxInt64)
	if h.quantile(0.5) != 0 || h.count != 2 || h.max != math.MaxInt64 {
		t.Errorf("median %d, %d, greatest %d", h.quantile(0.5), h.count, h.max)
	}
	for n := range int64(100_000) {
		b := bucketOf(n)
		if highest(b) < n || b > 0 && highest(b-1) >= n {
			t.Fatalf("%d is in bucket %d, which ends with %d", n, b, highest(b))
		}
	}
}

func TestHistogramsAddUp(t *testing.T) {
	t.Parallel()
	var one, other, both, read histogram
	for i := range 1000 {
		d := time.Duration(i * i * 1000)
		both.add(d)
		if i%3 == 0 {
			one.add(d)
		} else {
			other.add(d)
		}
	}
	encoded, err := json.Marshal(&other)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(encoded, &read); err != nil {
		t.Fatal(err)
	}
	one.merge(&read)
	if one != both {
		t.Error("the sum is another")
	}
	if err := json.Unmarshal([]byte(`{"Buckets":{"-1":1,"100000":1},"Max":1}`), &read); err != nil || read.count != 0 {
		t.Errorf("buckets that are not there: %v, %d", err, read.count)
	}
}
