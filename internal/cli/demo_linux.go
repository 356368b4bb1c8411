package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/demo"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/standalone"
)

// demoCommand is the whole story in one command.
func demoCommand(t *terminal) *cobra.Command {
	o := demo.Options{}
	var verbose bool
	var port uint16
	c := &cobra.Command{
		Use:   "demo",
		Short: "a shop of six services on a mesh on this machine, with stories to try",
		Long: `Start a mesh on this machine with a shop of six services and a ledger, each a
process with a sidecar of its own, behind a gateway. It prints what runs where
and a line to try for each story: canary, header A/B, mTLS, a denied call and
why, a fault, TCP behind mTLS, a live change.

With --check it does every story by itself, prints a line each, and ends with
status 0 or 1. Ctrl-C ends everything; nothing is left behind.`,
		Args: needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o.Program, o.Out, o.ProxyOut = self, &lines{w: t.out}, io.Discard
			if verbose {
				o.ProxyOut = &lines{w: t.err}
			}
			if o.Dir == "" {
				if o.Dir, err = os.MkdirTemp("", "tulle-demo-"); err != nil {
					return err
				}
				defer os.RemoveAll(o.Dir)
			}
			if err := demo.Write(filepath.Join(o.Dir, "mesh")); err != nil {
				return err
			}
			if o.Proxy == "" {
				if o.Proxy, err = findProxy(); err != nil {
					return err
				}
			}
			m := standalone.MeshOptions{Paths: []string{filepath.Join(o.Dir, "mesh")}, State: filepath.Join(o.Dir, "state"),
				Proxy: o.Proxy, Loops: 1, AccessLog: true, Version: Version, ProxyOut: o.ProxyOut}
			if port != 0 {
				m.Opening.Ports = map[uint16]uint16{80: port}
			}
			m.Log = func(format string, args ...any) {
				if verbose {
					fmt.Fprintf(o.Out, "tulle: "+format+"\n", args...)
				}
			}
			m.Notice = func(n model.Notice) {
				if n.Severity > model.Info {
					fmt.Fprintf(o.Out, "tulle: %s: %s\n", n.Severity, n)
				}
			}
			err = runMesh(c.Context(), &m, func(ctx context.Context, mesh *standalone.Mesh) error { return demo.Run(ctx, mesh, o) })
			if errors.Is(err, demo.ErrFailed) {
				return errNo
			}
			return err
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Check, "check", false, "do every story, verify it, and end")
	f.BoolVar(&o.NoLoad, "no-load", false, "send no requests by itself")
	f.Var(&o.Mode, "mode", "how the programs' traffic gets to their sidecars: namespaces, ports, or auto")
	f.BoolVarP(&verbose, "verbose", "v", false, "print the proxies' access logs and messages on stderr")
	f.Uint16Var(&port, "gateway-port", 0, "where the gateway listens on 127.0.0.1 (default 8080)")
	f.StringVar(&o.Dir, "dir", "", "where to put the configuration and state (default: a directory that is removed at the end)")
	f.StringVar(&o.Proxy, "proxy", "", "the tulle-proxy program (default: beside this one, then in PATH)")
	return c
}

// demoAppCommand is a program of the demo's shop.
func demoAppCommand(*terminal) *cobra.Command {
	a := demo.App{}
	c := &cobra.Command{
		Use:    "demo-app",
		Short:  "a program of the demo's shop",
		Hidden: true,
		Args:   needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if a.Listen == "" {
				a.Listen = os.Getenv("HOST") + ":" + os.Getenv("PORT")
			}
			return a.Serve(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&a.Name, "name", "users", "which program")
	f.StringVar(&a.Version, "app-version", "v1", "its version")
	f.StringVar(&a.Listen, "listen", "", "where to listen (default: $HOST:$PORT)")
	f.StringVar(&a.Ledger, "ledger", "", "where the ledger is reached")
	return c
}
