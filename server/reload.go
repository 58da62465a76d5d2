package server

import (
	"context"
	"reflect"

	"github.com/cinnabar-hub/cinnabar/server/internal/auth"
	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
)

// Reload takes over the settings that say whose tokens count, and reads the
// JWK sets again. Streams whose key is no longer among them end; the others do
// not notice. Connections to the database that are made from now on use the
// passwords that its addresses have now.
//
// Every other setting stays as it was: ignored names those that differ, which
// a restart would apply. An error names every problem; nothing has changed
// then.
//
// Spec: Z-22.
func (s *Server) Reload(ctx context.Context, config Config) (ignored []string, err error) {
	s.reloadMu.Lock()
	defer s.reloadMu.Unlock()
	merged := s.reloaded
	from, to := reflect.ValueOf(config), reflect.ValueOf(&merged).Elem()
	for i := range to.NumField() {
		field := to.Type().Field(i)
		switch variable := field.Tag.Get("setting"); {
		case variable == "":
		case field.Tag.Get("reload") == "yes",
			field.Tag.Get("reload") == "password" && eventlog.SameButPassword(from.Field(i).String(), to.Field(i).String()):
			to.Field(i).Set(from.Field(i))
		case !from.Field(i).Equal(to.Field(i)):
			ignored = append(ignored, variable)
		}
	}
	parsed, err := merged.parse(s.keySets)
	if err != nil {
		return nil, err
	}
	for _, warning := range parsed.warnings {
		s.logger.Warn("configuration", "warning", warning)
	}
	s.reloaded = merged
	if log := s.log.Load(); log != nil {
		log.UsePasswords(string(merged.DatabaseURL), string(merged.ListenURL))
	}
	s.trust.Store(&parsed.trust)
	s.keySets.use(parsed.keySets)
	s.keySets.reload(ctx)
	s.endUntrusted()
	return ignored, nil
}

// endUntrusted ends the streams whose token was verified with a key that is no
// longer configured. It runs after every change of keys; a stream that opens
// at that moment is checked by its handler.
func (s *Server) endUntrusted() {
	broadcaster := s.broadcaster.Load()
	if broadcaster == nil {
		return
	}
	current := s.authenticator()
	ended := broadcaster.EndStreams(func(r broadcast.Receiver) bool {
		grants, ok := r.(*auth.Grants)
		return ok && !current.Trusts(auth.Subscriber, grants)
	}, broadcast.ErrRevoked)
	if ended > 0 {
		s.logger.Info("streams ended because their key was removed", "streams", ended)
	}
}
