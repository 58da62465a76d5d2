package bench

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// streams are those of a plan, in this process or in others.
type streams interface {
	state() state
	finish(expected published) (*tally, error)
	// close ends those that are not finished.
	close() error
}

// openStreams opens them in so many processes.
func openStreams(ctx context.Context, p plan, program string, processes int) (streams, error) {
	if processes == 1 {
		return openReceiver(ctx, p)
	}
	all := make(several, processes)
	group, ctx := errgroup.WithContext(ctx)
	for i := range all {
		group.Go(func() (err error) {
			all[i], err = startChild(context.WithoutCancel(ctx), ctx, program, p.part(i, processes))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, all.close())
	}
	return all, nil
}

// several are streams of several processes.
type several []*child

func (a several) state() (now state) {
	for _, c := range a {
		s := c.state()
		now.Delivered += s.Delivered
		now.Ended += s.Ended
		now.Failed = now.Failed || s.Failed
	}
	return now
}

func (a several) finish(expected published) (*tally, error) {
	tallies := make([]*tally, len(a))
	var group errgroup.Group
	for i, c := range a {
		group.Go(func() (err error) {
			tallies[i], err = c.finish(expected)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	sum := newTally()
	for _, t := range tallies {
		sum.add(t)
	}
	return sum, nil
}

func (a several) close() (err error) {
	for _, c := range a {
		if c != nil {
			err = errors.Join(err, c.close())
		}
	}
	return err
}
