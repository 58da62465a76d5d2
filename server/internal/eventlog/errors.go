package eventlog

import (
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

var (
	// ErrUnavailable: the database could not be reached in time. The update is
	// not in the log.
	ErrUnavailable = errors.New("the database is not available")
	// ErrOutcomeUnknown: the connection broke during COMMIT and the database
	// stayed away. The update is in the log once, or not at all.
	ErrOutcomeUnknown = errors.New("the database went away during the commit")
	// ErrOverloaded: more waits to be appended than may wait. The update is not
	// in the log.
	ErrOverloaded = errors.New("too many publishes are waiting for the database")
	// ErrRejected: the database refused the update itself, which passed every
	// rule of the protocol. The update is not in the log.
	ErrRejected = errors.New("the database rejected the update")
	// ErrKeyReused: the idempotency key belongs to a different update. This one
	// is not in the log.
	ErrKeyReused = errors.New("the idempotency key was used for another update")
	// ErrClosed: the hub is shutting down. The update is not in the log.
	ErrClosed = errors.New("the log is closed")
	// ErrStarting: the log has not been read yet.
	ErrStarting = errors.New("the hub is starting")
	// ErrNotListening: updates are delivered, but late.
	ErrNotListening = errors.New("notifications of the database are not heard")
	// ErrBelowHorizon: retention has removed updates behind the cursor.
	ErrBelowHorizon = errors.New("the cursor lies below the retention horizon")
)

// blamesRow says that an error is about the data, so that trying again cannot
// help and other rows of the batch may be fine.
func blamesRow(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || len(pgErr.Code) != 5 {
		return false
	}
	switch pgErr.Code[:2] {
	case "22", "23", "54": // data exception, integrity constraint, program limit
		return true
	}
	return false
}

// readOnly says that the server, or this connection to it, takes no writes. A
// setting of the database or the role is read when a connection begins, and
// another server may have become the primary: only new connections will do.
func readOnly(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "25006"
}

// rolledBack says that an error came from a server that is alive and has
// rolled the transaction back.
func rolledBack(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR"
}

func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: true}
}
