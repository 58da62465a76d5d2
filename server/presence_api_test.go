package server_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// newestID is that of the last update, whoever may see it.
func newestID(t *testing.T, database *dbtest.DB) (id string) {
	t.Helper()
	if err := database.Pool(t).QueryRow(t.Context(), "SELECT id FROM mercure.updates ORDER BY position DESC LIMIT 1").Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// Byte for byte, from whichever node. Spec: E-5 to E-9, E-16, X-9, Q-2, Q-28,
//
func TestSubscriptionDocumentsOfTheAPI(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hubs := []*servertest.Hub{servertest.Start(t, database, withPresence), servertest.Start(t, database, withPresence)}
	observer := observe(t, hubs[1])
	listening := subscriberOf(t, send(t, "GET", hubs[0].URL+"/subscriptions", "", bearer(omniscient(t))).body)
	hubs[0].Subscribe(t, servertest.Request{
		Token: subscriberToken(t, server.TokenSpec{Dialect: server.Dialect0}, `{"team":"ops"}`),
		Query: url.Values{"match_urlpattern": {"https://shop.example/orders/:id"}, "topic": {"https://shop.example/orders/{id}"}},
	})
	subscriber := subscriberOf(t, observer.Next(t).Data)
	observer.Next(t)
	cursor := newestID(t, database)

	const (
		pattern  = "/urlpattern/https%3A%2F%2Fshop.example%2Forders%2F%3Aid"
		selector = "/https%3A%2F%2Fshop.example%2Forders%2F%7Bid%7D"
	)
	encode := func(s string) string { return strings.ReplaceAll(s, ":", "%3A") }
	own := `{"id":"` + subscriptionsPath + `/urlpattern/%2F.well-known%2Fmercure%2Fsubscriptions%2F%2A/` + encode(listening) +
		`","type":"subscription","match_type":"urlpattern","match":"` + subscriptionsPath + `/*","subscriber":"` + listening + `","active":true}`
	matched := `{"id":"` + subscriptionsPath + pattern + `/` + encode(subscriber) +
		`","type":"subscription","match_type":"urlpattern","match":"https://shop.example/orders/:id","subscriber":"` + subscriber + `","active":true,"payload":{"team":"ops"}}`
	const context = `{"@context":"https://mercure.rocks/",`
	selected := context + `"id":"` + subscriptionsPath + selector + `/` + encode(subscriber) +
		`","type":"Subscription","topic":"https://shop.example/orders/{id}","subscriber":"` + subscriber + `","active":true,"payload":{"team":"ops"}`
	list1 := func(path, documents string) string {
		return `{"id":"` + subscriptionsPath + path + `","type":"subscriptions","subscriptions":[` + documents + `]}`
	}
	list0 := func(path, documents string) string {
		return context + `"id":"` + subscriptionsPath + path + `","type":"Subscriptions","lastEventID":"` + cursor + `","subscriptions":[` + documents + `]}`
	}
	modern, legacy := omniscient(t), servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"})
	for _, test := range []struct{ name, token, path, other, want string }{
		{"all", modern, "", list1("", matched+","+own), list1("", own+","+matched)},
		{"of a pattern", modern, pattern, list1(pattern, matched), ""},
		{"of a pattern, spelled otherwise", modern, "/url%70attern/https:%2f%2fshop.example%2Forders%2f:id", list1(pattern, matched), ""},
		{"single", modern, pattern + "/" + encode(subscriber), matched, ""},
		{"single, spelled otherwise", modern, pattern + "/" + subscriber, matched, ""},
		{"of nobody", modern, "/exact/nobody", list1("/exact/nobody", ""), ""},
		{"of an unknown type", modern, "/regexp/x", list1("/regexp/x", ""), ""},
		{"0.x, all", legacy, "", list0("", selected+"}"), ""},
		{"0.x, of a selector", legacy, selector, list0(selector, selected+"}"), ""},
		{"0.x, of nobody", legacy, "/nobody", list0("/nobody", ""), ""},
		{"0.x, single", legacy, selector + "/" + encode(subscriber), selected + `,"lastEventID":"` + cursor + `"}`, ""},
	} {
		for i, hub := range hubs {
			a := send(t, "GET", hub.URL+"/subscriptions"+test.path, "", bearer(test.token))
			// The order of a list means nothing.
			if a.status != 200 || a.body != test.other && a.body != test.want {
				t.Errorf("%s: node %d answers %d\n%s\nwant\n%s", test.name, i, a.status, a.body, test.other)
			}
			want := map[string]string{
				"Content-Type":  "application/json",
				"Link":          `<` + publicURL + `>; rel="mercure"; last-event-id="` + cursor + `"; type="mercure"; content-type="application/json"`,
				"Etag":          `"` + cursor + `"`,
				"Cache-Control": "private, must-revalidate",
				"Vary":          "Authorization, Cookie, Origin",
			}
			if test.token == legacy {
				want["Content-Type"] = "application/ld+json"
				want["Link"] = `<` + publicURL + `>; rel="mercure"; last-event-id="` + cursor + `"`
			}
			got := map[string]string{}
			for name := range want {
				got[name] = strings.Join(a.header.Values(name), " and ")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.name, diff)
			}
			head := send(t, "HEAD", hub.URL+"/subscriptions"+test.path, "", bearer(test.token))
			unchanged := send(t, "GET", hub.URL+"/subscriptions"+test.path, "", bearer(test.token), "If-None-Match: W/"+got["Etag"])
			if head.status != 200 || unchanged.status != 304 || unchanged.body != "" {
				t.Errorf("%s: HEAD is answered %d, If-None-Match %d %q", test.name, head.status, unchanged.status, unchanged.body)
			}
			for name := range want {
				h, u := head.header.Get(name), unchanged.header.Get(name)
				if h != want[name] || u != want[name] && name != "Content-Type" { // of nothing
					t.Errorf("%s: %s is %q for HEAD and %q for If-None-Match, want %q", test.name, name, h, u, want[name])
				}
			}
			if a := send(t, "GET", hub.URL+"/subscriptions"+test.path, "", bearer(test.token), "If-None-Match: another"); a.status != 200 {
				t.Errorf("%s: with another tag answered %d", test.name, a.status)
			}
		}
	}
}

// Spec: E-5 to E-9, E-11, R-10, R-11, R-12, R-14, R-22, X-9, Z-12, A-10, Q-44.
func TestWhoMayListSubscriptions(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), withPresence)
	observer := observe(t, hub)
	hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a b"}, "topic": {"a b"}}})
	subscriber := strings.ReplaceAll(subscriberOf(t, observer.Next(t).Data), ":", "%3A")
	observer.Next(t)
	const (
		metadata = `resource_metadata="https://hub.example.com` + metadataPath + `"`
		noToken  = `Bearer ` + metadata
		invalid  = `Bearer error="invalid_token", ` + metadata
		request  = `Bearer error="invalid_request", ` + metadata
		scope    = `Bearer error="insufficient_scope", ` + metadata
	)
	token := func(dialect server.TokenSpec, match, matchType string) []string {
		if match != "" {
			dialect.Subscribe = []server.MatcherSpec{{Match: match, Type: matchType}}
		}
		return []string{bearer(subscriberToken(t, dialect, ""))}
	}
	one, zero := server.TokenSpec{Dialect: server.Dialect1}, server.TokenSpec{Dialect: server.Dialect0}
	const root = subscriptionsPath
	for name, test := range map[string]struct {
		method, path string
		fields       []string
		status       int
		challenge    string
	}{
		"no token":               {"GET", "", nil, 401, noToken},
		"no token, HEAD":         {"HEAD", "/exact/a%20b", nil, 401, noToken},
		"a bad token":            {"GET", "", []string{bearer("a.b.c")}, 401, invalid},
		"a publisher's token":    {"GET", "", []string{bearer(servertest.PublisherToken(t))}, 401, invalid},
		"no bearer":              {"GET", "", []string{"Authorization: Basic eA=="}, 400, request},
		"no grant":               {"GET", "", token(one, "", ""), 403, scope},
		"no grant, 0.x":          {"GET", "", token(zero, "", ""), 403, scope},
		"a cookie":               {"GET", "", []string{cookies(tokenCookie, omniscient(t))}, 200, ""},
		"everything":             {"GET", "", token(one, "*", ""), 200, ""},
		"the collection":         {"GET", "", token(one, root, ""), 200, ""},
		"with a query":           {"GET", "?x=y", token(one, root, ""), 200, ""},
		"the hub":                {"GET", "", token(one, "/.well-known/mercure", ""), 403, scope},
		"an absolute grant":      {"GET", "", token(one, "https://hub.example.com"+root, ""), 403, scope},
		"an absolute pattern":    {"GET", "", token(one, "https://hub.example.com"+root, "urlpattern"), 200, ""},
		"only the collection":    {"GET", "/exact/a%20b", token(one, root, ""), 403, scope},
		"a matcher":              {"GET", "/exact/a%20b", token(one, root+"/exact/a%20b", ""), 200, ""},
		"a matcher, respelled":   {"GET", "/%65xact/a%20%62", token(one, root+"/exact/a%20b", ""), 200, ""},
		"another matcher":        {"GET", "/exact/b", token(one, root+"/exact/a%20b", ""), 403, scope},
		"only the matcher":       {"GET", "/exact/a%20b/" + subscriber, token(one, root+"/exact/a%20b", ""), 403, scope},
		"the subtree":            {"GET", "/exact/a%20b", token(one, root+"/*", "urlpattern"), 200, ""},
		"the subtree, single":    {"GET", "/exact/a%20b/" + subscriber, token(one, root+"/*", "urlpattern"), 200, ""},
		"not the collection":     {"GET", "", token(one, root+"/*", "urlpattern"), 403, scope},
		"three segments":         {"GET", "/exact/a%20b/" + subscriber, token(one, root+"/:t/:m/:s", "urlpattern"), 200, ""},
		"an unknown one":         {"GET", "/exact/a%20b/x", token(one, "*", ""), 404, ""},
		"unknown and no grant":   {"GET", "/exact/a%20b/x", token(one, "a", ""), 403, scope},
		"of another dialect":     {"GET", "/a%20b/" + subscriber, token(one, "*", ""), 200, ""}, // an unknown type
		"0.x, another dialect":   {"GET", "/exact/a%20b/" + subscriber, token(zero, "*", ""), 404, ""},
		"0.x, collection":        {"GET", "/a%20b", token(zero, root+"/{topic}", ""), 200, ""},
		"0.x, single":            {"GET", "/a%20b/" + subscriber, token(zero, root+"/{topic}/{subscriber}", ""), 200, ""},
		"0.x, two at once":       {"GET", "", token(zero, root+"{/topic}{/subscriber}", ""), 200, ""},
		"0.x, too little":        {"GET", "/a%20b/" + subscriber, token(zero, root+"/{topic}", ""), 403, scope},
		"0.x, URL":               {"GET", "?authorization=" + servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"}), nil, 200, ""},
		"0.x, a cookie":          {"GET", "", []string{cookies(oldCookie, servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"}))}, 200, ""},
		"a cookie, other page":   {"GET", "", []string{cookies(tokenCookie, omniscient(t)), "Origin: https://evil.example"}, 200, ""}, // safe: A-7
		"a bad cookie":           {"GET", "", []string{cookies(tokenCookie, "x")}, 401, invalid},
		"header before cookie":   {"GET", "", append(token(one, "a", ""), cookies(tokenCookie, omniscient(t))), 403, scope},
		"1.0, URL":               {"GET", "?authorization=" + omniscient(t), nil, 400, request},
		"a trailing slash":       {"GET", "/exact/a%20b/", token(one, "*", ""), 404, ""},
		"no token, trailing /":   {"GET", "/exact/a%20b/", nil, 401, noToken},
		"no token, unknown":      {"GET", "/exact/a%20b/x", nil, 401, noToken},
		"no such path":           {"GET", "/a/b/c/d", token(one, "*", ""), 404, ""},
		"no such path, no grant": {"GET", "/a/b/c/d", token(one, "a", ""), 403, scope},
		"if there is any":        {"GET", "", append(token(one, "*", ""), "If-None-Match: *"), 304, ""},
		"unknown, if there is":   {"GET", "/exact/x/x", append(token(one, "*", ""), "If-None-Match: *"), 404, ""},
		"no grant, if there is":  {"GET", "", append(token(one, "a", ""), "If-None-Match: *"), 403, scope},
		"another method":         {"POST", "", token(one, "*", ""), 405, ""},
		"another method, deeper": {"DELETE", "/exact/a%20b/" + subscriber, token(one, "*", ""), 405, ""},
		"OPTIONS":                {"OPTIONS", "/exact/a%20b", nil, 204, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := send(t, test.method, hub.URL+"/subscriptions"+test.path, "", test.fields...)
			if a.status != test.status || a.header.Get("WWW-Authenticate") != test.challenge {
				t.Errorf("answered %d %q, want %d %q: %s", a.status, a.header.Get("WWW-Authenticate"), test.status, test.challenge, a.body)
			}
			if a.status >= 400 && (a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("ETag") != "") {
				t.Errorf("not a problem document: %v", a.header)
			}
			if allow := a.header.Get("Allow"); (a.status == 405 || a.status == 204) && allow != "GET, HEAD, OPTIONS" {
				t.Errorf("Allow is %q", allow)
			}
		})
	}
}

// The cursor is read before the list: what happens in between comes again in
// the events. Spec: R-17.
func TestCursorIsReadBeforeTheList(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hub := servertest.Start(t, database, withPresence)
	before := hub.Publish(t, url.Values{"topic": {"a"}})
	token := bearer(omniscient(t))
	blocker := database.Conn(t)
	for _, path := range []string{"", "/exact/a"} {
		statement(t, blocker, "BEGIN; LOCK TABLE mercure.subscriptions IN ACCESS EXCLUSIVE MODE")
		listed := make(chan answer, 1)
		go func() { // ends when it is answered
			defer close(listed)
			listed <- send(t, "GET", hub.URL+"/subscriptions"+path, "", token)
		}()
		awaitBlocked(t, database, "mercure.subscriptions")
		after := hub.Publish(t, url.Values{"topic": {"a"}})
		statement(t, blocker, "COMMIT")
		if a := <-listed; a.header.Get("Etag") != `"`+before+`"` {
			t.Errorf("%q: the tag is %s, want that of %s, not of %s", path, a.header.Get("Etag"), before, after)
		}
		before = after
	}
}

// All of a list is one answer, however it is read from the database, and is not
// compressed. Spec: R-15.
func TestLongListOfSubscriptions(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), withPresence)
	observer := observe(t, hub)
	want := map[string]bool{}
	for stream := range 11 { // a page of the database is shorter
		query := url.Values{}
		for i := range 100 {
			topic := fmt.Sprintf("%d/%d", stream, i)
			query.Add("match", topic)
			want[topic] = true
		}
		hub.Subscribe(t, servertest.Request{Query: query})
	}
	for range want {
		observer.Next(t)
	}
	observer.Close()
	a := send(t, "GET", hub.URL+"/subscriptions", "", bearer(omniscient(t)), "Accept-Encoding: gzip")
	var list struct{ Subscriptions []struct{ Match string } }
	if err := json.Unmarshal([]byte(a.body), &list); err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Subscriptions {
		if !want[s.Match] && !strings.Contains(s.Match, subscriptionsPath) {
			t.Errorf("%s is listed twice, or was never subscribed to", s.Match)
		}
		delete(want, s.Match)
	}
	if len(want) > 0 {
		t.Errorf("%d are missing", len(want))
	}
	if links := a.header.Values("Link"); len(links) != 1 || strings.Contains(links[0], "next") || a.header.Get("Content-Encoding") != "" {
		t.Errorf("Link %q, Content-Encoding %q", links, a.header.Get("Content-Encoding"))
	}
}

// An ended subscription is gone from lists. Who asks for it learns from where on
// to wait for it. Spec.
func TestEndedSubscriptions(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), withPresence)
	observer := observe(t, hub)
	token := bearer(omniscient(t))
	stream := hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a"}}})
	subscriber := subscriberOf(t, observer.Next(t).Data)
	single := hub.URL + "/subscriptions/exact/a/" + subscriber
	if a := send(t, "GET", single, "", token); a.status != 200 {
		t.Errorf("answered %d while it lives", a.status)
	}
	stream.Close()
	observer.Next(t)
	if a := send(t, "GET", single, "", token); a.status != 404 || linkCursor.FindString(a.header.Get("Link")) == "" {
		t.Errorf("answered %d with Link %q when it has ended", a.status, a.header.Get("Link"))
	}
	if a := send(t, "GET", hub.URL+"/subscriptions", "", token); a.status != 200 || strings.Contains(a.body, subscriber) {
		t.Errorf("the list is answered %d %s", a.status, a.body)
	}
}

var linkCursor = regexp.MustCompile(`^<[^>]*>; rel="mercure"; last-event-id="([^"]*)"`)

// follow is a client that knows who is there: first from a list, then from the
// events behind it. Spec: R-20.
type follow struct {
	present map[string]bool
	stream  *servertest.Stream
}

func (f *follow) apply(t *testing.T, document string) {
	t.Helper()
	var d struct {
		ID     string
		Active bool
	}
	if err := json.Unmarshal([]byte(document), &d); err != nil {
		t.Fatal(err)
	}
	if delete(f.present, d.ID); d.Active {
		f.present[d.ID] = true
	}
}

// Who reads the list, and then the events from its cursor, knows who is there,
// whatever happens in between, on whichever node. Spec.
func TestFollowingSubscriptions(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	hubs := []*servertest.Hub{servertest.Start(t, database, withPresence), servertest.Start(t, database, withPresence)}
	legacy := servertest.Token(t, servertest.SubscriberSecret, nil, []string{"*"})
	visit := func(i int) *servertest.Stream {
		return hubs[i%2].Subscribe(t, servertest.Request{Query: url.Values{"match": {"room"}, "topic": {"room"}}})
	}
	for _, dialect := range []struct{ name, token, path, matcher, pattern, cursor string }{
		{"1.0", omniscient(t), "/exact/room", "match_urlpattern", "/exact/room/:subscriber", "last_event_id"},
		{"0.x", legacy, "/room", "topic", "/room/{subscriber}", "lastEventID"},
	} {
		var visitors []*servertest.Stream
		for i := range 6 {
			visitors = append(visitors, visit(i))
		}
		for i, hub := range hubs {
			visitors[i].Close() // perhaps before the list is read, perhaps after
			a := send(t, "GET", hub.URL+"/subscriptions"+dialect.path, "", bearer(dialect.token))
			var list struct {
				Subscriptions []json.RawMessage
				LastEventID   string
			}
			if err := json.Unmarshal([]byte(a.body), &list); err != nil {
				t.Fatal(err)
			}
			cursor := linkCursor.FindStringSubmatch(a.header.Get("Link"))
			if cursor == nil || dialect.name == "0.x" && list.LastEventID != cursor[1] {
				t.Fatalf("Link is %q, lastEventID %q", a.header.Get("Link"), list.LastEventID)
			}
			f := follow{present: map[string]bool{}}
			for _, document := range list.Subscriptions {
				f.apply(t, string(document))
			}
			visitors[2+i].Close()
			visitors = append(visitors, visit(i))
			f.stream = hub.Subscribe(t, servertest.Request{Token: dialect.token, Query: url.Values{
				dialect.matcher: {subscriptionsPath + dialect.pattern}, dialect.cursor: {cursor[1]}, "match": {"marker"},
			}})
			if got := f.stream.Header.Get("Mercure-Last-Event-ID"); got != cursor[1] {
				t.Errorf("the cursor %q was not found: %q", cursor[1], got)
			}
			// All that is to be there in the end: 2 left before, 1 came.
			want := 6 + 1 - 2
			if i == 1 {
				want = 6 + 2 - 4
			}
			for len(f.present) != want {
				f.apply(t, f.stream.Next(t).Data)
			}
			hub.Publish(t, url.Values{"topic": {"marker"}, "data": {`{"id":"marker"}`}})
			for event := f.stream.Next(t); event.Data != `{"id":"marker"}`; event = f.stream.Next(t) {
				f.apply(t, event.Data)
			}
			actual := map[string]bool{}
			for _, id := range present(t, hubs[1-i].URL+"/subscriptions"+dialect.path, dialect.token) {
				actual[id] = true
			}
			if diff := cmp.Diff(slices.Sorted(maps.Keys(actual)), slices.Sorted(maps.Keys(f.present))); diff != "" {
				t.Errorf("%s, node %d (-list of the other +followed):\n%s", dialect.name, i, diff)
			}
			f.stream.Close()
		}
		for _, v := range visitors {
			v.Close()
		}
	}
}

// present lists ids.
func present(t *testing.T, address, token string) (ids []string) {
	t.Helper()
	var list struct{ Subscriptions []struct{ ID string } }
	if err := json.Unmarshal([]byte(send(t, "GET", address, "", bearer(token)).body), &list); err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Subscriptions {
		ids = append(ids, s.ID)
	}
	return ids
}

// Topics and paths follow the hub URL, and nobody else can publish there.
// Spec: E-19, R-5, R-10, N-2.
func TestSubscriptionsAtAnyURL(t *testing.T) {
	t.Parallel()
	for address, test := range map[string]struct{ path, spelled string }{
		"https://shop.example/push/hub":   {"/push/hub", "/push/%68ub"},
		"https://shop.example/a/%7Eb":     {"/a/%7Eb", "/a/~b"},
		"https://shop.example/caf%C3%A9*": {"/caf%C3%A9*", "/caf\u00E9*"},
		"https://shop.example:444/hub/":   {"/hub/", "/hub/"},
		"https://shop.example/x%2Fy//hub": {"/x%2Fy//hub", "/x%2F%79//hub"},
	} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { c.PublicURL, c.Subscriptions = address, true })
			root := test.path + "/subscriptions"
			token := servertest.Token(t, servertest.SubscriberSecret, nil, []string{root + "/exact/{match}/{subscriber}", root + "/exact/{match}"})
			list := func(path string) answer {
				return send(t, "GET", strings.TrimSuffix(hub.URL, test.path)+path+"/subscriptions/exact/a", "", bearer(token))
			}
			observer := hub.Subscribe(t, servertest.Request{Token: token, Query: url.Values{"topic": {root + "/exact/{match}/{subscriber}"}}})
			hub.Subscribe(t, servertest.Request{Query: url.Values{"match": {"a"}}})
			document := observer.Next(t).Data
			topic := root + "/exact/a/" + strings.ReplaceAll(subscriberOf(t, document), ":", "%3A")
			if !strings.HasPrefix(document, `{"id":"`+topic+`",`) {
				t.Errorf("the document is %s, want id %s", document, topic)
			}
			// For 0.x that is a single subscription, which there is none of.
			for _, path := range []string{test.path, test.spelled} {
				if a := list(path); a.status != http.StatusNotFound || a.header.Get("WWW-Authenticate") != "" {
					t.Errorf("%s is answered %d %s", path, a.status, a.body)
				}
			}
			if a := list("/.well-known/mercure"); a.status != http.StatusNotFound || !strings.Contains(a.body, "nothing at this address") {
				t.Errorf("the default path is answered %d %s", a.status, a.body)
			}
			if status, _ := hub.Post(t, servertest.PublisherToken(t), url.Values{"topic": {topic}}.Encode()); status != http.StatusBadRequest {
				t.Errorf("publishing under %s is answered %d", topic, status)
			}
		})
	}
}

// Where others could publish under the path of the hub, they could pretend that
// somebody is there.
func TestSubscriptionsNeedANamespace(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"https://shop.example/", "https://shop.example//hub"} {
		config := server.DefaultConfig()
		config.DatabaseURL, config.Anonymous, config.PublicURL, config.Subscriptions = "postgres://127.0.0.1:1/db", true, address, true
		if _, err := server.New(config); err == nil || !strings.Contains(err.Error(), "MERCURE_SUBSCRIPTIONS: cannot be on") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// Pages of other origins learn of the feature, and may read all of an answer.
// Spec: I-1, R-19, C-3, C-5.
func TestSubscriptionsForPages(t *testing.T) {
	t.Parallel()
	hub := servertest.Start(t, dbtest.New(t), func(c *server.Config) { withPresence(c); c.CORSAllowedOrigins = appOrigin })
	root := strings.TrimSuffix(hub.URL, "/.well-known/mercure")
	if a := send(t, "GET", root+metadataPath, ""); !strings.Contains(a.body, `"mercure_subscriptions":true`) {
		t.Errorf("the metadata is %s", a.body)
	}
	without := servertest.Start(t, dbtest.New(t), pinned)
	if a := send(t, "GET", strings.TrimSuffix(without.URL, "/.well-known/mercure")+metadataPath, ""); a.status != 200 || strings.Contains(a.body, "mercure_subscriptions") {
		t.Errorf("without the feature the metadata is %s", a.body)
	}
	origin := "Origin: " + appOrigin
	for status, fields := range map[int][]string{
		200: {bearer(omniscient(t)), origin}, 401: {origin}, 403: {bearer(token1(t, servertest.SubscriberSecret, publicURL, "a", inAnHour())), origin},
		304: {bearer(omniscient(t)), origin, "If-None-Match: *"},
	} {
		a := send(t, "GET", hub.URL+"/subscriptions", "", fields...)
		exposed := strings.Split(a.header.Get("Access-Control-Expose-Headers"), ", ")
		if a.status != status || a.header.Get("Access-Control-Allow-Origin") != appOrigin || !slices.Contains(exposed, "Link") || !slices.Contains(exposed, "Etag") {
			t.Errorf("answered %d %v", a.status, a.header)
		}
		if !slices.ContainsFunc(a.header.Values("Vary"), func(v string) bool { return strings.Contains(v, "Origin") }) {
			t.Errorf("Vary is %q", a.header.Values("Vary"))
		}
	}
	a := send(t, "OPTIONS", hub.URL+"/subscriptions/exact/a", "", origin, "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization,if-none-match")
	if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != appOrigin || !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "if-none-match") {
		t.Errorf("the preflight is answered %d %v", a.status, a.header)
	}
}
