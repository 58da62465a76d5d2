package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// HiddenCommand is what the program is called with to hold streams for another
// process.
const HiddenCommand = "bench-streams"

// message is what a process that holds streams says: that they are open, how
// far they are, and in the end what they got or what went wrong.
type message struct {
	Opened bool   `json:",omitempty"`
	State  state  `json:",omitzero"`
	Tally  *tally `json:",omitempty"`
	Error  string `json:",omitempty"`
}

// messagePause is between two messages about the state.
const messagePause = 10 * time.Millisecond

// HoldStreams opens the streams of a plan that it reads, and reports until it
// reads what they must have got. It ends when there is nothing more to read,
// so that it does not outlive its parent.
func HoldStreams(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	decoder, encoder := json.NewDecoder(in), json.NewEncoder(out)
	var p plan
	if err := decoder.Decode(&p); err != nil {
		return fmt.Errorf("%s is for cinnabar bench, which tells it what to do: %w", HiddenCommand, err)
	}
	finished := make(chan published, 1)
	go func() { // ends with the parent, or with the process
		var expected published
		if decoder.Decode(&expected) != nil {
			stop()
			return
		}
		finished <- expected
	}()
	r, err := openReceiver(ctx, p)
	if err != nil {
		return encoder.Encode(message{Error: err.Error()})
	}
	defer func() { _ = r.close() }()
	if err := encoder.Encode(message{Opened: true}); err != nil {
		return err
	}
	tick := time.NewTicker(messagePause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := encoder.Encode(message{State: r.state()}); err != nil {
				return err
			}
		case expected := <-finished:
			t, err := r.finish(expected)
			if err != nil {
				return encoder.Encode(message{Error: err.Error()})
			}
			return encoder.Encode(message{Tally: t})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// child is a process that holds streams for this one.
type child struct {
	cmd    *exec.Cmd
	input  io.WriteCloser
	opened chan struct{} // closed when they are
	ended  chan struct{} // closed when nothing more is heard of it

	mu    sync.Mutex
	now   state
	tally *tally
	err   error
}

// startChild waits until the streams are open, or waiting is over.
func startChild(ctx, waiting context.Context, program string, p plan) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, program, HiddenCommand), opened: make(chan struct{}), ended: make(chan struct{})}
	c.cmd.Stderr = os.Stderr
	var err error
	if c.input, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go c.listen(output) // ends with the process
	if err := json.NewEncoder(c.input).Encode(p); err != nil {
		return nil, errors.Join(err, c.close())
	}
	select {
	case <-c.opened:
		return c, nil
	case <-c.ended:
		err := c.failure()
		_ = c.close()
		return nil, err
	case <-waiting.Done():
		_ = c.close()
		return nil, waiting.Err()
	}
}

func (c *child) listen(output io.Reader) {
	defer close(c.ended)
	decoder := json.NewDecoder(output)
	for {
		var m message
		err := decoder.Decode(&m)
		if m.Opened {
			close(c.opened)
		}
		c.mu.Lock()
		if m.State != (state{}) {
			c.now = m.State
		}
		c.tally = m.Tally
		switch {
		case m.Error != "":
			c.err = errors.New(m.Error)
		case err != nil && c.err == nil && c.tally == nil:
			c.err = errors.New("a process that holds streams has ended by itself")
		}
		c.mu.Unlock()
		if err != nil || m.Error != "" || m.Tally != nil {
			return
		}
	}
}

func (c *child) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *child) state() state {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now
	now.Failed = now.Failed || c.err != nil
	return now
}

func (c *child) finish(expected published) (*tally, error) {
	if err := json.NewEncoder(c.input).Encode(expected); err != nil {
		return nil, errors.Join(c.failure(), err)
	}
	<-c.ended
	_ = c.close()
	return c.tally, c.failure()
}

// close ends the process by ending what it reads.
func (c *child) close() error {
	_ = c.input.Close()
	<-c.ended
	_ = c.cmd.Wait() // it has said what there is to say
	return nil
}
