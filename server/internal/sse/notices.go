package sse

import (
	"encoding/json"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Gap asks for an event at the start of the stream that tells of a cursor that
// was not found. The zero value is none.
//
// Spec: S-27.
type Gap struct {
	// Event is the type of the event.
	Event string
	// Requested is the cursor that was not found.
	Requested protocol.EventID
}

// gap says where the stream starts instead. Its id is that place, so that a
// client that is cut off after it resumes from there.
func (s *session) gap() error {
	actual, _ := s.stream.Checkpoint(true)
	data, err := json.Marshal(struct {
		Requested protocol.EventID `json:"requested"`
		Actual    protocol.EventID `json:"actual"`
	}{s.options.Gap.Requested, actual})
	if err != nil {
		return err
	}
	return s.write(protocol.AppendBlock(nil, &protocol.Update{ID: actual, Type: s.options.Gap.Event, Data: string(data)}))
}

// expiryNotice is how long before the token expires its stream is warned; half
// of what remains if that is less.
const expiryNotice = 30 * time.Second

func (o *Options) warningAt(now time.Time) time.Time {
	if o.ExpiryEvent == "" || o.Expires.IsZero() {
		return time.Time{} // never
	}
	remaining := o.Expires.Sub(now)
	return now.Add(max(remaining-expiryNotice, remaining/2))
}

// warnOfExpiry has no id line: the client's cursor must not move.
func (s *session) warnOfExpiry() error {
	block := "event: " + s.options.ExpiryEvent + "\ndata: {\"expires\":\"" + s.options.Expires.UTC().Format(time.RFC3339) + "\"}\n\n"
	return s.write([]byte(block))
}
