// Command cinnabar is the hub, and what its operators and developers need
// around it: migrations, tokens, a publisher and a subscriber.
//
// Exit codes: 0 for success, 1 for a failure that one sentence on stderr
// explains, 2 for a command line that could not be understood. Results go to
// stdout, everything else to stderr. Neither ever holds a key or a password,
// apart from the token that was asked for and the commands of serve --dev.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with the process
		<-signals
		stop()
		<-signals
		os.Exit(exitFailure) // without waiting for anybody
	}()
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}
