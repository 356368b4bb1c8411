// Command tulle is the control plane and the command line of the mesh.
package main

import (
	"os"

	"github.com/tulle-mesh/tulle/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
