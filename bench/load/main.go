// Command load is both ends of the benchmark: gRPC servers that echo, and the clients that call them.
//
// It is grpc-go as applications use it (default flow control with dynamic windows, default buffers), so
// that what is measured in the middle is a proxy between real peers. Every mode prints JSON lines on
// standard output and ends when its standard input is closed, so no process outlives the one that
// started it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options are the flags of all modes; each mode reads those it needs.
type options struct {
	target   string
	conns    int
	streams  int // on each connection
	size     int // bytes of a message
	unique   bool
	rate     float64
	warmup   time.Duration
	window   time.Duration
	stall    time.Duration
	pid      int
	calls    int64
	listen   string
	announce bool
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: load serve|unary|open|stream|hold [flags]")
	os.Exit(2)
}

func parseFlags(mode string, args []string) options {
	var o options
	flags := flag.NewFlagSet(mode, flag.ExitOnError)
	flags.StringVar(&o.target, "target", "", "address to call, HOST:PORT")
	flags.IntVar(&o.conns, "conns", 4, "connections")
	flags.IntVar(&o.streams, "streams", 32, "concurrent calls or streams on each connection")
	flags.IntVar(&o.size, "size", 64, "bytes of each message, both ways")
	flags.BoolVar(&o.unique, "unique", false, "each call has a deadline, a request id and a traceparent of its own")
	flags.Float64Var(&o.rate, "rate", 1000, "open: calls a second")
	flags.DurationVar(&o.warmup, "warmup", time.Second, "time before the window")
	flags.DurationVar(&o.window, "window", 3*time.Second, "time that is measured")
	flags.DurationVar(&o.stall, "stall", 5*time.Second, "a call or message that takes longer has stalled")
	flags.IntVar(&o.pid, "pid", 0, "process whose CPU time is read at both ends of the window")
	flags.Int64Var(&o.calls, "calls", 0, "unary, stream: go on after the window until so many were made")
	flags.StringVar(&o.listen, "listen", "", "serve: FIRST-LAST=ADDR,... see serve.go")
	flags.BoolVar(&o.announce, "announce", false, "serve: print when each listener gets its first connection and stream")
	_ = flags.Parse(args) // ExitOnError: it never returns one
	return o
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	modes := map[string]func(context.Context, options) error{
		"serve": serve, "unary": unary, "open": openLoop, "stream": stream, "hold": hold,
	}
	run, known := modes[os.Args[1]]
	if !known {
		usage()
	}
	o := parseFlags(os.Args[1], os.Args[2:])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() { // the parent holds the other end for as long as it lives
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "load "+os.Args[1]+":", err)
		os.Exit(1)
	}
}

// emit prints one JSON line.
func emit(value any) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err) // only plain structs of ours come here
	}
	fmt.Println(string(line))
}
