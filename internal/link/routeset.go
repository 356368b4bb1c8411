package link

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

// routeSet is a RouteSet with complete names and its delegates merged in.
type routeSet struct {
	*model.RouteSet
	hosts  []string
	export export
	http   []model.HTTPRule
	tls    []model.TLSRule
	tcp    []model.TCPRule
}

// routeIndex finds route sets by the gateway they are bound to ("mesh" is one).
type routeIndex struct {
	byGateway map[string][]*routeSet // oldest first
	delegates map[model.Ref]*routeSet
	all       []*routeSet // those with hosts, oldest first
}

func (m *Mesh) buildRoutes(list []*model.RouteSet, n *notices) {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *model.RouteSet) int { return byAge(a.Origin, b.Origin) })
	x := &m.routes
	x.byGateway, x.delegates = map[string][]*routeSet{}, map[model.Ref]*routeSet{}
	for _, r := range list {
		s := m.completed(r)
		if len(r.Hosts) == 0 {
			x.delegates[model.Ref{Namespace: r.Namespace, Name: r.Name}] = s
			continue
		}
		x.all = append(x.all, s)
	}
	for _, s := range x.all {
		s.http = m.delegated(s, n)
		for _, g := range s.Gateways {
			if !slices.Contains(x.byGateway[g], s) {
				x.byGateway[g] = append(x.byGateway[g], s)
			}
		}
	}
}

// completed copies the rules with full host names.
func (m *Mesh) completed(r *model.RouteSet) *routeSet {
	s := &routeSet{RouteSet: r, export: m.sees(newExport(exportTo(r.ExportTo, m.Settings.RouteExportTo), r.Namespace))}
	for _, h := range r.Hosts {
		s.hosts = append(s.hosts, m.fqdn(h, r.Namespace))
	}
	backends := func(l []model.Backend) []model.Backend {
		l = slices.Clone(l)
		for i := range l {
			l[i].Host = m.fqdn(l[i].Host, r.Namespace)
		}
		return l
	}
	s.http = slices.Clone(r.HTTP)
	for i := range s.http {
		h := &s.http[i]
		h.Backends = backends(h.Backends)
		h.Mirrors = slices.Clone(h.Mirrors)
		for j := range h.Mirrors {
			h.Mirrors[j].Backend.Host = m.fqdn(h.Mirrors[j].Backend.Host, r.Namespace)
		}
	}
	s.tls = slices.Clone(r.TLS)
	for i := range s.tls {
		s.tls[i].Backends = backends(s.tls[i].Backends)
	}
	s.tcp = slices.Clone(r.TCP)
	for i := range s.tcp {
		s.tcp[i].Backends = backends(s.tcp[i].Backends)
	}
	return s
}

// routesFor lists what a namespace sees bound to a gateway: private ones, then
// those exported to it, then public ones; oldest first in each.
func (m *Mesh) routesFor(gateway, ns string) []*routeSet {
	all := m.routes.byGateway[gateway]
	plain := true
	for _, s := range all {
		plain = plain && s.export.public
	}
	if plain {
		return all
	}
	var out []*routeSet
	for rank := range 3 {
		for _, s := range all {
			if s.export.to(ns) && s.export.rank(ns) == rank {
				out = append(out, s)
			}
		}
	}
	return out
}
