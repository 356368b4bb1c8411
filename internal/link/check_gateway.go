package link

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// checkGateways merges Gateways as each gateway workload would, and reports who
// loses, which secrets cannot be used and which servers have no routes. Where
// no workload is known, the selectors themselves stand for one.
func (x *survey) checkGateways(n *notices) {
	done := map[string]bool{}
	selected := map[*model.Gateway]bool{}
	for _, w := range x.facts.workloads.get(struct{}{}) {
		if !w.Gateway {
			continue
		}
		c := clientOf(w)
		key := w.Namespace + "|" + labelText(w.Labels)
		if done[key] {
			continue
		}
		done[key] = true
		for _, g := range x.gateways {
			selected[g] = selected[g] || subset(g.Selector, w.Labels) && (!g.Closed || g.Namespace == w.Namespace)
		}
		x.checkWorkloadGateways(&c, true, n)
	}
	for _, g := range x.gateways {
		if !g.Closed { // of closed ones their reader tells
			x.checkServers(g, n)
		}
		if selected[g] {
			continue
		}
		key := "|" + labelText(g.Selector)
		if g.Closed {
			key = g.Namespace + key
		}
		if done[key] {
			continue
		}
		done[key] = true
		c := model.Client{Role: model.GatewayRole, Namespace: g.Namespace, Labels: g.Selector}
		x.checkWorkloadGateways(&c, false, n)
	}
}

// clientOf is the client that a workload will be.
func clientOf(w *model.Workload) model.Client {
	c := model.Client{Namespace: w.Namespace, Name: w.Name, Labels: w.Labels, Account: w.Account, Ports: w.Ports, Expose: w.Expose,
		Locality: w.Locality, Host: w.Host, Network: w.Network}
	if w.Gateway {
		c.Role = model.GatewayRole
		c.Assumed = w.Origin.Kind == "Process"
	}
	return c
}

func (x *survey) checkWorkloadGateways(c *model.Client, known bool, n *notices) {
	for _, p := range x.openPorts(c, x.listenPorts(c), n) {
		for _, s := range p.servers {
			if s.gateway.Closed || !terminates(s.server) || s.server.TLS.Mode == model.ServerIstioMutual {
				continue
			}
			x.checkCredential(c, s, known, n)
		}
	}
}

func (x *survey) checkCredential(c *model.Client, s openServer, known bool, n *notices) {
	t := s.server.TLS
	at := s.server.Origin
	if t.Origin.Kind != "" {
		at = t.Origin
	}
	if !known {
		// Where the gateway will run is not known: complain only about what is
		// wrong wherever it runs.
		for _, name := range t.CredentialNames {
			if !x.anySecret(strings.TrimPrefix(name, "kubernetes://")) {
				n.code("IST0101").add(model.Error, model.NotFound, at, "there is no Secret %s in any namespace; its hosts %s are not served", name, strings.Join(s.sni(), ", "))
			}
		}
		return
	}
	if _, why := newSecrets(x.Mesh, c).of(t, s.gateway.Namespace); why != "" {
		reason := model.Invalid
		if strings.Contains(why, "is not there") {
			reason = model.NotFound
		}
		n.code("IST0161").add(model.Error, reason, at, "%s; its hosts %s are not served", why, strings.Join(s.sni(), ", "))
	}
}

func (x *survey) anySecret(name string) bool {
	return len(x.facts.secretName.get(name)) > 0
}

// checkServers reports servers that no route set uses.
func (x *survey) checkServers(g *model.Gateway, n *notices) {
	for i := range g.Servers {
		s := openServer{g, &g.Servers[i], serverHosts(g, &g.Servers[i])}
		if s.server.TLS != nil && s.server.TLS.Mode == model.ServerAutoPassthrough {
			n.code("TUL0001").add(model.Error, model.Unsupported, s.server.Origin, "AUTO_PASSTHROUGH is not supported; its hosts are not served")
			continue
		}
		if s.server.Redirect {
			continue
		}
		used := false
		for _, r := range x.facts.routes.get(s.name()) {
			used = used || len(intersect(s.hostsFor(r.Namespace), x.linked(r).hosts)) > 0
		}
		if !used {
			n.code("TUL0109").add(model.Warning, model.NotFound, s.server.Origin, "no VirtualService of this Gateway has one of its hosts %s", strings.Join(s.hosts, ", "))
		}
	}
}

// checkPolicies reports policies that act nowhere.
func (x *survey) checkPolicies(n *notices) {
	unselected := func(ns string, sel map[string]string, o model.Origin) {
		if len(sel) == 0 || ns == x.Settings.RootNamespace || len(x.facts.inside.get(ns)) == 0 {
			return
		}
		if len(x.selected(ns, sel)) == 0 {
			n.code("IST0127").add(model.Warning, model.NotFound, o, "its selector %s selects no workload of namespace %s", labelText(sel), ns)
		}
	}
	for _, ns := range x.spaces {
		for _, p := range x.facts.authz.get(ns) {
			if len(p.Services) > 0 {
				n.code("IST0167").add(model.Error, model.Unsupported, p.Origin, "targetRefs to Services act in waypoints only, which there are none of: the policy is not enforced")
				continue
			}
			unselected(ns, p.Selector, p.Origin)
		}
	}
	for _, ns := range x.spaces {
		for _, p := range x.tables.mtls.Get(ns).selected {
			unselected(ns, p.Selector, p.Origin)
		}
	}
}
