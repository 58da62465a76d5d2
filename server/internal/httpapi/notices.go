package httpapi

import (
	"hash/maphash"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// legacyKind is a thing of 0.x that clients do.
type legacyKind uint8

const (
	legacyToken legacyKind = iota
	legacySelector
	legacyURLToken
	legacyCookie
	legacyLastEventID014
	legacyLastEventID013
	legacyKinds
)

func (k legacyKind) String() string {
	return [legacyKinds]string{
		"0.x token", "topic parameter", "authorization parameter", "0.x cookie", "lastEventID parameter", "Last-Event-ID parameter",
	}[k]
}

// notices are what operators are told about the requests of clients, each once
// or rarely, since clients repeat themselves.
type notices struct {
	seen [legacyKinds]atomic.Bool
	// targets and reusedIDs hold subjects of publishers.
	targets, reusedIDs reminders
	ids                recentIDs
}

// noteLegacy logs the first use of each thing of 0.x: when there is none any
// more, MERCURE_COMPAT can be turned off.
//
// Spec: X-10.
func (a *api) noteLegacy(r *http.Request, kind legacyKind) {
	if a.notices.seen[kind].Load() || a.notices.seen[kind].Swap(true) {
		return
	}
	a.Logger.Info("a client uses protocol 0.x; logged once for each kind of use",
		"kind", kind.String(), "user_agent", shortened(r.UserAgent()), "remote", r.RemoteAddr)
}

func (a *api) noteLegacyCredential(r *http.Request, grants *auth.Grants) {
	if grants == nil {
		return
	}
	if grants.Dialect == auth.Dialect0 {
		a.noteLegacy(r, legacyToken)
	}
	if a.notices.seen[legacyURLToken].Load() && a.notices.seen[legacyCookie].Load() {
		return
	}
	presented := a.Auth().Presented(r)
	if presented.InURL {
		a.noteLegacy(r, legacyURLToken)
	}
	if presented.LegacyCookie {
		a.noteLegacy(r, legacyCookie)
	}
}

func (a *api) noteLegacyParameters(r *http.Request, use protocol.LegacyUse) {
	if use.Selector {
		a.noteLegacy(r, legacySelector)
	}
	if use.LastEventID014 {
		a.noteLegacy(r, legacyLastEventID014)
	}
	if use.LastEventID013 {
		a.noteLegacy(r, legacyLastEventID013)
	}
}

// noteTarget warns of updates that were meant to be private and are not.
//
// Spec: Q-10.
func (a *api) noteTarget(r *http.Request, subject string) {
	if a.notices.targets.due(subject, time.Now()) {
		a.Logger.Warn("a publisher sends the field target without private, so its updates are public; "+
			"clients of before 0.10 meant private by it: update them, or set MERCURE_REFUSE_TARGET=on",
			"subject", shortened(subject), "user_agent", shortened(r.UserAgent()), "remote", r.RemoteAddr)
	}
}

// noteID warns of publishers that use an id again: resuming after it replays
// everything since its first use.
//
// Spec: H-10.
func (a *api) noteID(r *http.Request, subject string, id protocol.EventID) {
	if a.notices.ids.seen(id) && a.notices.reusedIDs.due(subject, time.Now()) {
		a.Logger.Warn("a publisher uses an event id again, so subscribers who resume after it get everything since its first use; "+
			"leave the field id out, or make it unique",
			"id", shortened(string(id)), "subject", shortened(subject), "user_agent", shortened(r.UserAgent()), "remote", r.RemoteAddr)
	}
}

// shortened bounds what a client can put into a line of the log.
func shortened(s string) string {
	const limit = 100
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}

// reminders says at most once an hour for each subject that it is time to. The
// zero value is ready.
type reminders struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	reminderInterval = time.Hour
	// maxReminders bounds the memory; subjects beyond it wait until it is
	// cleared, rather than fill the log.
	maxReminders = 1024
)

func (m *reminders) due(subject string, now time.Time) bool {
	subject = shortened(subject)
	m.mu.Lock()
	defer m.mu.Unlock()
	last, known := m.last[subject]
	if known && now.Sub(last) < reminderInterval {
		return false
	}
	if !known && len(m.last) >= maxReminders && !m.forgetOld(now) {
		return false
	}
	if m.last == nil {
		m.last = map[string]time.Time{}
	}
	m.last[subject] = now
	return true
}

// forgetOld makes room, if there is something to forget.
func (m *reminders) forgetOld(now time.Time) bool {
	for subject, last := range m.last {
		if now.Sub(last) >= reminderInterval {
			delete(m.last, subject)
		}
	}
	return len(m.last) < maxReminders
}

// recentIDs remembers the newest ids that publishers chose. Ids that are used
// again are used soon again: fixed strings, counters that restart. What lies
// further back only the log knows, and asking it would cost every publish.
type recentIDs struct {
	once   sync.Once
	seed   maphash.Seed
	mu     sync.Mutex
	known  map[uint64]struct{}
	ring   [recentIDCount]uint64
	next   int
	filled bool
}

const recentIDCount = 4096

// seen reports whether an id was there before, and remembers it.
func (m *recentIDs) seen(id protocol.EventID) bool {
	m.once.Do(func() { m.seed, m.known = maphash.MakeSeed(), map[uint64]struct{}{} })
	hash := maphash.String(m.seed, string(id))
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.known[hash]; known {
		return true
	}
	if m.filled {
		delete(m.known, m.ring[m.next])
	}
	m.known[hash], m.ring[m.next] = struct{}{}, hash
	if m.next++; m.next == len(m.ring) {
		m.next, m.filled = 0, true
	}
	return false
}
