package eventlog_test

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// Many who resume at the same time share the queries for it.
func TestResumesShareQueries(t *testing.T) { // Spec: H-4
	t.Parallel()
	const resumes, updates = 500, 100
	database := dbtest.New(t)
	proxy := dbtest.NewProxy(t, database)
	pool := database.Pool(t)
	l := open(t, proxy.DB.URL)
	exec(t, pool, "INSERT INTO mercure.outbox (topics, id) SELECT '{a}', 'id-' || n % 100 FROM generate_series(0, $1 - 1) AS n ORDER BY n", 2*updates)
	l.waitFor(t, 2*updates)
	const finds, pages = "name: FirstPositionsOfIDs", "name: PageAfter"
	proxy.Set(dbtest.Fault{Hold: true}) // so that all are there
	proxy.Count(finds)
	proxy.Count(pages)
	var group errgroup.Group
	begun := make(chan struct{}, resumes)
	for i := range resumes {
		group.Go(func() error {
			begun <- struct{}{}
			id := protocol.EventID(fmt.Sprint("id-", i%(updates+1))) // one of them is not there
			after, found, err := l.Find(t.Context(), id)
			if err != nil || found != (i%(updates+1) < updates) {
				return fmt.Errorf("%s: found = %v, %w", id, found, err)
			}
			page, covered, err := l.PageAfter(t.Context(), after, 2*updates, nil)
			if err != nil || covered != 2*updates || len(page) != 2*updates-int(after) {
				return fmt.Errorf("%d updates behind %d, up to %d, %w", len(page), after, covered, err)
			}
			if found && page[updates-1].Update.ID != id {
				return fmt.Errorf("%s was found at %d, which is not the earliest one", id, after)
			}
			return nil
		})
	}
	for range resumes {
		<-begun
	}
	proxy.Set(dbtest.Fault{})
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	// The node itself looks every second or two whether the log has grown.
	if n, m := proxy.Count(finds), proxy.Count(pages); n > resumes/10 || m > resumes/10 {
		t.Errorf("%d resumes made %d cursor lookups and read %d pages", resumes, n, m)
	}
}
