package eventlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// timelines keeps this node from a primary that was replaced. Promoting a
// standby begins a new timeline, so a server that takes writes on an older one
// than was seen before is the old primary, back by itself: an update that it
// took would be lost. A node that starts anew has seen nothing and cannot know.
//
// A server that does not tell, as some services' do not, is believed.
type timelines struct {
	mu     sync.Mutex
	newest map[string]uint64 // by cluster; others are no relatives
}

// errReplaced is what connecting to a primary that was replaced fails with.
var errReplaced = errors.New("the server is a primary that another one has replaced: stop it, or make it a standby")

// maxClusters bounds what is remembered; nobody moves a hub that often.
const maxClusters = 16

// seen returns errReplaced for a server of an older timeline.
func (t *timelines) seen(cluster string, timeline uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	newest, known := t.newest[cluster]
	switch {
	case timeline < newest:
		return fmt.Errorf("%w (its timeline is %d, the newest is %d)", errReplaced, timeline, newest)
	case t.newest == nil, !known && len(t.newest) >= maxClusters:
		t.newest = map[string]uint64{}
	}
	t.newest[cluster] = timeline
	return nil
}

// fence makes connecting go on to the next server of the address where it leads
// to one that was replaced.
func (t *timelines) fence(config *pgconn.Config) {
	validate := config.ValidateConnect
	config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if validate != nil {
			if err := validate(ctx, conn); err != nil {
				return err
			}
		}
		return t.check(ctx, conn)
	}
}

// The name of a segment of the write-ahead log begins with the timeline. A
// standby has none to write to.
const timelineQuery = `SELECT system_identifier,
	CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END
	FROM pg_control_system()`

func (t *timelines) check(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, timelineQuery).ReadAll()
	if _, refused := errors.AsType[*pgconn.PgError](err); refused {
		return nil
	}
	if err != nil {
		return err
	}
	if len(results) == 0 || len(results[0].Rows) == 0 || results[0].Rows[0][1] == nil {
		return nil
	}
	row := results[0].Rows[0]
	timeline, err := strconv.ParseUint(string(row[1]), 16, 32)
	if err != nil {
		return nil //nolint:nilerr // it does not tell
	}
	return t.seen(string(row[0]), timeline)
}
