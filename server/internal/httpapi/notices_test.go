package httpapi

import (
	"strconv"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Spec: Q-10. Once an hour for each subject, and no more subjects than fit.
func TestReminders(t *testing.T) {
	t.Parallel()
	var m reminders
	start := time.Now()
	for _, step := range []struct {
		subject string
		after   time.Duration
		due     bool
	}{
		{"a", 0, true},
		{"a", time.Minute, false},
		{"b", time.Minute, true},
		{"a", 59 * time.Minute, false},
		{"a", time.Hour, true},
		{"b", time.Hour, false},
	} {
		if got := m.due(step.subject, start.Add(step.after)); got != step.due {
			t.Errorf("%s after %s: %v", step.subject, step.after, got)
		}
	}
	given := 0
	for i := range 3 * maxReminders {
		if m.due(strconv.Itoa(i), start.Add(time.Hour)) {
			given++
		}
	}
	if given > maxReminders || len(m.last) > maxReminders {
		t.Errorf("%d given, %d remembered", given, len(m.last))
	}
	if !m.due("new", start.Add(3*time.Hour)) {
		t.Error("there is no room again after an hour")
	}
}

// Spec: H-10.
func TestRecentIDs(t *testing.T) {
	t.Parallel()
	var m recentIDs
	for i := range 3 * recentIDCount {
		id := protocol.EventID(strconv.Itoa(i))
		if m.seen(id) || !m.seen(id) {
			t.Fatalf("id %d", i)
		}
	}
	if len(m.known) != recentIDCount || m.seen("0") {
		t.Errorf("%d are remembered", len(m.known))
	}
}
