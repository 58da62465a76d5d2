package torture

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is the outcome of a run.
type Report struct {
	Seed     uint64        `json:"seed"`
	Nodes    int           `json:"nodes"`
	Duration time.Duration `json:"durationNanoseconds"`
	// Disturbances is how many there were.
	Disturbances int `json:"disturbances"`

	Acknowledged int64 `json:"acknowledged"`
	Delivered    int64 `json:"delivered"`

	Lost          int `json:"lost"`
	Duplicated    int `json:"duplicated"`
	Reordered     int `json:"reordered"`
	FromRollbacks int `json:"fromRollbacks"`
	FromRefusals  int `json:"fromRefusals"`
	PrivateLeaked int `json:"privateLeaked"`
	Misrouted     int `json:"misrouted"`
	// UnknownExisting and UnknownNotExisting are updates whose publishers do
	// not know whether they were published. Neither is a fault.
	UnknownExisting    int `json:"unknownExisting"`
	UnknownNotExisting int `json:"unknownNotExisting"`

	// LongestSilence is the longest time for which a node delivered nothing.
	LongestSilence time.Duration `json:"longestSilenceNanoseconds"`
	Recoveries     []Recovery    `json:"recoveries"`

	Violations []Violation `json:"violations,omitempty"`
	// Problems are what else should not have happened.
	Problems []string `json:"problems,omitempty"`
	// Dir has the logs; empty if nothing was found, and they are gone.
	Dir string `json:"dir,omitempty"`
	// Command runs the same plan again.
	Command string `json:"command"`
}

// Passed says that every promise was kept.
func (r *Report) Passed() bool {
	return r.Lost+r.Duplicated+r.Reordered+r.FromRollbacks+r.FromRefusals+r.PrivateLeaked+r.Misrouted == 0 && len(r.Problems) == 0
}

func (r *Report) take(v *verdict) {
	r.Lost, r.Duplicated, r.Reordered = v.counts[lost], v.counts[duplicated], v.counts[reordered]
	r.FromRollbacks, r.FromRefusals = v.counts[fromRollback], v.counts[fromRefusal]
	r.PrivateLeaked, r.Misrouted = v.counts[leaked], v.counts[misrouted]
	r.UnknownExisting, r.UnknownNotExisting = v.existing, v.notExisting
	r.Violations = v.violations
}

// WriteJSON writes the report for programs.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// Write writes the report for people.
func (r *Report) Write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(name string, value any) { fmt.Fprintf(table, "%s\t%v\t\n", name, value) }
	line("acknowledged", r.Acknowledged)
	line("delivered", r.Delivered)
	line(lost.String(), r.Lost)
	line(duplicated.String(), r.Duplicated)
	line(reordered.String(), r.Reordered)
	line(fromRollback.String(), r.FromRollbacks)
	line(fromRefusal.String(), r.FromRefusals)
	line(leaked.String(), r.PrivateLeaked)
	line(misrouted.String(), r.Misrouted)
	line("unknown outcomes: there", r.UnknownExisting)
	line("unknown outcomes: not there", r.UnknownNotExisting)
	line("longest silence of a node", rounded(r.LongestSilence))
	line("other problems", len(r.Problems))
	if err := table.Flush(); err != nil {
		return err
	}
	if err := r.writeRecoveries(w); err != nil {
		return err
	}
	return r.writeFindings(w)
}

func (r *Report) writeRecoveries(w io.Writer) error {
	if len(r.Recoveries) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\ntime to recover\tsamples\tp50\tmax\tafter its end: p50\tmax\t\n")
	for _, x := range r.Recoveries {
		samples := strconv.Itoa(x.Count)
		if x.Never > 0 {
			samples += fmt.Sprintf(" + %d never", x.Never)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t\n", x.Fault, samples,
			rounded(x.Median), rounded(x.Max), rounded(x.MedianAfterEnd), rounded(x.MaxAfterEnd))
	}
	return table.Flush()
}

func (r *Report) writeFindings(w io.Writer) error {
	var text strings.Builder
	if len(r.Violations) > 0 {
		text.WriteString("\nThe first updates of each kind:\n")
	}
	for _, v := range r.Violations {
		fmt.Fprintf(&text, "  %s: update %d, %s, %s", v.Kind, v.Number, v.Subscriber, v.Place)
		if v.Position > 0 {
			fmt.Fprintf(&text, "; id %s, position %d", v.ID, v.Position)
		}
		text.WriteByte('\n')
	}
	if len(r.Problems) > 0 {
		text.WriteString("\nOther problems:\n")
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&text, "  %s\n", p)
	}
	if r.Dir != "" {
		fmt.Fprintf(&text, "\nThe logs are in %s. The same plan again:\n\n  %s\n", r.Dir, r.Command)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func rounded(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
