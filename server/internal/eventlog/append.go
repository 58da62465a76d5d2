package eventlog

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Append writes an update to the log and returns its id once the update is
// durable; an empty id is replaced by a generated one (P-12, P-16). It blocks
// for the commit it shares with whatever else is being published, at most ten
// seconds.
//
// Cancelling ctx takes the update back if its batch has not begun; afterwards
// Append waits for the outcome, because a batch is never cancelled for one of
// its publishers. An outcome that does not come in time is ErrOutcomeUnknown.
//
// Errors: ErrUnavailable, ErrOutcomeUnknown, ErrOverloaded, ErrRejected,
// ErrClosed, or the cause of ctx.
func (l *Log) Append(ctx context.Context, update *protocol.Update) (protocol.EventID, error) {
	return l.append(ctx, &pending{update: update})
}

// AppendOnce is Append, unless an update with the same key was appended within
// 24 hours, on whatever node: then it returns the id of that, or ErrKeyReused if
// it was a different update. To repeat a call after an error is safe.
func (l *Log) AppendOnce(ctx context.Context, update *protocol.Update, key protocol.PublishKey) (protocol.EventID, error) {
	return l.append(ctx, &pending{update: update, key: hashKey(key, update)})
}

func (l *Log) append(ctx context.Context, p *pending) (protocol.EventID, error) {
	if l.health.awayFor(appending) > appendTimeout {
		return "", ErrUnavailable // nobody gains from waiting for a known answer
	}
	update := p.update
	p.size, p.done = updateSize(update), make(chan error, 1)
	if update.ID == "" {
		named := *update
		named.ID = protocol.NewEventID()
		p.update, p.generated = &named, true
	}
	if err := l.queue.push(p); err != nil {
		return "", err
	}
	patience := time.NewTimer(appendTimeout)
	defer patience.Stop()
	select {
	case err := <-p.done:
		return p.result(err)
	case <-ctx.Done():
		if l.queue.withdraw(p) {
			return "", context.Cause(ctx)
		}
	case <-patience.C:
		if l.queue.withdraw(p) {
			return "", ErrUnavailable
		}
		return p.result(l.outcome(p))
	}
	select {
	case err := <-p.done:
		return p.result(err)
	case <-patience.C:
		return p.result(l.outcome(p))
	}
}

// result is what the publisher is told. Its answer is the writer's to write until
// the outcome is known.
func (p *pending) result(err error) (protocol.EventID, error) {
	switch {
	case err != nil:
		return "", err
	case p.answer != "":
		return p.answer, nil
	}
	return p.update.ID, nil
}

// outcome is what is known of an update whose batch has begun. The batch has its
// own ten seconds, and may have begun late in those of the publisher.
func (l *Log) outcome(p *pending) error {
	select {
	case err := <-p.done:
		return err
	default:
		return ErrOutcomeUnknown
	}
}

// rowOverhead stands for what an update costs besides its text.
const rowOverhead = 128

func updateSize(u *protocol.Update) int {
	size := rowOverhead + len(u.ID) + len(u.Data) + len(u.Type)
	for _, topic := range u.Topics {
		size += len(topic)
	}
	return size
}

// batchParams lays a batch out as the arrays of mercure.append.
func batchParams(batch []*pending, token pgtype.UUID) db.AppendBatchParams {
	n := len(batch)
	params := db.AppendBatchParams{
		MaxRows:       maxChunkRows,
		BatchToken:    token,
		Ids:           make([]string, n),
		Topics:        make([]string, n),
		Data:          make([]string, n),
		BinaryData:    make([][]byte, n),
		Private:       make([]bool, n),
		Types:         make([]string, n),
		Retries:       make([]int64, n),
		TraceContexts: make([]string, n),
		Probe:         make([]bool, n),
	}
	for i, p := range batch {
		u := p.update
		params.Ids[i] = string(u.ID)
		params.Topics[i] = arrayLiteral(u.Topics)
		params.Private[i] = u.Private
		params.Types[i] = u.Type
		params.Probe[i] = !p.generated
		params.Retries[i] = -1
		if u.Retry != nil {
			params.Retries[i] = *u.Retry
		}
		// A text column cannot hold U+0000, which is legal in data (TP-8).
		if strings.IndexByte(u.Data, 0) >= 0 {
			params.BinaryData[i] = []byte(u.Data)
		} else {
			params.Data[i] = u.Data
		}
	}
	return params
}

// arrayLiteral is the text form of a PostgreSQL array: SQL has no arrays of
// arrays of different lengths.
func arrayLiteral(elements []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, element := range elements {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		for rest := element; ; {
			special := strings.IndexAny(rest, `"\`)
			if special < 0 {
				b.WriteString(rest)
				break
			}
			b.WriteString(rest[:special])
			b.WriteByte('\\')
			b.WriteByte(rest[special])
			rest = rest[special+1:]
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}
