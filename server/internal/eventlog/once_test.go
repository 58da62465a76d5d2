package eventlog

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// waiting is an update on its way into the log, as Append and AppendOnce make it.
func waiting(data, key string) *pending {
	update := &protocol.Update{Topics: []string{"a"}, Data: data}
	p := &pending{size: 1, generated: true, done: make(chan error, 1)}
	if key != "" {
		p.key = hashKey(protocol.PublishKey{Key: key}, update)
	}
	named := *update
	named.ID = protocol.NewEventID()
	p.update = &named
	return p
}

// outcomes waits for the answers to a batch: ids by the number of the update
// that has it, or errors.
func outcomes(batch []*pending) (list []string) {
	for _, p := range batch {
		id, err := p.result(<-p.done)
		number := slices.IndexFunc(batch, func(other *pending) bool { return other.update.ID == id })
		switch {
		case err != nil:
			list = append(list, err.Error())
		case number < 0:
			list = append(list, string(id))
		default:
			list = append(list, fmt.Sprint(number))
		}
	}
	return list
}

func logOf(t *testing.T, database *dbtest.DB) (data []string) {
	t.Helper()
	const query = "SELECT coalesce(array_agg(data ORDER BY position), '{}') FROM mercure.updates"
	if err := database.Pool(t).QueryRow(t.Context(), query).Scan(&data); err != nil {
		t.Fatal(err)
	}
	return data
}

// A batch of everything: with and without keys, repeated in the batch and from
// before. What is delivered from memory is what was appended, where it was.
func TestKeysInABatch(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	w := &writer{Log: openOnly(t, database)}
	before := []*pending{waiting("before", "k0")}
	w.appendBatch(t.Context(), before)
	if got := outcomes(before); !slices.Equal(got, []string{"0"}) {
		t.Fatalf("answered %q", got)
	}
	<-w.own

	batch := []*pending{
		waiting("plain", ""), waiting("one", "k1"), waiting("before", "k0"), waiting("one", "k1"), waiting("other", "k1"),
		waiting("other", "k0"), waiting("plain", ""), waiting("two", "k2"),
	}
	w.appendBatch(t.Context(), batch)
	reused := ErrKeyReused.Error()
	want := []string{"0", "1", string(before[0].update.ID), "1", reused, reused, "6", "7"}
	if got := outcomes(batch); !slices.Equal(got, want) {
		t.Errorf("answered %q, want %q", got, want)
	}
	if got := logOf(t, database); !slices.Equal(got, []string{"before", "plain", "one", "plain", "two"}) {
		t.Errorf("the log is %q", got)
	}
	own := <-w.own
	rows, err := w.pool.Query(t.Context(), "SELECT position, id FROM mercure.updates WHERE position > $1 ORDER BY position", int64(own.after))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for _, entry := range own.entries {
		var (
			position int64
			id       string
		)
		if !rows.Next() || rows.Scan(&position, &id) != nil || position != int64(entry.Position) || id != string(entry.Update.ID) {
			t.Errorf("delivered %s at %d, the log has %s at %d", entry.Update.ID, entry.Position, id, position)
		}
	}
	if rows.Next() {
		t.Error("not all of the batch was delivered")
	}

	// Nothing is left to append.
	again := []*pending{waiting("one", "k1"), waiting("one", "k1"), waiting("two", "k3")}
	again[2] = waiting("other", "k2")
	w.appendBatch(t.Context(), again)
	if got := outcomes(again); !slices.Equal(got, []string{string(batch[1].update.ID), string(batch[1].update.ID), reused}) {
		t.Errorf("answered %q", got)
	}
	if len(w.own) > 0 {
		t.Error("a batch without updates was delivered")
	}
}

// A call that is repeated because its outcome was unknown gets the answers that
// the first one would have.
func TestABatchWithKeysIsRepeated(t *testing.T) {
	t.Parallel()
	for name, batch := range map[string][]*pending{
		"keys only": {waiting("one", "k1"), waiting("one", "k1"), waiting("other", "k1")},
		"mixed":     {waiting("one", "k1"), waiting("plain", ""), waiting("one", "k1"), waiting("other", "k1")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := dbtest.New(t)
			w := &writer{Log: openOnly(t, database)}
			params := batchParams(batch, pgtype.UUID{Bytes: uuid.New(), Valid: true})
			hashes, fingerprints := onceParams(batch)
			first, err := w.call(t.Context(), &params, hashes, fingerprints)
			if err != nil {
				t.Fatal(err)
			}
			inLog := logOf(t, database)
			second, err := w.call(t.Context(), &params, hashes, fingerprints)
			if err != nil || !second.Appended || !slices.Equal(first.answers, second.answers) {
				t.Errorf("answered %q, then %q, %v", first.answers, second.answers, err)
			}
			if got := logOf(t, database); !slices.Equal(got, inLog) {
				t.Errorf("the log was %q, is %q", inLog, got)
			}
			w.batchAppended(&second, batch)
			if len(w.own) > 0 {
				t.Error("a repeated batch is delivered from memory")
			}
		})
	}
}

// A call is stuck in the server, its publisher tries again over another node:
// whichever comes first, there is one update, and both are told of it.
func TestTwoNodesAppendTheSameKey(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	holder, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback(context.Background()) }()
	if _, err := holder.Exec(t.Context(), "LOCK TABLE mercure.append_lock IN EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	var (
		batches [2][]*pending
		nodes   sync.WaitGroup
	)
	for i := range batches {
		batches[i] = []*pending{waiting("data", "k")}
		w := &writer{Log: openOnly(t, database)}
		nodes.Go(func() { w.appendBatch(t.Context(), batches[i]) }) // ends when the lock is free
	}
	AwaitBlocked(t, pool, "mercure.append_once(", 2, nil)
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodes.Wait()
	var inLog string
	if err := pool.QueryRow(t.Context(), "SELECT string_agg(id, ' ') FROM mercure.updates").Scan(&inLog); err != nil {
		t.Fatal(err)
	}
	for i, batch := range batches {
		if id, err := batch[0].result(<-batch[0].done); err != nil || string(id) != inLog {
			t.Errorf("node %d answered %s, %v; the log has %s", i, id, err, inLog)
		}
	}
}

// The same key is another's with another issuer or subject, and nothing can be
// moved from one part of it, or of an update, to the next.
func TestHashesTellEverythingApart(t *testing.T) {
	t.Parallel()
	retry, longer := int64(1), int64(10)
	base := protocol.Update{Topics: []string{"a"}, Data: "d"}
	seen := map[string]string{}
	add := func(name string, hash []byte) {
		t.Helper()
		if other, ok := seen[string(hash)]; ok {
			t.Errorf("%s has the hash of %s", name, other)
		}
		seen[string(hash)] = name
	}
	for _, key := range []protocol.PublishKey{
		{Key: "k"},
		{Subject: "s", Key: "k"},
		{Issuer: "s", Key: "k"},
		{Issuer: "i", Subject: "s", Key: "k"},
		{Issuer: "is", Key: "k"},
		{Subject: "is", Key: "k"},
		{Subject: "sk"},
		{Subject: "s", Key: "l"},
	} {
		add(fmt.Sprintf("key %+v", key), hashKey(key, &base).hash)
	}
	for name, change := range map[string]func(*protocol.Update){
		"base":    func(*protocol.Update) {},
		"data":    func(u *protocol.Update) { u.Data = "e" },
		"topic":   func(u *protocol.Update) { u.Topics = []string{"b"} },
		"topics":  func(u *protocol.Update) { u.Topics = []string{"a", "b"} },
		"reverse": func(u *protocol.Update) { u.Topics = []string{"b", "a"} },
		"joined":  func(u *protocol.Update) { u.Topics = []string{"ab"} },
		"private": func(u *protocol.Update) { u.Private = true },
		"type":    func(u *protocol.Update) { u.Type = "t" },
		"id":      func(u *protocol.Update) { u.ID = "t" },
		"retry":   func(u *protocol.Update) { u.Retry = &retry },
		"longer":  func(u *protocol.Update) { u.Retry = &longer },
		"no data": func(u *protocol.Update) { u.Data, u.Topics = "", []string{"d", "a"} },
	} {
		update := base
		change(&update)
		add(name, hashKey(protocol.PublishKey{}, &update).fingerprint)
	}
}

// What one release has stored the next one must find.
func TestHashesStayWhatTheyAre(t *testing.T) {
	t.Parallel()
	retry := int64(3000)
	hashes := hashKey(protocol.PublishKey{Issuer: "https://issuer.example", Subject: "app", Key: "job 17"}, &protocol.Update{
		ID: "mine", Topics: []string{"https://example.com/a", "b"}, Data: "data\x00", Private: true, Type: "t", Retry: &retry,
	})
	const want = "52208a3de65ff31b35a8dfb592c3d1327aa247bec25829bb00d705f486006291 138177dcea94c2d698970a4dc80cd500060abda9623eea1f7099c43b19ec3e70"
	if got := fmt.Sprintf("%x %x", hashes.hash, hashes.fingerprint); got != want {
		t.Errorf("got %s", got)
	}
}

// Keys are forgotten in portions, until all that may be are.
func TestOldKeysAreForgotten(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	l := openOnly(t, database)
	if _, err := l.pool.Exec(t.Context(), `INSERT INTO mercure.publish_keys (hash, fingerprint, id, created_at)
		SELECT int4send(n), '', 'id', clock_timestamp() - CASE WHEN n % 10 > 0 THEN interval '25 hours' ELSE interval '23 hours' END
		FROM generate_series(1, 25000) AS n`); err != nil {
		t.Fatal(err)
	}
	l.forgetOld(t.Context())
	var left int
	if err := l.pool.QueryRow(t.Context(), "SELECT count(*) FROM mercure.publish_keys").Scan(&left); err != nil || left != 2500 {
		t.Errorf("%d keys are left, %v; want 2500", left, err)
	}
}
