// The official interop service of grpc-go (google.golang.org/grpc/interop) on a loopback address.
//
// The official server program listens on every address of the machine; this one differs from it in
// nothing but that, and in knowing gzip, so that clients that compress can be tested.
package main

import (
	"flag"
	"log"
	"net"
	"strconv"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
)

// Above the 10 MiB of the case very_large_request.
const maxMessage = 16 << 20

func main() {
	port := flag.Int("port", 0, "the port to listen on")
	flag.Parse()
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(*port)))
	if err != nil {
		log.Fatalf("listen: %v", err)
	}
	server := grpc.NewServer(orca.CallMetricsServerOption(nil), grpc.MaxRecvMsgSize(maxMessage))
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	log.Fatal(server.Serve(listener))
}
