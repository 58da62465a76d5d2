package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// settingPrefix is what the names of the hub's settings begin with. One that
// nobody knows is more likely a slip that turns something off than a name
// somebody else uses.
const settingPrefix = "MERCURE_"

// plannedVariables are reserved for what is not built yet. One that has become
// a setting is known before this list is asked.
var plannedVariables = []string{
	"MERCURE_ADMIN_ADDR",
	"MERCURE_HISTORY_MAX_AGE", "MERCURE_HISTORY_MAX_UPDATES", "MERCURE_HISTORY_MAX_BYTES",
}

// orchestrated matches what Kubernetes and container links put into the
// environment for a service that is called mercure or mercure-something.
var orchestrated = regexp.MustCompile(
	`^MERCURE(?:_[A-Z0-9_]+?)??_(SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)$`)

// isOrchestrated takes MERCURE_PORT=3000 for the slip that it is.
func isOrchestrated(name, value string) bool {
	match := orchestrated.FindStringSubmatch(name)
	return match != nil && (match[1] != "PORT" || strings.Contains(value, "://"))
}

// checkNames looks for variables that the hub will not do anything with.
func (e *environment) checkNames(known []string) (problems, warnings []string) {
	moved := e.movedHere()
	for _, name := range slices.Sorted(maps.Keys(e.values)) {
		base := strings.TrimSuffix(name, fileSuffix)
		if advice := unprefixed(name, moved); advice != "" {
			warnings = append(warnings, fmt.Sprintf("%s: is not read; %s", name, notYetSupported(advice, known)))
			continue
		}
		if !strings.HasPrefix(name, settingPrefix) || slices.Contains(known, name) || slices.Contains(known, base) {
			continue
		}
		if reason, ok := applicationVariables[base]; ok {
			warnings = append(warnings, fmt.Sprintf("%s: is ignored: it %s", name, reason))
			continue
		}
		if isOrchestrated(name, e.values[name]) {
			continue
		}
		problems = append(problems, name+": "+e.refuse(name, base, known))
	}
	return problems, warnings
}

// movedHere says whether this environment was made for the reference hub.
func (e *environment) movedHere() bool {
	for name := range e.values {
		base := strings.TrimSuffix(name, fileSuffix)
		if unprefixedVariables[base] != "" || referenceVariables[base] != "" || base == extraDirectives {
			return true
		}
	}
	return false
}

// unprefixed says what to do instead of setting a variable; "" if it is
// nobody's business.
func unprefixed(name string, moved bool) string {
	if advice := unprefixedVariables[name]; advice != "" {
		return advice
	}
	if advice := genericVariables[name]; moved && advice != "" {
		return advice
	}
	advice := unprefixedVariables[strings.TrimSuffix(name, fileSuffix)]
	return settingNames.ReplaceAllString(advice, "${0}"+fileSuffix)
}

var settingNames = regexp.MustCompile(`\b(?:MERCURE_[A-Z_]+|DATABASE_URL)\b`)

const notYet = " (which is not supported yet)"

// notYetSupported marks the settings in a text that are only planned.
func notYetSupported(text string, known []string) string {
	return settingNames.ReplaceAllStringFunc(text, func(name string) string {
		if slices.Contains(known, strings.TrimSuffix(name, fileSuffix)) {
			return name
		}
		return name + notYet
	})
}

func (e *environment) refuse(name, base string, known []string) string {
	if base == extraDirectives {
		text := e.values[name]
		if name != base { // the name of a file
			text = ""
		}
		return refuseDirectives(text, known)
	}
	if reason, ok := referenceVariables[base]; ok {
		return "is a setting of the reference hub: " + reason
	}
	if slices.Contains(plannedVariables, base) {
		return "is not supported yet; remove it"
	}
	nearest := nearestName(base, slices.Concat(known, plannedVariables))
	if nearest == "" {
		return "is not a setting; `cinnabar serve --help` lists them all"
	}
	return fmt.Sprintf("is not a setting; did you mean %s?", nearest+strings.TrimPrefix(name, base))
}

func refuseDirectives(text string, known []string) string {
	var set, without []string
	depth := 0
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		outside := depth == 0
		depth += strings.Count(line, "{") - strings.Count(line, "}")
		if !outside || words[0] == "}" {
			continue // inside of a block: belongs to its directive
		}
		successor, ok := directives[words[0]]
		if !ok {
			without = append(without, words[0])
			continue
		}
		setting := successor[0]
		if successor[1] != "" {
			setting += "=" + shellQuote(directiveValue(successor[1], words[1:]))
		}
		setting += " for " + words[0]
		if !slices.Contains(known, successor[0]) {
			setting += notYet
		}
		if !slices.Contains(set, setting) {
			set = append(set, setting)
		}
	}
	message := "directives of the reference hub are not read"
	if len(set) > 0 {
		message += "; set " + strings.Join(set, ", ") + " instead"
	}
	if len(without) > 0 {
		message += fmt.Sprintf("; nothing corresponds to %s", strings.Join(without, ", "))
	}
	return message
}

// directiveValue fills in what a directive was given.
func directiveValue(template string, words []string) string {
	unquote := strings.NewReplacer(`"`, "", "`", "")
	first := ""
	if len(words) > 0 {
		first = unquote.Replace(words[0])
	}
	return strings.NewReplacer("%s", unquote.Replace(strings.Join(words, " ")), "%1", first).Replace(template)
}

// nearestName returns the candidate that a slip of the finger or two away from
// name, or "".
func nearestName(name string, candidates []string) string {
	best, bestDistance := "", max(3, len(name)/4)+1
	for _, candidate := range candidates {
		if d := editDistance(name, candidate); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions and replacements of bytes, and
// swaps of neighbours, that make b of a.
func editDistance(a, b string) int {
	// Rows of the usual table, for the last two bytes of a and the current one.
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replaced := last[j-1]
			if a[i-1] != b[j-1] {
				replaced++
			}
			row[j] = min(replaced, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
