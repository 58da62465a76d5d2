package eventlog

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// maxPreviewRows is a page of what Preview reads.
const maxPreviewRows = 10_000

// Preview is what there is in the log, and what retention would remove now.
type Preview struct {
	Updates, Bytes, DiskBytes int64
	Oldest, Newest            time.Time // zero: the log is empty
	Policies                  []PolicyPreview
	// Log is what the limits of the whole log remove.
	Log Amount
	// OldestLeft is the oldest update from which clients could still resume.
	OldestLeft time.Time
}

// Amount is a number of updates and their size.
type Amount struct{ Updates, Bytes int64 }

func (a *Amount) add(size int64) {
	a.Updates++
	a.Bytes += size
}

// PolicyPreview is what a policy has to do with the log.
type PolicyPreview struct {
	Priority         int32
	MatchType, Match string
	Enabled          bool
	Problem          string // why it matches nothing, if it does
	Topics           int64
	Governed, Gone   Amount
}

// previewed is an update, as small as possible: there is one for each in the log.
type previewed struct {
	position, created int64
	size, idBytes     int32
	governed          bool
}

// preview is the state of Preview.
type preview struct {
	Preview
	now      int64
	minAge   int64
	policies []db.PoliciesRow
	matchers []*protocol.Matcher
	topics   map[string]*previewedTopic
	rows     []previewed
}

type previewedTopic struct {
	policy int // -1: none
	rows   []int
}

// Preview reads the whole log and changes nothing. It takes 32 bytes of memory for
// each update, and more for each topic that a policy governs.
//
// withDisabled counts policies that are not enabled as if they were.
func (l *Log) Preview(ctx context.Context, withDisabled bool) (Preview, error) {
	p := &preview{now: time.Now().UnixMicro(), minAge: l.config.Retention.MinAge.Microseconds(), topics: map[string]*previewedTopic{}}
	if err := l.readPreview(ctx, p, withDisabled); err != nil {
		return p.Preview, fmt.Errorf("look what retention would do: %w", err)
	}
	for _, topic := range p.topics {
		p.apply(topic)
	}
	horizon, err := l.queries.Horizon(ctx)
	if err != nil {
		return p.Preview, fmt.Errorf("read the horizon: %w", err)
	}
	p.retain(horizon, &l.config.Retention)
	return p.Preview, nil
}

func (l *Log) readPreview(ctx context.Context, p *preview, withDisabled bool) (err error) {
	if p.policies, err = l.queries.Policies(ctx); err != nil {
		return err
	}
	p.matchers, p.Policies = make([]*protocol.Matcher, len(p.policies)), make([]PolicyPreview, len(p.policies))
	for i := range p.policies {
		row := &p.policies[i]
		shown := &p.Policies[i]
		*shown = PolicyPreview{Priority: row.Priority, MatchType: row.MatchType, Match: row.Match, Enabled: row.Enabled}
		matcher, err := l.policyMatcher(row)
		if err != nil {
			shown.Problem = err.Error()
		} else if row.Enabled || withDisabled {
			p.matchers[i] = matcher
		}
	}
	if p.DiskBytes, err = l.queries.DiskBytes(ctx); err != nil {
		return err
	}
	for after := int64(0); ; {
		rows, err := l.queries.UpdateSizes(ctx, after, maxPreviewRows)
		if err != nil {
			return err
		}
		for i := range rows {
			p.add(&rows[i])
			after = rows[i].Position
		}
		if len(rows) < maxPreviewRows {
			return nil
		}
	}
}

func (p *preview) add(row *db.UpdateSizesRow) {
	p.Updates++
	p.Bytes += int64(row.Size)
	if p.Updates == 1 {
		p.Oldest = row.CreatedAt.Time
	}
	p.Newest = row.CreatedAt.Time
	topic := p.topic(row.Topic)
	if topic != nil {
		topic.rows = append(topic.rows, len(p.rows))
		p.Policies[topic.policy].Governed.add(int64(row.Size))
	}
	p.rows = append(p.rows, previewed{
		position: row.Position, created: row.CreatedAt.Time.UnixMicro(), size: row.Size, idBytes: row.IDBytes, governed: topic != nil,
	})
}

// topic returns nil if no policy governs it.
func (p *preview) topic(name string) *previewedTopic {
	if name == "" {
		return nil
	}
	if topic, known := p.topics[name]; known {
		return topic
	}
	parsed := protocol.NewTopic(name)
	for i, matcher := range p.matchers {
		if matcher != nil && matcher.Match(parsed) {
			topic := &previewedTopic{policy: i}
			p.topics[name] = topic
			p.Policies[i].Topics++
			return topic
		}
	}
	return nil
}

// apply removes what the policy of a topic does not keep.
func (p *preview) apply(topic *previewedTopic) {
	policy := &p.policies[topic.policy]
	var newer Amount
	for _, i := range slices.Backward(topic.rows) {
		row := &p.rows[i]
		age := p.now - row.created
		newer.add(int64(row.size))
		tooOld := policy.MaxAgeSeconds > 0 && age > policy.MaxAgeSeconds*1_000_000
		tooMany := newer.Updates > 1 && (policy.KeepLast ||
			policy.MaxUpdates != nil && newer.Updates > *policy.MaxUpdates ||
			policy.MaxBytes != nil && newer.Bytes > *policy.MaxBytes)
		if (tooOld || tooMany) && age > p.minAge {
			p.Policies[topic.policy].Gone.add(int64(row.size))
			row.size, row.governed = row.idBytes, false
		}
	}
}

// retain moves the horizon, as mercure.retain() does.
func (p *preview) retain(horizon int64, limits *Retention) {
	var left Amount
	for i := range p.rows {
		if p.rows[i].position > horizon {
			left.add(int64(p.rows[i].size))
		}
	}
	for i := range p.rows {
		row := &p.rows[i]
		if row.position <= horizon {
			continue
		}
		age := p.now - row.created
		gone := limits.MaxAge > 0 && age > limits.MaxAge.Microseconds() ||
			limits.MaxUpdates > 0 && left.Updates > limits.MaxUpdates ||
			limits.MaxBytes > 0 && left.Bytes > limits.MaxBytes
		if !gone || age <= p.minAge || i == len(p.rows)-1 {
			p.OldestLeft = time.UnixMicro(row.created)
			return
		}
		left.Updates--
		left.Bytes -= int64(row.size)
		if !row.governed {
			p.Log.add(int64(row.size))
		}
	}
}
