package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/tulle-mesh/tulle/internal/kube/install"
	"github.com/tulle-mesh/tulle/internal/source/kube"
)

// wanted is what install, manifest and uninstall are told.
type wanted struct {
	t                   *terminal
	files, sets         []string
	revision            string
	kubeconfig, context string
}

func (w *wanted) register(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVarP(&w.files, "filename", "f", nil, "IstioOperator file; may be given again, later ones win; - is standard input")
	f.StringArrayVarP(&w.sets, "set", "s", nil, "one setting, as profile=demo or values.pilot.autoscaleMax=9; wins over files")
	f.StringVarP(&w.revision, "revision", "r", "", "revision of the control plane")
	_ = c.MarkFlagFilename("filename", "yaml", "yml")
}

func (w *wanted) registerCluster(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&w.kubeconfig, "kubeconfig", "", "the file that describes clusters (default KUBECONFIG, ~/.kube/config)")
	f.StringVar(&w.context, "context", "", "a context of that file (default its current one)")
}

// plan of the flags; its findings are told.
func (w *wanted) plan() (*install.Plan, error) {
	var files []install.File
	for _, name := range w.files {
		var b []byte
		var err error
		if name == "-" {
			b, err = io.ReadAll(w.t.in)
			name = "standard input"
		} else {
			b, err = os.ReadFile(name)
		}
		if err != nil {
			return nil, err
		}
		files = append(files, install.File{Name: name, Text: b})
	}
	sets := w.sets
	if w.revision != "" {
		sets = append(sets[:len(sets):len(sets)], "revision="+w.revision)
	}
	p, err := install.Make(files, sets, Version)
	if err != nil {
		return nil, err
	}
	for _, f := range p.Findings {
		w.t.say("warning: %s", f)
	}
	return p, nil
}

func (w *wanted) cluster() (*install.Cluster, *rest.Config, error) {
	config, err := kube.Config(w.kubeconfig, w.context)
	if err != nil {
		return nil, nil, err
	}
	config.QPS = -1
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("the cluster's API: %w", err)
	}
	return &install.Cluster{Client: client, Tell: func(format string, args ...any) { fmt.Fprintf(w.t.out, format+"\n", args...) }}, config, nil
}

// confirm asks the person at the terminal.
func (t *terminal) confirm(question string) (bool, error) {
	fmt.Fprintf(t.err, "%s (y/N) ", question)
	var answer string
	if _, err := fmt.Fscanln(t.in, &answer); err != nil {
		return false, usagef("nobody answered; give -y to go on without being asked")
	}
	answer = strings.ToLower(answer)
	return answer == "y" || answer == "yes", nil
}

// installCommand puts the mesh on a cluster.
func installCommand(t *terminal) *cobra.Command {
	w := wanted{t: t}
	var yes, dry, verify bool
	var patience time.Duration
	c := &cobra.Command{
		Use:     "install",
		Aliases: []string{"apply", "upgrade"},
		Short:   "install the mesh on a Kubernetes cluster, or change what is installed",
		Long: `Install the control plane, and the gateways that were asked for, on the cluster
that kubectl talks to; or change what is installed to what is asked for now: what
is not asked for any more is removed.

Takes IstioOperator files and istioctl's flags. Profiles: default (control plane
and an ingress gateway), demo (an egress gateway too, and access logs), minimal
(the control plane), empty. What a file says and has no effect is told on stderr,
and so is what files say against each other.`,
		Example: "  tulle install --set profile=demo -y\n  tulle install -f mesh.yaml --dry-run | kubectl diff -f -\n  tulle install --verify",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := w.plan()
			if err != nil {
				return err
			}
			objects, err := p.Objects()
			if err != nil {
				return err
			}
			if dry {
				return install.YAML(t.out, objects)
			}
			cluster, config, err := w.cluster()
			if err != nil {
				return err
			}
			if !yes && !verify {
				ok, err := t.confirm(fmt.Sprintf("Profile %s goes to %s, namespace %s. Proceed?", p.Profile, config.Host, p.Namespace))
				if err != nil {
					return err
				}
				if !ok {
					t.say("nothing was changed")
					return errNo
				}
			}
			if !verify || yes {
				ctx, cancel := context.WithTimeout(c.Context(), patience)
				defer cancel()
				if err := cluster.Apply(ctx, objects); err != nil {
					return err
				}
				if err := cluster.Prune(ctx, p.Rev(), objects); err != nil {
					return err
				}
				if err := cluster.Ready(ctx, objects); err != nil {
					return err
				}
				t.say("installed; label a namespace istio-injection=enabled, and the pods that start there join the mesh")
			}
			if !verify {
				return nil
			}
			faults, err := cluster.Verify(c.Context(), objects)
			if err != nil {
				return err
			}
			for _, f := range faults {
				fmt.Fprintln(t.out, f)
			}
			if len(faults) > 0 {
				return errNo
			}
			t.say("%d objects are there and run", len(objects))
			return nil
		},
	}
	w.register(c)
	w.registerCluster(c)
	f := c.Flags()
	f.BoolVarP(&yes, "skip-confirmation", "y", false, "do not ask")
	f.BoolVar(&dry, "dry-run", false, "print what would be applied, and change nothing")
	f.BoolVar(&verify, "verify", false, "check what is installed, after installing it with -y, else without changing anything")
	f.DurationVar(&patience, "readiness-timeout", 5*time.Minute, "how long to wait until all runs")
	return c
}

// manifestCommand prints what install would apply.
func manifestCommand(t *terminal) *cobra.Command {
	w := wanted{t: t}
	c := &cobra.Command{Use: "manifest", Short: "print what install would apply", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	generate := &cobra.Command{
		Use:     "generate",
		Short:   "print the objects that install would apply, as YAML",
		Example: "  tulle manifest generate --set profile=demo | kubectl apply --server-side -f -",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			p, err := w.plan()
			if err != nil {
				return err
			}
			objects, err := p.Objects()
			if err != nil {
				return err
			}
			return install.YAML(t.out, objects)
		},
	}
	w.register(generate)
	c.AddCommand(generate)
	return c
}

// uninstallCommand takes the mesh off a cluster.
func uninstallCommand(t *terminal) *cobra.Command {
	w := wanted{t: t}
	var yes, purge bool
	c := &cobra.Command{
		Use:   "uninstall (--purge | --revision NAME)",
		Short: "remove the mesh from a Kubernetes cluster",
		Long: `Remove the control plane of a revision and its gateways, or with --purge all
that tulle install and the control plane have made: every revision, the roots in
the namespaces, and the authority's key.

Namespaces and custom resource definitions stay, for the user's own objects are
in them. To remove these too:
  kubectl delete crd -l app.kubernetes.io/part-of=tulle
  kubectl delete namespace istio-system`,
		Example: "  tulle uninstall --purge -y\n  tulle uninstall --revision canary",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if purge == (w.revision != "") {
				return usagef("what is to go? Give either --purge or --revision NAME (default is one)")
			}
			cluster, config, err := w.cluster()
			if err != nil {
				return err
			}
			what := "revision " + w.revision
			if purge {
				what = "all of the mesh"
			}
			if !yes {
				ok, err := t.confirm(fmt.Sprintf("Remove %s from %s?", what, config.Host))
				if err != nil {
					return err
				}
				if !ok {
					t.say("nothing was changed")
					return errNo
				}
			}
			if err := cluster.Prune(c.Context(), w.revision, nil); err != nil {
				return err
			}
			if purge {
				return cluster.Forget(c.Context(), true)
			}
			return nil
		},
	}
	w.registerCluster(c)
	c.Flags().StringVarP(&w.revision, "revision", "r", "", "the revision that is to go")
	c.Flags().BoolVar(&purge, "purge", false, "remove everything, of every revision")
	c.Flags().BoolVarP(&yes, "skip-confirmation", "y", false, "do not ask")
	return c
}

// operatorCommand answers those who look for Istio's operator.
func operatorCommand(t *terminal) *cobra.Command {
	return &cobra.Command{Use: "operator", Hidden: true, Short: "there is no operator: see install", RunE: func(*cobra.Command, []string) error {
		t.say("nothing in the cluster installs the mesh: give the IstioOperator's file to tulle install -f FILE, again after every change")
		return errNo
	}}
}
