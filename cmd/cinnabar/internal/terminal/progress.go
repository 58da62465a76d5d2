// Package terminal tells a person at a terminal how a long command gets on.
package terminal

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Progress tells a person what is going on: lines, and on a terminal a last
// line that is written again and again. Safe for concurrent use.
type Progress struct {
	rewrites bool

	mu sync.Mutex
	w  io.Writer
}

// NewProgress writes to w. isTerminal: it can rewrite a line.
func NewProgress(w io.Writer, isTerminal bool) *Progress {
	return &Progress{w: w, rewrites: isTerminal}
}

const clearLine = "\r\x1b[K"

// Note writes a line.
func (p *Progress) Note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rewrites {
		_, _ = io.WriteString(p.w, clearLine)
	}
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}

// Bar rewrites the last line of a terminal.
func (p *Progress) Bar(done, of time.Duration, text string) {
	if !p.rewrites {
		return
	}
	const width = 30
	filled := min(width, int(width*done/max(of, 1)))
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.w, "%s[%s%s] %s", clearLine, strings.Repeat("#", filled), strings.Repeat(".", width-filled), text)
}

// End leaves the last line empty.
func (p *Progress) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rewrites {
		_, _ = io.WriteString(p.w, clearLine)
	}
}
