package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/standalone"
)

// upCommand runs a mesh on this machine.
func upCommand(t *terminal) *cobra.Command {
	o := standalone.MeshOptions{}
	var files []string
	var bind string
	var ports map[string]string
	var quiet bool
	c := &cobra.Command{
		Use:   "up -f DIR",
		Short: "run a mesh on this machine: control plane, certificates, gateways",
		Long: `Run a mesh on this machine from a directory of YAML, without root: the control
plane, its certificate authority, and a proxy for every Gateway. Programs join
it with "tulle run". Changed files take effect at once; a broken file keeps its
last good state.

A Gateway's port below 1024 is opened 8000 higher (80 as 8080, 443 as 8443).

SIGUSR2 puts a new tulle-proxy, of the program that is on disk now, in the place
of each gateway's, without losing a request; "tulle run" does so with its sidecar.`,
		Example: "  tulle up -f mesh/\n  tulle run -n shop --deployment orders -- ./orders",
		Args:    needArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usagef("-f is missing: which directory of YAML?")
			}
			if bind != "" {
				a, err := netip.ParseAddr(bind)
				if err != nil {
					return usagef("--bind %s: want an IP address", bind)
				}
				o.Opening.Bind = a
			}
			var err error
			if o.Opening.Ports, err = portMap(ports); err != nil {
				return err
			}
			o.Paths, o.Version = files, Version
			out := &lines{w: t.err}
			o.Log = func(format string, args ...any) { fmt.Fprintf(out, "tulle: "+format+"\n", args...) }
			o.ProxyOut = t.out
			if quiet {
				o.ProxyOut = io.Discard
			}
			o.Notice = func(n model.Notice) {
				if n.Severity > model.Info {
					fmt.Fprintf(out, "tulle: %s: %s\n", n.Severity, n)
				}
			}
			return runMesh(c.Context(), &o, nil)
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "directory (or file) of YAML; may be repeated")
	f.StringVar(&o.State, "state", stateHome(), "where the certificate authority and the sockets are kept")
	f.StringVar(&o.Proxy, "proxy", "", "the tulle-proxy program (default: beside this one, then in PATH)")
	f.IntVar(&o.Loops, "loops", 0, "event loops of each gateway (default: the CPU limit, at most 2)")
	f.Var(&o.Runtime, "runtime", "limit of connections to each gateway, by Envoy's runtime key, as overload.global_downstream_max_connections=1000; may be repeated")
	f.StringVar(&bind, "bind", "", "address on which gateways listen (default: 127.0.0.1)")
	f.StringToStringVar(&ports, "port", nil, "open a Gateway's port elsewhere, as 80=18080; may be repeated")
	f.BoolVar(&o.AccessLog, "access-log", true, "proxies write an access log")
	f.BoolVar(&quiet, "quiet", false, "leave out what the gateways print")
	return c
}

// portMap reads 80=18080.
func portMap(in map[string]string) (map[uint16]uint16, error) {
	out := map[uint16]uint16{}
	for k, v := range in {
		from, err := strconv.ParseUint(k, 10, 16)
		to, err2 := strconv.ParseUint(v, 10, 16)
		if err != nil || err2 != nil || from == 0 || to == 0 {
			return nil, usagef("--port %s=%s: want two port numbers", k, v)
		}
		out[uint16(from)] = uint16(to)
	}
	return out, nil
}

// runMesh runs a mesh until ctx ends or it fails; up is called once it serves.
func runMesh(ctx context.Context, o *standalone.MeshOptions, up func(context.Context, *standalone.Mesh) error) error {
	if o.Proxy == "" {
		p, err := findProxy()
		if err != nil {
			return err
		}
		o.Proxy = p
	}
	defer standalone.EndFamily()
	m, err := standalone.NewMesh(*o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	if up == nil {
		return <-ended
	}
	err = up(ctx, m)
	cancel()
	return errors.Join(err, <-ended)
}

// findProxy looks for tulle-proxy beside this program, then in PATH.
func findProxy() (string, error) {
	self, err := os.Executable()
	if err == nil {
		p := filepath.Join(filepath.Dir(self), "tulle-proxy")
		if st, err := os.Stat(p); err == nil && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	for _, d := range filepath.SplitList(os.Getenv("PATH")) {
		p := filepath.Join(d, "tulle-proxy")
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", errors.New("tulle-proxy is neither beside this program nor in PATH; name it with --proxy")
}

// lines is a writer for several goroutines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
