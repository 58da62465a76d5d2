//go:build e2e

package protocol

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"
)

var rewriteVerdicts = flag.Bool("rewrite", false, "write "+verdictFile)

// browser is a Chromium with an empty page, started when first asked.
type browser struct {
	ctx  context.Context // ends with stop
	stop context.CancelFunc
}

func (b *browser) start() error {
	allocator, stop := chromedp.NewExecAllocator(context.Background(), // dies with the process
		chromedp.ExecPath("chromium"),
		chromedp.Headless,
		chromedp.NoSandbox, // tests run as root in containers
		chromedp.DisableGPU,
		chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), // small in containers
	)
	ctx, _ := chromedp.NewContext(allocator)
	b.ctx, b.stop = ctx, stop
	return chromedp.Do(ctx, chromedp.Navigate("about:blank"))
}

func (b *browser) close() {
	if b.stop != nil {
		b.stop()
	}
	b.ctx, b.stop = nil, nil
}

// verdictScript is the procedure of M-9 and M-10.
const verdictScript = `JSON.stringify(ROWS.map(({pattern, base, topic}) => {
	let p;
	try {
		p = new URLPattern(pattern);
	} catch {
		try {
			p = new URLPattern(pattern, base);
		} catch {
			return "malformed";
		}
	}
	let url;
	try {
		url = new URL(topic, base);
	} catch {
		return "no match";
	}
	return p.test(url.href) ? "match" : "no match";
}))`

// errNoAnswer means that Chromium was busy for too long. Some expressions take
// its engine exponential time, and some patterns make it hang.
var errNoAnswer = errors.New("chromium does not answer")

// judge fills in the verdicts.
func (b *browser) judge(t testing.TB, rows []verdictRow) error {
	t.Helper()
	if b.ctx == nil {
		if err := b.start(); err != nil {
			t.Fatalf("start chromium: %v", err)
		}
	}
	question, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	answer, err := chromedp.Run(ctx, chromedp.Evaluate[string](strings.Replace(verdictScript, "ROWS", string(question), 1)))
	if errors.Is(err, context.DeadlineExceeded) {
		b.close()
		return errNoAnswer
	}
	if err != nil {
		t.Fatalf("ask chromium: %v", err)
	}
	var verdicts []verdict
	if err := json.Unmarshal([]byte(answer), &verdicts); err != nil || len(verdicts) != len(rows) {
		t.Fatalf("%d answers to %d questions: %v", len(verdicts), len(rows), err)
	}
	for i := range rows {
		rows[i].Verdict = verdicts[i]
	}
	return nil
}

// backtracks reports whether JavaScript could take exponential time: a group
// of any length is repeated.
func backtracks(pattern string) bool {
	repeatable, inBraces := false, false
	for _, token := range tokenizePattern(pattern) {
		if repeatable && (token.value == "*" || token.value == "+") {
			return true
		}
		switch token.kind {
		case tokenRegexp, tokenAsterisk:
			repeatable, inBraces = true, true
		case tokenOpen:
			repeatable, inBraces = false, false
		case tokenClose:
			repeatable = inBraces
		default:
			repeatable = false
		}
	}
	return false
}

var (
	// oddHost finds what implementations do not agree on in hosts: whatever
	// has to be mapped or encoded.
	oddHost       = regexp.MustCompile("[^\\x21-\\x7E]|[%\"<>^`|]|xn--|\\\\[*+?()]")
	countedRepeat = regexp.MustCompile(`\{[0-9]+(,[0-9]*)?\}`)
	// doubles are reserved in brackets under the flag v.
	doubles        = regexp.MustCompile("&&|!!|##|[$][$]|%%|[*][*]|[+][+]|,,|[.][.]|::|;;|<<|==|>>|[?][?]|@@|\\^\\^|``|~~")
	dotsAfterGroup = regexp.MustCompile(`(?i)[:*)}].*(\.|%2e)(\.|%2e)`)
	upperScheme    = regexp.MustCompile(`^[^:]*[A-Z][^:]*:`)
	defaultPort    = regexp.MustCompile(`:(443|80|21)`)
	classEscape    = regexp.MustCompile(`\\[dDwWsS]$`)
	specialScheme  = regexp.MustCompile(`^(?i:https?|wss?|ftp):`)
)

// outOfScope reports whether rows like this one are not asked about, since
// implementations are known to differ. The reasons are those of differences.
func outOfScope(row verdictRow) bool {
	tokens := tokenizePattern(row.Pattern)
	switch {
	case row.Pattern == "" || validateTopic("", row.Pattern) != nil:
		return true
	case backtracks(row.Pattern), checkPatternGroups(tokens) != "", slices.ContainsFunc(tokens, javaScriptRefuses):
		return true
	case upperScheme.MatchString(row.Pattern) && defaultPort.MatchString(row.Pattern):
		return true
	case dotsAfterGroup.MatchString(row.Pattern):
		return true // the standard's way with them makes little sense
	case oddAuthority(row.Pattern), oddAuthority(row.Topic):
		return true
	}
	scheme, rest, absolute := splitScheme(row.Topic)
	end := protocolEnd(row.Pattern)
	switch {
	case strings.EqualFold(scheme, "file"), end >= 0 && strings.Contains(row.Pattern[:end], "file"):
		return true
	case end >= 0 && strings.Contains(row.Pattern[:end], "(") && !strings.Contains(row.Pattern[:end], "https"):
		return true // Chromium seems to take it for a special scheme
	case absolute && !specialScheme.MatchString(scheme+":") && strings.HasPrefix(rest, "//"):
		return true
	}
	return strings.Contains(row.Pattern, "'") && !specialScheme.MatchString(row.Pattern)
}

// oddAuthority reports whether a pattern or topic has an unusual host, or a
// group in it with a character that ends hosts.
func oddAuthority(text string) bool {
	end := protocolEnd(text)
	if end < 0 {
		return false
	}
	braces, slashes := 0, 0
	host := ""
	afterGroup := false // there, "?" is a modifier
	for _, token := range tokenizePattern(text[end:])[1:] {
		modifies := afterGroup
		afterGroup = slices.Contains([]patternTokenKind{tokenName, tokenRegexp, tokenClose, tokenAsterisk}, token.kind)
		switch {
		case token.kind == tokenOpen:
			braces++
		case token.kind == tokenClose:
			braces--
		case braces == 0 && host == "" && token.value == "/" && slashes < 2:
			slashes++
			continue
		case braces == 0 && token.kind != tokenRegexp && strings.ContainsAny(token.value, "/?#"):
			if token.kind != tokenModifier || !modifies {
				return oddHost.MatchString(host)
			}
		case strings.ContainsAny(token.value, "/?#"):
			return true
		}
		host += text[end:][token.start:token.end]
	}
	return oddHost.MatchString(host)
}

// javaScriptRefuses reports whether a group is an error under the flag v alone.
func javaScriptRefuses(group patternToken) bool {
	if group.kind != tokenRegexp {
		return false
	}
	expr := countedRepeat.ReplaceAllString(group.value, "")
	inClass := false
	for i := 0; i < len(expr); i++ {
		switch c := expr[i]; {
		case c == '\\':
			i++
			if expr[i] == '-' && !inClass || !isAlpha(expr[i]) && !isDigit(expr[i]) && !strings.ContainsRune(`^$\.*+?()[]{}|/-&!#%,:;<=>@~`+"`", rune(expr[i])) {
				return true
			}
		case inClass && c == ']':
			inClass = false
		case inClass && doubles.MatchString(expr[i:min(i+2, len(expr))]),
			inClass && c == '-' && classEscape.MatchString(expr[:i]),
			inClass && strings.IndexByte("()[{}/|", c) >= 0, inClass && c == '-' && (expr[i-1] == '[' || expr[i+1] == ']'):
			return true
		case inClass:
		case c == '[':
			inClass = true
		case c == '{' || c == '}' || c == ']':
			return true
		}
	}
	return false
}

// drawQuestions draws rows that are in scope.
func drawQuestions(recipe []byte) []verdictRow {
	return slices.DeleteFunc(drawRows(recipe), outOfScope)
}

// The file is what Chromium says. With -rewrite, rows of the file stay, so
// what fuzzing finds is kept by adding it there.
//
// Spec: M-7, M-9, M-10
func TestURLPatternVerdictsOfChromium(t *testing.T) {
	b := &browser{}
	defer b.close()
	rows := readVerdicts(t)
	before := slices.Clone(rows)
	if *rewriteVerdicts {
		rows = collectVerdicts(t, b, rows)
		writeVerdicts(t, rows)
		return
	}
	for chunk := range slices.Chunk(rows, 100) {
		if err := b.judge(t, chunk); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, rows); diff != "" {
		t.Errorf("Chromium has changed its mind (-file +now):\n%s", diff)
	}
}

// collectVerdicts adds to rows what the grammar produces from a fixed seed.
func collectVerdicts(t *testing.T, b *browser, rows []verdictRow) []verdictRow {
	t.Helper()
	const wanted = 4000
	all := make([][]verdictRow, 0, wanted)
	for _, row := range rows {
		all = append(all, []verdictRow{row})
	}
	for _, d := range differences {
		all = append(all, []verdictRow{{Pattern: d.pattern, Base: defaultHub, Topic: d.topic}})
	}
	random := rand.New(rand.NewPCG(1, 2)) // the same rows every time
	for range wanted {
		recipe := make([]byte, 64)
		for i := range recipe {
			recipe[i] = byte(random.Uint32())
		}
		all = append(all, drawQuestions(recipe))
	}

	type question struct{ pattern, base, topic string }
	asked := make(map[question]bool)
	var kept []verdictRow
	for _, rows := range all {
		rows = slices.DeleteFunc(rows, func(row verdictRow) bool {
			q := question{row.Pattern, row.Base, row.Topic}
			known := asked[q]
			asked[q] = true
			return known
		})
		if len(rows) == 0 || len(kept) > wanted {
			continue
		}
		if err := b.judge(t, rows); err != nil {
			t.Logf("left out %q: %v", rows[0].Pattern, err)
			continue
		}
		if rows[0].Verdict == verdictMalformed {
			rows = rows[:1] // whatever the topic
		}
		kept = append(kept, rows...)
	}
	return kept
}

func writeVerdicts(t *testing.T, rows []verdictRow) {
	t.Helper()
	slices.SortStableFunc(rows, func(a, b verdictRow) int { return strings.Compare(a.Pattern, b.Pattern) })
	var out bytes.Buffer
	lines := json.NewEncoder(&out)
	lines.SetEscapeHTML(false)
	for _, row := range rows {
		if err := lines.Encode(row); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(verdictFile, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// FuzzURLPatternChromium asks a browser, one in each worker process.
//
//	go test -tags e2e -run '^$' -fuzz FuzzURLPatternChromium -fuzztime 30s ./server/internal/protocol
//
// Spec: M-7, M-9, M-10
func FuzzURLPatternChromium(f *testing.F) {
	random := rand.New(rand.NewPCG(3, 4)) // the same seeds every time
	for range 50 {
		recipe := make([]byte, 64)
		for i := range recipe {
			recipe[i] = byte(random.Uint32())
		}
		f.Add(recipe)
	}
	b := &browser{}
	f.Cleanup(b.close)
	f.Fuzz(func(t *testing.T, recipe []byte) {
		rows := drawQuestions(recipe)
		if len(rows) == 0 {
			return
		}
		if err := b.judge(t, rows); err != nil {
			t.Skipf("pattern %q: %v", rows[0].Pattern, err)
		}
		for _, row := range rows {
			if got := ourVerdict(row, mustHub(t, row.Base)); got != row.Verdict {
				line, _ := json.Marshal(row)
				t.Errorf("got %s, want what Chromium says; a line for %s:\n%s", got, verdictFile, line)
			}
		}
	})
}
