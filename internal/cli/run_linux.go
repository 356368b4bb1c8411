package cli

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/api"
	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/standalone"
)

// runCommand starts a program as a replica in the mesh.
func runCommand(t *terminal) *cobra.Command {
	r := standalone.Run{}
	var labels []string
	var ports []uint
	var state string
	var listenOn string
	var proxyLog bool
	var hostPorts []string
	c := &cobra.Command{
		Use:   "run -n NS (--deployment NAME | --service NAME) [flags] -- CMD [ARGS...]",
		Short: "start a program as a replica in the mesh that `tulle up` runs",
		Long: `Start a program as a replica in the mesh, with a sidecar beside it. Labels,
identity and ports come from the Deployment (or Service) of that name.

The program should listen on $HOST:$PORT (or on every address; --listen-on names
another). It gets requests when the Deployment's readiness probe succeeds, or
else when its port accepts. Where it has no namespaces of its own, it is given
HTTP_PROXY, through which it reaches services by their names, and in its
arguments {{tulle.addr HOST PORT}} stands for the local address of any service,
TCP too.

When the program ends, so does the sidecar; Ctrl-C ends both, and everything
that the program has started. SIGUSR2 puts a new tulle-proxy, of the program
that is on disk now, in the sidecar's place, without losing a request.`,
		Example: "  tulle run -n shop --deployment orders -- ./orders\n" +
			"  tulle run -n shop --deployment api -- psql -h '{{tulle.addr ledger 5432}}'",
		Args: needArgs(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := placeFlags(&r.Spec, labels, ports, listenOn); err != nil {
				return err
			}
			if r.Proxy == "" {
				p, err := findProxy()
				if err != nil {
					return err
				}
				r.Proxy = p
			}
			var err error
			if r.HostPorts, err = standalone.ParsePorts(hostPorts); err != nil {
				return usagef("--host-port: %v", err)
			}
			if state == "" {
				return errors.New("state directory: neither $XDG_STATE_HOME nor $HOME is set; name that of \"tulle up\" with --state")
			}
			r.Dir = filepath.Join(state, "run")
			r.Command, r.Env = args, os.Environ()
			r.Stdin, r.Stdout, r.Stderr, r.Foreground = t.in, t.out, t.err, true
			if proxyLog {
				r.ProxyOut = &lines{w: t.err}
			}
			r.Started = func(rep *standalone.Replica) {
				t.say("%s runs as %s, its sidecar is ready", rep.ID, rep.Identity)
			}
			client := api.NewClient(filepath.Join(state, api.Socket))
			defer client.Close()
			defer standalone.EndFamily()
			err = r.Do(c.Context(), client)
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				t.say("%v", err)
				return exitStatus(exit.ExitCode())
			}
			if errors.Is(err, api.ErrNoControlPlane) {
				t.say("%v", err)
				return errors.New(`start one with "tulle up -f DIR"`)
			}
			return err
		},
	}
	c.Flags().SetInterspersed(false)
	f := c.Flags()
	f.StringVarP(&r.Spec.Namespace, "namespace", "n", "default", "namespace of the replica")
	f.StringVar(&r.Spec.Deployment, "deployment", "", "the Deployment or WorkloadGroup that it is a replica of")
	f.StringVar(&r.Spec.Service, "service", "", "a Service whose selector gives the labels")
	f.StringVar(&r.Spec.Name, "name", "", "name of the replica (default: made from the Deployment's)")
	f.StringArrayVar(&labels, "label", nil, "another label, KEY=VALUE; may be repeated")
	f.StringVar(&r.Spec.Account, "service-account", "", "identity (default: the Deployment's)")
	f.UintSliceVar(&ports, "port", nil, "port that the program listens on (default: the Deployment's)")
	f.StringVar(&listenOn, "listen-on", "", "address that the program listens on, as 127.0.0.1, if not $HOST nor every address")
	f.StringVar(&state, "state", stateHome(), "state directory of the mesh")
	f.StringVar(&r.Proxy, "proxy", "", "the tulle-proxy program (default: beside this one, then in PATH)")
	f.IntVar(&r.Loops, "loops", 0, "event loops of the sidecar")
	f.Var(&r.Runtime, "runtime", "limit of connections to the sidecar, by Envoy's runtime key, as overload.global_downstream_max_connections=1000; may be repeated")
	f.Var(&r.Mode, "mode", "how its traffic gets to the sidecar: namespaces (of its own: any TCP, no change to the program), ports (local listeners and HTTP_PROXY), or auto")
	f.StringSliceVar(&hostPorts, "host-port", nil, "port of this machine's localhost that the program may reach at its own localhost (mode namespaces)")
	f.BoolVar(&proxyLog, "proxy-log", true, "print the sidecar's messages and access log on stderr")
	return c
}

// placeFlags puts what the flags say about the replica into spec.
func placeFlags(spec *control.WorkloadSpec, labels []string, ports []uint, listenOn string) error {
	for _, l := range labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return usagef("--label %s: want KEY=VALUE", l)
		}
		if spec.Labels == nil {
			spec.Labels = map[string]string{}
		}
		spec.Labels[k] = v
	}
	for _, p := range ports {
		if p == 0 || p > 65535 {
			return usagef("--port %d: want 1 to 65535", p)
		}
		spec.Ports = append(spec.Ports, control.PortSpec{Port: uint16(p)})
	}
	if listenOn != "" {
		a, err := netip.ParseAddr(listenOn)
		if err != nil {
			return usagef("--listen-on %s: want an IP address", listenOn)
		}
		spec.ListenOn = a
	}
	return nil
}
