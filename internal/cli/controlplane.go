package cli

import (
	"cmp"
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/api"
	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// controlPlaneCommand runs the control plane alone; up runs it with the rest.
func controlPlaneCommand(t *terminal) *cobra.Command {
	var p paths
	var state, socket, address string
	k := inCluster{t: t}
	c := &cobra.Command{
		Use:   "control-plane (-f PATH... | --kube)",
		Short: "run the control plane: xDS, certificates and the admin API",
		Long: `Run the control plane on a directory of YAML, which it watches, or with --kube
on the objects of a Kubernetes cluster.

Proxies are served xDS and certificates on a unix socket (DIR/xds.sock) and
over TLS on loopback; the admin API is on DIR/api.sock, for this user alone.
The root of the certificate authority is made at the first start and kept in
DIR/ca.

With --kube it serves, on Istio's ports and at every address of the pod, xDS and
certificates (15012, for callers with a token of their service account), the
webhooks of injection and validation (15017), metrics (15014) and /ready (8080).
The authority is in the Secret cacerts or istio-ca-secret of its namespace.
tulle install makes all that it needs.`,
		Example: "  tulle control-plane -f mesh/\n  tulle control-plane -f mesh/ --state ./state --address 127.0.0.1:15012\n  tulle control-plane --kube",
		RunE: func(c *cobra.Command, args []string) error {
			list := append(append([]string(nil), p.list...), args...)
			switch {
			case k.on && len(list) > 0:
				return usagef("files and --kube exclude each other")
			case k.on && (socket != "" || c.Flags().Changed("address")):
				return usagef("--socket and --address are for files; with --kube see --proxies, --webhooks, --metrics and --health")
			case k.on:
				return k.run(c.Context(), state)
			case len(list) == 0:
				return usagef("which files? Give -f PATH, or --kube")
			}
			return t.controlPlane(c.Context(), control.Options{
				Dir: state, Socket: socket, Address: address, Version: Version,
				Source: &file.Watcher{Paths: list},
				Log:    t.say,
			})
		},
	}
	p.register(c)
	c.Flags().StringVar(&state, "state", filepath.Join(cmp.Or(stateHome(), "/var/lib/tulle"), "control-plane"), "directory for what survives a restart")
	c.Flags().StringVar(&socket, "socket", "", "unix socket for proxies (default DIR/xds.sock)")
	c.Flags().StringVar(&address, "address", "127.0.0.1:0", "address for proxies, TLS")
	k.register(c)
	return c
}

// controlPlane runs until ctx ends.
func (t *terminal) controlPlane(ctx context.Context, o control.Options) error {
	plane, err := control.New(o)
	if err != nil {
		return err
	}
	l, err := control.ListenUnix(filepath.Join(o.Dir, api.Socket))
	if err != nil {
		plane.Close()
		return err
	}
	t.say("serving proxies at %s and %s, the admin API at %s", plane.Socket(), plane.Address(), l.Addr())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- api.NewServer(plane, Version, t.say).Serve(ctx, l) }()
	go func() { ended <- plane.Run(ctx) }()
	told := make(chan struct{})
	go func() {
		defer close(told)
		t.follow(ctx, plane)
	}()
	err = <-ended
	cancel()
	if other := <-ended; err == nil {
		err = other
	}
	<-told
	return err
}

// follow prints the notices that a change of the configuration brings, to the
// last.
func (t *terminal) follow(ctx context.Context, plane *control.Plane) {
	told := map[string]bool{}
	for ended := false; ; {
		_, _, newer := plane.Changed()
		now := map[string]bool{}
		for _, n := range plane.Notices() {
			now[n.String()] = true
			if !told[n.String()] && n.Severity > model.Info {
				t.say("%s: %s", n.Severity, n)
			}
		}
		told = now
		if ended {
			return
		}
		select {
		case <-newer:
		case <-ctx.Done():
			ended = true
		}
	}
}
