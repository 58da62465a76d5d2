package bench

import (
	"testing"

	"pgregory.net/rapid"
)

func TestCursorFinds(t *testing.T) {
	t.Parallel()
	type counts struct{ lost, duplicated, reordered, misrouted int64 }
	for name, test := range map[string]struct {
		seqs      []uint32
		uncertain []update
		want      counts
	}{
		"nothing":                {[]uint32{1, 2, 3, 4, 5}, nil, counts{}},
		"lost":                   {[]uint32{1, 3, 5}, nil, counts{lost: 2}},
		"lost first":             {[]uint32{4, 5}, nil, counts{lost: 3}},
		"lost last":              {[]uint32{1, 2}, nil, counts{lost: 3}},
		"all lost":               {nil, nil, counts{lost: 5}},
		"twice":                  {[]uint32{1, 2, 2, 3, 4, 5, 5}, nil, counts{duplicated: 2}},
		"reordered":              {[]uint32{1, 3, 2, 4, 5}, nil, counts{reordered: 1}},
		"backwards":              {[]uint32{5, 4, 3, 2, 1}, nil, counts{reordered: 4}},
		"reordered twice":        {[]uint32{1, 5, 3, 3, 2, 4}, nil, counts{reordered: 3, duplicated: 1}},
		"uncertain, not there":   {[]uint32{1, 2, 4, 5}, []update{{0, 3}}, counts{}},
		"uncertain, there":       {[]uint32{1, 2, 3, 4, 5}, []update{{0, 3}}, counts{}},
		"uncertain, of another":  {[]uint32{1, 2, 4, 5}, []update{{1, 3}}, counts{lost: 1}},
		"uncertain and lost too": {[]uint32{1, 5}, []update{{0, 3}}, counts{lost: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCursor(1, nil)
			for _, seq := range test.seqs {
				c.take(0, seq)
			}
			got := counts{c.lost([]uint32{5}, test.uncertain), c.duplicated, c.reordered, c.misrouted}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestCursorOfResumedStream(t *testing.T) {
	t.Parallel()
	c := newCursor(2, []uint32{10, 20})
	for _, taken := range []bool{c.take(0, 11), c.take(1, 21), c.take(0, 12)} {
		if !taken {
			t.Error("an update is not new")
		}
	}
	if c.take(0, 10) || c.take(2, 1) || c.take(-1, 1) {
		t.Error("an update is new that was published before, or is not for this stream")
	}
	if lost := c.lost([]uint32{13, 21}, nil); lost != 1 || c.duplicated != 1 || c.misrouted != 2 {
		t.Errorf("lost %d, duplicated %d, misrouted %d", lost, c.duplicated, c.misrouted)
	}
}

func TestCursorsTellOrders(t *testing.T) {
	t.Parallel()
	one, same, other := newCursor(2, nil), newCursor(2, nil), newCursor(2, nil)
	for _, c := range []*cursor{&one, &same} {
		c.take(0, 1)
		c.take(1, 1)
	}
	other.take(1, 1)
	other.take(0, 1)
	if one.order != same.order || one.order == other.order {
		t.Errorf("orders %x, %x and %x", one.order, same.order, other.order)
	}
}

func TestCursorMemoryIsBounded(t *testing.T) {
	t.Parallel()
	c := newCursor(1, nil)
	const seqs = 10_000
	for seq := uint32(2); seq <= seqs; seq += 2 {
		c.take(0, seq)
	}
	if lost := c.lost([]uint32{seqs}, nil); lost != seqs/2 || len(c.gaps) > maxGaps {
		t.Errorf("%d lost, %d gaps", lost, len(c.gaps))
	}
}

// Whatever arrives in whatever order, the counts are those of a list.
func TestCursorProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		seqs := rapid.SliceOf(rapid.Uint32Range(1, 30)).Draw(t, "seqs")
		c := newCursor(1, nil)
		seen := map[uint32]bool{}
		var greatest uint32
		var duplicated, reordered int64
		for _, seq := range seqs {
			switch {
			case seen[seq]:
				duplicated++
			case seq < greatest:
				reordered++
			}
			if c.take(0, seq) == seen[seq] {
				t.Fatalf("%d of %v: is it new?", seq, seqs)
			}
			seen[seq] = true
			greatest = max(greatest, seq)
		}
		lost := c.lost([]uint32{30}, nil)
		if lost != int64(30-len(seen)) || c.duplicated != duplicated || c.reordered != reordered {
			t.Fatalf("lost %d, duplicated %d, reordered %d", lost, c.duplicated, c.reordered)
		}
	})
}
