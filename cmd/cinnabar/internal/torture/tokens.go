package torture

import (
	"crypto/rand"
	"errors"
	"time"

	"github.com/cinnabar-hub/cinnabar/cmd/cinnabar/internal/hubproc"
	"github.com/cinnabar-hub/cinnabar/server"
)

// tokens are what publishers and subscribers present.
type tokens struct {
	publisherKey, subscriberKey string
	publisher                   string
	subscribers                 map[credential]string
}

// of returns a token; empty for anonymous.
func (t *tokens) of(c credential) string { return t.subscribers[c] }

const publicURL = origin + hubproc.Path

// newTokens makes keys, and tokens that live as long as a run may.
func newTokens(lifetime time.Duration) (*tokens, error) {
	t := &tokens{publisherKey: rand.Text() + rand.Text(), subscriberKey: rand.Text() + rand.Text(), subscribers: map[credential]string{}}
	publisher, err := server.ParseSigningKey(t.publisherKey, "HS256")
	if err != nil {
		return nil, err
	}
	subscriber, err := server.ParseSigningKey(t.subscriberKey, "HS256")
	if err != nil {
		return nil, err
	}
	base := server.TokenSpec{
		Dialect: server.Dialect1, Issuer: origin, Audience: publicURL, Expires: time.Now().Add(lifetime),
	}
	everything := []server.MatcherSpec{{Match: "*"}}
	publish := base
	publish.Key, publish.Publish = publisher, everything
	if t.publisher, err = server.MintToken(publish); err != nil {
		return nil, err
	}
	mint := func(c credential, dialect1 bool, grants []server.MatcherSpec) {
		spec := base
		if !dialect1 {
			spec = server.TokenSpec{Dialect: server.Dialect0, Expires: base.Expires}
		}
		spec.Key, spec.Subscribe = subscriber, grants
		token, failed := server.MintToken(spec)
		err = errors.Join(err, failed)
		t.subscribers[c] = token
	}
	mint(grantsAll, true, everything)
	mint(grantsOrder1, true, []server.MatcherSpec{{Match: order1}})
	mint(grantsNothing, true, []server.MatcherSpec{{Match: "urn:torture:nobody"}})
	mint(legacyGrantsAll, false, everything)
	return t, err
}
