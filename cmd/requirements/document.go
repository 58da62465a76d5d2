package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// requirement is one row of the document.
type requirement struct {
	id, level, dialect, rule string
	// planned rules belong to a feature that is not there yet.
	planned bool
	// untested, if not empty, is the reason why no test cites the rule.
	untested string
}

// binding reports whether the rule must have a test or a reason.
func (q *requirement) binding() bool {
	for level := range strings.SplitSeq(q.level, ", ") {
		if level == "MUST" || level == "SHOULD" || level == "OURS" {
			return true
		}
	}
	return false
}

var (
	idPattern    = regexp.MustCompile(`\b(?:TP|[ACDEGHILMNPQRSUVWXZ])-[1-9][0-9]?\b`)
	levels       = []string{"MUST", "SHOULD", "MAY", "OURS", "NOTE"}
	dialects     = []string{"1.0", "0.x", "both"}
	ruleHeader   = []string{"id", "level", "dialect", "rule"}
	reasonHeader = []string{"ids", "reason"}
)

// parseDocument reads the tables of rules, and the one of reasons.
func parseDocument(content string) ([]requirement, error) {
	var (
		list    []requirement
		reasons = map[string]string{}
		header  []string
		planned bool
	)
	for number, line := range strings.Split(content, "\n") {
		cells, ok := tableRow(line)
		if !ok {
			header = nil
			if title, ok := strings.CutPrefix(line, "## "); ok {
				planned = strings.HasSuffix(title, "(planned)")
			}
			continue
		}
		var err error
		switch {
		case header == nil:
			header = cells
		case strings.Trim(line, "|- ") == "":
		case slices.Equal(header, ruleHeader):
			var q requirement
			q, err = parseRule(cells)
			q.planned = planned
			list = append(list, q)
		case slices.Equal(header, reasonHeader):
			err = parseReason(cells, reasons)
		default:
			err = fmt.Errorf("a table begins with %q; known are %q and %q", header, ruleHeader, reasonHeader)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number+1, err)
		}
	}
	return list, join(list, reasons)
}

// join puts the reasons to the rules.
func join(list []requirement, reasons map[string]string) error {
	seen := map[string]bool{}
	for i := range list {
		id := list[i].id
		if seen[id] {
			return fmt.Errorf("%s is defined twice", id)
		}
		seen[id] = true
		list[i].untested = reasons[id]
		delete(reasons, id)
	}
	for id := range reasons {
		return fmt.Errorf("%s has a reason for not being tested, but is not defined", id)
	}
	return nil
}

func tableRow(line string) (cells []string, ok bool) {
	inner, ok := strings.CutPrefix(line, "|")
	if !ok {
		return nil, false
	}
	for cell := range strings.SplitSeq(strings.TrimSuffix(inner, "|"), "|") {
		cells = append(cells, strings.TrimSpace(cell))
	}
	return cells, true
}

func parseRule(cells []string) (requirement, error) {
	if len(cells) != len(ruleHeader) {
		return requirement{}, fmt.Errorf("%d cells; a rule has %d", len(cells), len(ruleHeader))
	}
	q := requirement{id: cells[0], level: cells[1], dialect: cells[2], rule: cells[3]}
	switch {
	case idPattern.FindString(q.id) != q.id || q.id == "":
		return q, fmt.Errorf("%q is not an id such as S-12", q.id)
	case !slices.Contains(dialects, q.dialect):
		return q, fmt.Errorf("dialect of %s is %q; use one of %q", q.id, q.dialect, dialects)
	case q.rule == "":
		return q, fmt.Errorf("%s says nothing", q.id)
	}
	for level := range strings.SplitSeq(q.level, ", ") {
		if !slices.Contains(levels, level) {
			return q, fmt.Errorf("level of %s is %q; use %q", q.id, q.level, levels)
		}
	}
	return q, nil
}

func parseReason(cells []string, reasons map[string]string) error {
	if len(cells) != len(reasonHeader) || cells[1] == "" {
		return fmt.Errorf("%q is not a row of ids and a reason", cells)
	}
	for _, id := range cited(cells[0]) {
		if _, twice := reasons[id]; twice {
			return fmt.Errorf("%s has two reasons", id)
		}
		reasons[id] = cells[1]
	}
	return nil
}
