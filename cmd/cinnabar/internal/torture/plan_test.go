package torture

import (
	"slices"
	"testing"
	"time"
)

func TestPlanFollowsFromTheSeed(t *testing.T) {
	t.Parallel()
	const duration = 5 * time.Minute
	make1 := func(seed uint64) []disturbance { return newPlan(seed, duration, Faults, 3, 12) }
	plan := make1(7)
	if !slices.Equal(plan, make1(7)) {
		t.Error("one seed, two plans")
	}
	if slices.Equal(plan, make1(8)) {
		t.Error("two seeds, one plan")
	}
	if len(plan) < 150 {
		t.Errorf("only %d disturbances", len(plan))
	}
	// Every kind comes before any comes again.
	dealt := map[Fault]bool{}
	for _, d := range plan[:len(Faults)] {
		dealt[d.fault] = true
	}
	if len(dealt) != len(Faults) {
		t.Errorf("the first %d are of %d kinds", len(Faults), len(dealt))
	}
	last := time.Duration(0)
	for _, d := range plan {
		if d.at < last || d.at+d.length > duration {
			t.Errorf("%s at %s, after one at %s", d, d.at, last)
		}
		last = d.at
	}
	if newPlan(7, duration, nil, 3, 12) != nil {
		t.Error("a plan without faults has some")
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	for list, want := range map[string][]Fault{"all": Faults, "": Faults, "none": nil, "kill, cut,kill": {Kill, Cut}} {
		if got, err := ParseFaults(list); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
	if _, err := ParseFaults("kill,quake"); err == nil {
		t.Error("an unknown one was taken")
	}
}
