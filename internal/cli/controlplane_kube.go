package cli

import (
	"cmp"
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/kube/serve"
	"github.com/tulle-mesh/tulle/internal/source/kube"
)

// inCluster is control-plane --kube.
type inCluster struct {
	t                   *terminal
	on                  bool
	kubeconfig, context string
	o                   serve.Options
}

func (k *inCluster) register(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&k.on, "kube", false, "serve a Kubernetes cluster: the one whose pod this is, or that of --kubeconfig")
	f.StringVar(&k.kubeconfig, "kubeconfig", "", "with --kube, the file that describes clusters (default KUBECONFIG, ~/.kube/config, or the pod's own)")
	f.StringVar(&k.context, "context", "", "with --kube, a context of that file (default its current one)")
	f.StringVar(&k.o.Namespace, "namespace", "", "with --kube, the namespace of the control plane (default POD_NAMESPACE, the pod's own, or istio-system)")
	f.StringVar(&k.o.Revision, "revision", "", "with --kube, the revision of this control plane (default default)")
	f.StringVar(&k.o.TrustDomain, "trust-domain", "", "with --kube, the trust domain (default cluster.local)")
	f.StringVar(&k.o.Proxies, "proxies", ":15012", "with --kube, where proxies are served")
	f.StringVar(&k.o.Webhooks, "webhooks", ":15017", "with --kube, where webhooks are served")
	f.StringVar(&k.o.Metrics, "metrics", ":15014", "with --kube, where metrics are served")
	f.StringVar(&k.o.Health, "health", ":8080", "with --kube, where /ready is served")
}

// run until ctx ends.
func (k *inCluster) run(ctx context.Context, state string) error {
	config, err := kube.Config(k.kubeconfig, k.context)
	if err != nil {
		return err
	}
	o := k.o
	o.Config, o.State, o.Version, o.Log = config, state, Version, k.t.say
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	o.Name = cmp.Or(os.Getenv("POD_NAME"), host)
	o.Namespace = cmp.Or(o.Namespace, os.Getenv("POD_NAMESPACE"), ownNamespace(), "istio-system")
	s, err := serve.New(ctx, o)
	if err != nil {
		return err
	}
	k.t.say("serving proxies at %s, webhooks at %s, metrics at %s, /ready at %s", s.Proxies(), s.Webhooks(), s.Metrics(), s.Health())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	told := make(chan struct{})
	go func() {
		defer close(told)
		k.t.follow(ctx, s.Plane())
	}()
	err = s.Run(ctx)
	cancel()
	<-told
	return err
}

// ownNamespace is that of the pod this process is in; empty: it is in none.
func ownNamespace() string {
	b, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
