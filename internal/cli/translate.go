package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
)

// translateCommand shows the stages between YAML and the wire.
func translateCommand(t *terminal) *cobra.Command {
	var p paths
	var workload, gateway, output string
	c := &cobra.Command{
		Use:   "translate (-f PATH... | --cluster) [--for NS/WORKLOAD | --gateway NS/NAME] [-o model|xds]",
		Short: "show what was understood: the model, or the xDS resources of one proxy",
		Long: `Show what Tulle makes of a configuration: of files, without any network, or
of a cluster's objects.

With -o model, the model's text form: all that was understood or, for one
proxy, the mesh as that proxy sees it. With -o xds, the resources which that
proxy would be given: a JSON object by type URL and name, of Envoy's v3
messages. Notices go to stderr.

--for takes a Pod, a WorkloadEntry or a Deployment; --gateway takes a Gateway,
and the proxy that its selector selects.`,
		Example: "  tulle translate -f mesh/\n  tulle translate -f mesh/ --for shop/orders -o xds\n  tulle translate --cluster -n shop",
		RunE: func(c *cobra.Command, args []string) error {
			if err := oneOf("output", output, "model", "xds"); err != nil {
				return err
			}
			if workload != "" && gateway != "" {
				return usagef("--for and --gateway exclude each other")
			}
			snap, err := p.read(c.Context(), args)
			if err != nil {
				return err
			}
			compiled, notices := control.Compile(snap)
			t.tell(notices, model.Info)
			if workload == "" && gateway == "" {
				if output == "xds" {
					return whichProxy(compiled)
				}
				_, err := fmt.Fprint(t.out, model.Text(compiled.Fragment))
				return err
			}
			view, err := t.view(compiled, workload, gateway)
			if err != nil {
				return err
			}
			if output == "model" {
				_, err := fmt.Fprint(t.out, model.TextView(view))
				return err
			}
			out, more := lower.Lower(view)
			t.tell(more, model.Info)
			b, err := lower.JSON(out)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(t.out, "%s\n", b)
			return err
		},
	}
	p.register(c)
	p.registerCluster(c)
	c.Flags().StringVar(&workload, "for", "", "the proxy of this workload, as NAMESPACE/NAME")
	c.Flags().StringVar(&gateway, "gateway", "", "the proxy of this Gateway, as NAMESPACE/NAME")
	c.Flags().StringVarP(&output, "output", "o", "model", "model or xds")
	return c
}

// view is the mesh as the chosen proxy sees it.
func (t *terminal) view(c *control.Compiled, workload, gateway string) (*model.View, error) {
	if workload != "" {
		cl, err := c.Workload(workload)
		if err != nil {
			return nil, err
		}
		return c.Mesh.View(cl), nil
	}
	cl, assumed, err := c.Gateway(gateway)
	if err != nil {
		return nil, err
	}
	if assumed {
		t.say("no workload is selected by Gateway %s: a proxy with the selected labels in its namespace is assumed", gateway)
	}
	return c.Mesh.View(cl), nil
}

// whichProxy says among which proxies the user must choose.
func whichProxy(c *control.Compiled) error {
	text := "-o xds needs one proxy; choose"
	for _, n := range c.WorkloadNames() {
		text += "\n  --for " + n
	}
	for _, n := range c.GatewayNames() {
		text += "\n  --gateway " + n
	}
	if len(c.WorkloadNames())+len(c.GatewayNames()) == 0 {
		return usagef("-o xds needs one proxy, and there is neither a workload nor a Gateway in the files")
	}
	return usagef("%s", text)
}
