package bench

import (
	"bytes"
	"math"
	"strconv"
)

// mark says which update data belongs to.
type mark struct {
	// source is whose order it is part of, seq its place there, from 1.
	source, seq uint32
	// sent is when it was published, or should have been, in nanoseconds of
	// the wall clock: several processes of a machine share it.
	sent int64
}

// maxMarkBytes is the most that appendPayload writes before the padding.
const maxMarkBytes = 64

// appendPayload appends data of at least size bytes that says which update of
// the run it is. Nothing in it has to be escaped in a form.
func appendPayload(dst []byte, run string, m mark, size int) []byte {
	begin := len(dst)
	dst = append(append(dst, run...), '.')
	dst = append(strconv.AppendUint(dst, uint64(m.source), 10), '.')
	dst = append(strconv.AppendUint(dst, uint64(m.seq), 10), '.')
	dst = append(strconv.AppendInt(dst, m.sent, 10), '.')
	for len(dst)-begin < size {
		dst = append(dst, 'x')
	}
	return dst
}

// parsePayload reports false for data that is not of the run.
func parsePayload(data []byte, run string) (m mark, ok bool) {
	if len(data) <= len(run) || string(data[:len(run)]) != run || data[len(run)] != '.' {
		return mark{}, false
	}
	data = data[len(run)+1:]
	var numbers [3]int64
	for i := range numbers {
		if numbers[i], data, ok = cutNumber(data); !ok {
			return mark{}, false
		}
	}
	if max(numbers[0], numbers[1]) > math.MaxUint32 {
		return mark{}, false
	}
	return mark{source: uint32(numbers[0]), seq: uint32(numbers[1]), sent: numbers[2]}, true
}

// cutNumber takes decimal digits and the dot behind them.
func cutNumber(data []byte) (n int64, rest []byte, ok bool) {
	end := bytes.IndexByte(data, '.')
	if end <= 0 || end > 19 {
		return 0, nil, false
	}
	for _, c := range data[:end] {
		if c < '0' || c > '9' {
			return 0, nil, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, data[end+1:], true
}
