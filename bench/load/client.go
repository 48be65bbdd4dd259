package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	authority = "bench.default:50051"
	// connectWait bounds how long a connection may take to come up.
	connectWait = 10 * time.Second
	// watchEvery is how often the watchdog looks for calls that have stalled.
	watchEvery = 100 * time.Millisecond
	// failurePause keeps a proxy that refuses everything from being hammered in a tight loop.
	failurePause = time.Millisecond
	// extraWait bounds how long --calls may go on after the window.
	extraWait = 20 * time.Second
	// drainWait bounds the wait for calls in flight at the end.
	drainWait = 6 * time.Second
	// maxErrorKinds bounds the distinct error texts that are kept.
	maxErrorKinds = 5
)

func dial(ctx context.Context, o options) ([]*grpc.ClientConn, error) {
	var conns []*grpc.ClientConn
	for range o.conns {
		conn, err := grpc.NewClient("passthrough:///"+o.target,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithAuthority(authority), grpc.WithNoProxy(), grpc.WithDisableServiceConfig())
		if err != nil {
			return nil, err
		}
		conns = append(conns, conn)
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	message := make([]byte, 1)
	for i, conn := range conns {
		if err := conn.Invoke(ctx, callPath, &message, new([]byte), grpc.WaitForReady(true)); err != nil {
			return nil, fmt.Errorf("connection %d to %s: %w", i, o.target, err)
		}
	}
	return conns, nil
}

// tally counts what the workers did.
type tally struct {
	ok, failed, stalled atomic.Int64
	mutex               sync.Mutex
	errors              map[string]int
}

func (t *tally) all() int64 { return t.ok.Load() + t.failed.Load() + t.stalled.Load() }

func (t *tally) fail(err error, stalled bool) {
	if stalled {
		t.stalled.Add(1)
	} else {
		t.failed.Add(1)
	}
	text := status.Convert(err).Code().String() + ": " + status.Convert(err).Message()
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.errors == nil {
		t.errors = map[string]int{}
	}
	if _, known := t.errors[text]; known || len(t.errors) < maxErrorKinds {
		t.errors[text]++
	}
}

// worker is one caller with one call at a time, and what the watchdog needs to end a stalled one.
type worker struct {
	conn      *grpc.ClientConn
	rng       *rand.Rand
	began     atomic.Int64 // monotonic nanoseconds; 0 between calls
	stalled   atomic.Bool
	mutex     sync.Mutex
	cancel    context.CancelFunc
	latencies []uint32 // microseconds, those of the window only
}

func (w *worker) arm(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(parent)
	w.mutex.Lock()
	w.cancel = cancel
	w.mutex.Unlock()
	w.stalled.Store(false)
	return ctx
}

func watch(ctx context.Context, workers []*worker, limit time.Duration) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := monotonic()
		for _, w := range workers {
			if began := w.began.Load(); began != 0 && now-began > int64(limit) {
				w.stalled.Store(true)
				w.mutex.Lock()
				w.cancel()
				w.mutex.Unlock()
			}
		}
	}
}

// own gives a call what production calls have of their own: a deadline that counts down (10 to 20 s, so
// it is never what ends a call here), a request id, and a trace parent (W3C Trace Context 2.2).
func own(ctx context.Context, rng *rand.Rand) (context.Context, context.CancelFunc) {
	timeout := 10*time.Second + time.Duration(rng.Int64N(int64(10*time.Second)))
	a, b, c := rng.Uint64(), rng.Uint64(), rng.Uint64()
	ctx = metadata.AppendToOutgoingContext(ctx,
		"x-request-id", fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>52, b&(1<<48-1)),
		"traceparent", fmt.Sprintf("00-%016x%016x-%016x-01", b, c, a))
	return context.WithTimeout(ctx, timeout)
}

func newWorkers(conns []*grpc.ClientConn, streams int) []*worker {
	var workers []*worker
	for range streams {
		for _, conn := range conns {
			seed := uint64(len(workers))
			workers = append(workers, &worker{conn: conn, rng: rand.New(rand.NewPCG(seed, seed+1))})
		}
	}
	return workers
}

// result is what a client prints. CPU is that of the watched process within the window.
type result struct {
	Seconds  float64        `json:"seconds"`
	OK       int64          `json:"ok"`
	Failed   int64          `json:"failed"`
	Stalled  int64          `json:"stalled"`
	CPU      float64        `json:"cpu_seconds"`
	User     float64        `json:"user_seconds"`
	System   float64        `json:"system_seconds"`
	P50      float64        `json:"p50_us"`
	P99      float64        `json:"p99_us"`
	AllOK    int64          `json:"all_ok"`      // warm-up and drain included
	AllBad   int64          `json:"all_failed"`  // the same
	AllStall int64          `json:"all_stalled"` // the same
	Errors   map[string]int `json:"errors,omitempty"`
}

func percentile(sorted []uint32, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(share*float64(len(sorted))), len(sorted)-1)])
}

// measure waits through warm-up and window, reading counts and CPU time at both ends of the window.
func measure(ctx context.Context, o options, t *tally, inWindow *atomic.Bool) (result, error) {
	if !pause(ctx, o.warmup) {
		return result{}, ctx.Err()
	}
	before, err := cpuOf(o.pid)
	if err != nil {
		return result{}, err
	}
	start, ok, failed, stalled := monotonic(), t.ok.Load(), t.failed.Load(), t.stalled.Load()
	inWindow.Store(true)
	if !pause(ctx, o.window) {
		return result{}, ctx.Err()
	}
	inWindow.Store(false)
	after, err := cpuOf(o.pid)
	if err != nil {
		return result{}, fmt.Errorf("the watched process ended: %w", err)
	}
	return result{
		Seconds: float64(monotonic()-start) / 1e9,
		OK:      t.ok.Load() - ok, Failed: t.failed.Load() - failed, Stalled: t.stalled.Load() - stalled,
		CPU: after.total - before.total, User: after.user - before.user, System: after.system - before.system,
	}, nil
}

func pause(ctx context.Context, duration time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(duration):
		return true
	}
}

func (r *result) finish(t *tally, latencies []uint32) {
	slices.Sort(latencies)
	r.P50, r.P99 = percentile(latencies, 0.50), percentile(latencies, 0.99)
	r.AllOK, r.AllBad, r.AllStall = t.ok.Load(), t.failed.Load(), t.stalled.Load()
	t.mutex.Lock()
	defer t.mutex.Unlock()
	r.Errors = t.errors
}

// closedLoop runs `step` in every worker, again and again, until the window is over; calls in flight then
// are let finish, and those that do not are stalled calls.
func closedLoop(ctx context.Context, o options, step func(context.Context, *worker) (int64, error)) error {
	conns, err := dial(ctx, o)
	if err != nil {
		return err
	}
	workers := newWorkers(conns, o.streams)
	var counts tally
	var inWindow, stopping atomic.Bool
	var running sync.WaitGroup
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	for _, w := range workers {
		running.Add(1)
		armed := w.arm(ctx)
		go func() {
			defer running.Done()
			for !stopping.Load() && ctx.Err() == nil {
				began := monotonic()
				w.began.Store(began)
				done, err := step(armed, w)
				w.began.Store(0)
				if err != nil {
					if ctx.Err() == nil {
						counts.fail(err, w.stalled.Load())
					}
					armed = w.arm(ctx)
					time.Sleep(failurePause)
					continue
				}
				counts.ok.Add(done)
				if inWindow.Load() {
					w.latencies = append(w.latencies, uint32((monotonic()-began)/1000))
				}
			}
		}()
	}
	go watch(watching, workers, o.stall)
	r, err := measure(ctx, o, &counts, &inWindow)
	for deadline := time.Now().Add(extraWait); counts.all() < o.calls && time.Now().Before(deadline); {
		if !pause(ctx, watchEvery) {
			break
		}
	}
	stopping.Store(true)
	if err != nil {
		return err
	}
	finished := make(chan struct{})
	go func() { running.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(o.stall + drainWait):
		return fmt.Errorf("workers did not end")
	}
	var latencies []uint32
	for _, w := range workers {
		latencies = append(latencies, w.latencies...)
	}
	r.finish(&counts, latencies)
	emit(r)
	return nil
}

// unary makes calls in a closed loop: conns x streams callers with one call each at any time.
func unary(ctx context.Context, o options) error {
	message := make([]byte, o.size)
	return closedLoop(ctx, o, func(ctx context.Context, w *worker) (int64, error) {
		if o.unique {
			var cancel context.CancelFunc
			ctx, cancel = own(ctx, w.rng)
			defer cancel()
		}
		var answer []byte
		if err := w.conn.Invoke(ctx, callPath, &message, &answer); err != nil {
			return 0, err
		}
		if len(answer) != len(message) {
			return 0, fmt.Errorf("answer of %d bytes to %d", len(answer), len(message))
		}
		return 1, nil
	})
}

var streamDesc = grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true}

// stream sends one message after another on long streams and waits for each to come back. It counts
// messages relayed: one up and one down is two.
func stream(ctx context.Context, o options) error {
	message := make([]byte, o.size)
	var mutex sync.Mutex
	open := map[*worker]grpc.ClientStream{}
	return closedLoop(ctx, o, func(ctx context.Context, w *worker) (int64, error) {
		mutex.Lock()
		s := open[w]
		mutex.Unlock()
		forget := func(err error) (int64, error) {
			mutex.Lock()
			delete(open, w)
			mutex.Unlock()
			return 0, err
		}
		if s == nil {
			var err error
			if s, err = w.conn.NewStream(ctx, &streamDesc, streamPath); err != nil {
				return forget(err)
			}
			mutex.Lock()
			open[w] = s
			mutex.Unlock()
		}
		if err := s.SendMsg(&message); err != nil {
			err2 := s.RecvMsg(new([]byte)) // where the real reason is
			if err2 != nil {
				err = err2
			}
			return forget(err)
		}
		var answer []byte
		if err := s.RecvMsg(&answer); err != nil {
			return forget(err)
		}
		if len(answer) != len(message) {
			return forget(fmt.Errorf("answer of %d bytes to %d", len(answer), len(message)))
		}
		return 2, nil
	})
}
