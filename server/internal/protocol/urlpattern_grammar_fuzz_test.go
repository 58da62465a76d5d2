//go:build e2e

package protocol

// piece is a part of a pattern with texts that it could stand for in a topic.
type piece struct {
	pattern string
	topics  []string
}

var (
	schemePieces = []piece{
		{"https://", []string{"https://", "HTTPS://", "https:/", "http://"}},
		{"https://", []string{"https://"}},
		{"http{s}?://", []string{"http://", "https://"}},
		{`http{s}?\://`, []string{"http://", "https://"}},
		{"*://", []string{"https://", "foo://", "urn:"}},
		{"(https|wss)://", []string{"wss://", "https://", "ws://"}},
		{":p://", []string{"https://", "foo://"}},
		{"HTTPS://", []string{"https://"}},
		{`urn\:`, []string{"urn:", "URN:"}},
		{"urn:", []string{"urn:"}},
		{"foo://", []string{"foo://", "FOO://"}},
		{"foo:", []string{"foo:"}},
		{`data\:`, []string{"data:"}},
		{`mailto\:`, []string{"mailto:"}},
		{"file:///", []string{"file:///", "file://", "file:/"}},
		{"file://", []string{"file://", "file:"}},
		{"ws{s}?://", []string{"ws://", "wss://"}},
		{"ftp://", []string{"ftp://"}},
		{"*:", []string{"urn:", "https://", "foo:"}},
		{"(data|urn):", []string{"urn:", "data:"}},
		{"{https}://", []string{"https://"}},
		{"https:", []string{"https:", "https://"}},
		{"a+b-c.1://", []string{"a+b-c.1://"}},
		{`a\+b-c.1://`, []string{"a+b-c.1://"}},
		{"", []string{"", "https://hub.example.com"}},
		{"", []string{""}},
		{"//", []string{"//"}},
		{"{file}?://", []string{"file://", "://"}},
		{"f*://", []string{"file://", "foo://", "ftp://"}},
	}
	userPieces = []piece{
		{"u@", []string{"u@", "u:p@", ""}},
		{"u:p@", []string{"u:p@"}},
		{`u\:p@`, []string{"u:p@", "u:q@"}},
		{":u@", []string{"x@", "@"}},
		{"*:*@", []string{"u:p@", "", "u@"}},
		{"*@", []string{"", "u@", "u:p@"}},
		{"u%40@", []string{"u%40@", "u@@"}},
		{"\u00E9@", []string{"\u00E9@", "%C3%A9@"}},
		{"{u}?@", []string{"u@", ""}},
		{`u\:{p}+@`, []string{"u:pp@"}},
		{`\::p@`, []string{":x@"}},
	}
	hostPieces = []piece{
		{"a.example", []string{"a.example", "A.example", "a%2Eexample", "b.example"}},
		{"a.example", []string{"a.example"}},
		{"*.example", []string{"b.example", "b.c.example", ".example"}},
		{":h.example", []string{"b.example", "b.c.example"}},
		{"{*.}?example", []string{"example", "a.example"}},
		{"{:s.}+example", []string{"a.example", "a.b.example", "example"}},
		{"A.Example", []string{"a.example"}},
		{"b\u00FCcher.example", []string{"xn--bcher-kva.example", "b\u00FCcher.example"}},
		{"B\u00DC*.example", []string{"xn--b-wia.example", "b\u00FC.example", "b\u00FCcher.example"}},
		{`[\:\:1]`, []string{"[::1]", "[0:0::1]"}},
		{"[::1]", []string{"[::1]"}},
		{"[:h]", []string{"[::1]"}},
		{"[*]", []string{"[::1]", "[1::2]"}},
		{`{[\:\:1]}`, []string{"[::1]"}},
		{`[\:\:AB]`, []string{"[::ab]"}},
		{"127.0.0.1", []string{"127.0.0.1", "127.1", "0x7f000001"}},
		{"127.1", []string{"127.0.0.1"}},
		{"127.*", []string{"127.0.0.1"}},
		{"*", []string{"", "a", "a.b"}},
		{"", []string{"", "a"}},
		{"a_b.example", []string{"a_b.example"}},
		{"(a|b).example", []string{"a.example", "b.example", "c.example"}},
		{`(\w+\.)?example`, []string{"a.example", "example"}},
		{"a.example.", []string{"a.example.", "a.example"}},
		{"xn--bcher-kva", []string{"b\u00FCcher"}},
		{"a{b}c", []string{"abc"}},
		{"a b", []string{"a b", "a%20b"}},
		{"a%20b", []string{"a%20b"}},
		{"%61", []string{"a", "%61"}},
		{"a<b", []string{"a<b"}},
		{"a|b", []string{"a|b"}},
		{"\uFF41", []string{"a"}},
		{"\u00DF", []string{"\u00DF", "ss", "xn--zca"}},
		{"a\u3002b", []string{"a.b"}},
		{"{a.}{b}", []string{"a.b"}},
		{"a..b", []string{"a..b"}},
		{"-a-", []string{"-a-"}},
		{"(\u00E9)", []string{"\u00E9"}},
		{"1.2.3.4.5", []string{"1.2.3.4.5"}},
	}
	portPieces = []piece{
		{":8080", []string{":8080", ":08080"}},
		{":*", []string{":8080", "", ":"}},
		{":443", []string{":443", ""}},
		{":80", []string{":80", ""}},
		{":(80|81)", []string{":80", ":81", ""}},
		{":{80}?", []string{"", ":80", ":"}},
		{":80:x", []string{":8081"}},
		{":08080", []string{":8080"}},
		{":99999", []string{":99999"}},
		{":", []string{"", ":"}},
		{":80a", []string{":80a"}},
		{":a", []string{"", ":1"}},
		{":8{0}+", []string{":800"}},
		{`\:8080`, []string{":8080"}},
		{":65536", []string{":65536"}},
		{":65535", []string{":65535"}},
		{":{:p}?", []string{":1", ""}},
		{": 80", []string{":80"}},
	}
	pathPieces = []piece{
		{"/", []string{"/", "", "\\"}},
		{"/a", []string{"/a", "/b", "\\a"}},
		{"/a/", []string{"/a/", "/a"}},
		{"/a", []string{"/a"}},
		{"a", []string{"a"}},
		{"/:x", []string{"/a", "/b%20c", "/", "/a/b", ""}},
		{"/:x", []string{"/1"}},
		{":x", []string{"a", "", "1"}},
		{":y", []string{"a", "b"}},
		{"/:x?", []string{"/a", "", "/"}},
		{"/:x*", []string{"/a/b", "", "/a"}},
		{"/:x+", []string{"/a/b", "/a", ""}},
		{"/*", []string{"/", "/a/b", ""}},
		{"*", []string{"", "a/b"}},
		{"/*?", []string{"", "/", "/a"}},
		{"/*+", []string{"/a/b", "/"}},
		{"/**", []string{"/a/b", ""}},
		{"{/a}?", []string{"/a", ""}},
		{"{/:x}*", []string{"/a/b", "", "/"}},
		{"{/:x}?", []string{"/a", ""}},
		{"{/:x/}+", []string{"/a//b/", "/a/"}},
		{"{a}+", []string{"a", "aaa"}},
		{"{a:x-}*", []string{"ab-ac-", "ab-", ""}},
		{"{}", []string{""}},
		{"{}?", []string{""}},
		{"{/}", []string{"/"}},
		{"{/*}?", []string{"/a", ""}},
		{"{:x}", []string{"a"}},
		{"{:x}?", []string{"a", ""}},
		{"{a}b", []string{"ab"}},
		{"(a|b)", []string{"a", "b", "c"}},
		{"/(a|b)?", []string{"/a", "", "/"}},
		{`/(\d+)`, []string{"/12", "/x"}},
		{`(\d{2,3})`, []string{"12", "1"}},
		{":id([a-z]+)", []string{"abc", "A"}},
		{`/:id(\w+)?`, []string{"/abc", ""}},
		{"(.*)", []string{"a/b", ""}},
		{`([^\/]+)`, []string{"a", "a/b"}},
		{"(a$)", []string{"a"}},
		{"(^/a)", []string{"/a"}},
		{`(\ba)`, []string{"a"}},
		{"([a-c&])", []string{"a", "&"}},
		{`([\w\-.]+)`, []string{"a-.b"}},
		{"(?:a)", []string{"a"}},
		{"((?:a|b)+)", []string{"ab"}},
		{"(a(b))", []string{"ab"}},
		{"()", []string{""}},
		{`(\p{L}+)`, []string{"ab"}},
		{`(\S+)`, []string{"ab"}},
		{"(a{2})", []string{"aa"}},
		{`(\/)`, []string{"/"}},
		{`(\.)`, []string{"."}},
		{"([.])", []string{".", "a"}},
		{"(.)", []string{"a", "\u00E9", "%"}},
		{"(a|)", []string{"a", ""}},
		{"(a*?)", []string{"aa", ""}},
		{"([a-z]{0})", []string{""}},
		{"/.", []string{"/.", "/", ""}},
		{"/..", []string{"/..", ""}},
		{"/../", []string{"/../", "/"}},
		{"/./", []string{"/./", "/"}},
		{"..", []string{".."}},
		{".", []string{"."}},
		{"/%2e%2E", []string{"/..", "/%2e%2e"}},
		{"%61", []string{"a", "%61"}},
		{"%20", []string{"%20", " "}},
		{" ", []string{" ", "%20"}},
		{"\u00E9", []string{"\u00E9", "%C3%A9", "%c3%a9"}},
		{"\U0001F600", []string{"\U0001F600"}},
		{"\uFFFD", []string{"\uFFFD"}},
		{`\:`, []string{":"}},
		{":", []string{":"}},
		{"::", []string{"::"}},
		{`\*`, []string{"*"}},
		{`\+`, []string{"+"}},
		{`\\`, []string{"\\", "/"}},
		{`\a`, []string{"a"}},
		{`\{`, []string{"{", "%7B"}},
		{`\(a\)`, []string{"(a)"}},
		{`\?`, []string{"?"}},
		{`\#`, []string{"#"}},
		{`"<>` + "`^|", []string{`"<>` + "`^|"}},
		{"'!$&,;=@~", []string{"'!$&,;=@~"}},
		{"[]", []string{"[]"}},
		{"%", []string{"%", "%25"}},
		{"%zz", []string{"%zz"}},
		{"@", []string{"@"}},
		{"//", []string{"//", "/"}},
		{"C:/x", []string{"C:/x", "C|/x"}},
		{"C|/x", []string{"C:/x", "C|/x"}},
		{":$a", []string{"1"}},
		{":_", []string{"1"}},
		{":\u00E9t\u00E9", []string{"1"}},
		{":1", []string{":1"}},
		{"{", []string{"{"}},
		{"}", []string{"}"}},
		{"(", []string{"("}},
		{")", []string{")"}},
		{"+", []string{"+"}},
		{`\`, []string{`\`}},
		{"{a{b}}", []string{"ab"}},
		{"\u2028", []string{"\u2028"}},
		{"\u00A0", []string{"\u00A0"}},
	}
	searchPieces = []piece{
		{"?", []string{"?", ""}},
		{"?a=b", []string{"?a=b", "?a=c", ""}},
		{`\?a=:x`, []string{"?a=1", "?a="}},
		{"?*", []string{"?x", "", "?"}},
		{"?a=*", []string{"?a=", "?a=b&c"}},
		{"?:x", []string{"?a&b", "?"}},
		{"?a b'\u00E9\"<>", []string{"?a b'\u00E9\"<>", "?a%20b%27%C3%A9%22%3C%3E"}},
		{"?(a|b)", []string{"?a", "?c"}},
		{"??", []string{"??"}},
		{"?a=/../", []string{"?a=/../"}},
		{"?{a=:x&}*", []string{"?a=1&a=2&", "?"}},
		{"?%61", []string{"?a", "?%61"}},
	}
	hashPieces = []piece{
		{"#", []string{"#", ""}},
		{"#a", []string{"#a", "#b", ""}},
		{"#*", []string{"#x", "", "#"}},
		{"#:x", []string{"#a/b", "#"}},
		{"#a b`\u00E9\"<>", []string{"#a b`\u00E9\"<>", "#a%20b%60%C3%A9%22%3C%3E"}},
		{"#(a|b)", []string{"#a", "#c"}},
		{"##", []string{"##"}},
		{"#?", []string{"#?"}},
		{`\#a`, []string{"#a"}},
	}
	verdictBases = []string{defaultHub, "http://other.example:8080/push/hub", "https://a.example/hub"}
	noise        = []string{"/", ":", "*", "?", "+", "{", "}", "(", ")", `\`, "#", "@", "[", "]", ".", "..", "%", "a", "\u00E9", " ", "|", "-", "8"}
)

// drawer makes choices; the bytes of a fuzz input decide.
type drawer struct{ recipe []byte }

func (d *drawer) below(n int) int {
	if len(d.recipe) == 0 {
		return 0
	}
	c := int(d.recipe[0])
	d.recipe = d.recipe[1:]
	return c % n
}

func (d *drawer) text(s []string) string { return s[d.below(len(s))] }

// drawRows makes a pattern and topics that it may match.
func drawRows(recipe []byte) []verdictRow {
	const topics = 5
	d := &drawer{recipe: recipe}
	var chosen []piece
	add := func(pieces []piece) { chosen = append(chosen, pieces[d.below(len(pieces))]) }
	add(schemePieces)
	if d.below(4) == 1 {
		add(userPieces)
	}
	if d.below(4) != 1 {
		add(hostPieces)
	}
	if d.below(4) == 1 {
		add(portPieces)
	}
	for range d.below(5) {
		add(pathPieces)
	}
	if d.below(4) == 1 {
		add(searchPieces)
	}
	if d.below(5) == 1 {
		add(hashPieces)
	}
	row := verdictRow{Base: d.text(verdictBases)}
	for _, p := range chosen {
		row.Pattern += p.pattern
	}
	row.Pattern = d.disturb(row.Pattern)
	rows := make([]verdictRow, topics)
	for i := range rows {
		rows[i] = row
		for _, p := range chosen {
			// The first text of each piece is a match of it.
			if i == 0 {
				rows[i].Topic += p.topics[0]
			} else {
				rows[i].Topic += d.text(p.topics)
			}
		}
		if i > 2 {
			rows[i].Topic = d.disturb(rows[i].Topic)
		}
	}
	return rows
}

// disturb inserts or removes something in one of eight cases.
func (d *drawer) disturb(s string) string {
	runes := []rune(s)
	switch d.below(16) {
	case 1:
		at := d.below(len(runes) + 1)
		return string(runes[:at]) + d.text(noise) + string(runes[at:])
	case 2:
		if len(runes) > 0 {
			at := d.below(len(runes))
			return string(runes[:at]) + string(runes[at+1:])
		}
	}
	return s
}
