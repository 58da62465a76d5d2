package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// sqlPublisher publishes with an INSERT that commits by itself.
type sqlPublisher struct{ conn *pgx.Conn }

func newSQLPublishers(ctx context.Context, databaseURL string, n int) (list []publisher, err error) {
	for range n {
		conn, err := pgx.Connect(ctx, databaseURL)
		if err != nil {
			closeAll(list)
			return nil, fmt.Errorf("connect to the database of the hub: %w", err)
		}
		list = append(list, &sqlPublisher{conn: conn})
	}
	return list, nil
}

func (p *sqlPublisher) publish(ctx context.Context, topic string, data []byte) (string, error) {
	_, err := p.conn.Exec(ctx, "INSERT INTO mercure.outbox (topics, data) VALUES ($1, $2)", []string{topic}, string(data))
	if err != nil {
		return "", fmt.Errorf("insert into the outbox: %w", err)
	}
	return "", nil
}

func (p *sqlPublisher) close() { _ = p.conn.Close(context.Background()) } //nolint:forbidigo // there is nothing to wait for

func closeAll(list []publisher) {
	for _, p := range list {
		p.close()
	}
}
