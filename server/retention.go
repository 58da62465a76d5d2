package server

import (
	"context"

	"github.com/cinnabar-hub/cinnabar/server/internal/eventlog"
)

// RetentionPreview is what there is in the log, and what retention would remove
// now.
type RetentionPreview = eventlog.Preview

// PreviewRetention reads the whole log and changes nothing. Policies that are not
// enabled count with withDisabled.
func PreviewRetention(ctx context.Context, config Config, withDisabled bool) (RetentionPreview, error) {
	config.Anonymous = true // whoever may subscribe does not matter
	s, err := New(config)
	if err != nil {
		return RetentionPreview{}, err
	}
	log, err := eventlog.Open(ctx, s.logConfig())
	if err != nil {
		return RetentionPreview{}, err
	}
	defer log.Close()
	return log.Preview(ctx, withDisabled)
}

// logConfig says where the log is, and what is kept of it.
func (s *Server) logConfig() eventlog.Config {
	return eventlog.Config{
		DatabaseURL: string(s.config.DatabaseURL),
		ListenURL:   string(s.config.ListenURL),
		HubPath:     s.namespace(),
		Hub:         s.settings.hub.PublicURL,
		Retention: eventlog.Retention{
			MaxAge: s.config.HistoryMaxAge, MaxUpdates: int64(s.config.HistoryMaxUpdates), MaxBytes: int64(s.config.HistoryMaxBytes),
		},
		RecentBytes: int64(s.config.TailBytes),
		QueueBytes:  int(s.config.QueueBytes),
		Logger:      s.logger,
	}
}
