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
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cinnabar-hub/cinnabar/migrations"
	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
	"github.com/cinnabar-hub/cinnabar/server/internal/httpapi"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
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
	config   Config
	settings settings
	logger   *slog.Logger
	started  chan struct{}
	address  net.Addr
}

// New checks the configuration. The error names every problem; nothing is
// connected to yet.
func New(config Config) (*Server, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	parsed, err := config.parse()
	if err != nil {
		return nil, err
	}
	return &Server{config: config, settings: parsed, logger: config.Logger, started: make(chan struct{})}, nil
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
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.config.Addr)
	if err != nil {
		return fmt.Errorf("listen on MERCURE_ADDR %s: %w", s.config.Addr, err)
	}
	defer func() { _ = listener.Close() }() // again, where serving never began
	s.address = listener.Addr()

	if err := s.migrate(ctx); err != nil {
		return err
	}
	log, err := eventlog.Open(ctx, eventlog.Config{
		DatabaseURL: string(s.config.DatabaseURL),
		ListenURL:   string(s.config.ListenURL),
		RecentBytes: int64(s.config.TailBytes),
		Logger:      s.logger,
	})
	if err != nil {
		return err
	}
	defer log.Close()

	broadcaster := broadcast.New(broadcast.Config{
		History: history{log}, TailBytes: int(s.config.TailBytes),
	})
	draining := make(chan struct{})
	httpServer := &http.Server{
		Handler:           s.handler(log, broadcaster, draining),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       boundSendBuffer,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	return s.run(ctx, log, broadcaster, httpServer, listener, draining)
}

// sendBufferBytes is what the kernel may hold for one connection (it takes twice
// as much). Left to itself it holds 4 MB for each reader that is slow, and
// reports progress only a megabyte at a time, so that a reader of 100 kB/s looks
// stuck.
const sendBufferBytes = 128 << 10

func boundSendBuffer(ctx context.Context, conn net.Conn) context.Context {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBufferBytes) // a wish; the connection works without
	}
	return ctx
}

// run keeps the parts going and stops them in order: not ready, streams end,
// publishes in flight are answered, the log stops.
func (s *Server) run(
	ctx context.Context, log *eventlog.Log, broadcaster *broadcast.Broadcaster,
	httpServer *http.Server, listener net.Listener, draining chan struct{},
) error {
	logCtx, stopLog := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLog()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return log.Run(logCtx, broadcaster) })
	group.Go(func() error {
		// Before the log is read a stream would only be refused.
		select {
		case <-log.Started():
		case <-groupCtx.Done():
			return nil
		}
		close(s.started)
		s.logger.Info("hub started", "address", listener.Addr().String(), "database", eventlog.Address(string(s.config.DatabaseURL)))
		if err := httpServer.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-groupCtx.Done()
		s.logger.Info("hub stopping", "streams", broadcaster.Streams())
		close(draining)
		broadcaster.End(broadcast.ErrEnded)
		shutdownCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		err := httpServer.Shutdown(shutdownCtx)
		if err != nil {
			_ = httpServer.Close()
			err = fmt.Errorf("stop: requests were still being answered after %s: %w", shutdownTimeout, err)
		}
		stopLog()
		return err
	})
	return group.Wait()
}

func (s *Server) migrate(ctx context.Context) error {
	if !s.config.Migrate {
		return nil // eventlog.Open refuses what does not fit
	}
	url := s.config.ListenURL
	if url == "" {
		url = s.config.DatabaseURL
	}
	applied, err := migrations.Runner{DatabaseURL: string(url), Logger: s.logger}.Up(ctx)
	for _, m := range applied {
		s.logger.Info("migration applied", "migration", m.Name, "duration", m.Duration)
	}
	if err != nil {
		return fmt.Errorf("migrate the database at %s: %w", eventlog.Address(string(url)), err)
	}
	return nil
}

func (s *Server) handler(log *eventlog.Log, broadcaster *broadcast.Broadcaster, draining <-chan struct{}) http.Handler {
	limits := protocol.DefaultLimits()
	limits.BodyBytes = int(s.config.MaxRequestBody)
	return httpapi.New(httpapi.Config{
		Log:             log,
		Broadcaster:     broadcaster,
		Auth:            s.settings.auth,
		Hub:             s.settings.hub,
		Logger:          s.logger,
		Anonymous:       bool(s.config.Anonymous),
		Compat:          s.settings.compat,
		Limits:          limits,
		CORSOrigins:     s.settings.corsOrigins,
		LiveIfUnknown:   s.config.UnknownCursor == "live",
		Checkpoints:     httpapi.CheckpointMode(s.config.CursorCheckpoints),
		Heartbeat:       s.config.Heartbeat,
		Lifetime:        s.config.WriteTimeout,
		DispatchTimeout: s.config.DispatchTimeout,
		SeparateWrites:  !bool(s.config.SharedWrites),
		Draining:        draining,
	})
}

// history tells the broadcaster which errors of the log are final for a stream.
type history struct{ *eventlog.Log }

func (h history) PageAfter(ctx context.Context, after, upTo protocol.Position, topics []string) ([]protocol.Entry, protocol.Position, error) {
	entries, covered, err := h.Log.PageAfter(ctx, after, upTo, topics)
	if errors.Is(err, eventlog.ErrBelowHorizon) {
		err = errors.Join(broadcast.ErrInterrupted, err)
	}
	return entries, covered, err
}
