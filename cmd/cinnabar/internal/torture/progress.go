package torture

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// progress tells a person what is going on: lines, and on a terminal a last
// line that is written again and again. Safe for concurrent use.
type progress struct {
	terminal bool

	mu sync.Mutex
	w  io.Writer
}

const clearLine = "\r\x1b[K"

// note writes a line.
func (p *progress) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		_, _ = io.WriteString(p.w, clearLine)
	}
	_, _ = fmt.Fprintf(p.w, format+"\n", args...)
}

// bar rewrites the last line of a terminal.
func (p *progress) bar(done, of time.Duration, text string) {
	if !p.terminal {
		return
	}
	const width = 30
	filled := min(width, int(width*done/max(of, 1)))
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.w, "%s[%s%s] %s", clearLine, strings.Repeat("#", filled), strings.Repeat(".", width-filled), text)
}

// end leaves the last line empty.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		_, _ = io.WriteString(p.w, clearLine)
	}
}
