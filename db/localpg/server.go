package localpg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// run is one life of the postmaster.
type run struct {
	process *process
	offset  int64         // where its part of the log begins
	done    chan struct{} // closed by watch if nobody asked for the end
	over    chan struct{} // closed by watch

	// Guarded by Server.mu.
	expected bool
	err      error
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// throwawaySettings are for a server whose data nobody wants to keep. A crash of PostgreSQL alone needs neither fsync
// nor full pages: what it wrote is in the memory of the kernel.
func throwawaySettings(more map[string]string) map[string]string {
	settings := map[string]string{
		"fsync":                      "off",
		"full_page_writes":           "off",
		"shared_buffers":             "32MB",
		"max_connections":            "200",
		"dynamic_shared_memory_type": "mmap",  // goes away with the directory, unlike /dev/shm
		"max_wal_size":               "256MB", // the directory may be in memory
		"checkpoint_timeout":         "30min",
	}
	maps.Copy(settings, more)
	return settings
}

// serverArgs are the arguments of postgres. Those of ours come last and win.
func (s *Server) serverArgs(port int) []string {
	args := []string{filepath.Join(s.install.BinDir, "postgres"), "-D", s.data}
	for _, name := range slices.Sorted(maps.Keys(s.settings)) {
		args = append(args, "-c", name+"="+s.settings[name])
	}
	return append(args,
		"-c", "listen_addresses=127.0.0.1",
		"-c", "port="+strconv.Itoa(port),
		"-c", "unix_socket_directories=",
		"-c", "logging_collector=off",
		"-c", "log_destination=stderr",
		"-c", "cluster_name=cinnabar",
	)
}

const (
	// retryEvery is between two attempts to start.
	retryEvery = 100 * time.Millisecond
	// retryFor is how long we wait for something to go away that a start cannot share: backends of a killed
	// postmaster, which take their time to notice, or somebody else's connection from our port.
	retryFor = 10 * time.Second
)

// up starts the postmaster and returns when it takes connections. unclean: the last one may have left backends behind.
func (s *Server) up(ctx context.Context, unclean bool) error {
	if !s.dog.alive() {
		dog, err := newWatchdog(s)
		if err != nil {
			return err // the next attempt finds the dead one again
		}
		s.dog.end()
		s.dog = dog
	}
	deadline := time.Now().Add(retryFor)
	fixed := s.Port()
	for reasons := 0; ; {
		port := fixed
		if port == 0 {
			var err error
			if port, err = freePort(ctx); err != nil {
				return err
			}
		}
		err := s.tryUp(ctx, port)
		if err == nil || ctx.Err() != nil {
			return err
		}
		// A port that is free now may have been taken a moment ago, so one failure proves nothing.
		if !unclean && portIsFree(ctx, port) {
			reasons++
		}
		if reasons > 1 || time.Now().After(deadline) {
			return err
		}
		if err := pause(ctx, retryEvery); err != nil {
			return err
		}
	}
}

func (s *Server) tryUp(ctx context.Context, port int) error {
	log, offset, err := openLog(s.logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	p, err := launch(ctx, s.dog, s.account, "postmaster", log, s.serverArgs(port)...)
	if err != nil {
		return err
	}
	if err := s.awaitReady(ctx, p); err != nil {
		err = errors.Join(err, p.end(context.WithoutCancel(ctx), atOnce...))
		return withLog(fmt.Errorf("PostgreSQL %s in %s did not start: %w", s.install.Version, s.data, err), s.logPath, offset)
	}
	r := &run{process: p, offset: offset, done: make(chan struct{}), over: make(chan struct{})}
	s.mu.Lock()
	s.port, s.run = port, r
	s.mu.Unlock()
	go s.watch(r)
	return nil
}

// awaitReady waits until the postmaster says in its pid file that it takes connections. pg_ctl does the same. Once it
// says that it is starting, only its end and that of ctx end the wait.
func (s *Server) awaitReady(ctx context.Context, p *process) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	silent, overdue := s.after(beginTimeout), false
	for {
		f, err := readPIDFile(s.data)
		if err != nil || f.pid != p.pid {
			f.status = "" // of an earlier one
		}
		switch {
		case f.status == "ready", f.status == "standby":
			return nil
		case f.status == "starting":
			silent, overdue = nil, false
		case overdue:
			return fmt.Errorf("it has not begun to start for %v", beginTimeout)
		}
		select {
		case <-tick.C:
		case <-silent:
			silent, overdue = nil, true
		case <-p.exited:
			return p.exitError()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *process) exitError() error {
	if p.err == nil {
		return errors.New("it ended")
	}
	return p.err
}

// watch ends when the postmaster has ended.
func (s *Server) watch(r *run) {
	defer close(r.over)
	<-r.process.exited
	s.mu.Lock()
	expected := r.expected
	s.mu.Unlock()
	if expected {
		return
	}
	err := withLog(fmt.Errorf("the private PostgreSQL in %s ended: %w", s.dir, r.process.exitError()), s.logPath, r.offset)
	s.log.Error("private postgresql ended unexpectedly", "dir", s.dir, "error", err)
	s.mu.Lock()
	r.err = err
	s.mu.Unlock()
	close(r.done)
}

// How to end a postmaster. INT ends sessions and writes a checkpoint, which takes longer than the patience here only
// with very much dirty memory; QUIT ends at once and leaves the rest to crash recovery, which loses nothing committed.
var (
	inOrder = []step{{syscall.SIGINT, 5 * time.Second}, {syscall.SIGQUIT, 5 * time.Second}, {syscall.SIGKILL, 5 * time.Second}}
	atOnce  = inOrder[1:]
	killed  = inOrder[2:]
)

// ErrStopped is returned by calls on a server that [Server.Stop] has stopped.
var ErrStopped = errors.New("the private PostgreSQL was stopped")

// Stop ends the server, removes a temporary directory and gives up the lock. It shuts down in order (sessions are
// ended), and the hard way if that takes longer than a few seconds; it takes 15 s at worst. Calling it again does
// nothing.
func (s *Server) Stop() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	before := s.stopped
	s.stopped = true
	s.mu.Unlock()
	if before {
		return nil
	}
	if err := s.dismantle(); err != nil {
		return fmt.Errorf("stop the private PostgreSQL in %s: %w", s.dir, err)
	}
	s.log.Info("private postgresql stopped", "dir", s.dir)
	return nil
}

// dismantle undoes as much of start as was done. The caller has the turn.
func (s *Server) dismantle() error {
	steps := inOrder
	if s.temp {
		steps = atOnce
	}
	err := s.down(context.Background(), steps) // bounded by the steps
	if s.temp {
		s.dropSharedMemory()
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	if s.dog != nil {
		s.dog.end()
	}
	if s.lock != nil {
		err = errors.Join(err, unlockDir(s.lock))
	}
	return err
}

// down ends the postmaster, and returns when it and its backends have ended. The caller has the turn.
func (s *Server) down(ctx context.Context, steps []step) error {
	s.mu.Lock()
	r := s.run
	if r != nil {
		r.expected = true
	}
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	if err := r.process.end(ctx, steps...); err != nil {
		return err
	}
	<-r.over
	return nil
}

// dropSharedMemory gives back what a killed postmaster held in the kernel and nobody will ever attach again. It tries.
func (s *Server) dropSharedMemory() {
	f, err := readPIDFile(s.data)
	if err != nil || f.sharedMemory == "" {
		return // it ended by itself and did this
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ipcrm", "-m", f.sharedMemory)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.SysProcAttr = s.account.sysProcAttr() // the number is from a file that this account may write
	_ = cmd.Run()
}

// Crash ends the server at once, as when it meets a broken invariant: every session dies in the middle of what it
// does, and the next start recovers. The data stays; see [Server.Restart]. For fault tests.
func (s *Server) Crash(ctx context.Context) error { return s.interrupt(ctx, "crash", atOnce) }

// Kill ends the server as the kernel does when memory runs out: SIGKILL to the postmaster, whose sessions end when they
// notice. It returns when they have. The data stays; see [Server.Restart]. For fault tests.
func (s *Server) Kill(ctx context.Context) error { return s.interrupt(ctx, "kill", killed) }

// Shutdown ends the server in order, as an administrator does. The data stays; see [Server.Restart]. For fault tests.
func (s *Server) Shutdown(ctx context.Context) error { return s.interrupt(ctx, "shut down", inOrder) }

func (s *Server) interrupt(ctx context.Context, what string, steps []step) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if err := s.down(ctx, steps); err != nil {
		return fmt.Errorf("%s the private PostgreSQL in %s: %w", what, s.dir, err)
	}
	return nil
}

// Restart starts the server again, on the same port, with the same data and settings; one that is up is shut down first.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if err := s.down(ctx, inOrder); err != nil {
		return fmt.Errorf("shut down the private PostgreSQL in %s: %w", s.dir, err)
	}
	_, err := os.Stat(filepath.Join(s.data, "postmaster.pid"))
	if err := s.up(ctx, err == nil); err != nil {
		return fmt.Errorf("restart the private PostgreSQL: %w", err)
	}
	return nil
}

// take waits for the turn.
func (s *Server) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		<-s.turn
		return ErrStopped
	}
	return nil
}

// freePort finds a port below those that the kernel gives to outgoing connections (32768 and up on Linux, 49152 on
// macOS). Above, a client that tries to reconnect while the server is down may be given the very port as its own and
// end up connected to itself, and the restarting server would find its port taken.
func freePort(ctx context.Context) (int, error) {
	const low, high = 15000, 32000
	for range 100 {
		if port := low + rand.IntN(high-low); portIsFree(ctx, port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1 between %d and %d", low, high)
}

func portIsFree(ctx context.Context, port int) bool {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
