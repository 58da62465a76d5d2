// Package protocol holds the Mercure protocol as pure functions and immutable
// values: topics, matchers, publish and subscribe requests, and the bytes of
// event-stream blocks. It does no I/O, reads no clock and keeps no state, so
// every rule in it can be tested by a table.
//
// Promises:
//   - Topics, ids and matcher values are compared as bytes; nothing is
//     normalized before it is stored or compared (TP-6).
//   - Matching is linear in the length of its input (M-11).
//   - Everything returned is safe for concurrent use once constructed.
package protocol

// Position is an update's place in the log: one total order for the whole hub.
// It never leaves the hub. Zero means "before the first update".
type Position int64

// EventID is the public id of an update, as publishers choose it or the hub
// generates it. It need not be unique (P-8, P-14).
type EventID string

// Earliest is the cursor that asks for everything retained, and the value of
// the response field when no event precedes the first one sent (H-4, H-6).
const Earliest EventID = "earliest"

// Update is one published message. It is immutable once
// published: receivers share it.
type Update struct {
	// ID is never empty once the update is in the log.
	ID EventID
	// Topics holds at least one topic; the first is the canonical one.
	Topics []string
	// Data is opaque UTF-8 text, possibly empty.
	Data string
	// Private updates only reach subscribers with a grant (section 9).
	Private bool
	// Type is the SSE event type; empty means none.
	Type string
	// Retry is the reconnection delay in milliseconds; nil means none.
	Retry *int64
}

// Entry is an update with its place in the log. Immutable and shared.
type Entry struct {
	Position Position
	Update   *Update
	// IDReused says that an older update in the log may have the same id, so
	// that only the log can say which occurrence is the earliest.
	IDReused bool
}
