//go:build e2e

package server_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// bouncer is a PgBouncer in transaction mode.
type bouncer struct {
	url  string // of the database through it
	file string
	cmd  *exec.Cmd
	gone chan struct{}
}

func newBouncer(t *testing.T, databaseURL string) *bouncer {
	t.Helper()
	address, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	_ = listener.Close()
	// Not t.TempDir: another account must read it.
	dir, err := os.MkdirTemp("", "cinnabar-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	password, _ := address.User.Password()
	b := &bouncer{file: filepath.Join(dir, "pgbouncer.ini")}
	users := filepath.Join(dir, "users.txt")
	err = errors.Join(
		os.Chmod(dir, 0o755),
		os.WriteFile(users, fmt.Appendf(nil, "%q %q\n", address.User.Username(), password), 0o644),
		// Round robin: no two transactions of a client on the same connection, if
		// that can be.
		os.WriteFile(b.file, fmt.Appendf(nil, `[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = transaction
default_pool_size = 30
server_round_robin = 1
`, address.Hostname(), address.Port(), port, users), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	address.Host = net.JoinHostPort("127.0.0.1", port)
	b.url = address.String()
	b.start(t)
	t.Cleanup(b.kill)
	return b
}

// start returns when the database can be reached.
func (b *bouncer) start(t *testing.T) {
	t.Helper()
	var output strings.Builder
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // not in everybody's path
	}
	b.cmd = exec.CommandContext(t.Context(), program, b.file)
	b.cmd.Stdout, b.cmd.Stderr = &output, &output
	if os.Geteuid() == 0 { // as which it does not run
		account, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, err1 := strconv.ParseUint(account.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(account.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		b.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatalf("%v; install pgbouncer", err)
	}
	gone := make(chan struct{})
	b.gone = gone
	go func(cmd *exec.Cmd) { // ends with the process
		_ = cmd.Wait()
		close(gone)
	}(b.cmd)
	for deadline := time.Now().Add(servertest.Deadline); ; {
		conn, err := pgx.Connect(t.Context(), b.url)
		if err == nil {
			_ = conn.Close(t.Context())
			return
		}
		select {
		case <-gone:
			t.Fatalf("pgbouncer has ended: %s", output.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v\n%s", err, output.String())
		}
	}
}

func (b *bouncer) kill() {
	_ = b.cmd.Process.Kill()
	<-b.gone
}

// Hubs and publishers reach the database through PgBouncer in transaction mode,
// and hubs listen at a direct address: everything works as without, and goes on
// when PgBouncer is killed and started again.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	database := dbtest.New(t)
	pooler := newBouncer(t, database.URL)
	var hubs [2]*servertest.Hub
	for i := range hubs {
		hubs[i] = servertest.Start(t, database, func(c *server.Config) {
			c.DatabaseURL, c.ListenURL = server.Secret(pooler.url), server.Secret(database.URL)
			c.Subscriptions = true
		})
	}
	stream := hubs[1].Subscribe(t, servertest.Request{Query: url.Values{"topic": {"a"}}})

	const each = 40
	var (
		group sync.WaitGroup
		want  []string
	)
	publish := func(name string, one func(ctx context.Context, data string) error) {
		for n := range each {
			want = append(want, fmt.Sprint(name, " ", n))
		}
		group.Go(func() { // ends after each
			for n := range each {
				if err := one(t.Context(), fmt.Sprint(name, " ", n)); err != nil {
					t.Errorf("%s %d: %v", name, n, err)
				}
			}
		})
	}
	for i, hub := range hubs {
		publish(fmt.Sprint("http ", i), func(ctx context.Context, data string) error {
			a, err := trySend(ctx, "POST", hub.URL, "topic=a&data="+url.QueryEscape(data), form, bearer(servertest.PublisherToken(t)), keyed(strconv.Quote(data)))
			if err == nil && a.status != 200 {
				err = errors.New(a.body)
			}
			return err
		})
	}
	for name, mode := range map[string]pgx.QueryExecMode{
		"unnamed": pgx.QueryExecModeExec, "described": pgx.QueryExecModeCacheDescribe, "simple": pgx.QueryExecModeSimpleProtocol,
	} {
		config, err := pgx.ParseConfig(pooler.url)
		if err != nil {
			t.Fatal(err)
		}
		config.DefaultQueryExecMode = mode
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		publish(name, func(ctx context.Context, data string) error {
			for _, end := range []string{"ROLLBACK", "COMMIT"} {
				if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
					return err
				}
				var id, again string
				if err := errors.Join(
					conn.QueryRow(ctx, "SELECT mercure.publish('a', $1, idempotency_key => $1)", data).Scan(&id),
					conn.QueryRow(ctx, "SELECT mercure.publish('a', $1, idempotency_key => $1)", data).Scan(&again),
				); err != nil || id != again {
					return fmt.Errorf("%s, then %s: %w", id, again, err)
				}
				if _, err := conn.Exec(ctx, end); err != nil {
					return err
				}
			}
			return nil
		})
	}
	group.Wait()

	pooler.kill()
	direct := database.Conn(t)
	statement(t, direct, "SELECT mercure.publish('a', 'while it is away')")
	pooler.start(t)
	hubs[0].Publish(t, url.Values{"topic": {"a"}, "data": {"after"}})
	want = append(want, "while it is away", "after")

	var got []string
	for range want {
		got = append(got, stream.Next(t).Data)
	}
	if inLog := contentsOf(t, direct); !slices.Equal(got, inLog) {
		t.Errorf("the order is not that of the log: %s", difference(got, inLog))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("received %s", difference(got, want))
	}
}

// contentsOf is what publishers have put into the log.
func contentsOf(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "SELECT data FROM mercure.updates WHERE NOT from_hub ORDER BY position")
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}
