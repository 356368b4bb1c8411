package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// check finds what is wrong between objects, once for the whole mesh.
func (m *Mesh) check(n *notices) {
	m.checkServices(n)
	for _, d := range m.dests.all {
		m.checkDestination(d, n)
	}
	for _, r := range m.routes.all {
		m.checkRouteSet(r, n)
	}
	m.checkOwners(n)
	m.checkGateways(n)
	m.checkPolicies(n)
}

// checkServices reports hosts that two objects give, target ports that no
// workload names, and services that only a port tells apart.
func (m *Mesh) checkServices(n *notices) {
	for _, host := range sortedKeys(m.byHost) {
		l := m.byHost[host]
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
	for _, s := range m.services {
		m.checkTargets(s, n)
		checkAddresses(s, byAddress, n)
		if len(s.Addresses) > 0 || len(s.endpoints) > 0 && s.Resolution == model.Passthrough {
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

func (m *Mesh) checkTargets(s *service, n *notices) {
	for _, p := range s.Ports {
		if p.TargetName == "" || p.Protocol == model.UDP {
			continue
		}
		for i := range s.endpoints {
			e := &s.endpoints[i]
			if e.port(p) == 0 {
				n.code("TUL0102").add(model.Warning, model.NotFound, s.Origin, "port %d: targetPort %q is no named port of %s", p.Number, p.TargetName, where(e.workload.Origin))
				break
			}
		}
	}
}

// unknown says that a host is not in the mesh as a namespace sees it, with a
// hint where one can be given.
func (m *Mesh) unknown(host, ns string) string {
	t := fmt.Sprintf("host %s is not in the mesh", host)
	if l := m.byHost[host]; len(l) > 0 {
		return fmt.Sprintf("host %s is given by %s, which is not exported to namespace %s", host, where(l[0].Origin), ns)
	}
	suffix := ".svc." + m.Settings.ClusterDomain
	name, _, _ := strings.Cut(host, ".")
	if !strings.HasSuffix(host, suffix) {
		if l := m.byHost[host+suffix]; len(l) > 0 {
			return t + "; only names without a dot are completed, did you mean " + l[0].Host + "?"
		}
		return t
	}
	var other []string
	for h := range m.byHost {
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
