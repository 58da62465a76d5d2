package eventlog

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"strconv"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// keyHashes is what the database keeps of a key and of the update that was
// published with it.
type keyHashes struct{ hash, fingerprint []byte }

// hashKey is called with the update as its publisher sent it: an id counts only
// if it was given.
//
// Updates that were stored by one release are compared by another: neither hash
// may ever change, or retries across an upgrade are published twice or refused.
func hashKey(key protocol.PublishKey, update *protocol.Update) *keyHashes {
	retry := ""
	if update.Retry != nil {
		retry = strconv.FormatInt(*update.Retry, 10)
	}
	content := []string{strconv.FormatBool(update.Private), update.Type, retry, string(update.ID), update.Data}
	return &keyHashes{
		hash:        hashStrings([]string{"http", key.Issuer, key.Subject, key.Key}),
		fingerprint: hashStrings(append(content, update.Topics...)),
	}
}

// hashStrings hashes a list so that no other one has the same hash.
func hashStrings(list []string) []byte {
	h := sha256.New()
	var length [8]byte
	for _, s := range list {
		binary.BigEndian.PutUint64(length[:], uint64(len(s)))
		h.Write(length[:])
		h.Write([]byte(s))
	}
	return h.Sum(nil)
}

// onceParams adds the keys of a batch. nil: none of its updates has one, and it
// goes the way that knows of no keys.
func onceParams(batch []*pending) (hashes, fingerprints [][]byte) {
	for i, p := range batch {
		if p.key == nil {
			continue
		}
		if hashes == nil {
			hashes, fingerprints = make([][]byte, len(batch)), make([][]byte, len(batch))
		}
		hashes[i], fingerprints[i] = p.key.hash, p.key.fingerprint
	}
	return hashes, fingerprints
}

// appendedRow is the answer to either kind of append.
type appendedRow struct {
	db.AppendBatchRow
	// answers and fresh are nil unless the batch has keys; see
	// mercure.append_once.
	answers []string
	fresh   []bool
}

// appendOnce is called in the place of AppendBatch for batches with keys.
func appendOnce(ctx context.Context, queries *db.Queries, p *db.AppendBatchParams, hashes, fingerprints [][]byte) (appendedRow, error) {
	row, err := queries.AppendBatchOnce(ctx, db.AppendBatchOnceParams{
		State: p.State, MaxRows: p.MaxRows, BatchToken: p.BatchToken,
		Ids: p.Ids, Topics: p.Topics, Data: p.Data, BinaryData: p.BinaryData, Private: p.Private,
		Types: p.Types, Retries: p.Retries, TraceContexts: p.TraceContexts, Probe: p.Probe,
		Hashes: hashes, Fingerprints: fingerprints,
	})
	return appendedRow{
		AppendBatchRow: db.AppendBatchRow{
			State: row.State, Appended: row.Appended, Repeated: row.Repeated, HeadBefore: row.HeadBefore, HeadDrained: row.HeadDrained,
			FirstPosition: row.FirstPosition, LastPosition: row.LastPosition, Moved: row.Moved, Refused: row.Refused,
		},
		answers: row.Answers, fresh: row.Fresh,
	}, err
}

// settle tells what became of each update: those that were appended now are
// returned, the others are another's, or refused.
func (r *appendedRow) settle(batch []*pending) (fresh []*pending, errs []error) {
	if r.answers == nil {
		return batch, make([]error, len(batch))
	}
	errs = make([]error, len(batch))
	for i, p := range batch {
		switch {
		case r.answers[i] == "":
			errs[i] = ErrKeyReused
		case p.key != nil:
			p.answer = protocol.EventID(r.answers[i])
		}
		if r.fresh[i] {
			fresh = append(fresh, p)
		}
	}
	return fresh, errs
}
