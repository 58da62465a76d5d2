package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// What presence.Registry stores. The rules are in migrations/00008_presence.sql.

const (
	// leaseTimeout is short: a node that cannot renew its lease in this time is
	// cut off, and must not judge others.
	leaseTimeout = 5 * time.Second
	// maxEndedRows and maxEndedBytes bound how long the end of a node holds the
	// append lock at a time.
	maxEndedRows  = 250
	maxEndedBytes = 4 << 20
	// maxListRows is a page of a list of subscriptions.
	maxListRows = 1000
	// maxEmptiedRows is about how many events are emptied in one transaction.
	maxEmptiedRows = 1000
)

// AddNode makes a node known; nothing if it is.
func (l *Log) AddNode(ctx context.Context, node uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if err := l.queries.AddNode(ctx, uuidValue(node)); err != nil {
		return l.presenceFailed("announce this node", err)
	}
	return nil
}

// RenewNode renews the lease of a node, and returns the number of its last
// batch. Not alive: it was given up.
func (l *Log) RenewNode(ctx context.Context, node uuid.UUID) (batch int64, alive bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if batch, err = l.queries.RenewNode(ctx, uuidValue(node)); err != nil {
		return 0, false, l.presenceFailed("renew the lease of this node", err)
	}
	return batch, batch >= 0, nil
}

// Nodes returns the leases of all nodes, and those that were given up and not
// yet ended.
func (l *Log) Nodes(ctx context.Context) (leases map[uuid.UUID]int64, dead []uuid.UUID, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	rows, err := l.queries.Nodes(ctx)
	if err != nil {
		return nil, nil, l.presenceFailed("read the leases", err)
	}
	leases = make(map[uuid.UUID]int64, len(rows))
	for _, row := range rows {
		if leases[row.ID.Bytes] = row.Lease; row.Dead {
			dead = append(dead, row.ID.Bytes)
		}
	}
	return leases, dead, nil
}

// WritePresence writes the subscriptions that began on a node, numbered by it,
// and the numbers of those that ended, with their events, in one transaction.
// The numbers of batches must go up; acknowledged is that of the last one known
// to be written. Not alive: the node was given up, or the database has lost
// what it acknowledged, and nothing was written.
//
// After an error the batch may have been written or not, but will not be once
// one with a higher number is: repeating its contents in that does no harm.
func (l *Log) WritePresence(
	ctx context.Context, node uuid.UUID, batch, acknowledged int64,
	began []protocol.Subscription, numbers, ended []int64,
) (alive bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	n := len(began)
	params := db.WritePresenceParams{
		Node: uuidValue(node), Batch: batch, Acknowledged: acknowledged, Ended: ended, Numbers: numbers,
		Selectors: make([]bool, n), Topics: make([]string, n), Collections: make([]string, n), Documents: make([]string, n),
	}
	for i := range began {
		s := &began[i]
		params.Selectors[i], params.Topics[i], params.Collections[i], params.Documents[i] = s.Selector, s.Topic, s.Collection, s.Document
	}
	if alive, err = l.queries.WritePresence(ctx, params); err != nil {
		return false, l.presenceFailed("write subscriptions", err)
	}
	wake(l.tailWake) // a notification from the writer's connection is not heeded
	return alive, nil
}

// EndNode gives a node up, if its lease is the one observed (nil: in any case),
// and ends some of its subscriptions. Call again while more is true.
func (l *Log) EndNode(ctx context.Context, node uuid.UUID, observed *int64) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	more, err = l.queries.EndNode(ctx, db.EndNodeParams{
		Node: uuidValue(node), Observed: observed, MaxRows: maxEndedRows, MaxBytes: maxEndedBytes,
	})
	if err != nil {
		return false, l.presenceFailed("end a node", err)
	}
	wake(l.tailWake)
	return more, nil
}

// EmptyHubEvents empties some of the events of subscriptions that are older.
// Call again while more is true.
func (l *Log) EmptyHubEvents(ctx context.Context, olderThan time.Duration) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	more, err = l.queries.EmptyHubEvents(ctx, interval(olderThan), maxEmptiedRows)
	if err != nil {
		return false, l.presenceFailed("empty old events of subscriptions", err)
	}
	return more, nil
}

// ListSubscriptions calls begin with the id of the newest update in the log,
// protocol.Earliest if there is none, and then each with the document of every
// subscription. Errors of these two end it.
//
// What begins or ends in the meantime may be in the list or not, but its event
// comes behind that id: a page is read for itself, so that a reader who
// is slow keeps neither a connection nor a snapshot of the database.
//
// Spec.
func (l *Log) ListSubscriptions(
	ctx context.Context, filter protocol.SubscriptionFilter,
	begin func(cursor protocol.EventID) error, each func(document string) error,
) error {
	cursor, err := l.newestID(ctx)
	if err != nil {
		return err
	}
	if err := begin(cursor); err != nil {
		return err
	}
	if filter.Topic != "" {
		document, err := l.subscriptionByTopic(ctx, filter)
		if err != nil || document == "" {
			return err
		}
		return each(document)
	}
	for after := (db.SubscriptionsRow{Node: uuidValue(uuid.Nil)}); ; {
		rows, err := l.subscriptionsAfter(ctx, filter, &after)
		if err != nil {
			return err
		}
		for i := range rows {
			if err := each(rows[i].Document); err != nil {
				return err
			}
		}
		if len(rows) == 0 {
			return nil
		}
		after = rows[len(rows)-1]
	}
}

func (l *Log) newestID(ctx context.Context) (protocol.EventID, error) {
	ctx, release, err := l.beginRead(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	head, err := l.queries.Head(ctx)
	switch {
	case err != nil:
		return "", l.presenceFailed("read the head of the log", err)
	case head.ID == "":
		return protocol.Earliest, nil
	}
	return protocol.EventID(head.ID), nil
}

// subscriptionByTopic returns an empty document if there is none.
func (l *Log) subscriptionByTopic(ctx context.Context, filter protocol.SubscriptionFilter) (string, error) {
	ctx, release, err := l.beginRead(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	document, err := l.queries.SubscriptionByTopic(ctx, filter.Topic, filter.Selector)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", l.presenceFailed("read a subscription", err)
	}
	return document, nil
}

// subscriptionsAfter reads a page. The last one is empty.
func (l *Log) subscriptionsAfter(ctx context.Context, filter protocol.SubscriptionFilter, after *db.SubscriptionsRow) ([]db.SubscriptionsRow, error) {
	ctx, release, err := l.beginRead(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	rows, err := l.queries.Subscriptions(ctx, db.SubscriptionsParams{
		Selector: filter.Selector, Collection: filter.Collection,
		AfterNode: after.Node, AfterNumber: after.Number, MaxRows: maxListRows, MaxBytes: maxPageBytes,
	})
	if err != nil {
		return nil, l.presenceFailed("list subscriptions", err)
	}
	return rows, nil
}

// beginRead takes a place among the readers of history.
func (l *Log) beginRead(ctx context.Context) (_ context.Context, release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	select {
	case l.reads <- struct{}{}:
		return ctx, func() {
			<-l.reads
			cancel()
		}, nil
	case <-ctx.Done():
		cancel()
		return nil, nil, ctx.Err()
	}
}

func (l *Log) presenceFailed(what string, err error) error {
	if readOnly(err) {
		l.pool.Reset()
	}
	return fmt.Errorf("%s: %w", what, err)
}

func uuidValue(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }
