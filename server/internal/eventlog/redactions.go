package eventlog

import (
	"context"
	"fmt"
	"slices"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// maxRedactions is how many are read at a time.
const maxRedactions = 1000

// redact takes what was emptied on request out of the memory of this node.
func (t *tail) redact(ctx context.Context) error {
	for {
		rows, err := t.queries.RedactionsAfter(ctx, t.redactions, maxRedactions)
		if err != nil {
			return fmt.Errorf("read the redactions: %w", err)
		}
		positions := make([]protocol.Position, len(rows))
		for i, row := range rows {
			positions[i] = protocol.Position(row.Position)
			if positions[i] > t.cursor {
				// This node's own batch may wait to be delivered from memory.
				if t.redactedAhead == nil {
					t.redactedAhead = map[protocol.Position]struct{}{}
				}
				t.redactedAhead[positions[i]] = struct{}{}
			}
		}
		if len(rows) > 0 {
			t.pages.forget()
			t.sink.Redact(positions)
			t.redactions = rows[len(rows)-1].Seq
		}
		if len(rows) < maxRedactions {
			return nil
		}
	}
}

// withoutRedacted empties those of the entries that were redacted before they
// were delivered.
func (t *tail) withoutRedacted(entries []protocol.Entry) []protocol.Entry {
	if len(t.redactedAhead) == 0 {
		return entries
	}
	entries = slices.Clone(entries)
	for i, e := range entries {
		if _, redacted := t.redactedAhead[e.Position]; redacted {
			entries[i].Update = &protocol.Update{ID: e.Update.ID, Private: e.Update.Private}
		}
	}
	last := entries[len(entries)-1].Position
	for position := range t.redactedAhead {
		if position <= last {
			delete(t.redactedAhead, position)
		}
	}
	return entries
}
