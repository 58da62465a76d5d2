package protocol

import (
	"strconv"
	"strings"
)

// Comment is the keep-alive and the first thing on every stream. There is no
// empty line after it: a widely used client reports an empty message for each
// empty line it reads.
//
// Spec: W-7, W-8
const Comment = ":\n"

// AppendBlock appends the event-stream block of an update to dst. Nothing in
// Data can forge a field. ID and Type are written as they are: they contain no
// line ends once validated (P-8, P-9).
//
// Spec: W-1, W-2, W-3, W-4, W-5, W-6
func AppendBlock(dst []byte, u *Update) []byte {
	if u.Type != "" {
		dst = append(dst, "event: "...)
		dst = append(dst, u.Type...)
		dst = append(dst, '\n')
	}
	if u.Retry != nil {
		dst = append(dst, "retry: "...)
		dst = strconv.AppendInt(dst, *u.Retry, 10)
		dst = append(dst, '\n')
	}
	dst = append(dst, "id: "...)
	dst = append(dst, u.ID...)
	dst = append(dst, '\n')
	dst = appendData(dst, u.Data)
	return append(dst, '\n')
}

// appendData writes one data line per piece of data, at least one. A CR that
// reached the stream would be a line end to every parser, so what follows it
// could be read as a field.
//
// lf and cr are the next line ends of either kind, len(data) when there is
// none. Each is searched for again only once it was passed, so the cost is one
// scan for each of the two bytes, whatever their order.
func appendData(dst []byte, data string) []byte {
	lf, cr := nextByte(data, '\n', 0), nextByte(data, '\r', 0)
	for start := 0; ; {
		end := min(lf, cr)
		dst = append(dst, "data: "...)
		dst = append(dst, data[start:end]...)
		dst = append(dst, '\n')
		if end == len(data) {
			return dst
		}
		start = end + 1
		if end == cr {
			if lf == start && lf < len(data) {
				start++ // CR LF is one line end
			}
			cr = nextByte(data, '\r', start)
		}
		if lf < start {
			lf = nextByte(data, '\n', start)
		}
	}
}

func nextByte(s string, c byte, from int) int {
	if i := strings.IndexByte(s[from:], c); i >= 0 {
		return from + i
	}
	return len(s)
}

// AppendCheckpoint appends a block that moves a browser's cursor to id without
// dispatching an event.
//
// Spec: S-26
func AppendCheckpoint(dst []byte, id EventID) []byte {
	dst = append(dst, "id: "...)
	dst = append(dst, id...)
	return append(dst, "\n\n"...)
}
