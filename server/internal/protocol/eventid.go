package protocol

import "github.com/google/uuid"

// NewEventID returns a fresh random id for an update published without one.
// It is the one function of this package whose result is not determined by its
// arguments. Version 4 because a time-ordered id would tell every subscriber
// when private updates were published: cursors disclose ids.
//
// Spec: P-12
func NewEventID() EventID {
	return EventID("urn:uuid:" + uuid.NewString())
}
