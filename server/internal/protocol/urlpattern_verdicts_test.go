package protocol

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
)

// verdict is what a URL pattern says about a topic.
type verdict string

const (
	verdictMatch     verdict = "match"
	verdictNoMatch   verdict = "no match"
	verdictMalformed verdict = "malformed"
)

// verdictRow is a question about URL patterns and the answer of Chromium.
type verdictRow struct {
	Pattern string  `json:"pattern"`
	Base    string  `json:"base"`
	Topic   string  `json:"topic"`
	Verdict verdict `json:"verdict"`
}

// verdictFile holds one verdictRow a line. It is written by
//
//	go test -tags e2e -run TestURLPatternVerdictsOfChromium ./server/internal/protocol -rewrite
const verdictFile = "testdata/urlpattern.jsonl"

func readVerdicts(t testing.TB) []verdictRow {
	t.Helper()
	f, err := os.Open(verdictFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rows []verdictRow
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var row verdictRow
		if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
			t.Fatalf("line %d of %s: %v", len(rows)+1, verdictFile, err)
		}
		rows = append(rows, row)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}

// ourVerdict follows the procedure that the browser was asked to follow.
func ourVerdict(row verdictRow, hub *HubURL) verdict {
	m, err := NewURLPattern(row.Pattern, hub)
	switch {
	case err != nil:
		return verdictMalformed
	case m.Match(NewTopic(row.Topic)):
		return verdictMatch
	}
	return verdictNoMatch
}

// differences are the rows of the file that we answer otherwise, and why. Each
// stands for all of its kind; the file has no others of these kinds.
var differences = []struct {
	pattern string
	topic   string
	want    verdict
	reason  string
}{
	{
		"https://a.example/(a(?=b).*)", "https://a.example/ab", verdictMalformed,
		"Q-4: a regular expression of linear time has no lookaround",
	},
	{
		"https://a.example/([^/]+)", "https://a.example/a", verdictMatch,
		"JavaScript wants / escaped in brackets under the flag v; without the flag it means the same as in RE2",
	},
	{
		`https://a.example/(a\-b)`, "https://a.example/a-b", verdictMatch,
		"JavaScript refuses needless escapes under the flag v; without the flag they mean the same as in RE2",
	},
	{
		"https://a.example/:x\u200B", "https://a.example/1", verdictMalformed,
		"TP-5: a matcher obeys the rules of topics",
	},
	{
		"https://a.example{/a}?", "https://a.example/b", verdictMalformed,
		"the standard fails where a host would get a slash; Chromium keeps it",
	},
	{
		"https://a%20b/", "https://a%20b/", verdictMalformed,
		"the standard fails where a host would get a space; Chromium keeps it",
	},
	{
		"foo://127.*", "foo://127.0.0.1", verdictMatch,
		"hosts of schemes like foo are opaque to the standard; Chromium takes 127. for an IPv4 address",
	},
	{
		"HTTPS://a.example:443", "https://a.example/", verdictMatch,
		"the standard does not see that 443 is the default port of HTTPS in capitals",
	},
	{
		"file://?a", "file://?a", verdictMatch,
		"the standard reads the paths of file URLs like those of https URLs",
	},
}

// What our patterns say is what a browser's say, which share no code with ours.
//
// Spec: M-7, M-9, M-10
func TestURLPatternVerdicts(t *testing.T) {
	t.Parallel()
	hubs := make(map[string]*HubURL)
	counts := make(map[verdict]int)
	different := 0
	for i, row := range readVerdicts(t) {
		if hubs[row.Base] == nil {
			hubs[row.Base] = mustHub(t, row.Base)
		}
		counts[row.Verdict]++
		want := row.Verdict
		for _, d := range differences {
			if d.pattern == row.Pattern && d.topic == row.Topic {
				want = d.want
				different++
				if want == row.Verdict {
					t.Errorf("line %d is no difference: %s", i+1, d.reason)
				}
			}
		}
		if got := ourVerdict(row, hubs[row.Base]); got != want {
			t.Errorf("line %d: pattern %q, base %s, topic %q: got %s, want %s", i+1, row.Pattern, row.Base, row.Topic, got, want)
		}
	}
	if different != len(differences) {
		t.Errorf("%d of %d differences are in the file", different, len(differences))
	}
	for _, v := range []verdict{verdictMatch, verdictNoMatch, verdictMalformed} {
		if counts[v] < 300 {
			t.Errorf("%d rows with the verdict %s, want more", counts[v], v)
		}
	}
}
