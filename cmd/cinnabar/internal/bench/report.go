package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what was measured.
type Report struct {
	Targets []string `json:"targets"`
	// Stored is how many updates were in the log before.
	Stored  int       `json:"stored,omitempty"`
	Results []*Result `json:"results"`
}

func (r *Report) add(other *Result) {
	for _, have := range r.Results {
		if have.Scenario == other.Scenario && have.Target == other.Target && have.Publishers == other.Publishers {
			have.add(other)
			have.derive()
			return
		}
	}
	other.rounds = 1
	other.derive()
	r.Results = append(r.Results, other)
}

// Passed says that nothing was lost, repeated, out of order or misrouted, and
// no stream ended.
func (r *Report) Passed() bool {
	return !slices.ContainsFunc(r.Results, func(x *Result) bool { return len(x.Problems) > 0 })
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		CPUs   int    `json:"cpus"`
		System string `json:"system"`
		*Report
		Ratios []Ratio `json:"ratios,omitempty"`
	}{runtime.NumCPU(), runtime.GOOS + "/" + runtime.GOARCH, r, r.ratios()})
}

// Write writes the report for people.
func (r *Report) Write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	several := len(r.Targets) > 1
	target := ""
	if several {
		target = "hub\t"
	}
	fmt.Fprintf(table, "scenario\t%sstreams\tpublishers\tpublishes/s\tdeliveries/s\tconnects/s\tp50\tp99\tmax\tCPU\tmemory\t\n", target)
	for _, x := range r.Results {
		if several {
			target = x.Target + "\t"
		}
		fmt.Fprintf(table, "%s\t%s%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", x.Scenario, target, x.Streams, count(x.Publishers),
			rate(x.PublishesPerSecond), rate(x.DeliveriesPerSecond), rate(x.ConnectsPerSecond), x.shownLatency(), x.shownCPU(), x.shownMemory())
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := r.writeRatios(w); err != nil {
		return err
	}
	_, err := io.WriteString(w, r.explanation())
	return err
}

// shownLatency is that which the scenario is about.
func (r *Result) shownLatency() string {
	l := r.mainLatency()
	if l == nil {
		return "-\t-\t-"
	}
	return fmt.Sprintf("%s\t%s\t%s", short(l.P50), short(l.P99), short(l.Max))
}

func (r *Result) mainLatency() *Latency {
	switch {
	case r.Opening != nil:
		return r.Opening
	case r.Scenario == "publish":
		return r.Answer
	}
	return r.Receipt
}

func (r *Result) shownCPU() string {
	if r.CPUMicroseconds == nil {
		return "-"
	}
	return fmt.Sprintf("%.*f us/%s", decimals(*r.CPUMicroseconds), *r.CPUMicroseconds, r.Operation)
}

func (r *Result) shownMemory() string {
	if r.BytesPerStream == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f kB/stream", *r.BytesPerStream/1000)
}

func decimals(n float64) int {
	if n < 100 {
		return 1
	}
	return 0
}

func count(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}

func rate(n float64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.*f", decimals(n), n)
}

// short has three digits.
func short(d time.Duration) string {
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= 100*unit {
			return d.Round(unit).String()
		}
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

// explanation is what one has to know about the table, and what went wrong.
func (r *Report) explanation() string {
	var text strings.Builder
	text.WriteString("\np50, p99 and max: from publishing to receipt; of publish until its answer; of connect and storm until a stream is open.\n")
	if slices.ContainsFunc(r.Results, func(x *Result) bool { return x.CPUMicroseconds != nil || x.BytesPerStream != nil }) {
		text.WriteString("CPU and memory: of the hub's processes, without the database, and without what the kernel keeps for sockets.\n")
	}
	if slices.Contains(r.Targets, floorName) {
		text.WriteString("floor: one write(2) for each update and stream, and nothing else. A hub that writes several updates at once may be below it.\n")
	}
	if r.Stored > 0 {
		fmt.Fprintf(&text, "There were %d updates in the log before.\n", r.Stored)
	}
	for _, x := range r.Results {
		if x.Scenario == oneTopic {
			fmt.Fprintf(&text, "%s, %s: complete after %s.\n", x.Scenario, x.Target, short(x.duration()))
		}
		if x.Transactions != nil {
			fmt.Fprintf(&text, "%s: the database saw %d transactions meanwhile, for %d streams.\n", x.Scenario, *x.Transactions, x.Streams)
		}
	}
	if r.Passed() {
		text.WriteString("Nothing was lost, repeated or out of order.\n")
		return text.String()
	}
	text.WriteString("\nProblems:\n")
	for _, x := range r.Results {
		for _, problem := range x.Problems {
			fmt.Fprintf(&text, "  %s, %s: %s\n", x.Scenario, x.Target, problem)
		}
	}
	return text.String()
}
