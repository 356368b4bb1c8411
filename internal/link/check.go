package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// survey is the whole mesh in the order in which it is checked.
type survey struct {
	*Mesh
	services []*service // oldest first
	byHost   map[string][]*service
	dests    []*destination // oldest first
	routes   []*routeSet    // those with hosts, oldest first
	gateways []*model.Gateway
	spaces   []string        // namespaces with policies, sorted
	scoped   map[string]bool // namespaces that some exportTo names
}

// check finds what is wrong between objects, once for the whole mesh.
func (m *Mesh) check(n *notices) {
	x := m.survey(n)
	x.checkServices(n)
	for _, d := range x.dests {
		x.checkDestination(d, n)
	}
	for _, r := range x.routes {
		x.checkRouteSet(r, n)
	}
	x.checkOwners(n)
	x.checkGateways(n)
	x.checkPolicies(n)
}

func (m *Mesh) survey(n *notices) *survey {
	x := &survey{Mesh: m, byHost: map[string][]*service{}, gateways: m.facts.gateways.get(struct{}{}), scoped: map[string]bool{}}
	f := &m.fragment
	exported := func(list []string, own string) {
		if e := newExport(list, own); !e.public {
			for ns := range e.names {
				x.scoped[ns] = true
			}
			if e.own != "" {
				x.scoped[e.own] = true
			}
		}
	}
	for _, s := range f.Services {
		exported(exportTo(s.ExportTo, m.Settings.ServiceExportTo), s.Namespace)
		x.repetition(s, n)
		if x.byHost[s.Host] == nil {
			x.byHost[s.Host] = m.tables.hosts.Get(s.Host)
			x.services = append(x.services, x.byHost[s.Host]...)
		}
	}
	slices.SortFunc(x.services, func(a, b *service) int { return servicesByAge(a.Service, b.Service) })
	done := map[nsHost]bool{}
	for _, p := range f.Destinations {
		exported(exportTo(p.ExportTo, m.Settings.DestinationExportTo), p.Namespace)
		if k := (nsHost{p.Namespace, m.fqdn(p.Host, p.Namespace)}); !done[k] {
			done[k] = true
			m.rulesOf(k, n)
			x.dests = append(x.dests, m.tables.rules.Get(k)...)
		}
	}
	slices.SortStableFunc(x.dests, func(a, b *destination) int { return byAge(a.origins[0], b.origins[0]) })
	for _, r := range f.RouteSets {
		exported(exportTo(r.ExportTo, m.Settings.RouteExportTo), r.Namespace)
		if len(r.Hosts) > 0 {
			m.delegated(m.completed(r), n)
			x.routes = append(x.routes, m.linked(r))
		}
	}
	slices.SortFunc(x.routes, func(a, b *routeSet) int { return byAge(a.Origin, b.Origin) })
	for _, p := range f.MTLS {
		x.spaces = append(x.spaces, p.Namespace)
	}
	for _, p := range f.Authz {
		x.spaces = append(x.spaces, p.Namespace)
	}
	slices.Sort(x.spaces)
	x.spaces = slices.Compact(x.spaces)
	for _, ns := range x.spaces {
		m.mtlsOf(ns, n)
	}
	return x
}

// repetition reports a service that repeats a host of its own namespace by the
// same object.
func (x *survey) repetition(s *model.Service, n *notices) {
	for _, o := range x.facts.hosts.get(s.Host) {
		if o == x.facts.of[s] {
			return
		}
		if o.Namespace == s.Namespace && o.Origin.Object() == s.Origin.Object() {
			n.code("TUL0112").add(model.Error, model.Duplicate, s.Origin, "%s is already given by %s", s.Host, where(o.Origin))
			return
		}
	}
}

// checkServices reports hosts that two objects give, target ports that no
// workload names, and services that only a port tells apart.
func (x *survey) checkServices(n *notices) {
	for _, host := range sortedKeys(x.byHost) {
		l := x.byHost[host]
		for _, s := range l[1:] {
			first := owner(l, s.Namespace)
			if first == nil || first == s {
				continue
			}
			n.code("TUL0101").add(model.Warning, model.Conflict, s.Origin, "%s is served by %s; of this object only subjectAltNames are used", host, where(first.Origin))
		}
	}
	byPort := map[uint16]*service{}
	byAddress := map[netip.AddrPort]*service{}
	for _, s := range x.services {
		x.checkTargets(s, n)
		checkAddresses(s, byAddress, n)
		if len(s.Addresses) > 0 || len(x.endpoints(s)) > 0 && s.Resolution == model.Passthrough {
			continue
		}
		if s.Kubernetes {
			continue
		}
		for _, p := range s.Ports {
			if p.Protocol != model.TCP {
				continue
			}
			if first := byPort[p.Number]; first != nil {
				n.code("IST0134").add(model.Warning, model.Conflict, s.Origin, "%s has no addresses, and connections to TCP port %d already belong to %s (%s); give it addresses",
					s.Host, p.Number, first.Host, where(first.Origin))
				continue
			}
			byPort[p.Number] = s
		}
	}
}

// checkAddresses reports services that share an address where only the address
// tells them apart.
func checkAddresses(s *service, by map[netip.AddrPort]*service, n *notices) {
	for _, a := range s.Addresses {
		for _, p := range s.Ports {
			if !a.IsSingleIP() || p.Protocol.IsHTTP() || p.Protocol == model.UDP {
				continue
			}
			at := netip.AddrPortFrom(a.Addr().Unmap(), p.Number)
			if first := by[at]; first != nil && first.Host != s.Host {
				n.code("TUL0101").add(model.Warning, model.Conflict, s.Origin, "%s shares %s with %s (%s), to which all of its connections go", s.Host, at, first.Host, where(first.Origin))
				continue
			}
			by[at] = s
		}
	}
}

func (x *survey) checkTargets(s *service, n *notices) {
	for _, p := range s.Ports {
		if p.TargetName == "" || p.Protocol == model.UDP {
			continue
		}
		list := x.endpoints(s)
		for i := range list {
			e := &list[i]
			if e.port(p) == 0 {
				n.code("TUL0102").add(model.Warning, model.NotFound, s.Origin, "port %d: targetPort %q is no named port of %s", p.Number, p.TargetName, where(e.workload.Origin))
				break
			}
		}
	}
}

// unknown says that a host is not in the mesh as a namespace sees it, with a
// hint where one can be given.
func (x *survey) unknown(host, ns string) string {
	t := fmt.Sprintf("host %s is not in the mesh", host)
	if l := x.byHost[host]; len(l) > 0 {
		return fmt.Sprintf("host %s is given by %s, which is not exported to namespace %s", host, where(l[0].Origin), ns)
	}
	suffix := ".svc." + x.Settings.ClusterDomain
	name, _, _ := strings.Cut(host, ".")
	if !strings.HasSuffix(host, suffix) {
		if l := x.byHost[host+suffix]; len(l) > 0 {
			return t + "; only names without a dot are completed, did you mean " + l[0].Host + "?"
		}
		return t
	}
	var other []string
	for h := range x.byHost {
		if strings.HasPrefix(h, name+".") && strings.HasSuffix(h, suffix) {
			other = append(other, h)
		}
	}
	if len(other) == 0 || len(other) > 3 {
		return t
	}
	slices.Sort(other)
	return t + "; did you mean " + strings.Join(other, " or ") + "? (short names belong to the namespace of the object that uses them, here " + ns + ")"
}
