package control

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
)

// ErrNoClient is wrapped by errors about a workload or gateway that is not in
// the configuration.
var ErrNoClient = errors.New("not found")

// Workload is the client that a workload's proxy would be. name is "ns/name"
// of a Pod, WorkloadEntry or process, or of a Deployment, which then stands
// for its copies.
func (c *Compiled) Workload(name string) (model.Client, error) {
	ns, n, ok := strings.Cut(name, "/")
	if !ok || ns == "" || n == "" || strings.Contains(n, "/") {
		return model.Client{}, fmt.Errorf("workload %q: want NAMESPACE/NAME", name)
	}
	var found *model.Workload
	for _, w := range c.Fragment.Workloads {
		if w.Namespace == ns && w.Name == n && (found == nil || found.Template && !w.Template) {
			found = w
		}
	}
	if found == nil {
		return model.Client{}, fmt.Errorf("workload %s: %w; there is %s", name, ErrNoClient, orNone(c.WorkloadNames()))
	}
	return clientOf(found), nil
}

// Gateway is the client that the proxy behind a Gateway object ("ns/name")
// would be: a workload that its selector selects, in its own namespace before
// others, running before described. Without one, assumed is true and the client
// is the gateway that Istio installs for such a selector; see AssumedGateway.
func (c *Compiled) Gateway(name string) (cl model.Client, assumed bool, err error) {
	ns, n, ok := strings.Cut(name, "/")
	if !ok || ns == "" || n == "" || strings.Contains(n, "/") {
		return model.Client{}, false, fmt.Errorf("gateway %q: want NAMESPACE/NAME", name)
	}
	i := slices.IndexFunc(c.Fragment.Gateways, func(g *model.Gateway) bool { return g.Namespace == ns && g.Name == n })
	if i < 0 {
		return model.Client{}, false, fmt.Errorf("gateway %s: %w; there is %s", name, ErrNoClient, orNone(c.GatewayNames()))
	}
	g := c.Fragment.Gateways[i]
	var best *model.Workload
	score := -1
	for _, w := range c.Fragment.Workloads {
		if len(g.Selector) == 0 && !w.Gateway || !selects(g.Selector, w.Labels) || g.Closed && w.Namespace != ns {
			continue
		}
		s := 0
		if w.Namespace == ns {
			s += 2
		}
		if !w.Template {
			s++
		}
		if s > score {
			best, score = w, s
		}
	}
	if best != nil {
		cl = clientOf(best)
	} else {
		cl = AssumedGateway(g, link.Defaults().RootNamespace)
	}
	cl.Role = model.GatewayRole
	return cl, best == nil, nil
}

// AssumedGateway is the gateway workload of a Gateway for which the user has
// described none: as Istio's own install makes it, in the root namespace, with
// the identity that policies of Istio's users name; of a closed one as Istio
// names it, beside the Gateway.
func AssumedGateway(g *model.Gateway, root string) model.Client {
	c := model.Client{Role: model.GatewayRole, Namespace: root, Labels: maps.Clone(g.Selector), Assumed: true}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	if g.Closed {
		c.Namespace, c.Name, c.Account = g.Namespace, g.Name+"-istio", g.Name+"-istio"
		return c
	}
	kind := cmp.Or(strings.TrimPrefix(c.Labels["istio"], "istio-"), "ingressgateway")
	c.Name = "istio-" + kind
	if c.Labels["istio"] == "" {
		c.Name = cmp.Or(c.Labels["app"], c.Name)
	}
	c.Account = c.Name + "-service-account"
	if c.Labels["app"] == "" {
		c.Labels["app"] = c.Name
	}
	return c
}

// WorkloadNames lists what Workload would find, sorted: running workloads, and
// Deployments.
func (c *Compiled) WorkloadNames() []string {
	var out []string
	for _, w := range c.Fragment.Workloads {
		out = append(out, w.Namespace+"/"+w.Name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// GatewayNames lists what Gateway would find, sorted.
func (c *Compiled) GatewayNames() []string {
	var out []string
	for _, g := range c.Fragment.Gateways {
		out = append(out, g.Namespace+"/"+g.Name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// clientOf is what the control plane knows of a workload, as its client.
func clientOf(w *model.Workload) model.Client {
	c := model.Client{
		Namespace: w.Namespace, Name: w.Name, Labels: w.Labels, Account: w.Account,
		Ports: w.Ports, Locality: w.Locality, Host: w.Host, Network: w.Network, Expose: w.Expose,
	}
	if w.Gateway {
		c.Role = model.GatewayRole
		c.Assumed = w.Origin.Kind == "Process"
	}
	for _, x := range append([]string{w.Address}, w.More...) {
		if a, err := netip.ParseAddr(x); err == nil {
			c.Addresses = append(c.Addresses, a.Unmap())
		}
	}
	return c
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	const show = 20
	if len(names) > show {
		return strings.Join(names[:show], ", ") + fmt.Sprintf(" and %d more", len(names)-show)
	}
	return strings.Join(names, ", ")
}
