package bench

import "bytes"

// events takes an event stream apart, in pieces of any size, and finds the
// updates of a run in it. It keeps nothing of an update but its mark, so that a
// delivery costs little and memory does not depend on what is sent.
type events struct {
	// partial is the beginning of a line whose end has not come, as much of it
	// as is of interest.
	partial []byte
	begun   bool
	// afterCR: the line ended with CR, so that an LF that follows belongs to it.
	afterCR bool

	// The block being read: its first line of data, and how many there are.
	mark  mark
	ours  bool
	lines int
}

// maxPartial is a field name, a mark and a bit.
const maxPartial = 2 * maxMarkBytes

var byteOrderMark = []byte("\xef\xbb\xbf")

// next reads on until an update of the run is complete, and returns what is
// left then; nil and false when all has been read.
func (e *events) next(data []byte, run string) (m mark, rest []byte, ok bool) {
	for len(data) > 0 {
		if e.afterCR {
			e.afterCR = false
			if data[0] == '\n' {
				data = data[1:]
				continue
			}
		}
		end := lineEnd(data)
		if end < 0 {
			e.keep(data)
			return mark{}, nil, false
		}
		line := data[:end]
		e.afterCR = data[end] == '\r'
		data = data[end+1:]
		if len(e.partial) > 0 {
			e.keep(line)
			line = e.partial
			e.partial = e.partial[:0]
		}
		if !e.begun {
			e.begun = true
			line = bytes.TrimPrefix(line, byteOrderMark)
		}
		if len(line) > 0 {
			e.field(line, run)
			continue
		}
		m, ok = e.mark, e.ours && e.lines == 1
		e.ours, e.lines = false, 0
		if ok {
			return m, data, true
		}
	}
	return mark{}, nil, false
}

func (e *events) field(line []byte, run string) {
	if len(line) < 4 || string(line[:4]) != "data" || len(line) > 4 && line[4] != ':' {
		return
	}
	if e.lines++; e.lines > 1 || len(line) == 4 {
		return
	}
	value := line[5:]
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	e.mark, e.ours = parsePayload(value, run)
}

func (e *events) keep(part []byte) {
	e.partial = append(e.partial, part[:min(len(part), maxPartial-len(e.partial))]...)
}

// lineEnd finds the first LF or CR; -1: there is none.
func lineEnd(data []byte) int {
	end := bytes.IndexByte(data, '\n')
	if end < 0 {
		return bytes.IndexByte(data, '\r')
	}
	if cr := bytes.IndexByte(data[:end], '\r'); cr >= 0 {
		return cr
	}
	return end
}
