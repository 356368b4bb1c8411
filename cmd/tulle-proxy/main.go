// Command tulle-proxy is Tulle's data plane: a sidecar or a gateway.
package main

import (
	"os"

	"github.com/tulle-mesh/tulle/internal/proxy"
)

func main() { os.Exit(proxy.Main(os.Args[1:], os.Stdout, os.Stderr)) }
