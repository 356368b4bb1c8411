package link

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

// service is a model.Service with its resolved endpoints.
type service struct {
	*model.Service
	export    export
	also      []string // identities that ServiceEntries of the same host and namespace add
	endpoints []endpoint
	mu        endpointMemo
}

// port finds a TCP port by number.
func (s *service) port(n uint16) (model.Port, bool) {
	for _, p := range s.Ports {
		if p.Number == n && p.Protocol != model.UDP {
			return p, true
		}
	}
	return model.Port{}, false
}

// only is the number of the service's only port, or 0.
func (s *service) only() uint16 {
	if len(s.Ports) == 1 {
		return s.Ports[0].Number
	}
	return 0
}

func (m *Mesh) buildServices(list []*model.Service, n *notices) {
	m.byHost = map[string][]*service{}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *model.Service) int { return byAge(a.Origin, b.Origin) })
	for _, s := range list {
		if m.decorates(s, n) {
			continue
		}
		x := &service{Service: s, export: m.sees(newExport(exportTo(s.ExportTo, m.Settings.ServiceExportTo), s.Namespace))}
		x.endpoints = m.endpointsOf(s)
		m.services = append(m.services, x)
		m.byHost[s.Host] = append(m.byHost[s.Host], x)
	}
	// Kubernetes owns its hosts; otherwise the oldest does.
	for _, l := range m.byHost {
		slices.SortStableFunc(l, func(a, b *service) int {
			switch {
			case a.Kubernetes && !b.Kubernetes:
				return -1
			case b.Kubernetes && !a.Kubernetes:
				return 1
			}
			return 0
		})
		for _, s := range l[1:] {
			if l[0].Kubernetes && s.Namespace == l[0].Namespace {
				l[0].also = append(l[0].also, s.SANs...)
			}
		}
	}
}

// decorates reports whether s repeats a host of its own namespace that another
// Service serves: a Kubernetes Service, or else the oldest.
func (m *Mesh) decorates(s *model.Service, n *notices) bool {
	for _, x := range m.byHost[s.Host] {
		if x.Namespace != s.Namespace {
			continue
		}
		if x.Origin.Object() == s.Origin.Object() {
			n.code("TUL0112").add(model.Error, model.Duplicate, s.Origin, "%s is already given by %s", s.Host, where(x.Origin))
			return true
		}
	}
	return false
}

// where names an object for the text of a notice.
func where(o model.Origin) string {
	if p := o.Place(); p != "" {
		return o.Object() + " (" + p + ")"
	}
	return o.Object()
}

// registry is the services that one namespace sees, one per host.
type registry struct {
	list   []*service // by host
	byHost map[string]*service
	ports  map[uint16][]*service // services that have the port, by host
	// aliases are hosts of ExternalNames that stand for a service of the list,
	// by its host; byHost leads from them to it.
	aliases map[string][]string
}

// registry of a namespace; namespaces that no exportTo names share one.
func (m *Mesh) registry(ns string) *registry {
	key := ns
	if !m.scoped[ns] {
		key = ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.registries[key]; r != nil {
		return r
	}
	r := &registry{byHost: map[string]*service{}, ports: map[uint16][]*service{}}
	for host, l := range m.byHost {
		if s := owner(l, ns); s != nil {
			r.byHost[host] = s
			r.list = append(r.list, s)
		}
	}
	r.resolveAliases()
	slices.SortFunc(r.list, func(a, b *service) int {
		if a.Host < b.Host {
			return -1
		}
		return 1
	})
	for _, s := range r.list {
		for i, p := range s.Ports {
			if p.Protocol == model.UDP || slices.ContainsFunc(s.Ports[:i], func(q model.Port) bool { return q.Number == p.Number && q.Protocol != model.UDP }) {
				continue
			}
			r.ports[p.Number] = append(r.ports[p.Number], s)
		}
	}
	m.registries[key] = r
	return r
}

// owner of a host for a client namespace: a Kubernetes Service it sees, else
// its private, then the exported, then the public ones, oldest first.
func owner(l []*service, ns string) *service {
	var best *service
	for _, s := range l {
		if !s.export.to(ns) {
			continue
		}
		if s.Kubernetes {
			return s
		}
		if best == nil || s.export.rank(ns) < best.export.rank(ns) {
			best = s
		}
	}
	return best
}

// maxAliases bounds a chain of ExternalNames.
const maxAliases = 8

// external is the name that an ExternalName Service stands for, or "".
func (s *service) external() string {
	if s.Kubernetes && s.External && len(s.Endpoints) == 1 {
		return s.Endpoints[0].Address
	}
	return ""
}

// resolveAliases takes the ExternalNames of services that the namespace sees
// out of the list: they are other names of these, with their endpoints and
// policies. One that leads outside stays a service of its own.
func (r *registry) resolveAliases() {
	found := map[string]*service{}
	for host, s := range r.byHost {
		to := s
		for range maxAliases {
			next := r.byHost[to.external()]
			if next == nil {
				break
			}
			to = next
		}
		if to != s && r.byHost[to.external()] == nil {
			found[host] = to
		}
	}
	r.aliases = map[string][]string{}
	for _, host := range sortedKeys(found) {
		to := found[host]
		r.aliases[to.Host] = append(r.aliases[to.Host], host)
		r.byHost[host] = to
	}
	r.list = slices.DeleteFunc(r.list, func(s *service) bool { return found[s.Host] != nil })
}

// aliasOf lists every alias with the host that it stands for; nil: none.
func (r *registry) aliasOf() map[string]string {
	var out map[string]string
	for host, list := range r.aliases {
		for _, a := range list {
			if out == nil {
				out = map[string]string{}
			}
			out[a] = host
		}
	}
	return out
}
