package protocol

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// forbidden is TP-2 by the tables of the language. The hub's own list is
// frozen; a new Unicode version shows here.
func forbidden(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf)
}

// Spec: TP-1, TP-2
func TestForbiddenCharacters(t *testing.T) {
	t.Parallel()
	format := 0
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if utf8.ValidRune(r) && (ValidateTopic("a"+string(r)) != nil) != forbidden(r) {
			t.Errorf("%U: accepted or refused against the tables of Unicode %s", r, unicode.Version)
		}
		if unicode.Is(unicode.Cf, r) {
			format++
		}
	}
	if format != 170 {
		t.Errorf("%d format characters, want 170", format)
	}
}

// Spec: TP-1, TP-2, TP-7
func FuzzValidateTopic(f *testing.F) {
	for _, seed := range []string{"", "a", "\u200D", "a\u00AD", "\xED\xA0\x80", "\xC0\x80", "\xF0\x9F\x98", "\U000E0041", "\u2028\u00A0 "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, topic string) {
		want := topic != "" && utf8.ValidString(topic) && !strings.ContainsFunc(topic, forbidden)
		err := ValidateTopic(topic)
		if (err == nil) != want {
			t.Fatalf("ValidateTopic(%q) = %v, want valid %t", topic, err, want)
		}
		if err != nil {
			wantFieldError(t, err, "topic", false)
		}
	})
}

// reservedByHand is the algorithm of N-2 without the URL library, for topics
// whose parsing takes no knowledge of hosts: what is left of them is a path.
// ok is false for others.
func reservedByHand(hubPath, topic string) (reserved, ok bool) {
	path := strings.Trim(topic, " ")
	if rest, absolute := strings.CutPrefix(path, "https://a.example"); absolute {
		path = rest
		if path == "" {
			path = "/"
		}
	}
	path, _, _ = strings.Cut(path, "#")
	path, _, _ = strings.Cut(path, "?")
	path = strings.ReplaceAll(path, `\`, "/")
	switch {
	case strings.HasPrefix(path, "//"), strings.Contains(path, ":"):
		return false, false
	case path == "":
		path = hubPath
	case path[0] != '/':
		path = hubPath[:strings.LastIndexByte(hubPath, '/')+1] + path
	}
	// Dots in any spelling are segments to the URL parser, and so are those
	// that appear by decoding; one pass over decoded segments does both, as a
	// segment that is not a dot segment stays.
	path = normalize(path)
	own := normalize(hubPath)
	return path == own || strings.HasPrefix(path, own+"/"), true
}

func normalize(path string) string {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~" {
		const hex = "0123456789ABCDEF"
		for _, low := range []string{hex[c&15 : c&15+1], strings.ToLower(hex[c&15 : c&15+1])} {
			path = strings.ReplaceAll(path, "%"+hex[c>>4:c>>4+1]+low, "\x00"+string(c))
		}
	}
	path = strings.ReplaceAll(path, "\x00", "")
	var kept []string
	segments := strings.Split(path, "/")[1:]
	for i, segment := range segments {
		last := i == len(segments)-1
		if segment == ".." && len(kept) > 0 {
			kept = kept[:len(kept)-1]
		}
		if segment != "." && segment != ".." {
			kept = append(kept, segment)
		} else if last {
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}

// Spec: N-2
func FuzzReserved(f *testing.F) {
	for _, seed := range []string{
		"/.well-known/mercure", "mercure/x", "", "?x", "../.well-known/mercure", "/.well-known/%6Dercure", "/%2Ewell-known/x/%2e%2e/mercure",
		`\.well-known\mercure`, "/.well-known/mercure%2Fx", "/.well-known/%256Dercure", "/.well-known//mercure", "https://a.example/.well-known/mercure#x",
		" /.well-known/mercure ", "/.well-known/mercure/../other", "/.well-known/mercure/%2E", "/a%20b/../.well-known/mercure/\u00E9",
		"/.well-known/mercur%65/" + strings.Repeat("%2e%2e/", 3), "https:", "https:/", "https://", "https:?x", "https:a", "https:a/", "a", "a/", "a//", "b/?x",
		"//", "//a", "//a//", `\\\\a`, "..", "../a", "a/..", "hub", "x:", "x:a", "https:a:1", "//[", "#a", "a#", "/a?", " a ", "a\u00A0", "HTTPS:?", "hub/hub", "file:///C|/x",
	} {
		f.Add(seed)
	}
	hub := mustHub(f, defaultHub)
	hubs := []*HubURL{
		hub, mustHub(f, "http://localhost/"), mustHub(f, "https://a.example/hub/hub"), mustHub(f, "https://a.example/a/"),
		mustHub(f, "https://a.example/a%2Fb/c"), mustHub(f, "https://a.example/x/a"), mustHub(f, "https://a.example/%68ub"),
	}
	f.Fuzz(func(t *testing.T, topic string) {
		if ValidateTopic(topic) != nil {
			return
		}
		got := hub.Reserved(topic)
		for _, other := range hubs {
			if fast, slow := other.Reserved(topic), other.reservedByParsing(topic); fast != slow {
				t.Fatalf("under %s: Reserved(%q) = %t, but parsed it is %t", other, topic, fast, slow)
			}
		}
		if want, ok := reservedByHand(hub.Path(), topic); ok && got != want {
			t.Fatalf("Reserved(%q) = %t, want %t", topic, got, want)
		}
		// Neither the host, the query, the fragment, nor how unreserved
		// characters are spelled changes the verdict.
		path, found := strings.CutPrefix(topic, "/")
		if !found || strings.ContainsAny(topic, "?#") || strings.HasPrefix(path, "/") || strings.HasPrefix(path, `\`) {
			return
		}
		path = "/" + strings.TrimRight(path, " ")
		same := []string{
			"https://b.example:8080" + path, "foo://b" + strings.ReplaceAll(path, `\`, "/"), path + "?x", path + "#x", path + "?/../", "/x/.." + path, "/." + path,
		}
		if !strings.Contains(path, "%") {
			same = append(same, strings.NewReplacer("m", "%6d", "-", "%2D", ".", "%2e").Replace(path))
		}
		for _, same := range same {
			if hub.Reserved(same) != got {
				t.Fatalf("Reserved(%q) = %t, but Reserved(%q) = %t", topic, got, same, !got)
			}
		}
	})
}

// What is done to long authorities must not change what a topic resolves to.
func FuzzResolveAuthority(f *testing.F) {
	long := strings.Repeat("a@", 40)
	for _, seed := range []string{
		"https://" + long + "h/x", "foo://" + long + "h/x", "//" + long + "h", "http:" + long + "h", "https:" + long + "h", `https:\\` + long + `h\x@y`,
		"urn:" + long, "https://" + long, "foo://" + long, "file://" + long + "h", "https://u:p:q" + long + ":80/", " ws:///" + long + "\u00E9.example?@", "https://h/" + long,
		"https://" + strings.Repeat("\u00E9'^|;:=", 10) + "@h", "a" + long, `foo:\\` + long + "h", "/" + long, "http://[" + long + "::1]",
		"foo://" + strings.Repeat("%", 70) + ":80/", "foo://" + strings.Repeat("%61\u00E9", 20) + " ", "foo://" + strings.Repeat("%", 70) + " x",
		"foo://[" + strings.Repeat("1:", 40) + "%]", "foo://u@" + strings.Repeat("%", 70) + ":8%0", "https://" + strings.Repeat("%61", 40) + ":443  ",
	} {
		f.Add(seed)
	}
	hubs := []*HubURL{mustHub(f, defaultHub), mustHub(f, "http://other.example:8080/push/hub")}
	f.Fuzz(func(t *testing.T, topic string) {
		if ValidateTopic(topic) != nil || len(topic) > 1000 {
			return
		}
		for _, hub := range hubs {
			got := hub.resolve(topic)
			u, err := hub.base.Parse(topic)
			if (err == nil) != (got != nil) {
				t.Fatalf("topic %q: got %+v, the library %v", topic, got, err)
			}
			if err != nil {
				continue
			}
			want := *got
			want.protocol, want.username, want.password, want.hostname = u.Scheme(), u.Username(), u.Password(), u.Hostname()
			want.port, want.pathname, want.search, want.hash = u.Port(), u.Pathname(), u.Query(), u.Fragment()
			if diff := cmp.Diff(want, *got, cmp.AllowUnexported(components{})); diff != "" {
				t.Fatalf("topic %q (-library +got):\n%s", topic, diff)
			}
		}
	})
}
