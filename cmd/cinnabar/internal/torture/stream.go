package torture

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// payload is the data of an update: its number, its length, and that many more
// bytes, so that what was cut short is noticed.
func payload(n number, size int) string {
	return string(append(fmt.Appendf(nil, "%d %d ", n, size), bytes.Repeat([]byte{'x'}, size)...))
}

// block is one block of an event stream.
type block struct {
	id    string
	event bool // it has data
	n     number
}

// reader takes an event stream apart. It keeps the beginning of each line only,
// which is all that is needed of data.
type reader struct {
	in *bufio.Reader
	// lastEventID is what to resume after.
	lastEventID string
	// alive, if not nil, is called for every line, heartbeats included.
	alive func()
}

var errCorrupt = errors.New("an event that nobody published in this form")

// next returns the next block.
func (r *reader) next() (block, error) {
	b := block{id: r.lastEventID}
	lines := 0
	for {
		line, size, err := r.line()
		if err != nil {
			return block{}, err
		}
		if r.alive != nil {
			r.alive()
		}
		if len(line) == 0 {
			r.lastEventID = b.id
			return b, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			b.id = string(value)
		case "data":
			lines++
			b.event = true
			rest := size - (len(line) - len(value))
			if b.n, err = parsePayload(value, rest); err != nil || lines > 1 {
				return block{}, fmt.Errorf("%w: id %q", errCorrupt, b.id)
			}
		}
	}
}

// line returns the beginning of a line, and the size of all of it. Valid until
// the next call.
func (r *reader) line() ([]byte, int, error) {
	line, err := r.in.ReadSlice('\n')
	if err == nil {
		return line[:len(line)-1], len(line) - 1, nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		return nil, 0, err
	}
	size := len(line)
	beginning := bytes.Clone(line[:64])
	for errors.Is(err, bufio.ErrBufferFull) {
		line, err = r.in.ReadSlice('\n')
		size += len(line)
	}
	return beginning, size - 1, err
}

// parsePayload reads the beginning of data that has size bytes.
func parsePayload(beginning []byte, size int) (number, error) {
	first, rest, _ := bytes.Cut(beginning, []byte(" "))
	second, _, ok := bytes.Cut(rest, []byte(" "))
	n, err := strconv.ParseUint(string(first), 10, 32)
	length, err2 := strconv.Atoi(string(second))
	if err = errors.Join(err, err2); err != nil || !ok {
		return 0, errors.Join(errCorrupt, err)
	}
	if size != len(first)+len(second)+2+length {
		return 0, errCorrupt
	}
	return number(n), nil
}
