package server

import (
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/broadcast"
)

// drainStep is how often a share of the streams is ended.
const drainStep = 100 * time.Millisecond

// drain ends all streams, evenly over at most timeout, so that the nodes they
// return to are not all asked at once. With few streams it is quicker.
func drain(broadcaster *broadcast.Broadcaster, timeout time.Duration) {
	if timeout <= 0 {
		return
	}
	deadline := time.Now().Add(timeout)
	ticker := time.NewTicker(drainStep)
	defer ticker.Stop()
	for left := broadcaster.Streams(); left > 0; {
		steps := max(1, int(time.Until(deadline)/drainStep))
		left = broadcaster.EndSome((left+steps-1)/steps, broadcast.ErrEnded)
		if left > 0 {
			<-ticker.C
		}
	}
}
