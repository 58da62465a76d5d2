package torture

import (
	"context"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// carryOut carries out the plan, and returns when all of it has been lifted, or
// as soon as it can when ctx ends.
func (r *run) carryOut(ctx context.Context, plan []disturbance) {
	var group sync.WaitGroup
	defer group.Wait()
	for _, d := range plan {
		if !sleep(ctx, d.at-r.publishingFor()) {
			return
		}
		group.Go(func() { // ends when the disturbance is lifted
			r.progress.Note("%6.1fs  %s", d.at.Seconds(), d)
			r.disturb(ctx, d)
		})
	}
}

func (r *run) disturb(ctx context.Context, d disturbance) {
	switch d.fault {
	case Kill, Term:
		r.restartNode(ctx, d)
	case Stop:
		n := r.nodes[d.target]
		n.turn.Lock()
		defer n.turn.Unlock()
		waiting := r.recoveries.begin(d.fault, n.index)
		n.signal(syscall.SIGSTOP)
		r.recoveries.arm(waiting, r.ledger.tick())
		sleep(ctx, d.length)
		n.signal(syscall.SIGCONT)
		r.recoveries.lift(waiting)
	case Cut, BlackHole, HalfOpen, Slow:
		r.disturbLink(ctx, d)
	case Terminate:
		waiting := r.recoveries.begin(d.fault, r.allNodes()...)
		r.terminate(ctx, d)
		r.recoveries.arm(waiting, r.ledger.tick())
		r.recoveries.lift(waiting)
	case Crash, Restart:
		r.disturbServer(ctx, d)
	case Backend:
		r.killBackend(ctx, d)
	case Stall, Flood:
		r.disturbSubscriber(ctx, d)
	}
}

func (r *run) allNodes() []int {
	var list []int
	for i := range r.nodes {
		list = append(list, i)
	}
	return list
}

func (r *run) restartNode(ctx context.Context, d disturbance) {
	n := r.nodes[d.target]
	n.turn.Lock()
	defer n.turn.Unlock()
	waiting := r.recoveries.begin(d.fault, n.index)
	release := n.hold(d.fault == Term)
	r.recoveries.arm(waiting, r.ledger.tick())
	sleep(ctx, d.length)
	release()
	r.recoveries.lift(waiting)
}

func (r *run) disturbLink(ctx context.Context, d disturbance) {
	n := r.nodes[d.target]
	waiting := r.recoveries.begin(d.fault, n.index)
	defer r.recoveries.lift(waiting)
	switch d.fault {
	case BlackHole:
		n.proxy.set(proxyMode{hold: true, deaf: true})
	case HalfOpen:
		n.proxy.set(proxyMode{hold: true, deaf: true})
		n.proxy.cut()
	case Slow:
		n.proxy.set(proxyMode{bytesPerSecond: d.amount << 10})
	default:
		n.proxy.cut()
	}
	r.recoveries.arm(waiting, r.ledger.tick())
	sleep(ctx, d.length)
	if d.fault == HalfOpen {
		n.proxy.cut() // those that have been waiting
	}
	n.proxy.set(proxyMode{})
}

// terminate ends random backends. It is no failure if the server is away.
func (r *run) terminate(ctx context.Context, d disturbance) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, r.database.url)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	_, _ = conn.Exec(ctx, `
		SELECT pg_terminate_backend(pid) FROM (
			SELECT pid FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
			ORDER BY random() LIMIT $1
		) AS some`, d.amount)
}

// killBackend does what the kernel does when memory runs out. PostgreSQL then
// ends every session and recovers, all within the life of one postmaster.
func (r *run) killBackend(ctx context.Context, d disturbance) {
	r.serverTurn.Lock()
	defer r.serverTurn.Unlock()
	waiting := r.recoveries.begin(d.fault, r.allNodes()...)
	defer r.recoveries.lift(waiting)
	defer func() { r.recoveries.arm(waiting, r.ledger.tick()) }()
	conn, err := r.connect(ctx)
	if err != nil {
		return
	}
	_ = syscall.Kill(int(conn.PgConn().PID()), syscall.SIGKILL)
	_ = conn.Close(ctx) // it is gone
}

func (r *run) disturbServer(ctx context.Context, d disturbance) {
	r.serverTurn.Lock()
	defer r.serverTurn.Unlock()
	waiting := r.recoveries.begin(d.fault, r.allNodes()...)
	defer r.recoveries.lift(waiting)
	private := r.database.private
	var err error
	if d.fault == Crash {
		err = private.Crash(context.WithoutCancel(ctx))
	} else {
		err = private.Shutdown(context.WithoutCancel(ctx))
	}
	if err != nil {
		r.problem("PostgreSQL: %v", err)
	}
	r.recoveries.arm(waiting, r.ledger.tick())
	sleep(ctx, d.length)
	starting, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminTimeout)
	defer cancel()
	if err := private.Restart(starting); err != nil {
		r.problem("PostgreSQL: %v", err)
	}
}

// floodBytes is the size of an update of a flood.
const floodBytes = 200_000

// disturbSubscriber stops one from reading. How that is felt by the others is
// measured on every node.
func (r *run) disturbSubscriber(ctx context.Context, d disturbance) {
	waiting := r.recoveries.begin(d.fault, r.allNodes()...)
	defer r.recoveries.lift(waiting)
	s := r.subscribers[d.target]
	s.stalledUntil.Store(int64(r.elapsed() + d.length))
	r.recoveries.arm(waiting, r.ledger.tick())
	if d.fault == Flood {
		r.flood(ctx, d.amount)
	}
	sleep(ctx, d.length)
}

// flood publishes large updates to everybody.
func (r *run) flood(ctx context.Context, count int) {
	deadline, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := pgx.Connect(deadline, r.database.url)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(deadline) }()
	for range count {
		n, ok := r.ledger.open(row{topics: markSet})
		if !ok {
			return
		}
		r.ledger.begin(n, 1)
		_, err := conn.Exec(deadline, "SELECT mercure.publish($1::text[], $2)", topicSets[markSet], payload(n, floodBytes))
		p := sqlPublisher{run: r, conn: conn}
		r.ledger.settle(n, 1, p.outcomeOfStatement(err))
		if err != nil {
			return
		}
	}
}
