// Requirements compares docs/requirements.md with the ids that the repository
// cites: which rules have no test, and which ids nobody has defined.
//
//	go run ./cmd/requirements [-v] [-C directory]
//
// It ends with status 0 if every rule of level MUST, SHOULD or OURS is cited by
// a test, or has a reason in the document why none does; with 1 if not, and
// with 2 if it cannot tell.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

const document = "docs/requirements.md"

// errIncomplete is that some rule has neither test nor reason, or that an id is
// not defined; the output says which.
var errIncomplete = errors.New("incomplete")

func main() {
	err := run(os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errIncomplete):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("requirements", flag.ContinueOnError)
	flags.SetOutput(stderr)
	verbose := flags.Bool("v", false, "list every rule and where it is tested")
	root := flags.String("C", ".", "the repository")
	if err := flags.Parse(args); err != nil {
		return err
	}
	repository := os.DirFS(*root)
	content, err := fs.ReadFile(repository, document)
	if err != nil {
		return err
	}
	requirements, err := parseDocument(string(content))
	if err != nil {
		return fmt.Errorf("%s: %w", document, err)
	}
	citations, err := findCitations(repository)
	if err != nil {
		return err
	}
	r := compare(requirements, citations)
	var output strings.Builder
	if *verbose {
		r.list(&output)
	}
	r.summarize(&output)
	if _, err := io.WriteString(stdout, output.String()); err != nil {
		return err
	}
	if len(r.missing)+len(r.stale)+len(r.unknown) > 0 {
		return errIncomplete
	}
	return nil
}

// report says where each rule is tested and what is wrong.
type report struct {
	requirements []requirement
	tests        map[string][]citation
	// missing rules need a test or a reason.
	missing []requirement
	// stale rules have both a test and a reason why there is none.
	stale []requirement
	// planned and optional rules may go without a test.
	planned, optional []requirement
	unknown           []citation
}

func compare(requirements []requirement, citations []citation) report {
	r := report{requirements: requirements, tests: map[string][]citation{}}
	known := map[string]bool{}
	for _, q := range requirements {
		known[q.id] = true
	}
	for _, c := range citations {
		switch {
		case !known[c.id]:
			r.unknown = append(r.unknown, c)
		case c.test:
			r.tests[c.id] = append(r.tests[c.id], c)
		}
	}
	for _, q := range requirements {
		tested := len(r.tests[q.id]) > 0
		switch {
		case tested && q.untested != "":
			r.stale = append(r.stale, q)
		case tested || q.untested != "":
		case q.planned:
			r.planned = append(r.planned, q)
		case q.binding():
			r.missing = append(r.missing, q)
		default:
			r.optional = append(r.optional, q)
		}
	}
	return r
}

// summarize writes what is wrong.
func (r *report) summarize(w *strings.Builder) {
	for _, q := range r.missing {
		fmt.Fprintf(w, "%s has no test (%s): %s\n", q.id, q.level, q.rule)
	}
	for _, q := range r.stale {
		fmt.Fprintf(w, "%s is said to have no test, but %s is one\n", q.id, r.tests[q.id][0])
	}
	for _, c := range r.unknown {
		fmt.Fprintf(w, "%s is not defined in %s, but cited in %s\n", c.id, document, c)
	}
	if len(r.planned) > 0 {
		fmt.Fprintf(w, "planned, without a test yet: %s\n", ids(r.planned))
	}
	if len(r.optional) > 0 {
		fmt.Fprintf(w, "optional or an explanation, without a test: %s\n", ids(r.optional))
	}
	fmt.Fprintf(w, "%d rules, %d cited by tests, %d missing\n", len(r.requirements), len(r.tests), len(r.missing))
}

// list writes every rule with the places that test it.
func (r *report) list(w *strings.Builder) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, q := range r.requirements {
		var places []string
		for _, c := range r.tests[q.id] {
			places = append(places, c.String())
		}
		where := strings.Join(slices.Compact(places), " ")
		if where == "" && q.untested != "" {
			where = "not tested: " + q.untested
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", q.id, q.level, q.dialect, where)
	}
	_ = table.Flush()
}

func ids(list []requirement) string {
	var all []string
	for _, q := range list {
		all = append(all, q.id)
	}
	return strings.Join(all, " ")
}
