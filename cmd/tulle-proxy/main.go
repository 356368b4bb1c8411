// Command tulle-proxy is Tulle's data plane: a sidecar or a gateway.
package main

import (
	"os"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/guard"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		os.Exit(guard.Main(os.Args[2:], os.Stderr))
	}
	os.Exit(proxy.Main(os.Args[0], os.Args[1:], os.Stdout, os.Stderr))
}
