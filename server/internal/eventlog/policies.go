package eventlog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cinnabar-hub/cinnabar/db"
	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// maxClassifiedRows is how many updates are matched with the policies in one
// transaction.
const maxClassifiedRows = 5000

// policySet is what mercure.policies held at a moment, compiled. SQL cannot match
// URL patterns, so hubs note which policy governs an update.
type policySet struct {
	fingerprint int64
	policies    []policy // by priority
	// classified is a position up to which it is noted in any case.
	classified atomic.Int64
}

type policy struct {
	id      int32
	matcher *protocol.Matcher
}

// governing returns the policy that counts for updates with a canonical topic.
func (s *policySet) governing(topic *protocol.Topic) (id int32, ok bool) {
	for _, p := range s.policies {
		if p.matcher.Match(topic) {
			return p.id, true
		}
	}
	return 0, false
}

// loadPolicies takes over the policies that are in force. One that cannot be used
// matches nothing; that is logged, and noted where its author finds it.
func (l *Log) loadPolicies(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	rows, err := l.queries.Policies(ctx)
	if err != nil {
		return fmt.Errorf("read the policies: %w", err)
	}
	set := new(policySet)
	for i := range rows {
		row := &rows[i]
		if set.fingerprint = row.Fingerprint; !row.Enabled {
			continue
		}
		matcher, err := l.policyMatcher(row)
		if err != nil {
			if row.Problem == "" {
				l.logger.Error("a retention policy cannot be used; correct its match in mercure.policies", "policy", row.ID, "match", row.Match, "error", err)
			}
		} else {
			set.policies = append(set.policies, policy{id: row.ID, matcher: matcher})
		}
		if err := l.reportPolicy(ctx, row, err); err != nil {
			return err
		}
	}
	l.policies.Store(set)
	return nil
}

func (l *Log) policyMatcher(row *db.PoliciesRow) (*protocol.Matcher, error) {
	if row.MatchType == "exact" {
		return protocol.NewExact(row.Match)
	}
	return protocol.NewURLPattern(row.Match, l.config.Hub)
}

// reportPolicy writes what is wrong with a policy beside it, if that is news.
func (l *Log) reportPolicy(ctx context.Context, row *db.PoliciesRow, problem error) error {
	var text *string
	if problem != nil {
		message := strings.ReplaceAll(problem.Error(), "\x00", "")
		text = &message
	}
	if text == nil && row.Problem == "" || text != nil && *text == row.Problem {
		return nil
	}
	if err := l.queries.ReportPolicy(ctx, db.ReportPolicyParams{Policy: row.ID, ForMatch: row.Match, Problem: text}); err != nil {
		return fmt.Errorf("report on a policy: %w", err)
	}
	return nil
}

// errPoliciesChange: they keep changing while the log is matched with them.
var errPoliciesChange = errors.New("the policies change all the time")

// classify notes which policies govern the updates up to a position, or as far as
// the log reaches. Any number of nodes may do it at once.
func (l *Log) classify(ctx context.Context, upTo protocol.Position) error {
	for changes := 0; changes < 10; {
		set := l.policies.Load()
		if set.classified.Load() >= int64(upTo) {
			return nil
		}
		done, current, err := l.classifySome(ctx, set, int64(upTo))
		if err != nil || done {
			return err
		}
		if !current {
			changes++
			if err := l.loadPolicies(ctx); err != nil {
				return err
			}
		}
	}
	return errPoliciesChange
}

// classifySome does that for one page. Not current: the policies have changed.
func (l *Log) classifySome(ctx context.Context, set *policySet, upTo int64) (done, current bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	state, err := l.queries.Classified(ctx, set.fingerprint)
	if err != nil {
		return false, true, fmt.Errorf("look how far updates are classified: %w", err)
	}
	if !state.Current {
		return false, false, nil
	}
	set.classified.Store(state.UpTo)
	target := min(upTo, state.Target)
	if state.UpTo >= target {
		return true, true, nil
	}
	rows, err := l.queries.CanonicalTopics(ctx, db.CanonicalTopicsParams{AfterPosition: state.UpTo, UpToPosition: target, MaxRows: maxClassifiedRows})
	if err != nil {
		return false, true, fmt.Errorf("read topics: %w", err)
	}
	params := db.ClassifyParams{Fingerprint: set.fingerprint, AfterPosition: state.UpTo, UpTo: target, Positions: []int64{}, Policies: []int32{}}
	if len(rows) == maxClassifiedRows {
		params.UpTo = rows[len(rows)-1].Position
	}
	params.Positions, params.Policies = set.match(rows)
	if _, err := l.queries.Classify(ctx, params); err != nil {
		return false, true, fmt.Errorf("classify updates: %w", err)
	}
	return false, true, nil
}

// match returns the positions of the updates that are governed, and by what.
func (s *policySet) match(rows []db.CanonicalTopicsRow) (positions []int64, policies []int32) {
	positions, policies = []int64{}, []int32{}
	type verdict struct {
		id int32
		ok bool
	}
	known := map[string]verdict{"": {}}
	for i := range rows {
		v, ok := known[rows[i].Topic]
		if !ok {
			v.id, v.ok = s.governing(protocol.NewTopic(rows[i].Topic))
			known[rows[i].Topic] = v
		}
		if v.ok {
			positions, policies = append(positions, rows[i].Position), append(policies, v.id)
		}
	}
	return positions, policies
}
