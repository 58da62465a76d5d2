//go:build !linux

package bench

import (
	"context"
	"errors"
)

// canPoll: sockets can be read without a goroutine for each.
const canPoll = false

func poll(context.Context, *plan, []*target, []*stream, *sink) error {
	return errors.New("sockets cannot be polled on this system")
}
