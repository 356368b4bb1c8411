package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/api"
)

// statusColumns are istioctl's, with the resource type behind each.
var statusColumns = []struct{ title, kind string }{
	{"CDS", "Cluster"}, {"LDS", "Listener"}, {"EDS", "ClusterLoadAssignment"}, {"RDS", "RouteConfiguration"}, {"ECDS", "TypedExtensionConfig"},
}

// proxyStatusCommand prints where every connected proxy stands.
func proxyStatusCommand(t *terminal) *cobra.Command {
	var state, output string
	c := &cobra.Command{
		Use:     "proxy-status [NAME[.NAMESPACE]]",
		Aliases: []string{"ps"},
		Short:   "which proxies are connected, and whether they have what they should",
		Long: `Print every proxy that is connected to the control plane, and per resource type:

SYNCED    it accepted what it was sent last (and how long ago)
STALE     it has not answered yet (and since when)
REJECTED  it refused a resource and runs with an older one; see "tulle analyze"
          or the control plane's notices for the reason
NOT SENT  it asked for the type and there was nothing to send
IGNORED   it did not ask for the type

With the name of a proxy, one line per resource type and what it was sent; of
one that asks for what it uses, marked (on demand), also how many names it asks
for and how many of them lead nowhere.
The exit status is 1 when a proxy is STALE or REJECTED.`,
		Example: "  tulle proxy-status\n  tulle proxy-status orders-1.shop\n  tulle proxy-status -o json",
		Args:    needArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if err := oneOf("output", output, "text", "json", "yaml"); err != nil {
				return err
			}
			client := api.NewClient(filepath.Join(state, api.Socket))
			list, err := client.Proxies(c.Context())
			if err != nil {
				return err
			}
			info, err := client.Info(c.Context())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if list = named(list, args[0]); len(list) == 0 {
					t.say("no proxy of %s is connected", args[0])
					return errNo
				}
			}
			if err := printStatus(t.out, list, *info, output, len(args) == 1, time.Now()); err != nil {
				return err
			}
			if slices.ContainsFunc(list, func(p api.Proxy) bool { return !p.Synced }) {
				return errNo
			}
			return nil
		},
	}
	c.Flags().StringVar(&state, "state", stateHome(), "state directory of the control plane")
	c.Flags().StringVarP(&output, "output", "o", "text", "text, json or yaml")
	return c
}

// named finds proxies by "name", "name.namespace" or "namespace/name".
func named(list []api.Proxy, want string) []api.Proxy {
	return slices.DeleteFunc(list, func(p api.Proxy) bool {
		ns, name, _ := strings.Cut(p.Workload, "/")
		return want != p.Workload && want != name && want != name+"."+ns
	})
}

func printStatus(w io.Writer, list []api.Proxy, info api.Info, output string, details bool, now time.Time) error {
	if output != "text" {
		b, err := json.MarshalIndent(list, "", "  ")
		if err == nil && output == "yaml" {
			b, err = yaml.JSONToYAML(b)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, strings.TrimRight(string(b), "\n"))
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 8, 5, ' ', 0)
	if details {
		fmt.Fprintln(tw, "NAME\tTYPE\tSTATUS\tHELD\tASKED\tABSENT\tRESPONSES\tRESOURCES\tBYTES\tREFUSED")
		for _, p := range list {
			for _, x := range p.Types {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", dotted(p.Workload), kindOf(x.Type), cell(&x, now), x.Held, x.Names, x.Absent, x.Responses, x.Resources, x.Bytes, strings.Join(x.Refused, ","))
			}
		}
		return tw.Flush()
	}
	fmt.Fprint(tw, "NAME\tCLUSTER")
	for _, c := range statusColumns {
		fmt.Fprint(tw, "\t"+c.title)
	}
	fmt.Fprintln(tw, "\tISTIOD\tVERSION")
	slices.SortStableFunc(list, func(a, b api.Proxy) int { return cmp.Compare(dotted(a.Workload), dotted(b.Workload)) })
	for _, p := range list {
		fmt.Fprint(tw, dotted(p.Workload)+"\tKubernetes")
		for _, c := range statusColumns {
			i := slices.IndexFunc(p.Types, func(x api.ProxyType) bool { return kindOf(x.Type) == c.kind })
			if i < 0 {
				fmt.Fprint(tw, "\tIGNORED")
				continue
			}
			fmt.Fprint(tw, "\t"+cell(&p.Types[i], now))
		}
		version := cmp.Or(p.Agent, "-")
		if p.Demand {
			version += " (on demand)"
		}
		fmt.Fprintf(tw, "\ttulle-%d\t%s\n", info.PID, version)
	}
	return tw.Flush()
}

// dotted is istioctl's spelling of a workload.
func dotted(workload string) string {
	ns, name, _ := strings.Cut(workload, "/")
	return name + "." + ns
}

func kindOf(url string) string { return url[strings.LastIndexAny(url, "./")+1:] }

// cell is a state and how long it has lasted.
func cell(x *api.ProxyType, now time.Time) string {
	at := x.AckedAt
	if x.State == "STALE" {
		at = x.SentAt
	}
	if x.State == "NOT SENT" || at.IsZero() {
		return x.State
	}
	return fmt.Sprintf("%s (%s)", x.State, age(now.Sub(at)))
}

// age with one unit below an hour, two above.
func age(d time.Duration) string {
	switch d = d.Truncate(time.Second); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
