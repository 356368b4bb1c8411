package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/kube/webhook"
	"github.com/tulle-mesh/tulle/internal/source/kube"
)

// checkInjectCommand says why a pod has a sidecar, or none.
func checkInjectCommand(t *terminal) *cobra.Command {
	w := wanted{t: t}
	var namespace, root, output string
	c := &cobra.Command{
		Use:   "check-inject [-n NAMESPACE] (POD | deployment/NAME)",
		Short: "why a pod of a cluster has a sidecar, or none",
		Long: `Say, for every control plane that is installed, whether a pod got its sidecar, or
the pods of a Deployment would get one, and which label or rule decided. Exits
with 1 when no control plane says yes.`,
		Example: "  tulle check-inject -n shop orders-7d9c5-x2x7k\n  tulle check-inject -n shop deployment/orders",
		Args:    needArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := oneOf("output", output, "text", "json", "yaml"); err != nil {
				return err
			}
			config, err := kube.Config(w.kubeconfig, w.context)
			if err != nil {
				return err
			}
			list, err := webhook.Explain(c.Context(), config, root, namespace, args[0])
			if err != nil {
				return err
			}
			if len(list) == 0 {
				t.say("no control plane is installed in namespace %s", root)
				return errNo
			}
			if output != "text" {
				err = t.print(list, output)
			} else {
				tw := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(tw, "WEBHOOK\tREVISION\tINJECTED\tREASON")
				for _, v := range list {
					mark := "no"
					if v.Injected {
						mark = "yes"
					}
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", v.Webhook, v.Revision, mark, v.Reason)
				}
				err = tw.Flush()
			}
			for _, v := range list {
				if v.Injected {
					return err
				}
			}
			if err == nil {
				err = errNo
			}
			return err
		},
	}
	w.registerCluster(c)
	f := c.Flags()
	f.StringVarP(&namespace, "namespace", "n", "default", "namespace of the pod")
	f.StringVarP(&root, "istio-namespace", "i", "istio-system", "namespace of the control planes")
	f.StringVarP(&output, "output", "o", "text", "text, json or yaml")
	return c
}
