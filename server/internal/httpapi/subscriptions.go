package httpapi

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// subscriptionRoutes serves the subscription API. The routes are there only if
// the feature is on.
//
// Spec: E-5 to E-9, E-17, R-9.
func (a *api) subscriptionRoutes(r chi.Router) {
	root := a.Hub.Path + protocol.SubscriptionsSegment
	for _, path := range []string{root, root + "/*"} {
		r.Method(http.MethodGet, path, a.handle(a.subscriptions))
		r.Method(http.MethodHead, path, a.handle(a.subscriptions))
		r.Method(http.MethodOptions, path, http.HandlerFunc(subscriptionOptions))
	}
}

func subscriptionOptions(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Allow", "GET, HEAD, OPTIONS")
	w.WriteHeader(http.StatusNoContent)
}

// subscriptions answers GET and HEAD on the paths of subscriptions. The order of
// its checks is R-12. A list counts as a stream while it is sent (S-13).
func (a *api) subscriptions(w http.ResponseWriter, r *http.Request) error {
	hub, grants, err := a.authenticate(r, auth.Subscriber)
	if err != nil {
		return err
	}
	if grants == nil {
		return &auth.Error{Kind: auth.NoCredential, Reason: "subscriptions asked for without a token"}
	}
	segments, err := pathSegments(strings.TrimPrefix(r.URL.Path, a.Hub.Path+protocol.SubscriptionsSegment))
	if err != nil {
		return err
	}
	path := protocol.SubscriptionPath(hub, segments...)
	// Spec: R-10, Z-12.
	if !grants.MayReceive(protocol.NewTopics([]string{path})) {
		return &auth.Error{
			Kind: auth.InsufficientScope, Reason: "the token does not grant subscribing to " + shortened(path) + ", the path asked for",
		}
	}
	target, ok := targetOf(grants.Dialect, path, len(segments))
	if !ok {
		return errNotFound
	}
	// Who reads slowly keeps a connection, and a page of the list, for long.
	release, full := a.capacity.take(a.hubs.clientAddress(r))
	if full != nil {
		return full
	}
	defer release()
	ctx := r.Context()
	if !grants.Expires.IsZero() {
		// Nor does it see who comes after its token has expired.
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, grants.Expires)
		defer cancel()
	}
	l := &listing{w: w, request: r, control: http.NewResponseController(w), logger: a.Logger, hub: hub, target: target}
	return l.serve(ctx, a.Presence)
}

// pathSegments decodes what follows the root of the subscriptions in a path.
//
// Spec: R-11.
func pathSegments(rest string) ([]string, error) {
	if rest == "" {
		return nil, nil
	}
	segments := strings.Split(rest[1:], "/")
	for i, segment := range segments {
		decoded, err := url.PathUnescape(segment)
		if err != nil {
			return nil, &problem{status: http.StatusBadRequest, detail: "The path has a % that is not followed by two hexadecimal digits."}
		}
		if decoded == "" {
			return nil, errNotFound
		}
		segments[i] = decoded
	}
	return segments, nil
}

// target is what a path means.
type target struct {
	filter protocol.SubscriptionFilter
	path   string
	single bool
}

// targetOf goes by the dialect of the token: a path with two segments is a
// collection of 1.0 and a subscription of 0.x.
//
// Spec: E-16, X-9, Q-2.
func targetOf(dialect auth.Dialect, path string, segments int) (target, bool) {
	t := target{path: path, filter: protocol.SubscriptionFilter{Selector: dialect == auth.Dialect0}}
	collection, single := 2, 3 // segments: type, matcher, subscriber
	if t.filter.Selector {
		collection, single = 1, 2
	}
	switch segments {
	case 0:
	case collection:
		t.filter.Collection = path
	case single:
		t.filter.Topic, t.single = path, true
	default:
		return t, false
	}
	return t, true
}

// listing is the answer to one request. Documents are passed on as they come
// from the database.
type listing struct {
	w       http.ResponseWriter
	request *http.Request
	control *http.ResponseController
	logger  *slog.Logger
	hub     *protocol.HubURL
	target  target

	cursor protocol.EventID
	// out is there once a body has been begun.
	out *bufio.Writer
	// documents is the number of those seen.
	documents int
	// answered: there is nothing left to send.
	answered bool
}

// errAnswered ends a list that nobody needs the rest of.
var errAnswered = errors.New("answered")

func (l *listing) serve(ctx context.Context, presence Presence) error {
	err := presence.List(ctx, l.target.filter, l.begin, l.document)
	switch {
	case l.answered:
		return nil
	case err != nil && l.out != nil:
		// Half a list must not look like a whole one.
		l.logger.Debug("list of subscriptions cut off", "reason", err, "documents", l.documents, "remote", l.request.RemoteAddr)
		panic(http.ErrAbortHandler)
	case err != nil:
		return unavailable(err, "The hub cannot list subscriptions now; try again later.")
	case l.target.single:
		l.w.Header().Set("Link", l.link()) // to hear of it when it begins
		return errNotFound                 // Spec
	}
	_, _ = l.out.WriteString("]}")
	_ = l.out.Flush()
	return nil
}

// begin starts a collection. Of a single subscription it is not known yet
// whether it exists.
func (l *listing) begin(cursor protocol.EventID) error {
	l.cursor = cursor
	if l.target.single {
		return nil
	}
	if err := l.start(); err != nil {
		return err
	}
	id, cursorText := encodeString(l.target.path), encodeString(string(cursor))
	head := `{"id":` + id + `,"type":"subscriptions","subscriptions":[`
	if l.target.filter.Selector {
		head = `{"@context":"` + protocol.JSONLDContext + `","id":` + id +
			`,"type":"Subscriptions","lastEventID":` + cursorText + `,"subscriptions":[`
	}
	_, err := l.out.WriteString(head)
	return err
}

// start sends the fields. errAnswered: there is no need of a body.
func (l *listing) start() error {
	tag := entityTag(l.cursor)
	l.fields(tag)
	status := http.StatusOK
	if matchesTag(l.request.Header.Values("If-None-Match"), tag) {
		status = http.StatusNotModified // Spec: Q-44
	}
	_ = l.control.SetWriteDeadline(time.Now().Add(answerTimeout))
	l.w.WriteHeader(status)
	if status == http.StatusNotModified || l.request.Method == http.MethodHead {
		l.answered = true
		return errAnswered
	}
	l.out = bufio.NewWriterSize(l, 32<<10)
	return nil
}

// document passes one on.
//
// Spec: R-13.
func (l *listing) document(text string) error {
	l.documents++
	if l.target.single {
		return l.one(text)
	}
	if l.documents > 1 {
		_ = l.out.WriteByte(',')
	}
	_, err := l.out.WriteString(text)
	return err
}

func (l *listing) one(text string) error {
	if err := l.start(); err != nil {
		return err
	}
	if l.target.filter.Selector {
		text = strings.TrimSuffix(text, "}") + `,"lastEventID":` + encodeString(string(l.cursor)) + "}"
	}
	_, _ = l.out.WriteString(text)
	_ = l.out.Flush()
	l.answered = true
	return errAnswered
}

// Write implements io.Writer for what is buffered: the client has a while for
// each part.
func (l *listing) Write(b []byte) (int, error) {
	_ = l.control.SetWriteDeadline(time.Now().Add(answerTimeout))
	return l.w.Write(b)
}

// fields are those of every answer that is no error.
//
// Spec.
func (l *listing) fields(tag string) {
	h := l.w.Header()
	h.Set("Content-Type", "application/json")
	if l.target.filter.Selector {
		h.Set("Content-Type", "application/ld+json")
	}
	h.Set("Link", l.link())
	h.Set("ETag", `"`+tag+`"`)
	h.Set("Cache-Control", "private, must-revalidate")
	h.Set("Vary", "Authorization, Cookie, Origin")
}

// link says where and from where on the events are. Clients find rel directly
// behind the target.
//
// Spec.
func (l *listing) link() string {
	link := "<" + l.hub.String() + `>; rel="mercure"; last-event-id="` + quotedText.Replace(string(l.cursor)) + `"`
	if !l.target.filter.Selector {
		link += `; type="mercure"; content-type="application/json"`
	}
	return link
}

// quotedText escapes text for a quoted-string.
var quotedText = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// entityTag makes an opaque tag of a cursor.
//
// Spec: R-18.
func entityTag(cursor protocol.EventID) string {
	const hex = "0123456789ABCDEF"
	var tag strings.Builder
	for i := range len(cursor) {
		if c := cursor[i]; c > ' ' && c < 0x7F && c != '"' {
			tag.WriteByte(c)
		} else {
			tag.Write([]byte{'%', hex[c>>4], hex[c&0xF]})
		}
	}
	return tag.String()
}

// matchesTag compares with the tags of If-None-Match fields, weak, strong or,
// as clients of 0.x send them, without quotes.
//
// Spec: R-18.
func matchesTag(fields []string, tag string) bool {
	return slices.ContainsFunc(fields, func(list string) bool {
		if strings.Trim(list, " \t") == tag {
			return true // without quotes and with commas
		}
		for list = strings.TrimLeft(list, " \t,"); list != ""; list = strings.TrimLeft(list, " \t,") {
			var found string
			list = strings.TrimPrefix(list, "W/")
			if unquoted, quoted := strings.CutPrefix(list, `"`); quoted {
				found, list, _ = strings.Cut(unquoted, `"`)
			} else {
				found, list, _ = strings.Cut(list, ",")
				found = strings.TrimRight(found, " \t")
			}
			if found == tag || found == "*" {
				return true
			}
		}
		return false
	})
}
