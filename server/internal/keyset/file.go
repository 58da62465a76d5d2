package keyset

import (
	"context"
	"fmt"
	"io"
	"os"
)

// maxBytes is far more than maxKeys keys need.
const maxBytes = 512 << 10

// fileSource is the path of a file. It is read again like a set that is
// fetched, since a file may be replaced too.
type fileSource string

func (f fileSource) read(context.Context) (document, error) { return f.open() }

func (f fileSource) open() (document, error) {
	// A pipe would block before its first byte.
	info, err := os.Stat(string(f))
	if err != nil {
		return document{}, err
	}
	if !info.Mode().IsRegular() {
		return document{}, fmt.Errorf("%s is not a file", string(f))
	}
	file, err := os.Open(string(f))
	if err != nil {
		return document{}, err
	}
	defer func() { _ = file.Close() }()
	body, err := readBounded(file)
	return document{body: body, maxAge: -1}, err
}

func readBounded(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxBytes {
		return nil, fmt.Errorf("it is longer than %d bytes, more than any key set needs", maxBytes)
	}
	return body, nil
}
