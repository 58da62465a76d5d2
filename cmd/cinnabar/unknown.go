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

// applicationVariables configure those who talk to a hub. They often share a
// file with the hub's own settings.
//
// Spec: section 15.2.
var applicationVariables = map[string]string{ //nolint:gosec // explains credentials, holds none
	"MERCURE_URL":        "tells applications where the hub is",
	"MERCURE_JWT_SECRET": "is what applications sign tokens with; the hub reads MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY",
}

// referenceVariables are settings of the reference hub with another meaning or
// none here, and what to do about each.
//
// Spec: section 15.2.
var referenceVariables = map[string]string{
	"MERCURE_TRANSPORT_URL": "history is kept in PostgreSQL; set DATABASE_URL to the address of a database instead",
	"MERCURE_LICENSE":       "no licence key is needed; remove it",
}

// extraDirectives is handled apart: it holds settings.
const extraDirectives = "MERCURE_EXTRA_DIRECTIVES"

// plannedVariables are reserved for what is not built yet. One that has become
// a setting is known before this list is asked.
var plannedVariables = []string{
	"MERCURE_ADMIN_ADDR",
	"MERCURE_PUBLISHER_JWKS_URL", "MERCURE_SUBSCRIBER_JWKS_URL", "MERCURE_ISSUERS",
	"MERCURE_SUBSCRIPTIONS",
	"MERCURE_DRAIN_TIMEOUT",
	"MERCURE_HISTORY_MAX_AGE", "MERCURE_HISTORY_MAX_UPDATES", "MERCURE_HISTORY_MAX_BYTES",
}

// standaloneVariables were read by the reference hub before it had a prefix.
// Only names that are hardly anybody else's are listed, and they only warn.
//
// Spec: section 15.1.
var standaloneVariables = map[string]string{
	"JWT_KEY":                 "MERCURE_PUBLISHER_JWT_KEY and MERCURE_SUBSCRIBER_JWT_KEY",
	"JWT_ALGORITHM":           "MERCURE_PUBLISHER_JWT_ALG and MERCURE_SUBSCRIBER_JWT_ALG",
	"PUBLISHER_JWT_KEY":       "MERCURE_PUBLISHER_JWT_KEY",
	"PUBLISHER_JWT_ALGORITHM": "MERCURE_PUBLISHER_JWT_ALG",
	"SUBSCRIBER_JWT_KEY":      "MERCURE_SUBSCRIBER_JWT_KEY",

	"SUBSCRIBER_JWT_ALGORITHM": "MERCURE_SUBSCRIBER_JWT_ALG",
	"ALLOW_ANONYMOUS":          "MERCURE_ANONYMOUS",
	"CORS_ALLOWED_ORIGINS":     "MERCURE_CORS_ALLOWED_ORIGINS",
	"PUBLISH_ALLOWED_ORIGINS":  "MERCURE_PUBLISH_ALLOWED_ORIGINS",
	"HEARTBEAT_INTERVAL":       "MERCURE_HEARTBEAT",
	"DISPATCH_TIMEOUT":         "MERCURE_DISPATCH_TIMEOUT",
	"TRANSPORT_URL":            "DATABASE_URL",
	"USE_FORWARDED_HEADERS":    "MERCURE_TRUSTED_PROXIES",
	"EXTRA_DIRECTIVES":         "the settings that `cinnabar serve --help` lists",

	"CADDY_EXTRA_CONFIG":            "the settings that `cinnabar serve --help` lists",
	"CADDY_SERVER_EXTRA_DIRECTIVES": "the settings that `cinnabar serve --help` lists",
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
	for _, name := range slices.Sorted(maps.Keys(e.values)) {
		base := strings.TrimSuffix(name, fileSuffix)
		if successor, ok := standaloneVariables[name]; ok {
			warnings = append(warnings, fmt.Sprintf("%s: is not read; the setting is %s", name, successor))
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

func (e *environment) refuse(name, base string, known []string) string {
	if base == extraDirectives {
		return refuseDirectives(e.values[name], known)
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

// directives says which setting stands for a directive of the reference hub.
// The second field is its value, %s for what the directive is given; empty:
// nothing is shown, since it may hold a key.
//
// Spec: section 15.3.
var directives = map[string][2]string{
	"anonymous":                      {"MERCURE_ANONYMOUS", "on"},
	"cors_origins":                   {"MERCURE_CORS_ALLOWED_ORIGINS", "%s"},
	"publish_origins":                {"MERCURE_PUBLISH_ALLOWED_ORIGINS", "%s"},
	"cookie_name":                    {"MERCURE_COOKIE_NAME", "%s"},
	"subscriptions":                  {"MERCURE_SUBSCRIPTIONS", "on"},
	"heartbeat":                      {"MERCURE_HEARTBEAT", "%s"},
	"write_timeout":                  {"MERCURE_WRITE_TIMEOUT", "%s"},
	"dispatch_timeout":               {"MERCURE_DISPATCH_TIMEOUT", "%s"},
	"max_request_body_size":          {"MERCURE_MAX_REQUEST_BODY", "%s"},
	"resource_identifier":            {"MERCURE_RESOURCE_IDENTIFIER", "%s"},
	"public_urls":                    {"MERCURE_PUBLIC_URL", "%s"},
	"protocol_version_compatibility": {"MERCURE_COMPAT", "on"},
	"issuer":                         {"MERCURE_TRUSTED_ISSUERS", ""},
	"publisher_jwt":                  {"MERCURE_PUBLISHER_JWT_KEY", ""},
	"subscriber_jwt":                 {"MERCURE_SUBSCRIBER_JWT_KEY", ""},
	"publisher_jwks_url":             {"MERCURE_PUBLISHER_JWKS_URL", "%s"},
	"subscriber_jwks_url":            {"MERCURE_SUBSCRIBER_JWKS_URL", "%s"},
	"transport":                      {"DATABASE_URL", ""},
	"transport_url":                  {"DATABASE_URL", ""},
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
			value := strings.ReplaceAll(successor[1], "%s", strings.NewReplacer(`"`, "", "`", "").Replace(strings.Join(words[1:], " ")))
			setting += "=" + shellQuote(value)
		}
		setting += " for " + words[0]
		if !slices.Contains(known, successor[0]) {
			setting += " (which is not supported yet)"
		}
		set = append(set, setting)
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
