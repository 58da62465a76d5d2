package eventlog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// PageAfter reads the next updates behind a position, up to and including
// another, in order: at most 1,000, and about 256 KiB of them. With topics given,
// only updates that have one of them; nil means all.
//
// It also returns the position up to which the page is complete, which the
// caller goes on from; that is upTo when nothing more lies in between.
// ErrBelowHorizon: updates right behind the position are no longer there.
//
// The entries are shared with other callers.
func (l *Log) PageAfter(ctx context.Context, after, upTo protocol.Position, topics []string) ([]protocol.Entry, protocol.Position, error) {
	start := pageStart{after: after, topics: topicsKey(topics)}
	page, err := l.pages.get(ctx, start, upTo, func() (sharedPage, error) { return l.readShared(ctx, start, upTo, topics) })
	if err != nil {
		return nil, after, err
	}
	return page.entries, page.covered, nil
}

// readShared waits for its turn and reads a page, if nobody has meanwhile.
func (l *Log) readShared(ctx context.Context, start pageStart, upTo protocol.Position, topics []string) (sharedPage, error) {
	select {
	case l.reads <- struct{}{}:
		defer func() { <-l.reads }()
	case <-ctx.Done():
		return sharedPage{}, ctx.Err()
	}
	known, found, generation := l.pages.lookup(start, upTo)
	if found {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if topics != nil {
		// One call must not scan the whole log for topics that are rare.
		upTo = min(upTo, start.after+maxTopicSpan)
	}
	read := sharedPage{pageStart: start, covered: upTo, read: time.Now()}
	page, err := l.readPage(ctx, readRange{after: start.after, upTo: upTo, topics: topics, maxBytes: maxStreamPageBytes})
	if err != nil {
		return read, err
	}
	if len(page.entries) == 0 {
		// No row came that could have said so.
		horizon, err := l.queries.Horizon(ctx)
		if err != nil {
			return read, fmt.Errorf("read the horizon: %w", err)
		}
		page.horizon = protocol.Position(horizon)
	}
	if start.after > 0 && page.horizon > start.after {
		return read, ErrBelowHorizon
	}
	read.complete = max(start.after, page.horizon)
	read.entries, read.bytes = page.entries, page.bytes+int64(len(page.entries))*rowOverhead
	if page.full {
		read.covered = page.entries[len(page.entries)-1].Position
	}
	l.pages.add(read, generation)
	return read, nil
}

// readRange is what a page is to be of.
type readRange struct {
	after, upTo protocol.Position
	// afterID, if not empty, is the id of the update at after.
	afterID protocol.EventID
	topics  []string // nil: all
	// maxBytes ends the page; the row that crosses it is the last one.
	maxBytes int64
}

type page struct {
	entries []protocol.Entry
	bytes   int64
	// Known if there is at least one entry:
	horizon       protocol.Position
	cursorPresent bool // the update with afterID is still there

	full bool // more may follow
}

func (l *Log) readPage(ctx context.Context, r readRange) (page, error) {
	var p page
	if r.topics == nil {
		params := db.PageAfterParams{
			MaxBytes: r.maxBytes, AfterPosition: int64(r.after), UpToPosition: int64(r.upTo), MaxRows: maxPageRows,
		}
		if r.afterID != "" {
			params.CursorID = (*string)(&r.afterID)
		}
		rows, err := l.queries.PageAfter(ctx, params)
		if err != nil {
			return p, fmt.Errorf("read the log: %w", err)
		}
		for i := range rows {
			p.add(&rows[i])
		}
	} else {
		rows, err := l.queries.PageAfterByTopics(ctx, db.PageAfterByTopicsParams{
			MaxBytes: r.maxBytes, AfterPosition: int64(r.after), UpToPosition: int64(r.upTo), MaxRows: maxPageRows, Topics: r.topics,
		})
		if err != nil {
			return p, fmt.Errorf("read the log by topics: %w", err)
		}
		for i := range rows {
			p.add((*db.PageAfterRow)(&rows[i]))
		}
	}
	p.full = len(p.entries) == maxPageRows || p.bytes >= r.maxBytes
	return p, nil
}

func (p *page) add(row *db.PageAfterRow) {
	p.entries = append(p.entries, entryOf(row))
	p.bytes += int64(row.Size)
	p.horizon = protocol.Position(row.Horizon)
	p.cursorPresent = row.CursorPresent
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
func (l *Log) recent(ctx context.Context) ([]protocol.Entry, db.HeadRow, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	head, err := l.queries.Head(ctx)
	if err != nil {
		return nil, head, fmt.Errorf("read the head of the log: %w", err)
	}
	if !head.Writable {
		return nil, head, errors.New("read the head of the log: the server is a standby or read-only")
	}
	var entries []protocol.Entry
	upTo := head.Position
	// One at least: the id of the newest is wanted in any case.
	for budget := max(l.config.RecentBytes, 1); budget > 0; {
		rows, err := l.queries.PageBefore(ctx, db.PageBeforeParams{
			MaxBytes: min(maxPageBytes, budget), UpToPosition: upTo, MaxRows: maxPageRows,
		})
		if err != nil {
			return nil, head, fmt.Errorf("read the end of the log: %w", err)
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
	return entries, head, nil
}

// endOfLog is beyond every position.
const endOfLog = protocol.Position(math.MaxInt64)
