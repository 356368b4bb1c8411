package link

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

func (x *survey) checkRouteSet(r *routeSet, n *notices) {
	if r.Settled {
		return
	}
	for _, g := range r.Gateways {
		if g != "mesh" {
			x.checkBinding(r, g, n)
		}
	}
	if slices.Contains(r.Gateways, "mesh") {
		x.checkMeshHosts(r, n)
	}
	for i := range r.http {
		h := &r.http[i]
		x.checkBackends(r, h.Backends, h.Origin, n)
		for j := range h.Mirrors {
			x.checkBackends(r, []model.Backend{h.Mirrors[j].Backend}, h.Origin, n)
		}
	}
	for i := range r.tls {
		x.checkBackends(r, r.tls[i].Backends, r.tls[i].Origin, n)
		x.checkSNI(r, &r.tls[i], n)
	}
	for i := range r.tcp {
		x.checkBackends(r, r.tcp[i].Backends, r.tcp[i].Origin, n)
	}
	checkReach(r, n)
}

// checkMeshHosts reports hosts without a service, and HTTP rules for services
// whose ports are not HTTP.
func (x *survey) checkMeshHosts(r *routeSet, n *notices) {
	if len(r.http) == 0 {
		return
	}
	for _, h := range r.hosts {
		if wild(h) {
			continue
		}
		svc := x.lookup(eyes{ns: r.Namespace}, h)
		if svc == nil {
			n.code("TUL0103").add(model.Warning, model.NotFound, r.Origin, "%s; at sidecars its HTTP rules act on port 80 only", x.unknown(h, r.Namespace))
			continue
		}
		if !slices.ContainsFunc(svc.Ports, func(p model.Port) bool { return p.Protocol.IsHTTP() || p.Protocol == model.Sniff }) {
			n.code("TUL0104").add(model.Warning, model.Unreachable, r.Origin, "its HTTP rules for %s never act at sidecars: no port of %s speaks HTTP (a port's protocol comes from appProtocol or its name, as http-web)", h, where(svc.Origin))
		}
	}
}

// checkBinding reports a gateway that is not there, and hosts that no server of
// it has for this namespace.
func (x *survey) checkBinding(r *routeSet, name string, n *notices) {
	i := slices.IndexFunc(x.gateways, func(g *model.Gateway) bool { return g.Namespace+"/"+g.Name == name })
	if i < 0 {
		n.code("IST0101").add(model.Error, model.NotFound, r.Origin, "Gateway %s is not there", name)
		return
	}
	g := x.gateways[i]
	for _, h := range r.hosts {
		found := false
		for j := range g.Servers {
			s := openServer{g, &g.Servers[j], serverHosts(g, &g.Servers[j])}
			found = found || len(intersect(s.hostsFor(r.Namespace), []string{h})) > 0
		}
		if !found {
			n.code("IST0132").add(model.Warning, model.NotFound, r.Origin, "no server of %s has host %s for namespace %s", where(g.Origin), h, r.Namespace)
		}
	}
}

// checkSNI reports server names outside of the set's hosts.
func (x *survey) checkSNI(r *routeSet, t *model.TLSRule, n *notices) {
	for i := range t.Matches {
		for _, sni := range t.Matches[i].SNI {
			if !slices.ContainsFunc(r.hosts, func(h string) bool { return under(h, sni) }) {
				n.code("TUL0106").add(model.Error, model.Invalid, t.Matches[i].Origin, "SNI host %s does not lie within hosts", sni)
			}
		}
	}
}

func (x *survey) checkBackends(r *routeSet, list []model.Backend, o model.Origin, n *notices) {
	var sum uint64
	for i := range list {
		b := &list[i]
		sum += uint64(b.Weight)
		at := o
		if b.Origin.Kind != "" {
			at = b.Origin
		}
		x.checkBackend(r, b, at, n)
	}
	if len(list) > 1 && sum == 0 {
		n.code("TUL0105").add(model.Error, model.Invalid, o, "all weights are 0: nothing is left to route to, requests are answered with 500")
	}
}

func (x *survey) checkBackend(r *routeSet, b *model.Backend, at model.Origin, n *notices) {
	svc := x.lookup(eyes{ns: r.Namespace}, b.Host)
	if svc == nil {
		n.code("IST0101").add(model.Error, model.NotFound, at, "destination %s", x.unknown(b.Host, r.Namespace))
		return
	}
	if b.Port != 0 {
		if _, ok := svc.port(b.Port); !ok {
			n.code("IST0101").add(model.Error, model.NotFound, at, "destination %s has no port %d; it has %s", b.Host, b.Port, portList(svc))
			return
		}
	} else if svc.only() == 0 {
		x.checkImplicitPort(r, svc, at, n)
	}
	if b.Subset != "" {
		x.checkSubset(r, svc, b.Subset, at, n)
	}
}

// checkImplicitPort reports a destination with several ports, none of them
// chosen, where the port of the request is not one of them.
func (x *survey) checkImplicitPort(r *routeSet, svc *service, at model.Origin, n *notices) {
	lost := func(port uint16, place string) bool {
		if _, ok := svc.port(port); ok {
			return false
		}
		n.code("IST0112").add(model.Error, model.NotFound, at, "destination %s has several ports (%s) and none is chosen; for requests to %s it would be port %d", svc.Host, portList(svc), place, port)
		return true
	}
	if slices.Contains(r.Gateways, "mesh") {
		for _, h := range r.hosts {
			if own := x.lookup(eyes{ns: r.Namespace}, h); own != nil {
				for _, p := range own.Ports {
					if (p.Protocol.IsHTTP() || p.Protocol == model.Sniff) && lost(p.Number, hostPort(h, p.Number)) {
						return
					}
				}
			}
		}
	}
	for _, g := range x.gateways {
		if !slices.Contains(r.Gateways, g.Namespace+"/"+g.Name) {
			continue
		}
		for i := range g.Servers {
			if lost(g.Servers[i].Port.Number, where(g.Origin)) {
				return
			}
		}
	}
}

func portList(s *service) string {
	t := ""
	for _, p := range s.Ports {
		if t != "" {
			t += ", "
		}
		t += hostPort("", p.Number)[1:]
	}
	if t == "" {
		return "none"
	}
	return t
}

func (x *survey) checkSubset(r *routeSet, svc *service, name string, at model.Origin, n *notices) {
	own := x.destinationFor(who{ns: r.Namespace}, svc)
	if own.subset(name) != nil {
		return
	}
	var elsewhere *destination
	var names []string
	for _, d := range x.dests {
		if !under(d.host, svc.Host) {
			continue
		}
		for _, s := range d.subsets {
			if !slices.Contains(names, s.Name) {
				names = append(names, s.Name)
			}
		}
		if d.subset(name) != nil && elsewhere == nil {
			elsewhere = d
		}
	}
	switch {
	case elsewhere != nil && own != nil:
		n.code("IST0101").add(model.Warning, model.NotFound, at, "subset %s of %s is defined by %s, but clients in namespace %s use %s, which wins whole and does not have it",
			name, svc.Host, where(elsewhere.origins[0]), r.Namespace, where(own.origins[0]))
	case elsewhere != nil && len(elsewhere.selector) == 0:
		n.code("IST0101").add(model.Warning, model.NotFound, at, "subset %s of %s is defined by %s, which clients in namespace %s do not see",
			name, svc.Host, where(elsewhere.origins[0]), r.Namespace)
	case elsewhere != nil:
	case len(names) > 0:
		slices.Sort(names)
		n.code("IST0101").add(model.Error, model.NotFound, at, "subset %s of %s is not defined; there are %v", name, svc.Host, names)
	default:
		n.code("IST0101").add(model.Error, model.NotFound, at, "subset %s of %s is not defined: no DestinationRule for this host has subsets", name, svc.Host)
	}
}

// checkOwners reports mesh hosts with HTTP rules in two route sets: a sidecar
// uses the first that has a rule for it. What a namespace sees first differs
// only where some exportTo names it.
func (x *survey) checkOwners(n *notices) {
	type loss struct {
		host      string
		old, lost *routeSet
	}
	told := map[loss]bool{}
	for _, ns := range append([]string{""}, sortedKeys(x.scoped)...) {
		place := "at sidecars"
		if ns != "" {
			place = "at sidecars of namespace " + ns
		}
		first := map[string]*routeSet{}
		for _, r := range x.routesFor("mesh", ns) {
			if len(r.http) == 0 {
				continue
			}
			for _, h := range r.hosts {
				old := first[h]
				if old == nil {
					first[h] = r
					continue
				}
				if r.Settled && old.Settled || old == r || told[loss{h, old, r}] {
					continue
				}
				told[loss{h, old, r}] = true
				if forAll(old) {
					n.code("IST0109").add(model.Error, model.Conflict, r.Origin, "its HTTP rules for %s are ignored %s: %s comes first and owns the host (VirtualServices of one host are merged at gateways only)", h, place, where(old.Origin))
				} else {
					n.code("IST0109").add(model.Warning, model.Conflict, r.Origin, "its HTTP rules for %s are ignored %s for which %s has a rule: that one comes first (VirtualServices of one host are merged at gateways only)", h, place, where(old.Origin))
				}
			}
		}
	}
}

// forAll reports whether every sidecar has a rule of the set.
func forAll(r *routeSet) bool {
	for i := range r.http {
		if len(r.http[i].Matches) == 0 {
			return true
		}
		for j := range r.http[i].Matches {
			mt := &r.http[i].Matches[j]
			if mt.Port == 0 && (slices.Contains(mt.Gateways, "mesh") || len(mt.Gateways) == 0 && len(mt.SourceLabels) == 0 && mt.SourceNamespace == "") {
				return true
			}
		}
	}
	return false
}

// checkReach reports rules that an earlier rule of the set always wins over.
func checkReach(r *routeSet, n *notices) {
	for j := 1; j < len(r.http); j++ {
		rule := &r.http[j]
		by := -1
		mine := rule.Matches
		if len(mine) == 0 {
			mine = []model.HTTPMatch{{}}
		}
		hidden := true
		for k := range mine {
			i := coveredBy(r.http[:j], &mine[k])
			if i < 0 {
				hidden = false
				break
			}
			by = max(by, i)
		}
		if hidden {
			n.code("IST0130").add(model.Warning, model.Unreachable, rule.Origin, "never reached: %s matches every request that this rule does", ruleName(&r.http[by], by))
		}
	}
}

func ruleName(h *model.HTTPRule, i int) string {
	t := h.Origin.Field
	if t == "" {
		t = "rule " + hostPort("", uint16(i+1))[1:]
	}
	if h.Origin.Line > 0 {
		t += " (" + h.Origin.Place() + ")"
	}
	return t
}

func coveredBy(earlier []model.HTTPRule, b *model.HTTPMatch) int {
	for i := range earlier {
		if len(earlier[i].Matches) == 0 {
			return i
		}
		for k := range earlier[i].Matches {
			if Covers(&earlier[i].Matches[k], b) {
				return i
			}
		}
	}
	return -1
}

// Covers reports whether a holds, at every client, for all that b holds for.
func Covers(a, b *model.HTTPMatch) bool {
	if a.Port != 0 && a.Port != b.Port || a.SourceNamespace != "" && a.SourceNamespace != b.SourceNamespace {
		return false
	}
	for _, g := range b.Gateways {
		if len(a.Gateways) > 0 && !slices.Contains(a.Gateways, g) {
			return false
		}
	}
	if len(a.Gateways) > 0 && len(b.Gateways) == 0 || len(a.Gateways) == 0 && len(b.Gateways) > 0 && len(a.SourceLabels) > 0 {
		return false
	}
	if len(a.Gateways) == 0 && !subset(a.SourceLabels, b.SourceLabels) {
		return false
	}
	one := func(a, b *model.StringMatch) bool {
		return a == nil || b != nil && (*a == *b || within(*a, *b))
	}
	path := a.Path == nil || anyPath(*a.Path) || one(a.Path, b.Path)
	if !path || a.Path != nil && b.IgnorePathCase && !a.IgnorePathCase && !anyPath(*a.Path) {
		return false
	}
	if !one(a.Scheme, b.Scheme) || !one(a.Method, b.Method) || !one(a.Authority, b.Authority) {
		return false
	}
	all := func(a, b []model.NamedMatch, narrower bool) bool {
		for _, x := range a {
			ok := slices.ContainsFunc(b, func(y model.NamedMatch) bool {
				return y == x || narrower && y.Name == x.Name && within(x.StringMatch, y.StringMatch)
			})
			if !ok {
				return false
			}
		}
		return true
	}
	return all(a.Headers, b.Headers, true) && all(a.Query, b.Query, true) && all(a.WithoutHeaders, b.WithoutHeaders, false)
}

// checkDestination reports a rule whose host is not there and subsets that
// select nothing.
func (x *survey) checkDestination(d *destination, n *notices) {
	var found []*service
	if !wild(d.host) {
		found = x.byHost[d.host]
	} else {
		for _, s := range x.services {
			if under(d.host, s.Host) {
				found = append(found, s)
			}
		}
	}
	if len(found) == 0 {
		n.code("IST0174").add(model.Warning, model.NotFound, d.origins[0], "%s", x.unknown(d.host, d.ns))
		return
	}
	if wild(d.host) {
		return
	}
	x.checkTLS(d, found[0], n)
	for _, sub := range d.subsets {
		if !x.selectsSome(found[0], sub.Labels) {
			n.code("IST0173").add(model.Warning, model.NotFound, sub.Origin, "subset %s selects no endpoint of %s (labels %v)", sub.Name, d.host, labelText(sub.Labels))
		}
	}
}

// checkTLS reports a rule whose TLS does not fit what the servers ask for.
func (x *survey) checkTLS(d *destination, svc *service, n *notices) {
	for _, p := range svc.Ports {
		tls := d.policyFor(p.Number, nil).TLS
		if tls == nil || tls.Mode == model.TLSAuto || p.Protocol == model.UDP {
			continue
		}
		at := d.by
		if tls.Origin.Kind != "" {
			at = tls.Origin
		}
		mesh := tls.Mode == model.TLSIstioMutual
		list := x.endpoints(svc)
		for i := range list {
			e := &list[i]
			if e.workload == nil {
				continue
			}
			mode := e.server.port(e.port(p))
			switch {
			case mesh && !e.mtls:
				n.code("IST0113").add(model.Error, model.Conflict, at, "mesh mTLS to port %d of %s fails at %s, which has no sidecar", p.Number, svc.Host, where(e.workload.Origin))
			case mesh && mode == model.MTLSDisable:
				n.code("IST0113").add(model.Error, model.Conflict, at, "mesh mTLS to port %d of %s fails at %s, whose PeerAuthentication says DISABLE", p.Number, svc.Host, where(e.workload.Origin))
			case !mesh && e.mtls && mode == model.MTLSStrict:
				n.code("IST0113").add(model.Error, model.Conflict, at, "port %d of %s takes mesh mTLS only (PeerAuthentication STRICT at %s), and this rule makes clients come without", p.Number, svc.Host, where(e.workload.Origin))
			default:
				continue
			}
			break
		}
	}
}

// selectsSome also looks at Deployments, which say what will run.
func (x *survey) selectsSome(s *service, labels map[string]string) bool {
	list := x.endpoints(s)
	for i := range list {
		if subset(labels, list[i].base.Labels) {
			return true
		}
	}
	if len(s.Selector) == 0 {
		return len(list) == 0
	}
	want := maps.Clone(s.Selector)
	for k, v := range labels {
		if w, ok := want[k]; ok && w != v {
			return false
		}
		want[k] = v
	}
	return len(x.selected(s.Namespace, want)) > 0 || len(x.selected(s.Namespace, s.Selector)) == 0
}

func labelText(l map[string]string) string {
	t := ""
	for _, k := range sortedKeys(l) {
		if t != "" {
			t += ","
		}
		t += k + "=" + l[k]
	}
	return t
}
