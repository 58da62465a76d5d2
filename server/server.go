// Package server is the hub as a library: a Config, New, Run, and a Handler for
// those who embed it.
//
//	config := server.DefaultConfig()
//	config.DatabaseURL = "postgres://localhost/app"
//	config.Anonymous = true
//	hub, err := server.New(config)
//	if err != nil { ... }
//	err = hub.Run(ctx)
//
// Any number of hubs may share a database; together they are a cluster.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/migrations"
	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/httpapi"
	"github.com/cinnabar-hub/cinnabar/server/internal/presence"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
	"github.com/cinnabar-hub/cinnabar/server/internal/sse"
)

// Limits on connections, before a request is understood.
const (
	readHeaderTimeout = 10 * time.Second
	readTimeout       = 30 * time.Second
	idleTimeout       = 2 * time.Minute
	// 100 matchers of 4,096 bytes, percent-encoded, fit (S-12).
	maxHeaderBytes = 1<<20 + 300<<10
	// shutdownTimeout is what publishes in flight get to finish.
	shutdownTimeout = 15 * time.Second
)

// Server is one hub process. Run it once.
type Server struct {
	config   Config // of the start
	settings settings
	logger   *slog.Logger
	started  chan struct{}
	address  net.Addr
	keySets  *keySets
	// connections are what clients have open.
	connections connections

	// trust is another one after each Reload.
	trust    atomic.Pointer[trust]
	reloadMu sync.Mutex
	reloaded Config // guarded by reloadMu

	// log is where updates are, once the hub runs.
	log atomic.Pointer[eventlog.Log]
	// broadcaster has the streams, once the hub runs.
	broadcaster atomic.Pointer[broadcast.Broadcaster]
}

// New checks the configuration. The error names every problem; nothing is
// connected to yet.
func New(config Config) (*Server, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{config: config, logger: config.Logger, started: make(chan struct{})}
	s.keySets = newKeySets(s.logger, s.endUntrusted)
	var err error
	if s.settings, err = config.parse(s.keySets); err != nil {
		return nil, err
	}
	s.keySets.use(s.settings.keySets)
	s.reloaded = config
	s.trust.Store(&s.settings.trust)
	return s, nil
}

// Started is closed once the hub serves requests and its log has been read.
func (s *Server) Started() <-chan struct{} { return s.started }

// Addr is where the hub listens. Valid once Started is closed.
func (s *Server) Addr() net.Addr { return s.address }

// Run serves until ctx ends, and returns when everything it started has ended.
// It returns an error if the hub could not start: the address is taken, the
// database unreachable, its schema unfit. Once started, it outlives failures
// of the database.
func (s *Server) Run(ctx context.Context) error {
	for _, warning := range s.settings.warnings {
		s.logger.Warn("configuration", "warning", warning)
	}
	listener, err := (&net.ListenConfig{KeepAlive: -1}).Listen(ctx, "tcp", s.config.Addr)
	if err != nil {
		return fmt.Errorf("listen on MERCURE_ADDR %s: %w", s.config.Addr, err)
	}
	defer func() { _ = listener.Close() }() // again, where serving never began
	s.address = listener.Addr()

	if err := s.migrate(ctx); err != nil {
		return err
	}
	log, err := eventlog.Open(ctx, s.logConfig())
	if err != nil {
		return err
	}
	defer log.Close()
	s.log.Store(log)

	broadcaster := broadcast.New(broadcast.Config{
		History: history{log}, Beginning: history{log}, TailBytes: int(s.config.TailBytes),
		PendingBytes: int(s.config.PendingBytes), MaxUnanchored: s.config.MaxUnanchored,
	})
	s.broadcaster.Store(broadcaster)
	hub := parts{log: log, broadcaster: broadcaster}
	hub.loop = sse.NewLoop(sse.LoopConfig{DispatchTimeout: s.config.DispatchTimeout, Logger: s.logger})
	if s.config.Subscriptions {
		hub.registry = presence.New(presence.Config{Store: log, Logger: s.logger})
	}
	draining := make(chan struct{})
	httpServer := &http.Server{
		Handler:           lastAnswers(s.handler(hub, draining), draining),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       s.configureConn,
		ConnState:         s.connections.note,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	return s.run(ctx, hub, httpServer, listener, draining)
}

// parts are what a running hub consists of, besides its HTTP server.
type parts struct {
	log         *eventlog.Log
	broadcaster *broadcast.Broadcaster
	loop        *sse.Loop
	registry    *presence.Registry // nil: subscriptions are not told of
}

// run keeps the parts going and stops them in order: not ready, streams end
// while updates are still taken, those in flight are answered, the log stops.
func (s *Server) run(
	ctx context.Context, hub parts,
	httpServer *http.Server, listener net.Listener, draining chan struct{},
) error {
	logCtx, stopLog := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLog()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return hub.log.Run(logCtx, hub.broadcaster) })
	if hub.registry != nil {
		group.Go(func() error { return hub.registry.Run(logCtx) }) // streams leave it until the end
	}
	group.Go(func() error {
		s.keySets.run(logCtx) // publishers' tokens are verified until the end
		return nil
	})
	loopCtx, stopLoop := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoop()
	group.Go(func() error { return hub.loop.Run(loopCtx) })
	served := make(chan struct{})
	group.Go(func() error {
		defer close(served)
		// Before the log is read a stream would only be refused.
		select {
		case <-hub.log.Started():
		case <-groupCtx.Done():
			return nil
		}
		close(s.started)
		s.logger.Info("hub started", "address", listener.Addr().String(), "database", eventlog.Address(string(s.config.DatabaseURL)))
		err := httpServer.Serve(listener)
		select {
		case <-draining: // which closes the listener
			return nil
		default:
			return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
		}
	})
	group.Go(func() error {
		<-groupCtx.Done()
		s.logger.Info("hub stopping", "streams", hub.broadcaster.Streams())
		close(draining)
		var grace time.Duration
		if ctx.Err() != nil { // not because a part has failed
			drain(hub.broadcaster, s.config.DrainTimeout)
			grace = min(idleGrace, s.config.DrainTimeout)
		}
		hub.broadcaster.End(broadcast.ErrEnded)
		err := s.disconnect(context.WithoutCancel(ctx), httpServer, listener, served, grace)
		stopLoop() // nobody adds to it any more
		<-hub.loop.Done()
		stopLog()
		return err
	})
	return group.Wait()
}

// disconnect takes nobody new, answers the requests that are there, and closes
// the connections. It waits for the listener to be served no longer.
func (s *Server) disconnect(
	ctx context.Context, httpServer *http.Server, listener net.Listener, served <-chan struct{}, grace time.Duration,
) error {
	waiting, err := closeListener(listener)
	if err != nil {
		s.logger.Debug("listener closed", "error", err)
	}
	<-served
	_ = httpServer.Serve(&lastConnections{Listener: listener, accepted: waiting})
	err = s.connections.awaitSilence(ctx, grace)
	_ = httpServer.Close()
	return err
}

func (s *Server) migrate(ctx context.Context) error {
	if !s.config.Migrate {
		return nil // eventlog.Open refuses what does not fit
	}
	url := s.config.ListenURL
	if url == "" {
		url = s.config.DatabaseURL
	}
	runner := migrations.Runner{DatabaseURL: string(url), Logger: s.logger}
	applied, err := runner.Up(ctx)
	for _, m := range applied {
		s.logger.Info("migration applied", "migration", m.Name, "duration", m.Duration)
	}
	if err != nil {
		return fmt.Errorf("migrate the database at %s: %w", eventlog.Address(string(url)), err)
	}
	changed, err := runner.SetHubPath(ctx, s.namespace())
	if changed {
		s.logger.Info("reserved namespace moved", "path", s.namespace())
	}
	return err
}

// namespace is the path that the database must keep publishers out of.
func (s *Server) namespace() string {
	if hub := s.settings.hub.PublicURL; hub != nil {
		return hub.Namespace()
	}
	return s.settings.hub.Path // the default one, which has one spelling
}

func (s *Server) handler(hub parts, draining <-chan struct{}) http.Handler {
	var subscriptions httpapi.Presence // a nil registry is none
	if hub.registry != nil {
		subscriptions = hub.registry
	}
	return httpapi.New(httpapi.Config{
		Log:             hub.log,
		Broadcaster:     hub.broadcaster,
		Loop:            hub.loop,
		Presence:        subscriptions,
		Auth:            s.authenticator,
		Hub:             s.settings.hub,
		Logger:          s.logger,
		Anonymous:       bool(s.config.Anonymous),
		Limits:          s.config.limits(),
		CORSOrigins:     s.settings.corsOrigins,
		LiveIfUnknown:   s.config.UnknownCursor == "live",
		Checkpoints:     httpapi.CheckpointMode(s.config.CursorCheckpoints),
		Heartbeat:       s.config.Heartbeat,
		Lifetime:        s.config.WriteTimeout,
		DispatchTimeout: s.config.DispatchTimeout,
		SeparateWrites:  !bool(s.config.SharedWrites),
		Draining:        draining,

		AuthorizationServers: func() []string { return s.trust.Load().authorizationServers },
		AnonymousFallback:    bool(s.config.AnonymousFallback),
		RefuseTarget:         bool(s.config.RefuseTarget),
		MaxStreams:           s.config.MaxStreams,
		MaxStreamsPerAddress: s.config.MaxStreamsPerAddress,
	})
}

func (s *Server) authenticator() *auth.Authenticator { return s.trust.Load().auth }

// limits are what requests are held to.
func (c *Config) limits() protocol.Limits {
	limits := protocol.DefaultLimits()
	limits.BodyBytes = int(c.MaxRequestBody)
	limits.Topics, limits.FieldBytes = c.MaxTopics, int(c.MaxFieldBytes)
	limits.Matchers, limits.MatcherBytes = c.MaxMatchers, int(c.MaxMatcherBytes)
	return limits
}

// history tells the broadcaster which errors of the log are final for a stream.
type history struct{ *eventlog.Log }

func (h history) PageAfter(ctx context.Context, after, upTo protocol.Position, topics []string) ([]protocol.Entry, protocol.Position, error) {
	entries, covered, err := h.Log.PageAfter(ctx, after, upTo, topics)
	return entries, covered, final(err)
}

func (h history) PageFromStart(
	ctx context.Context, after, upTo, kept protocol.Position, topics []string,
) ([]protocol.Entry, protocol.Position, protocol.Position, error) {
	entries, covered, kept, err := h.Log.PageFromStart(ctx, after, upTo, kept, topics)
	return entries, covered, kept, final(err)
}

func final(err error) error {
	if errors.Is(err, eventlog.ErrBelowHorizon) {
		return errors.Join(broadcast.ErrInterrupted, err)
	}
	return err
}
