package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

const (
	service    = "evenstream.bench.Echo"
	callPath   = "/" + service + "/Call"
	streamPath = "/" + service + "/Stream"
	// maxListeners bounds a mistyped range; the largest case has 1,000 endpoints.
	maxListeners = 4096
	// portTries bounds the search for a port that is free on every address.
	portTries = 20
)

// firsts tells when a listener was first connected to and first got a stream (CLOCK_MONOTONIC, as
// Python's time.monotonic reads it, so that another process can subtract).
type firsts struct {
	Address         string `json:"address"`
	FirstConnection int64  `json:"first_connection_ns"`
	FirstStream     int64  `json:"first_stream_ns"`
	once            sync.Once
}

func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail for this clock
	return now.Nano()
}

func (f *firsts) streamArrived() {
	f.once.Do(func() {
		f.FirstStream = monotonic()
		emit(f)
	})
}

// timedListener notes when its first connection was accepted.
type timedListener struct {
	net.Listener
	seen *firsts
}

func (l timedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil && l.seen.FirstConnection == 0 {
		l.seen.FirstConnection = monotonic()
	}
	return conn, err
}

func call(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var message []byte
	if err := decode(&message); err != nil {
		return nil, err
	}
	return &message, nil
}

func echo(_ any, stream grpc.ServerStream) error {
	for {
		var message []byte
		if err := stream.RecvMsg(&message); err != nil {
			return nil // the client half-closed or left
		}
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
	}
}

func newServer(seen *firsts) *grpc.Server {
	server := grpc.NewServer()
	unaryHandler := call
	if seen != nil {
		unaryHandler = func(s any, ctx context.Context, d func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
			seen.streamArrived()
			return call(s, ctx, d, i)
		}
	}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Call", Handler: unaryHandler}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Stream", Handler: echo, ServerStreams: true, ClientStreams: true},
		},
	}, nil)
	return server
}

// addresses spells out "127.0.0.1*3" (three listeners there, a port each) and "127.1.0.1+1000" (the
// 1,000 addresses from there on, all with one port). Loopback only.
func addresses(text string) (hosts []string, onePort bool, err error) {
	separator := "*"
	if strings.Contains(text, "+") {
		separator, onePort = "+", true
	}
	first, count, found := strings.Cut(text, separator)
	number, convErr := strconv.Atoi(count)
	ip := net.ParseIP(first).To4()
	if !found || convErr != nil || number < 1 || number > maxListeners || ip == nil || !ip.IsLoopback() {
		return nil, false, fmt.Errorf("--listen %q is not allowed; LOOPBACK*COUNT or LOOPBACK+COUNT", text)
	}
	for i := range number {
		host := ip
		if onePort {
			value := uint32(ip[0])<<24 | uint32(ip[1])<<16 | uint32(ip[2])<<8 | uint32(ip[3])
			value += uint32(i)
			host = net.IPv4(byte(value>>24), byte(value>>16), byte(value>>8), byte(value))
		}
		hosts = append(hosts, host.String())
	}
	return hosts, onePort, nil
}

func listenAll(hosts []string, onePort bool) ([]net.Listener, error) {
	var lastErr error
	for range portTries {
		port := 0
		var listeners []net.Listener
		for _, host := range hosts {
			listener, err := net.Listen("tcp4", net.JoinHostPort(host, strconv.Itoa(port)))
			if err != nil {
				lastErr = err
				break
			}
			if onePort {
				port = listener.Addr().(*net.TCPAddr).Port
			}
			listeners = append(listeners, listener)
		}
		if len(listeners) == len(hosts) {
			return listeners, nil
		}
		for _, listener := range listeners {
			_ = listener.Close()
		}
	}
	return nil, lastErr
}

// serve runs one echo server per listener and prints their addresses.
func serve(ctx context.Context, o options) error {
	hosts, onePort, err := addresses(o.listen)
	if err != nil {
		return err
	}
	listeners, err := listenAll(hosts, onePort)
	if err != nil {
		return err
	}
	var servers []*grpc.Server
	var names []string
	for _, listener := range listeners {
		names = append(names, listener.Addr().String())
		var seen *firsts
		if o.announce {
			seen = &firsts{Address: listener.Addr().String()}
			listener = timedListener{listener, seen}
		}
		server := newServer(seen)
		servers = append(servers, server)
		go func() { _ = server.Serve(listener) }() // ends with Stop
	}
	emit(map[string]any{"addresses": names, "grpc": grpc.Version})
	<-ctx.Done()
	for _, server := range servers {
		server.Stop()
	}
	return nil
}
