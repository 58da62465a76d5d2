package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cinnabar-hub/cinnabar/db/dbtest"
	"github.com/cinnabar-hub/cinnabar/server/servertest"
)

// BenchmarkPublish is the time of one durable publish over HTTP, client
// included, at one and at many publishers. The database runs without fsync, as
// all test databases do.
func BenchmarkPublish(b *testing.B) {
	for _, publishers := range []int{1, 64} {
		b.Run(fmt.Sprintf("publishers=%d", publishers), func(b *testing.B) {
			hub := servertest.Start(b, dbtest.New(b))
			token := servertest.PublisherToken(b)
			form := url.Values{"topic": {"https://example.com/a"}, "data": {strings.Repeat("x", 128)}}.Encode()
			hub.Post(b, token, form)
			var work sync.WaitGroup
			jobs := make(chan struct{})
			for range publishers {
				work.Go(func() { // ends when jobs is closed
					for range jobs {
						if status, body, err := hub.TryPost(b.Context(), token, form); err != nil || status != 200 {
							b.Errorf("publish: %d %s %v", status, body, err)
						}
					}
				})
			}
			b.ReportAllocs() // of the client as well
			b.ResetTimer()
			for range b.N {
				jobs <- struct{}{}
			}
			close(jobs)
			work.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "publishes/s")
			servertest.CloseIdle()
		})
	}
}

// rawStream is a stream with as little client as possible.
type rawStream struct {
	*bufio.Reader
	conn net.Conn
}

func rawStreams(b *testing.B, hub *servertest.Hub, n int) []rawStream {
	b.Helper()
	readers := make([]rawStream, n)
	for i := range readers {
		var err error
		if readers[i], err = openRawStream(b.Context(), hub); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = readers[i].conn.Close() })
	}
	return readers
}

// openRawStream returns when the first byte is there.
func openRawStream(ctx context.Context, hub *servertest.Hub) (rawStream, error) {
	address, err := url.Parse(hub.URL)
	if err != nil {
		return rawStream{}, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address.Host)
	if err != nil {
		return rawStream{}, err
	}
	stream := rawStream{bufio.NewReaderSize(conn, 4096), conn}
	_, err = fmt.Fprintf(conn, "GET %s?topic=%s HTTP/1.1\r\nHost: %s\r\n\r\n", address.Path, url.QueryEscape("https://example.com/a"), address.Host)
	for line := ""; line != ":\n" && err == nil; {
		line, err = stream.ReadString('\n')
	}
	if err != nil {
		_ = conn.Close()
	}
	return stream, err
}

// BenchmarkFanOut is the time of one delivery when updates come as fast as the
// hub takes them: one operation is one update at every stream.
func BenchmarkFanOut(b *testing.B) {
	const streams = 1000
	database := dbtest.New(b)
	hub := servertest.Start(b, database)
	readers := rawStreams(b, hub, streams)
	var work sync.WaitGroup
	b.ResetTimer()
	for _, reader := range readers {
		work.Go(func() { // ends after b.N events
			for seen := 0; seen < b.N; {
				line, err := reader.ReadSlice('\n')
				if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
					if !errors.Is(err, io.EOF) {
						b.Error(err)
					}
					return
				}
				if len(line) > 5 && string(line[:5]) == "data:" {
					seen++
				}
			}
		})
	}
	if _, err := database.Conn(b).Exec(b.Context(),
		"INSERT INTO mercure.outbox (topics, data) SELECT '{https://example.com/a}', repeat('x', 128) FROM generate_series(1, $1)", b.N); err != nil {
		b.Fatal(err)
	}
	work.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)*streams/b.Elapsed().Seconds(), "deliveries/s")
}

// BenchmarkIdleStream is the memory of one stream that waits, client excluded
// as far as it can be.
func BenchmarkIdleStream(b *testing.B) {
	hub := servertest.Start(b, dbtest.New(b))
	const (
		streams = 1000
		client  = 5 << 10 // a reader of 4 kB, and a connection
	)
	for b.Loop() {
		before := memory()
		readers := rawStreams(b, hub, streams)
		b.ReportMetric(float64(memory()-before)/streams-client, "B/stream")
		for _, stream := range readers {
			_ = stream.conn.Close()
		}
	}
}

func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// BenchmarkCommitToReceipt is the time from an application's COMMIT to the
// event at a subscriber: while traffic flows, and after silence.
func BenchmarkCommitToReceipt(b *testing.B) {
	for name, silence := range map[string]time.Duration{"busy": 0, "after silence": 1500 * time.Millisecond} {
		b.Run(name, func(b *testing.B) {
			database := dbtest.New(b)
			hub := servertest.Start(b, database)
			stream := hub.Subscribe(b, servertest.Request{Query: url.Values{"topic": {"*"}}})
			conn := database.Conn(b)
			var total time.Duration
			for b.Loop() {
				if silence > 0 {
					if _, err := conn.Exec(b.Context(), "SELECT pg_sleep($1)", silence.Seconds()); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := conn.Exec(b.Context(), "SELECT mercure.publish('a', 'x')"); err != nil {
					b.Fatal(err)
				}
				committed := time.Now()
				stream.Next(b)
				total += time.Since(committed)
			}
			b.ReportMetric(float64(total.Microseconds())/float64(b.N)/1000, "ms/receipt")
		})
	}
}
