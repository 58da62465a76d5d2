package eventlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cinnabar-hub/cinnabar/server/internal/protocol"
)

// keep adds a page as a reader does.
func (s *sharedPages) keep(page sharedPage) {
	_, _, generation := s.lookup(page.pageStart, page.covered)
	page.read = time.Now()
	s.add(page, generation)
}

// pageOf has every tenth position.
func pageOf(after, complete, covered protocol.Position, topics ...string) sharedPage {
	p := sharedPage{pageStart: pageStart{after: after, topics: topicsKey(topics)}, complete: complete, covered: covered, bytes: 1}
	for position := complete/10*10 + 10; position <= covered; position += 10 {
		p.entries = append(p.entries, protocol.Entry{Position: position})
	}
	return p
}

func positions(entries []protocol.Entry) (list []protocol.Position) {
	for _, e := range entries {
		list = append(list, e.Position)
	}
	return list
}

func TestSharedPageServesCursorsWithin(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		page    sharedPage
		start   pageStart
		upTo    protocol.Position
		found   bool
		want    string
		covered protocol.Position
	}{
		{"the same start", pageOf(10, 10, 45), pageStart{after: 10}, 100, true, "[20 30 40]", 45},
		{"within", pageOf(10, 10, 45), pageStart{after: 25}, 100, true, "[30 40]", 45},
		{"at an update", pageOf(10, 10, 45), pageStart{after: 30}, 100, true, "[40]", 45},
		{"behind the last update", pageOf(10, 10, 45), pageStart{after: 40}, 100, true, "[]", 45},
		{"not so far", pageOf(10, 10, 45), pageStart{after: 15}, 30, true, "[20 30]", 30},
		{"before it", pageOf(10, 10, 45), pageStart{after: 9}, 100, false, "", 0},
		{"at its end", pageOf(10, 10, 45), pageStart{after: 45}, 100, false, "", 0},
		{"no further than the cursor", pageOf(10, 10, 45), pageStart{after: 20}, 20, false, "", 0},
		{"other topics", pageOf(10, 10, 45, "a", "b"), pageStart{after: 10, topics: topicsKey([]string{`a" "b`})}, 100, false, "", 0},
		{"the same topics", pageOf(10, 10, 45, "a", "b"), pageStart{after: 20, topics: topicsKey([]string{"a", "b"})}, 100, true, "[30 40]", 45},
		{"from the beginning", pageOf(0, 25, 45), pageStart{after: 0}, 100, true, "[30 40]", 45},
		{"where retention has been", pageOf(0, 25, 45), pageStart{after: 20}, 100, false, "", 0},
		{"behind the horizon", pageOf(0, 25, 45), pageStart{after: 30}, 100, true, "[40]", 45},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var s sharedPages
			s.keep(test.page)
			got, found, _ := s.lookup(test.start, test.upTo)
			if found != test.found || got.covered != test.covered {
				t.Fatalf("found = %v, up to %d, want %v, %d", found, got.covered, test.found, test.covered)
			}
			if list := fmt.Sprint(positions(got.entries)); found && list != test.want {
				t.Errorf("got %s, want %s", list, test.want)
			}
		})
	}
}

func TestSharedPagesAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sharedPages
		has := func(after protocol.Position) bool {
			_, found, _ := s.lookup(pageStart{after: after}, 1<<40)
			return found
		}
		s.keep(pageOf(10, 10, 20))
		<-time.After(sharedFor)
		s.keep(pageOf(20, 20, 30))
		if !has(10) || !has(20) {
			t.Error("too early")
		}
		<-time.After(time.Millisecond)
		if has(10) || !has(20) {
			t.Errorf("after %s: %v %v", sharedFor, has(10), has(20))
		}
		_, _, generation := s.lookup(pageStart{after: 30}, 1<<40)
		s.forget()
		late := pageOf(30, 30, 40)
		late.read = time.Now()
		s.add(late, generation)
		if has(20) || has(30) {
			t.Error("pages from before the log was restarted are there")
		}
		for i := range protocol.Position(maxSharedPages + 1) {
			s.keep(pageOf(100+i*10, 100+i*10, 110+i*10))
		}
		if has(100) || !has(110) {
			t.Error("pages are not bounded in number")
		}
		large := pageOf(1000, 1000, 1010)
		large.bytes = maxSharedBytes
		s.keep(large)
		if len(s.recent) != 1 || s.bytes != maxSharedBytes {
			t.Errorf("%d pages of %d bytes", len(s.recent), s.bytes)
		}
	})
}

// Who wants a page that is being read waits for it, and reads it if that failed.
func TestPageIsReadOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const readers = 100
		var (
			s     sharedPages
			reads int
			group sync.WaitGroup
		)
		read := func() (sharedPage, error) { // one at a time
			reads++
			<-time.After(100 * time.Millisecond)
			if reads == 1 {
				return sharedPage{}, errors.New("the first one fails")
			}
			page := pageOf(10, 10, 20)
			s.keep(page)
			return page, nil
		}
		failed := make(chan error, readers)
		for range readers {
			group.Go(func() {
				page, err := s.get(t.Context(), pageStart{after: 10}, 100, read)
				if err == nil && len(page.entries) != 1 {
					err = fmt.Errorf("got %d entries", len(page.entries))
				}
				failed <- err
			})
		}
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := s.get(impatient, pageStart{after: 10}, 100, read); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that cannot wait: %v", err)
		}
		group.Wait()
		close(failed)
		failures := 0
		for err := range failed {
			if err != nil {
				failures++
			}
		}
		if reads != 2 || failures != 1 || len(s.reading) != 0 {
			t.Errorf("%d reads, %d of %d readers failed, %d still read", reads, failures, readers, len(s.reading))
		}
	})
}
