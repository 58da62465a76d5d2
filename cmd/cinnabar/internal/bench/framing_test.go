package bench

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// readBody feeds what follows the head in pieces.
func readBody(text string, chunked bool, size int) (body string, ended bool, err error) {
	f := framing{chunked: chunked}
	var all strings.Builder
	for len(text) > 0 && !ended {
		n := min(max(size, 1), len(text))
		rest := []byte(text[:n])
		text = text[n:]
		for len(rest) > 0 && !ended {
			var piece []byte
			if piece, rest, ended, err = f.next(rest); err != nil {
				return all.String(), false, err
			}
			all.Write(piece)
		}
	}
	return all.String(), ended, nil
}

func TestFraming(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text    string
		chunked bool
		want    string
		ended   bool
		err     error
	}{
		"until the end":    {"abc", false, "abc", false, nil},
		"chunks":           {"3\r\nabc\r\nA\r\n0123456789\r\n", true, "abc0123456789", false, nil},
		"extension":        {"3;a=b\r\nabc\r\n", true, "abc", false, nil},
		"last chunk":       {"3\r\nabc\r\n0\r\n\r\n", true, "abc", true, nil},
		"last and trailer": {"0\r\nA: b\r\n\r\n", true, "", true, nil},
		"no size":          {"\r\nabc", true, "", false, errChunk},
		"no hexadecimal":   {"3x\r\nabc", true, "", false, errChunk},
		"too long":         {"3\r\nabcd\r\n", true, "abc", false, errChunk},
		"too large":        {"1000000000000000\r\n", true, "", false, errChunk},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 2, 5, 1000} {
				body, ended, err := readBody(test.text, test.chunked, size)
				if body != test.want || ended != test.ended || !errors.Is(err, test.err) {
					t.Errorf("in pieces of %d bytes: %q, %t, %v", size, body, ended, err)
				}
			}
		})
	}
}

// What net/http reads of the same bytes is what must be read.
func FuzzFraming(f *testing.F) {
	f.Add("3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", 3)
	f.Add("003\r\nabc\r\n0\r\nA: b\r\n\r\n", 1)
	f.Fuzz(func(t *testing.T, text string, size int) {
		head := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
		response, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head+text)), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		want, err := io.ReadAll(response.Body)
		got, ended, failed := readBody(text, true, size)
		if err != nil {
			return // we may be more generous with what no server sends
		}
		if failed != nil || !ended || got != string(want) {
			t.Errorf("%q in pieces of %d bytes: got %q, %t, %v, want %q", text, size, got, ended, failed, want)
		}
	})
}

func TestHead(t *testing.T) {
	t.Parallel()
	const contentType = "\r\nContent-Type: text/event-stream"
	for head, want := range map[string]string{
		"HTTP/1.1 200 OK" + contentType:                              "",
		"HTTP/1.0 200 OK" + contentType + "; charset=utf-8":          "",
		"HTTP/1.1 401 Unauthorized":                                  "the hub answered 401 Unauthorized to a subscriber; give a token with --token, or the key of the hub with --key",
		"HTTP/1.1 503 Service Unavailable":                           "the hub answered 503 Service Unavailable to a subscriber; it has a limit below what was asked for: choose a smaller --streams, or raise it",
		"HTTP/1.1 200 OK\r\nContent-Type: text/html":                 "the answer is not an event stream; is this the URL of a hub?",
		"HTTP/1.1 200 OK" + contentType + "\r\nContent-Encoding: br": "the hub compresses its streams (br) although nobody asked it to",
		"SSH-2.0-OpenSSH_9.9":                                        errNotHTTP.Error(),
	} {
		_, err := parseHead(head)
		if got := text(err); got != want {
			t.Errorf("%q:\ngot  %q\nwant %q", head, got, want)
		}
	}
	if chunked, err := parseHead("HTTP/1.1 200 OK" + contentType + "\r\ntransfer-encoding: Chunked"); !chunked || err != nil {
		t.Errorf("got %t, %v", chunked, err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestEndlessHead(t *testing.T) {
	t.Parallel()
	s := newStream(&plan{}, 0)
	var err error
	for i := 0; err == nil && i < maxHeadBytes; i++ {
		err = s.take([]byte(strings.Repeat("x", 1000)), &plan{}, &sink{})
	}
	if !errors.Is(err, errNotHTTP) {
		t.Errorf("got %v", err)
	}
}
