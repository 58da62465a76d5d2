package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// portableReadSize is that of a goroutine's buffer.
const portableReadSize = 16 << 10

// portable reads each stream in a goroutine of its own: TLS needs that, and
// systems without epoll.
type portable struct {
	plan    *plan
	targets []*target

	mu sync.Mutex
	to *sink // guarded by mu, except for its counters
}

// run opens the streams and reads them until ctx ends.
func (p *portable) run(ctx context.Context, streams []*stream) error {
	group, ctx := errgroup.WithContext(ctx)
	turns := make(chan struct{}, p.plan.Connecting)
	for _, s := range streams {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return group.Wait()
		}
		group.Go(func() error { return p.follow(ctx, s, func() { <-turns }) })
	}
	return group.Wait()
}

func (p *portable) follow(ctx context.Context, s *stream, opened func()) error {
	conn, err := p.open(ctx, s)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	buffer := make([]byte, portableReadSize)
	for {
		n, err := conn.Read(buffer)
		wasOpen := s.opened
		if n > 0 {
			p.mu.Lock()
			taken := s.take(buffer[:n], p.plan, p.to)
			p.mu.Unlock()
			if taken != nil {
				err = taken
			}
		}
		if s.opened && !wasOpen {
			opened()
			_ = conn.SetReadDeadline(time.Time{})
		}
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return nil
		case wasOpen && n == 0, errors.Is(err, errEnded) && s.opened:
			p.to.ended.Add(1)
			return nil
		case n == 0:
			return fmt.Errorf("open a stream: %w", err)
		}
		return err
	}
}

func (p *portable) open(ctx context.Context, s *stream) (net.Conn, error) {
	t := p.targets[s.index%len(p.targets)]
	s.began = time.Now().UnixNano()
	conn, err := t.dial(ctx, s.index)
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Now().Add(openTimeout))
	if _, err := conn.Write(p.plan.request(t.url, s.index)); err != nil {
		_ = conn.Close()
		return nil, explainDial(t, err)
	}
	return conn, nil
}
