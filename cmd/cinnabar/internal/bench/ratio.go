package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Ratio is what one hub does, divided by what another does.
type Ratio struct {
	Scenario string  `json:"scenario"`
	Quantity string  `json:"quantity"`
	First    float64 `json:"first"`
	Second   float64 `json:"second"`
	Ratio    float64 `json:"ratio"`
}

// ratios compares the first two targets.
func (r *Report) ratios() (list []Ratio) {
	if len(r.Targets) < 2 {
		return nil
	}
	for _, first := range r.Results {
		for _, second := range r.Results {
			same := first.Scenario == second.Scenario && first.Publishers == second.Publishers
			if same && first.Target == r.Targets[0] && second.Target == r.Targets[1] {
				list = append(list, compare(first, second)...)
			}
		}
	}
	return list
}

func compare(first, second *Result) (list []Ratio) {
	name := first.Scenario
	if first.Publishers > 0 {
		name += fmt.Sprintf(", %d publishers", first.Publishers)
	}
	add := func(quantity string, a, b float64) {
		if a > 0 && b > 0 {
			list = append(list, Ratio{Scenario: name, Quantity: quantity, First: a, Second: b, Ratio: a / b})
		}
	}
	add("publishes/s", first.PublishesPerSecond, second.PublishesPerSecond)
	add("deliveries/s", first.DeliveriesPerSecond, second.DeliveriesPerSecond)
	add("connects/s", first.ConnectsPerSecond, second.ConnectsPerSecond)
	if a, b := first.mainLatency(), second.mainLatency(); a != nil && b != nil {
		add("p50, ms", a.P50.Seconds()*1000, b.P50.Seconds()*1000)
		add("p99, ms", a.P99.Seconds()*1000, b.P99.Seconds()*1000)
	}
	if a, b := first.CPUMicroseconds, second.CPUMicroseconds; a != nil && b != nil {
		add("CPU, us", *a, *b)
	}
	if a, b := first.BytesPerStream, second.BytesPerStream; a != nil && b != nil {
		add("memory, bytes", *a, *b)
	}
	return list
}

func (r *Report) writeRatios(w io.Writer) error {
	ratios := r.ratios()
	if len(ratios) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\nscenario\tquantity\t%s\t%s\tratio\t\n", r.Targets[0], r.Targets[1])
	for _, x := range ratios {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.2f\t\n", x.Scenario, x.Quantity, rate(x.First), rate(x.Second), x.Ratio)
	}
	return table.Flush()
}
