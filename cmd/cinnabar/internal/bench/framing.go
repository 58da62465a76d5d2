package bench

import "errors"

// framing finds the body in what follows the head of an HTTP/1.1 response.
type framing struct {
	chunked bool
	state   chunkState
	// left is how much of the chunk has not come; while its size is read, that.
	left int64
	// digits of the size so far.
	digits int
}

type chunkState uint8

const (
	inSize chunkState = iota
	inExtension
	inChunk
	afterChunk
	atEnd
)

var errChunk = errors.New("the chunks of the response make no sense")

// maxSizeDigits keeps sizes far from overflowing.
const maxSizeDigits = 15

// next returns a piece of the body, which may be empty, and what follows it.
// ended: this was all.
func (f *framing) next(data []byte) (body, rest []byte, ended bool, err error) {
	if !f.chunked {
		return data, nil, false, nil
	}
	for i := range data {
		switch c := data[i]; f.state {
		case inSize:
			if err := f.size(c); err != nil {
				return nil, nil, false, err
			}
		case inExtension:
			if c == '\n' {
				f.endSize()
			}
		case inChunk:
			n := min(int64(len(data)-i), f.left)
			if f.left -= n; f.left == 0 {
				f.state = afterChunk
			}
			return data[i : i+int(n)], data[i+int(n):], false, nil
		case afterChunk:
			if c == '\n' {
				f.state, f.digits = inSize, 0
			} else if c != '\r' {
				return nil, nil, false, errChunk
			}
		case atEnd: // trailers are of no interest
			return nil, nil, true, nil
		}
	}
	return nil, nil, f.state == atEnd, nil
}

func (f *framing) size(c byte) error {
	digit := int64(-1)
	switch {
	case c >= '0' && c <= '9':
		digit = int64(c - '0')
	case c >= 'a' && c <= 'f':
		digit = int64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		digit = int64(c-'A') + 10
	case f.digits == 0:
		return errChunk
	case c == '\n':
		f.endSize()
		return nil
	case c == ';' || c == '\r' || c == ' ' || c == '\t':
		f.state = inExtension
		return nil
	}
	if digit < 0 || f.digits == maxSizeDigits {
		return errChunk
	}
	f.left = f.left<<4 | digit
	f.digits++
	return nil
}

func (f *framing) endSize() {
	f.state = inChunk
	if f.left == 0 {
		f.state = atEnd
	}
}
