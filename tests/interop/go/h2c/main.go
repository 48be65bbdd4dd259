// A plain HTTP/2 server without TLS (h2c, prior knowledge) that answers every request with 200 and a
// small body: the backend that h2spec reaches through the sidecar.
package main

import (
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
)

func main() {
	port := flag.Int("port", 0, "the port to listen on")
	flag.Parse()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Addr:      net.JoinHostPort("127.0.0.1", strconv.Itoa(*port)),
		Protocols: &protocols,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// Read what was sent first, so that the answer comes after the request as gRPC's does.
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			w.Header().Set("content-type", "text/plain")
			_, _ = io.WriteString(w, "evenstream")
		}),
	}
	log.Fatal(server.ListenAndServe())
}
