// CoreDNS with only the plugins that this cluster's Corefile names.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

// A query passes through the plugins in this order, whatever order the Corefile has.
func init() {
	dnsserver.Directives = []string{
		"reload", "ready", "health", "errors", "cache", "loop", "kubernetes",
	}
}

func main() {
	coremain.Run()
}
