package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

const (
	// maxOutstanding bounds an open loop whose target does not keep up.
	maxOutstanding = 2000
	// holdParallel is how many streams of a connection are opened at a time.
	holdParallel = 20
)

var errOverrun = errors.New("2,000 calls outstanding: the target does not keep up")

// openLoop starts calls at a fixed mean rate whatever becomes of them (exponential gaps, a fixed seed: the
// same arrivals for everyone). Latency counts from the moment a call was due, so waiting shows.
func openLoop(ctx context.Context, o options) error {
	conns, err := dial(ctx, o)
	if err != nil {
		return err
	}
	message := make([]byte, o.size)
	var counts tally
	var inWindow, stopping atomic.Bool
	var mutex sync.Mutex
	var latencies []uint32
	var running sync.WaitGroup
	slots := make(chan struct{}, maxOutstanding)
	one := func(conn *grpc.ClientConn, due time.Time) {
		defer running.Done()
		defer func() { <-slots }()
		ctx, cancel := context.WithTimeout(ctx, o.stall)
		defer cancel()
		var answer []byte
		if err := conn.Invoke(ctx, callPath, &message, &answer); err != nil {
			counts.fail(err, ctx.Err() != nil)
			return
		}
		took := time.Since(due)
		counts.ok.Add(1)
		if inWindow.Load() {
			mutex.Lock()
			latencies = append(latencies, uint32(took.Microseconds()))
			mutex.Unlock()
		}
	}
	arrivals := make(chan struct{})
	go func() {
		defer close(arrivals)
		rng := rand.New(rand.NewPCG(1, 2))
		due := time.Now()
		for i := 0; !stopping.Load() && ctx.Err() == nil; i++ {
			due = due.Add(time.Duration(rng.ExpFloat64() / o.rate * float64(time.Second)))
			time.Sleep(time.Until(due))
			select {
			case slots <- struct{}{}:
				running.Add(1)
				go one(conns[i%len(conns)], due)
			default:
				counts.fail(errOverrun, false)
			}
		}
	}()
	r, err := measure(ctx, o, &counts, &inWindow)
	stopping.Store(true)
	<-arrivals
	if err != nil {
		return err
	}
	running.Wait() // each call has a timeout
	r.finish(&counts, latencies)
	emit(r)
	return nil
}

// hold opens streams, sends one message through each and back, says so, and keeps them open.
func hold(ctx context.Context, o options) error {
	conns, err := dial(ctx, o)
	if err != nil {
		return err
	}
	message := make([]byte, o.size)
	var open, failed atomic.Int64
	var lastErr atomic.Value
	for _, conn := range conns {
		var opening sync.WaitGroup
		gate := make(chan struct{}, holdParallel)
		for range o.streams {
			opening.Add(1)
			gate <- struct{}{}
			go func() {
				defer opening.Done()
				defer func() { <-gate }()
				if err := holdOne(ctx, conn, &message, o.stall); err != nil {
					lastErr.Store(err.Error())
					failed.Add(1)
					return
				}
				open.Add(1)
			}()
		}
		opening.Wait()
	}
	emit(map[string]any{"open": open.Load(), "failed": failed.Load(), "error": lastErr.Load()})
	<-ctx.Done()
	return nil
}

func holdOne(ctx context.Context, conn *grpc.ClientConn, message *[]byte, limit time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(limit, cancel)
	s, err := conn.NewStream(ctx, &streamDesc, streamPath)
	if err == nil {
		if err = s.SendMsg(message); err == nil {
			err = s.RecvMsg(new([]byte))
		}
	}
	if !timer.Stop() || err != nil {
		cancel()
	}
	return err
}
