package bench

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/terminal"
)

// Config says what to measure, and how. What is zero is up to the scenario.
type Config struct {
	Scenarios []string
	// Targets are measured in turn. None: a hub of our own, in front of those.
	Targets []Target
	// Own starts hubs of our own; nil: there is none.
	Own *OwnHub
	// Floor is measured behind all others; nil: it is not.
	Floor *Floor

	Streams, Publishers int
	// Duration is how long to publish; Rate how many updates a second.
	Duration time.Duration
	Rate     float64
	// Size is that of an update's data, Updates how many are replayed.
	Size, Updates int
	// Stored is how many updates are in the logs before anything is measured, which
	// takes the databases of the targets.
	Stored int
	// Connecting is how many streams are opened at once.
	Connecting int
	// Processes hold the streams; Program is what they run. 0: as few as the
	// descriptor limit allows.
	Processes int
	Program   string
	// Rounds is how often to measure each target.
	Rounds int
	// Portable: a goroutine for each stream, also where that can be avoided.
	Portable bool

	Log      io.Writer
	Terminal bool
}

// Target is a hub.
type Target struct {
	Name string
	// URLs are those of its nodes.
	URLs                         []string
	PublishToken, SubscribeToken string
	Dialect                      Dialect
	// PIDs are its processes, if they are on this machine.
	PIDs []int
	// DatabaseURL is needed to publish from SQL, and for Config.Stored.
	DatabaseURL string
}

// defaultPatience is how long nothing may be delivered before what is missing is
// given up as lost.
const defaultPatience = 10 * time.Second

type bench struct {
	Config
	patience time.Duration
	progress *terminal.Progress
	stored   *stored // nil: none
}

// Run measures. The error is for what keeps it from being done; what is wrong
// with the hubs is in the report.
func Run(ctx context.Context, config Config) (*Report, error) {
	b := &bench{Config: config, patience: defaultPatience, progress: terminal.NewProgress(config.Log, config.Terminal)}
	return b.run(ctx)
}

func (b *bench) run(ctx context.Context) (report *Report, err error) {
	defer b.progress.End()
	names := []string{}
	if b.Own != nil {
		if err := b.Own.open(ctx); err != nil {
			return nil, err
		}
		defer func() { err = joined(err, b.Own.close()) }()
		names = append(names, ownName)
	}
	if err := b.store(ctx); err != nil {
		return nil, err
	}
	for _, t := range b.Targets {
		names = append(names, t.Name)
	}
	if b.Floor != nil {
		names = append(names, floorName)
	}
	report = &Report{Targets: names, Stored: b.Stored}
	for _, name := range b.Scenarios {
		s := scenarios[slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })]
		if err := b.scenario(ctx, s, report); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return report, nil
}

// store fills the logs, each once.
func (b *bench) store(ctx context.Context) error {
	if b.Stored == 0 {
		return nil
	}
	b.stored = &stored{run: newRun(), count: b.Stored, size: b.Size}
	progress := func(done int) {
		b.progress.Bar(time.Duration(done), time.Duration(b.Stored), fmt.Sprintf("%d of %d updates stored", done, b.Stored))
	}
	if b.Own != nil {
		if err := b.Own.store(ctx, b.stored, progress); err != nil {
			return err
		}
	}
	filled := map[string]bool{}
	for _, t := range b.Targets {
		if filled[t.DatabaseURL] {
			continue
		}
		filled[t.DatabaseURL] = true
		if err := b.stored.fill(ctx, t.DatabaseURL, false, progress); err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	return nil
}

func joined(err, other error) error {
	if err == nil {
		return other
	}
	return err
}

// scenario measures the targets in turn, so that what the machine does besides
// meets all of them.
func (b *bench) scenario(ctx context.Context, s scenario, report *Report) error {
	for round := range max(b.Rounds, 1) {
		for _, name := range report.Targets {
			b.progress.Bar(0, 1, fmt.Sprintf("%s  %s", s.name, name))
			results, err := b.measure(ctx, s, name)
			if err != nil {
				return err
			}
			for _, r := range results {
				r.Target = name
				report.add(r)
				if !b.Terminal {
					continue
				}
				for _, p := range r.Problems {
					b.progress.Note("%s, %s, round %d: %s", r.Scenario, name, round+1, p)
				}
			}
		}
	}
	return nil
}

// measure gives each measurement of a hub of our own a new process and a new
// database, and each of the floor a new process.
func (b *bench) measure(ctx context.Context, s scenario, name string) (results []*Result, err error) {
	for _, t := range b.Targets {
		if t.Name == name {
			return s.run(b, ctx, t, b.numbersOf(s))
		}
	}
	start := b.Floor.start
	if name == ownName {
		start = b.Own.start
	}
	t, stop, err := start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = joined(err, stop()) }()
	return s.run(b, ctx, t, b.numbersOf(s))
}

// newRun names the updates of a measurement.
func newRun() string { return strings.ToLower(rand.Text()[:8]) }
