package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// PageAfter reads the next updates behind a position, up to and including
// another, in order: at most 1,000, and about 1 MiB of them. With topics given,
// only updates that have one of them; nil means all.
//
// It also returns the position up to which the page is complete, which the
// caller goes on from; that is upTo when nothing more lies in between.
// ErrBelowHorizon: updates right behind the position are no longer there.
func (l *Log) PageAfter(ctx context.Context, after, upTo protocol.Position, topics []string) ([]protocol.Entry, protocol.Position, error) {
	select {
	case l.reads <- struct{}{}:
		defer func() { <-l.reads }()
	case <-ctx.Done():
		return nil, after, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	page, err := l.readPage(ctx, after, upTo, topics)
	if err != nil {
		return nil, after, err
	}
	if after > 0 && page.horizon > after {
		return nil, after, ErrBelowHorizon
	}
	if page.full {
		return page.entries, page.entries[len(page.entries)-1].Position, nil
	}
	return page.entries, upTo, nil
}

// Find returns the position of the earliest update in the log with this id
// (H-4), false if there is none.
func (l *Log) Find(ctx context.Context, id protocol.EventID) (protocol.Position, bool, error) {
	if strings.IndexByte(string(id), 0) >= 0 {
		return 0, false, nil // no id contains NUL, and text cannot hold it
	}
	select {
	case l.reads <- struct{}{}:
		defer func() { <-l.reads }()
	case <-ctx.Done():
		return 0, false, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	position, err := l.queries.FirstPositionOfID(ctx, string(id))
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("look up an event id: %w", err)
	}
	return protocol.Position(position), true, nil
}

type page struct {
	entries []protocol.Entry
	bytes   int64
	horizon protocol.Position
	full    bool // more may follow
}

func (l *Log) readPage(ctx context.Context, after, upTo protocol.Position, topics []string) (page, error) {
	var p page
	if topics == nil {
		rows, err := l.queries.PageAfter(ctx, db.PageAfterParams{
			MaxBytes: maxPageBytes, AfterPosition: int64(after), UpToPosition: int64(upTo), MaxRows: maxPageRows,
		})
		if err != nil {
			return p, fmt.Errorf("read the log: %w", err)
		}
		for i := range rows {
			p.add(&rows[i])
		}
	} else {
		rows, err := l.queries.PageAfterByTopics(ctx, db.PageAfterByTopicsParams{
			MaxBytes: maxPageBytes, AfterPosition: int64(after), UpToPosition: int64(upTo), MaxRows: maxPageRows, Topics: topics,
		})
		if err != nil {
			return p, fmt.Errorf("read the log by topics: %w", err)
		}
		for i := range rows {
			p.add((*db.PageAfterRow)(&rows[i]))
		}
	}
	// The row that crosses the byte limit is the last one of its page.
	p.full = len(p.entries) == maxPageRows || p.bytes >= maxPageBytes
	return p, nil
}

func (p *page) add(row *db.PageAfterRow) {
	p.entries = append(p.entries, entryOf(row))
	p.bytes += int64(row.Size)
	p.horizon = protocol.Position(row.Horizon)
}

func entryOf(row *db.PageAfterRow) protocol.Entry {
	update := &protocol.Update{
		ID: protocol.EventID(row.ID), Topics: row.Topics, Private: row.Private, Retry: row.Retry,
	}
	if row.Type != nil {
		update.Type = *row.Type
	}
	switch {
	case row.BinaryData != nil:
		update.Data = string(row.BinaryData)
	case row.Data != nil:
		update.Data = *row.Data
	}
	return protocol.Entry{Position: protocol.Position(row.Position), Update: update, IDReused: row.IDReused}
}

// recent reads the end of the log, about RecentBytes of it, in order.
func (l *Log) recent(ctx context.Context) ([]protocol.Entry, protocol.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	head, err := l.queries.Head(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("read the head of the log: %w", err)
	}
	if !head.Writable {
		return nil, 0, errors.New("read the head of the log: the server is a standby or read-only")
	}
	var entries []protocol.Entry
	upTo := head.Position
	for budget := l.config.RecentBytes; budget > 0; {
		rows, err := l.queries.PageBefore(ctx, db.PageBeforeParams{
			MaxBytes: min(maxPageBytes, budget), UpToPosition: upTo, MaxRows: maxPageRows,
		})
		if err != nil {
			return nil, 0, fmt.Errorf("read the end of the log: %w", err)
		}
		if len(rows) == 0 {
			break
		}
		for i := range rows {
			entries = append(entries, entryOf((*db.PageAfterRow)(&rows[i])))
			budget -= int64(rows[i].Size) + rowOverhead
		}
		upTo = rows[len(rows)-1].Position - 1
	}
	slices.Reverse(entries)
	return entries, protocol.Position(head.Position), nil
}

// endOfLog is beyond every position.
const endOfLog = protocol.Position(math.MaxInt64)
