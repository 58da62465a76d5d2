package eventlog

import (
	"net/url"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// passwords are those that took the place of the ones that the log was opened
// with.
type passwords struct{ pool, listener password }

type password struct{ current atomic.Pointer[string] }

// apply is called for every new connection.
func (p *password) apply(config *pgconn.Config) {
	if current := p.current.Load(); current != nil {
		config.Password = *current
	}
}

func (p *password) take(databaseURL string) {
	if config, err := pgx.ParseConfig(databaseURL); err == nil {
		p.current.Store(&config.Password)
	}
}

// UsePasswords makes new connections use the passwords of these addresses, which
// are those of the configuration otherwise. Connections that there are go on.
func (l *Log) UsePasswords(databaseURL, listenURL string) {
	if listenURL == "" {
		listenURL = databaseURL
	}
	l.passwords.pool.take(databaseURL)
	l.passwords.listener.take(listenURL)
}

// SameButPassword compares connection strings. Those that are no URLs differ
// unless they are equal.
func SameButPassword(a, b string) bool {
	if a == b {
		return true
	}
	a, okA := withoutPassword(a)
	b, okB := withoutPassword(b)
	return okA && okB && a == b
}

func withoutPassword(databaseURL string) (string, bool) {
	u, err := url.Parse(databaseURL)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", false
	}
	query := u.Query()
	query.Del("password")
	u.RawQuery = query.Encode()
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	return u.String(), true
}
