// Package keyset keeps JWK sets: the public keys that an issuer of tokens
// publishes and replaces while the hub runs.
//
// Promises:
//   - A set that was read once stays in use until another one has been read
//     completely: an outage of the source, or nonsense from it, takes no key
//     away (V-15).
//   - Only public keys for signatures become keys. Shared secrets and private
//     keys in a set are not kept.
//   - However many requests ask, one read is under way at a time, and those
//     that tokens with unknown keys bring about are a minute apart.
//   - Sets are fetched from public addresses and from networks that were
//     listed, with bounds on size and time (Z-14).
//   - Errors and log lines hold neither the query nor the user part of a URL,
//     which may be secret.
package keyset

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
)

const (
	// defaultInterval is between two reads if the source does not say.
	// A removed key counts for this much longer.
	defaultInterval = 5 * time.Minute
	// What a source says is taken within these bounds.
	minInterval, maxInterval = time.Minute, time.Hour
	// unknownInterval is between two reads for tokens whose key is unknown
	// (V-15); firstInterval is, as long as there is no set at all.
	unknownInterval, firstInterval = time.Minute, time.Second
	// minRetry and maxRetry bound the time until the next try after a failure.
	minRetry, maxRetry = 2 * time.Second, time.Minute
)

// Config says where a set is and what counts of it.
type Config struct {
	// URL is https://host/path or file:///path.
	URL string
	// Networks are those of internal addresses that may be contacted. Public
	// addresses always may.
	Networks []netip.Prefix
	// Algs are the algorithms that keys of the set may be used with. Empty: all
	// those of public keys.
	Algs []string
	// Logger is told of outages, changes and unusable keys. Nil: nobody is.
	Logger *slog.Logger
	// OnChange, if not nil, is called after keys came or went, without any lock
	// held. It may be called by several goroutines.
	OnChange func()
	// RootCAs are the authorities for https. Nil: those of the system.
	RootCAs *x509.CertPool
}

// Set is a JWK set. It is an auth.KeySource, safe for concurrent use.
type Set struct {
	// Fixed by New.
	source   source
	shown    string // the URL without its secrets
	algs     []string
	logger   *slog.Logger
	onChange func()

	// keys is nil until the set has been read once.
	keys atomic.Pointer[[]auth.Key]
	// wake tells Run that somebody waits.
	wake chan struct{}

	// reading holds a token while a read is under way. The fields of this group
	// belong to whoever does that.
	reading  chan struct{}
	failures int               // since the last success
	good     [sha256.Size]byte // of the document in use
	told     [sha256.Size]byte // of the last one whose unusable keys were logged

	mu sync.Mutex // guards the rest; never held across I/O
	// round is closed at the end of the read that was asked for or is under
	// way; nil: neither.
	round chan struct{}
	asked time.Time // when a read was last asked for
	next  time.Duration
}

// document is what a source has.
type document struct {
	body []byte
	// maxAge is how long it stays true according to the source; negative if the
	// source does not say.
	maxAge time.Duration
}

type source interface {
	read(ctx context.Context) (document, error)
}

// New checks the configuration. A file is read at once, and must hold a usable
// set; a set that is fetched is read by Run or Reload first.
//
// Spec: V-15.
func New(config Config) (*Set, error) {
	address, err := parseURL(config.URL)
	if err != nil {
		return nil, err
	}
	shown := (&url.URL{Scheme: address.Scheme, Host: address.Host, Path: address.Path}).String()
	for _, alg := range config.Algs {
		if !slices.Contains(auth.PublicAlgs(), alg) {
			return nil, fmt.Errorf("key set %s: a key set cannot have keys for %q: use some of %s",
				shown, alg, strings.Join(auth.PublicAlgs(), ", "))
		}
	}
	s := &Set{
		shown:    shown,
		algs:     slices.Clone(config.Algs),
		logger:   config.Logger,
		onChange: config.OnChange,
		wake:     make(chan struct{}, 1),
		reading:  make(chan struct{}, 1),
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.logger = s.logger.With("key_set", shown)
	if address.Scheme == "https" {
		s.source = newHTTPSSource(address, config.Networks, config.RootCAs)
		return s, nil
	}
	file := fileSource(address.Path)
	s.source = file
	if _, err := s.take(file.open()); err != nil {
		return nil, s.named(err)
	}
	return s, nil
}

// parseURL does not repeat the URL in its errors, nor what net/url says, which
// would.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("the URL of a key set cannot be read: use https://host/path or file:///path")
	case u.Scheme == "https" && u.Hostname() != "":
		return u, nil
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return u, nil
	case u.Scheme == "http":
		return nil, errors.New("the URL of a key set starts with http://, and everybody on the way could replace the keys: use https://")
	default:
		return nil, errors.New("the URL of a key set must be https://host/path or file:///path")
	}
}

func (s *Set) named(err error) error {
	return fmt.Errorf("key set %s: %w", s.shown, err)
}

// Keys implements auth.KeySource.
func (s *Set) Keys() ([]auth.Key, bool) {
	keys := s.keys.Load()
	if keys == nil {
		return nil, false
	}
	return *keys, true
}

// Refresh implements auth.KeySource. It has Run read the set: no request reads
// itself, so that one that goes away takes the answer from nobody.
//
// Spec: V-15.
func (s *Set) Refresh(ctx context.Context) {
	round := s.ask()
	if round == nil {
		return
	}
	select {
	case <-round:
	case <-ctx.Done():
	}
}

// ask returns the end of the read to wait for, nil if there is none.
func (s *Set) ask() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round != nil {
		return s.round
	}
	interval := unknownInterval
	if s.keys.Load() == nil {
		interval = firstInterval
	}
	if !s.asked.IsZero() && time.Since(s.asked) < interval {
		return nil
	}
	s.asked = time.Now()
	s.round = make(chan struct{})
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return s.round
}

// Run keeps the set fresh until ctx ends. Failures are logged, not returned.
func (s *Set) Run(ctx context.Context) {
	timer := time.NewTimer(s.wait())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			_ = s.read(ctx, onSchedule)
		case <-s.wake:
			_ = s.read(ctx, onDemand)
		}
		timer.Reset(s.wait())
	}
}

// Reload reads the set now, for an operator: that it fails is logged although
// it was before. The last keys then stay in use.
func (s *Set) Reload(ctx context.Context) error {
	if err := s.read(ctx, byHand); err != nil {
		return s.named(err)
	}
	return nil
}

func (s *Set) plan(next time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = next
}

// wait is how long until the next read: a tenth more or less than planned, as
// many hubs may have started together.
func (s *Set) wait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(float64(s.next) * (0.9 + rand.Float64()/5))
}

// occasion is why the set is read.
type occasion int

const (
	onSchedule occasion = iota
	onDemand            // not if it was done meanwhile
	byHand
)

func (s *Set) read(ctx context.Context, why occasion) error {
	select {
	case s.reading <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if !s.begin(why) {
		<-s.reading
		return nil
	}
	if why == byHand {
		s.failures = 0
	}
	changed, err := s.take(s.source.read(ctx))
	if ctx.Err() == nil {
		s.note(err)
	}
	s.end()
	<-s.reading
	if changed && s.onChange != nil {
		s.onChange()
	}
	return err
}

func (s *Set) begin(why occasion) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.round == nil {
		if why == onDemand {
			return false
		}
		s.round = make(chan struct{})
	}
	return true
}

func (s *Set) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.round)
	s.round = nil
}

// take makes a document the set in use, and reports whether other keys are in
// it than before.
func (s *Set) take(d document, err error) (changed bool, _ error) {
	if err != nil {
		return false, err
	}
	before, loaded := s.Keys()
	sum := sha256.Sum256(d.body)
	if !loaded || sum != s.good {
		keys, unusable, err := parse(d.body, s.algs)
		if sum != s.told {
			s.report(unusable)
			s.told = sum
		}
		if err != nil {
			return false, err
		}
		changed = !slices.Equal(ids(before), ids(keys))
		s.good = sum
		s.keys.Store(&keys)
		if changed {
			s.logger.Info("keys of a key set changed", "keys", ids(keys))
		}
	}
	if d.maxAge < 0 {
		s.plan(defaultInterval)
	} else {
		s.plan(min(max(d.maxAge, minInterval), maxInterval))
	}
	return changed, nil
}

func ids(keys []auth.Key) []string {
	list := make([]string, len(keys))
	for i, key := range keys {
		list[i] = key.ID()
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (s *Set) report(unusable []unusableKey) {
	for _, key := range unusable {
		log := s.logger.Debug
		if key.secret {
			log = s.logger.Warn
		}
		log("key of a key set is not used", "position", key.position, "kid", key.kid, "reason", key.reason)
	}
}

// note logs the begin and the end of an outage, and plans the next try.
func (s *Set) note(err error) {
	if err == nil {
		if s.failures > 0 {
			s.logger.Info("key set can be read again")
		}
		s.failures = 0
		return
	}
	if s.failures == 0 {
		if _, loaded := s.Keys(); loaded {
			s.logger.Warn("key set cannot be read; its last keys stay in use", "error", err)
		} else {
			s.logger.Warn("key set cannot be read; tokens that need it are answered 503", "error", err)
		}
	}
	s.plan(min(minRetry<<min(s.failures, 10), maxRetry))
	s.failures++
}
