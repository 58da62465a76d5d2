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
	page, err := l.sharedPage(ctx, pageStart{after: after, topics: topicsKey(topics)}, upTo, topics)
	if err != nil {
		return nil, after, err
	}
	if after > 0 && page.horizon > after {
		return nil, after, ErrBelowHorizon
	}
	return page.entries, page.covered, nil
}

// PageFromStart is PageAfter for who began at the beginning, at position zero, when
// the head of the log was at upTo. It also has what policies keep below the
// horizon, and has not what is not history any more because of a newer update up
// to there, removed or not.
//
// kept is zero at first, and then what the last call returned: up to there, that
// something is missing is no surprise.
func (l *Log) PageFromStart(
	ctx context.Context, after, upTo, kept protocol.Position, topics []string,
) (entries []protocol.Entry, covered, nowKept protocol.Position, err error) {
	page, err := l.sharedPage(ctx, pageStart{after: after, topics: topicsKey(topics), fromStart: upTo}, upTo, topics)
	switch {
	case err != nil:
		return nil, after, kept, err
	case after <= kept:
		// All it has got so far is what policies keep: it may as well have begun now.
		kept = max(kept, page.horizon)
	case page.horizon > after:
		return nil, after, kept, ErrBelowHorizon
	}
	return page.entries, page.covered, kept, nil
}

func (l *Log) sharedPage(ctx context.Context, start pageStart, upTo protocol.Position, topics []string) (sharedPage, error) {
	return l.pages.get(ctx, start, upTo, func() (sharedPage, error) { return l.readShared(ctx, start, upTo, topics) })
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
	r := readRange{after: start.after, upTo: upTo, topics: topics, maxBytes: maxStreamPageBytes, onlyCurrent: start.fromStart > 0}
	if err := l.prepareRange(ctx, &r); err != nil {
		return sharedPage{}, err
	}
	read := sharedPage{pageStart: start, covered: r.upTo, read: time.Now()}
	page, err := l.readPage(ctx, r)
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
	read.horizon = page.horizon
	read.complete = max(start.after, page.horizon)
	read.entries, read.bytes = page.entries, page.bytes+int64(len(page.entries))*rowOverhead
	if page.full {
		read.covered = page.entries[len(page.entries)-1].Position
	}
	l.pages.add(read, generation)
	return read, nil
}

// prepareRange has what is read classified, begins a page from the beginning where
// the log does, and bounds one by topics.
func (l *Log) prepareRange(ctx context.Context, r *readRange) error {
	if r.onlyCurrent {
		if err := l.classify(ctx, r.upTo); err != nil {
			return err
		}
	}
	var horizon protocol.Position
	if r.onlyCurrent || r.after == 0 {
		position, err := l.queries.Horizon(ctx)
		if err != nil {
			return fmt.Errorf("read the horizon: %w", err)
		}
		horizon = protocol.Position(position)
	}
	if r.after == 0 && !r.onlyCurrent {
		r.after = min(horizon, r.upTo) // what policies keep is for PageFromStart
	}
	if r.topics != nil {
		// One call must not scan the whole log for topics that are rare. Below the
		// horizon there is little.
		r.upTo = min(r.upTo, max(r.after, horizon)+maxTopicSpan)
	}
	return nil
}

// readRange is what a page is to be of.
type readRange struct {
	after, upTo protocol.Position
	// afterID, if not empty, is the id of the update at after.
	afterID protocol.EventID
	topics  []string // nil: all
	// onlyCurrent leaves out what is superseded.
	onlyCurrent bool
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
			OnlyCurrent: r.onlyCurrent,
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
			OnlyCurrent: r.onlyCurrent,
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
		for i := range rows {
			if rows[i].Position <= rows[i].Horizon {
				rows = nil // what policies keep is nothing to go on from
				break
			}
			entries = append(entries, entryOf((*db.PageAfterRow)(&rows[i])))
			budget -= int64(rows[i].Size) + rowOverhead
		}
		if len(rows) == 0 {
			break
		}
		upTo = rows[len(rows)-1].Position - 1
	}
	slices.Reverse(entries)
	return entries, head, nil
}

// endOfLog is beyond every position.
const endOfLog = protocol.Position(math.MaxInt64)
