package eventlog_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

func pgError(err error) *pgconn.PgError {
	var pgErr *pgconn.PgError
	errors.As(err, &pgErr)
	return pgErr
}

func batch(token uuid.UUID, data ...string) db.AppendBatchParams {
	p := db.AppendBatchParams{MaxRows: 1000, BatchToken: pgtype.UUID{Bytes: token, Valid: true}}
	for _, d := range data {
		p.Ids = append(p.Ids, uuid.NewString())
		p.Topics = append(p.Topics, `{"a"}`)
		p.Data = append(p.Data, d)
		p.BinaryData = append(p.BinaryData, nil)
		p.Private = append(p.Private, false)
		p.Types = append(p.Types, "")
		p.Retries = append(p.Retries, -1)
		p.TraceContexts = append(p.TraceContexts, "")
		p.Probe = append(p.Probe, false)
	}
	return p
}

// Calling again with the same token is how an unknown outcome is resolved.
func TestABatchIsAppendedOnce(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	queries := db.New(pool)
	params := batch(uuid.New(), "1", "2")
	first, err := queries.AppendBatch(t.Context(), params)
	if err != nil || !first.Appended || first.Repeated {
		t.Fatalf("append: %+v, %v", first, err)
	}
	second, err := queries.AppendBatch(t.Context(), params)
	if err != nil || !second.Appended || !second.Repeated ||
		second.FirstPosition != first.FirstPosition || second.LastPosition != first.LastPosition {
		t.Errorf("append again: %+v, %v; want the positions of %+v", second, err, first)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM mercure.updates"); n != 2 {
		t.Errorf("%d updates in the log, want 2", n)
	}
}

func TestAFencedBatchIsNeverAppended(t *testing.T) {
	t.Parallel()
	pool := dbtest.New(t).Pool(t)
	queries := db.New(pool)
	given, appended := batch(uuid.New(), "1"), batch(uuid.New(), "2")
	if _, err := queries.AppendBatch(t.Context(), appended); err != nil {
		t.Fatal(err)
	}
	if inLog, err := queries.FenceBatch(t.Context(), given.BatchToken); err != nil || inLog {
		t.Errorf("fence an unknown batch: %v, %v", inLog, err)
	}
	if inLog, err := queries.FenceBatch(t.Context(), appended.BatchToken); err != nil || !inLog {
		t.Errorf("fence an appended batch: %v, %v", inLog, err)
	}
	if _, err := queries.AppendBatch(t.Context(), given); pgError(err) == nil || pgError(err).Code != "MR001" {
		t.Errorf("append a fenced batch: %v", err)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM mercure.updates"); n != 1 {
		t.Errorf("%d updates in the log, want 1", n)
	}
}

// One update that the database refuses does not fail the others of its batch.
func TestARefusedUpdateFailsAlone(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	exec(t, database.Pool(t), "ALTER TABLE mercure.updates ADD CONSTRAINT no_poison CHECK (data <> 'poison')")
	l := open(t, database.URL)
	var group errgroup.Group
	for i := range 50 {
		group.Go(func() error {
			update := protocol.Update{Topics: []string{"a"}, Data: strconv.Itoa(i)}
			if i == 25 {
				update.Data = "poison"
			}
			_, err := l.Append(t.Context(), &update)
			if poison := update.Data == "poison"; poison != errors.Is(err, eventlog.ErrRejected) {
				return errors.Join(errors.New(update.Data), err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if got := len(l.waitFor(t, 49)); got != 49 {
		t.Errorf("%d updates delivered, want 49", got)
	}
}

// Whatever the server does to the hub's connections, nothing is lost, nothing
// comes twice, and the hub recovers by itself.
func TestConnectionsAreCut(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	l := open(t, database.URL)
	reader := open(t, database.URL)
	var sent []string
	for i := range 40 {
		if i%4 == 0 {
			exec(t, pool, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cinnabar%' AND datname = current_database()")
		}
		data := strconv.Itoa(i)
		if i%2 == 0 {
			l.append(t, protocol.Update{Data: data})
		} else {
			exec(t, pool, "SELECT mercure.publish('a', $1)", data)
		}
		sent = append(sent, data)
	}
	for name, log := range map[string]*testLog{"the writer": l, "another node": reader} {
		got := data(log.waitFor(t, len(sent)))
		slices.Sort(got)
		want := slices.Sorted(slices.Values(sent))
		if !slices.Equal(got, want) {
			t.Errorf("%s delivered %q", name, got)
		}
	}
}

// No notification ever arrives; what other nodes append does.
func TestUpdatesArriveWithoutNotifications(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	proxy := dbtest.NewProxy(t, database)
	writer := open(t, database.URL)
	reader := openWith(t, eventlog.Config{DatabaseURL: database.URL, ListenURL: proxy.DB.URL})
	writer.append(t, protocol.Update{Data: "heard"})
	reader.waitFor(t, 1)
	proxy.Set(dbtest.Fault{Hold: true})
	for i, want := range []string{"unheard", "unheard, too"} {
		writer.append(t, protocol.Update{Data: want})
		if got := data(reader.waitFor(t, i+2)); got[i+1] != want {
			t.Errorf("delivered %q", got)
		}
	}
}

// await asks until the answer is the one that is wanted.
func await(t *testing.T, pool *pgxpool.Pool, sql string, want int) {
	t.Helper()
	for began := time.Now(); ; {
		got := query[int](t, pool, sql)
		if got == want {
			return
		}
		if time.Since(began) > deadline {
			t.Fatalf("%s: still %d, want %d", sql, got, want)
		}
	}
}

// Looking a cursor up is given up in time: a client waits for it.
func TestLookingUpACursorIsBounded(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	proxy := dbtest.NewProxy(t, database)
	l := openWith(t, eventlog.Config{DatabaseURL: proxy.DB.URL})
	proxy.Set(dbtest.Fault{HoldFrom: "name: FirstPositionsOfIDs"})
	ctx, cancel := context.WithTimeoutCause(t.Context(), deadline, errors.New("the test waited long enough"))
	defer cancel()
	if _, _, err := l.Find(ctx, "unknown"); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}

// PostgreSQL commits a batch, and the connection breaks before it can say so: the
// publisher is told that it succeeded, and the update is there once.
func TestABatchThatCommitsUnseenIsNotAppendedAgain(t *testing.T) { // Spec: P-16
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	proxy := dbtest.NewProxy(t, database)
	l := openWith(t, eventlog.Config{DatabaseURL: proxy.DB.URL})
	proxy.Set(dbtest.Fault{HoldAnswer: "unseen"})
	var group errgroup.Group
	group.Go(func() error {
		_, err := l.Append(t.Context(), &protocol.Update{Topics: []string{"a"}, Data: "unseen"})
		return err
	})
	await(t, pool, "SELECT count(*) FROM mercure.updates", 1)
	proxy.Set(dbtest.Fault{})
	proxy.Cut()
	if err := group.Wait(); err != nil {
		t.Errorf("answered %v", err)
	}
	l.append(t, protocol.Update{Data: "next"})
	if got := data(l.wait(t, "the next", func(e []protocol.Entry, _ int) bool {
		return len(e) > 0 && e[len(e)-1].Update.Data == "next"
	})); !slices.Equal(got, []string{"unseen", "next"}) {
		t.Errorf("delivered %q", got)
	}
}

func TestPostgreSQLCrashesAndComesBack(t *testing.T) { // Spec: P-16
	t.Parallel()
	server := dbtest.NewServer(t)
	l := open(t, server.DB.URL)
	l.append(t, protocol.Update{Data: "before"})
	if err := server.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	began := time.Now()
	_, err := l.Append(ctx, &protocol.Update{Topics: []string{"a"}, Data: "during"})
	if !errors.Is(err, eventlog.ErrUnavailable) && !errors.Is(err, eventlog.ErrOutcomeUnknown) {
		t.Errorf("append without a database: %v", err)
	}
	t.Logf("refused after %s", time.Since(began).Round(time.Millisecond))
	if l.Ready() == nil {
		t.Error("ready without a database")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		_, err := l.Append(ctx, &protocol.Update{Topics: []string{"a"}, Data: "after"})
		if err == nil {
			break
		}
		if !errors.Is(err, eventlog.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	// The server was down when it was sent, so it cannot have been committed.
	if got := data(l.waitFor(t, 2)); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("delivered %q", got)
	}
}

// A standby that lagged was promoted: the log ends before the cursor.
func TestLogGoesBackwards(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	l := open(t, database.URL)
	for range 3 {
		l.append(t, protocol.Update{})
	}
	l.waitFor(t, 3)
	exec(t, pool, "DELETE FROM mercure.updates WHERE position > 1")
	l.wait(t, "a restart", func(_ []protocol.Entry, restarts int) bool { return restarts > 0 })
	l.append(t, protocol.Update{Data: "next"})
	l.wait(t, "what comes next", func(e []protocol.Entry, _ int) bool { return l.hasSeen(e, "next") })
}

// hasSeen says whether an update was delivered, or handed over by a restart.
func (l *testLog) hasSeen(delivered []protocol.Entry, wanted ...string) bool {
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	got := data(append(slices.Clone(l.sink.recent), delivered...))
	return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(got, w) })
}

// The same while updates keep coming, so that the log soon reaches beyond where
// it ended before: what was acknowledged afterwards is delivered.
func TestLogGoesBackwardsUnderTraffic(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pool := database.Pool(t)
	writer, reader := open(t, database.URL), open(t, database.URL)
	for range 100 {
		writer.append(t, protocol.Update{Data: "old"})
	}
	reader.waitFor(t, 100)
	exec(t, pool, "WITH gone AS (DELETE FROM mercure.updates WHERE position > 10) SELECT setval('mercure.updates_position_seq', 10)")
	var acknowledged []string
	for i := range 150 {
		acknowledged = append(acknowledged, strconv.Itoa(i))
		writer.append(t, protocol.Update{Data: strconv.Itoa(i)})
	}
	for name, l := range map[string]*testLog{"the writer": writer, "another node": reader} {
		l.wait(t, name+" to restart", func(_ []protocol.Entry, restarts int) bool { return restarts > 0 })
		l.wait(t, name+" to deliver them all", func(e []protocol.Entry, _ int) bool { return l.hasSeen(e, acknowledged...) })
	}
}

func TestCloseAnswersEverybody(t *testing.T) {
	t.Parallel()
	l := open(t, dbtest.New(t).URL)
	var group errgroup.Group
	for range 20 {
		group.Go(func() error {
			for {
				if _, err := l.Append(t.Context(), &protocol.Update{Topics: []string{"a"}}); err != nil {
					if errors.Is(err, eventlog.ErrClosed) {
						return nil
					}
					return err
				}
			}
		})
	}
	l.waitFor(t, 20)
	l.stop()
	if err := group.Wait(); err != nil {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
