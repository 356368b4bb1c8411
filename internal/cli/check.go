package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/kube/check"
	"github.com/tulle-mesh/tulle/internal/source/kube"
)

// checkCommand looks at a cluster before and after an installation.
func checkCommand(t *terminal) *cobra.Command {
	w := wanted{t: t}
	c := &cobra.Command{
		Use:     "check",
		Aliases: []string{"precheck"},
		Short:   "can a Kubernetes cluster take the mesh, and is the mesh on it well",
		Long: `Before an installation: is the version of Kubernetes supported, may you make what
is needed, is there another mesh? After one: does the control plane run, are pods
injected and objects validated, does every namespace of the mesh have its roots?
Nothing is changed. Exits with 1 when something is bad. docs/check.md says more
about each item.`,
		Example: "  tulle check && tulle install -y && tulle check",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := kube.Config(w.kubeconfig, w.context)
			if err != nil {
				return err
			}
			cluster, err := check.New(config)
			if err != nil {
				return fmt.Errorf("the cluster's API: %w", err)
			}
			items, installed, err := cluster.Run(c.Context())
			bad := 0
			for _, i := range items {
				fmt.Fprintf(t.out, "%-5s %s\n", i.Level, i.Text)
				if i.Hint != "" {
					fmt.Fprintf(t.out, "      %s (docs/check.md#%s)\n", i.Hint, i.Anchor)
				}
				if i.Level == check.Bad {
					bad++
				}
			}
			switch {
			case err != nil:
				return err
			case bad > 0:
				return errNo
			case installed:
				t.say("the mesh is well")
			default:
				t.say("the mesh is not installed; this cluster can take it")
			}
			return nil
		},
	}
	w.registerCluster(c)
	return c
}
