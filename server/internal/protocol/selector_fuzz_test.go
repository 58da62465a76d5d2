package protocol

import (
	"strings"
	"testing"

	uritemplate "github.com/yosida95/uritemplate/v3"
)

// What a template expands to, it matches, whatever the values.
//
// Spec: M-16, M-18
func FuzzSelectorMatchesExpansions(f *testing.F) {
	for _, template := range []string{
		"https://h/{a}", "https://h/{+a}", "https://h/{#a,b}", "https://h{.a,b}", "https://h{/a*}", "https://h{;a*,b}", "https://h/{?a,b*}",
		"https://h/x?y{&a*}", "{a:3}{b}", "/{a}/{b*}{?c}", "{+a,b}{.c*}",
	} {
		f.Add(template, "x/y z", "\u00E9%", "1,2")
	}
	f.Fuzz(func(t *testing.T, selector, a, b, c string) {
		// The library's own limits: it panics on long lists of variables.
		if strings.Count(selector, ",") > 20 || len(selector) > 200 {
			return
		}
		template, err := uritemplate.New(selector)
		m, ourErr := NewSelector(selector)
		if err != nil || ourErr != nil || compileURITemplate(selector) == nil {
			return
		}
		for _, value := range []uritemplate.Value{
			uritemplate.String(b), uritemplate.List(a, b, c), uritemplate.KV("k", a, "l", b), {},
		} {
			values := uritemplate.Values{}
			for i, name := range template.Varnames() {
				// A list cannot be cut to a length.
				if i%2 == 0 || strings.Contains(selector, ":") {
					values.Set(name, uritemplate.String(a))
				} else {
					values.Set(name, value)
				}
			}
			topic, err := template.Expand(values)
			if err != nil {
				continue
			}
			if !m.Match(NewTopic(topic)) {
				t.Fatalf("selector %q does not match its expansion %q", selector, topic)
			}
		}
	})
}
