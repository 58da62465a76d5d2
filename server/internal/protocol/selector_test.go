package protocol

import (
	"strings"
	"testing"

	"github.com/yosida95/uritemplate/v3"
	"pgregory.net/rapid"
)

type selectorCase struct {
	selector, topic string
	want            bool
}

func testSelectors(t *testing.T, cases []selectorCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(name(tc.selector, tc.topic), func(t *testing.T) {
			t.Parallel()
			if got := mustSelector(t, tc.selector).Match(NewTopic(tc.topic)); got != tc.want {
				t.Errorf("selector %s, topic %s: got %t, want %t", tc.selector, tc.topic, got, tc.want)
			}
		})
	}
}

// The verdict table of section 4.4. Spec: M-16, M-18
func TestSelectorWorkedExamples(t *testing.T) {
	t.Parallel()
	const (
		orders        = "https://shop.example/orders/{id}"
		user          = "https://shop.example/u/7/{?topic}"
		subscriptions = "/.well-known/mercure/subscriptions"
	)
	testSelectors(t, []selectorCase{
		{orders, "https://shop.example/orders/17", true},
		{orders, "https://shop.example/orders/", true},
		{orders, "https://shop.example/orders/17/lines", false},
		{orders, "https://shop.example/orders/a%2Fb", true},
		{orders, "https://shop.example/orders/a.b", true},
		{orders, "https://shop.example/orders/a,b", true},
		{orders, "https://shop.example/orders/a b", false},
		{orders, "https://shop.example/orders/\u00E9", false},
		{orders, "https://shop.example/orders/17?x=1", false},
		{orders, orders, true},
		{orders, "https://SHOP.example/orders/17", false},
		{"https://shop.example/{+path}", "https://shop.example/a/b?x=1#y", true},
		{"https://shop.example/{+path}", "https://shop.example/", true},
		{"https://shop.example{/path*}", "https://shop.example", true},
		{"https://shop.example{/path*}", "https://shop.example/a/b/c", true},
		{"https://shop.example{/one}", "https://shop.example/a/b", false},
		{user, "https://shop.example/u/7/?topic=https%3A%2F%2Fshop.example%2Fb%2F1", true},
		{user, "https://shop.example/u/7/?topic=https://shop.example/b/1", false},
		{user, "https://shop.example/u/7/", true},
		{"https://shop.example/a{?x,y}", "https://shop.example/a?x=1", true},
		{"https://shop.example/a{?x,y}", "https://shop.example/a?x=1&y=2", true},
		{"{scheme}://{+host}/demo/{id}.jsonld", "https://h.example/demo/5.jsonld", true},
		{"{topic}", "chat", true},
		{"{topic}", "https://h/a", false},
		{"{+topic}", "https://h/a", true},
		{subscriptions + "{/topic}{/subscriber}", subscriptions, true},
		{subscriptions + "{/topic}{/subscriber}", subscriptions + "/https%3A%2F%2Fh%2Fa", true},
		{subscriptions + "{/topic}{/subscriber}", subscriptions + "/https%3A%2F%2Fh%2Fa/urn%3Auuid%3A1", true},
		{subscriptions + "/{topic}/{subscriber}", subscriptions + "/a%20b/urn%3Auuid%3A1", true},
		{subscriptions + "/{topic}/{subscriber}", subscriptions + "/a+b/urn%3Auuid%3A1", false},
		{"*", "anything", true},
	})
}

// Row by row through the table of operators. Spec: M-18, Q-5
func TestSelectorOperators(t *testing.T) {
	t.Parallel()
	testSelectors(t, []selectorCase{
		{"x{v}", "xA-Z.a_z~09,%2f%2F", true},
		{"x{v}", "x", true},
		{"x{v}", "xa=b", false},
		{"x{v}", "x%2", false},
		{"x{v}", "x%zz", false},
		{"x{v}", "xa/b", false},
		{"x{+v}", "x:/?#[]@!$&'()*+,;=a%20", true},
		{"x{+v}", "xa b", false},
		{"x{+v}", "x\"", false},
		{"x{#v}", "x", true},
		{"x{#v}", "x#:/?#[]@!$&'()*+,;=a%20", true},
		{"x{#v}", "xa", false},
		{"x{.v}", "x.a", true},
		{"x{.v}", "x", true},
		{"x{.v}", "xa", false},
		{"x{.v}", "x.a=b", false},
		{"x{.v,w}", "x.a.b", true},
		{"x{/v}", "x/a,b", true},
		{"x{/v}", "x/", true},
		{"x{/v}", "xa", false},
		{"x{/v,w}", "x/a/b", true},
		{"x{/v,w}", "x/a/b/c", false},
		{"x{;v}", "x;v=1", true},
		{"x{;v}", "x;v", true},
		{"x{;v}", "x;v=1;w=2", false},
		{"x{;v,w}", "x;v=1;w=2", true},
		{"x{?v}", "x?v=1,2", true},
		{"x{?v}", "x&v=1", false},
		{"x{?v}", "x?v=1&w=2", false},
		{"x{?v,w}", "x?w=1&v=2", true},
		{"x{&v}", "x&v=1", true},
		{"x{&v}", "x?v=1", false},
		{"x{&v,w}", "x&v=1&w=2", true},
		// Modifiers.
		{"x{v*}", "xa=1,b=2", true},
		{"x{/v*}", "x/a=1/b/c", true},
		{"x{;v*}", "x;a=1;b=2;c=3", true},
		{"x{?v*}", "x?a=1&b=2&c=3", true},
		{"x{?v*}", "x?a=1#b", false},
		{"x{/a,b*}", "x/1/2/3/4", true},
		{"x{v:3}", "xabcdef", true},
		{"x{/v:3}", "x/abcdef", true},
		{"x{v}y{v}", "x1y2", true},
		{"{?other}", "?name=1", true},
		// Literals.
		{"caf\u00E9/{v}", "caf\u00E9/1", true},
		{"caf\u00E9/{v}", "caf%C3%A9/1", false},
		{"a.b/{v}", "aXb/1", false},
		{"(a|b)/{v}", "a/1", false},
		{"it's/{v}", "it's/1", true},
		{"a%20b/{v}", "a%20b/1", true},
		{"a%2fb/{v}", "a%2Fb/1", false},
		{"{v}", "a\n", false},
		{"{+v}", "a\nb", false},
	})
}

// Spec: M-17
func TestSelectorInvalidTemplates(t *testing.T) {
	t.Parallel()
	for _, selector := range []string{
		"{", "{}", "{id", "a}b", "{a-b}", "{=x}", "{!x}", "{@x}", "{|x}", "{,x}", "{x,}", "{+}", "{a:}", "{a:0}", "{a:10000}", "{a:x}",
		"{a:1*}", "{a*:1}", "{.a.}", "{a..b}", "{%4}", "{a{b}", "{a}}", "{{a}}", "{a }",
		"{a} b", "{a}<", "{a}>", "{a}\"", `{a}\`, "{a}^", "{a}`", "{a}|", "{a}\x01", "{a}%", "{a}%2", "{a}%zz", "{a}\u0085", "{a}\uFFFE",
		"{" + strings.Repeat("a,", maxTemplateVariables) + "a}",
	} {
		t.Run(name(selector[:min(len(selector), 20)]), func(t *testing.T) {
			t.Parallel()
			m := mustSelector(t, selector)
			if !m.literal() || !m.Match(NewTopic(selector)) {
				t.Error("does not match by equality alone")
			}
			if replaced := strings.NewReplacer("{", "", "}", "").Replace(selector); m.Match(NewTopic(replaced)) {
				t.Errorf("matches %q as if it were a template", replaced)
			}
		})
	}
	for _, selector := range []string{"{a}", "{%41}", "{a.b}", "{a_1}", "{a:1}", "{a:9999}", "{a,b*,c:3}", "{" + strings.Repeat("a,", maxTemplateVariables-1) + "a}"} {
		if mustSelector(t, selector).literal() {
			t.Errorf("%.20s is a valid template", selector)
		}
	}
}

// The library that deployed hubs use is the oracle: what it matches must
// match here. The reverse holds unless a later variable of an expression is
// exploded and the first is not, where the library forgets about "=".
//
// Spec: Q-5
func TestSelectorAgreesWithLibrary(t *testing.T) {
	t.Parallel()
	operators := []string{"", "+", "#", ".", "/", ";", "?", "&", "="}
	variables := []string{"a", "b", "a*", "b:3", "c.d", "", "-"}
	fragments := []string{"a", "b", "/", "?", "&", ";", "=", ".", ",", "#", "%2F", "%", "\u00E9", "x:"}
	rapid.Check(t, func(t *rapid.T) {
		var template strings.Builder
		lateExplode := false
		for range rapid.IntRange(1, 3).Draw(t, "pieces") {
			if rapid.Bool().Draw(t, "literal") {
				template.WriteString(rapid.SampledFrom(fragments).Draw(t, "text"))
				continue
			}
			vars := rapid.SliceOfN(rapid.SampledFrom(variables), 1, 3).Draw(t, "variables")
			for _, v := range vars[1:] {
				lateExplode = lateExplode || strings.HasSuffix(v, "*") && !strings.HasSuffix(vars[0], "*")
			}
			template.WriteString("{" + rapid.SampledFrom(operators).Draw(t, "operator") + strings.Join(vars, ",") + "}")
		}
		selector := template.String()
		topic := strings.Join(rapid.SliceOfN(rapid.SampledFrom(fragments), 0, 6).Draw(t, "topic"), "")
		if selector == "" {
			return
		}
		m, err := NewSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		want := selector == topic
		library, err := uritemplate.New(selector)
		if valid := err == nil && len(library.Varnames()) > 0; valid == m.literal() {
			t.Fatalf("%q: valid template %t, literal %t", selector, valid, m.literal())
		}
		if err == nil {
			want = want || library.Regexp().MatchString(topic)
		}
		if got := m.Match(NewTopic(topic)); got != want && !(got && lateExplode) {
			t.Fatalf("selector %q, topic %q: got %t, library %t", selector, topic, got, want)
		}
	})
}
