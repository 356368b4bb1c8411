package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
	"github.com/tulle-mesh/tulle/internal/source/kube"
)

// paths is the flag -f of every command that reads configuration, and for some
// the flags that name a cluster instead.
type paths struct {
	list                           []string
	cluster                        bool
	kubeconfig, context, namespace string
}

func (p *paths) register(c *cobra.Command) {
	c.Flags().StringArrayVarP(&p.list, "file", "f", nil, "file or directory of YAML; may be given again, and arguments without a flag are more of them")
	_ = c.MarkFlagFilename("file", "yaml", "yml", "json")
}

// registerCluster is for commands that read a cluster too.
func (p *paths) registerCluster(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&p.cluster, "cluster", false, "read the objects of a Kubernetes cluster instead of files: the one that kubectl talks to")
	f.StringVar(&p.kubeconfig, "kubeconfig", "", "with --cluster, the file that describes clusters (default KUBECONFIG, ~/.kube/config, or the pod's own)")
	f.StringVar(&p.context, "context", "", "with --cluster, a context of that file (default its current one)")
	f.StringVarP(&p.namespace, "namespace", "n", "", "with --cluster, only what is in this namespace")
}

// read is load, or the cluster's objects when that was asked for.
func (p *paths) read(ctx context.Context, args []string) (source.Snapshot, error) {
	if !p.cluster {
		if p.kubeconfig != "" || p.context != "" || p.namespace != "" {
			return source.Snapshot{}, usagef("--kubeconfig, --context and --namespace go with --cluster")
		}
		return p.load(args)
	}
	if len(p.list)+len(args) > 0 {
		return source.Snapshot{}, usagef("files and --cluster exclude each other")
	}
	config, err := kube.Config(p.kubeconfig, p.context)
	if err != nil {
		return source.Snapshot{}, err
	}
	return kube.Load(ctx, config, p.namespace)
}

// load reads the files of the flag and of the arguments.
func (p *paths) load(args []string) (source.Snapshot, error) {
	list := append(append([]string(nil), p.list...), args...)
	if len(list) == 0 {
		return source.Snapshot{}, usagef("which files? Give -f PATH")
	}
	return file.Load(list)
}

// tell prints notices as messages: those of at least the given severity.
func (t *terminal) tell(notices []model.Notice, least model.Severity) {
	for _, n := range notices {
		if n.Severity >= least {
			t.say("%s: %s", n.Severity, n)
		}
	}
}

// most warnings that stand before an answer which they may have nothing to do
// with.
const mostWarnings = 10

// tellSome prints every error, and the first warnings.
func (t *terminal) tellSome(notices []model.Notice) {
	t.tell(notices, model.Error)
	warnings := 0
	for _, n := range notices {
		if n.Severity != model.Warning {
			continue
		}
		if warnings++; warnings <= mostWarnings {
			t.say("%s: %s", n.Severity, n)
		}
	}
	if warnings > mostWarnings {
		t.say("and %d more warnings: tulle translate tells all", warnings-mostWarnings)
	}
}
