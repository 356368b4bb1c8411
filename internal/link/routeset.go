package link

import (
	"cmp"
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

// linked is a route set with complete names and its delegates merged in.
func (m *Mesh) linked(r *model.RouteSet) *routeSet { return m.tables.routeSets.Get(r) }

func (m *Mesh) makeRouteSet(r *model.RouteSet, _ *routeSet) *routeSet {
	s := m.completed(r)
	s.http = m.delegated(s, nil)
	return s
}

// delegate finds a route set without hosts, its names completed; nil: none.
func (m *Mesh) delegate(ref model.Ref) *routeSet {
	l := m.facts.delegates.get(ref)
	if len(l) == 0 {
		return nil
	}
	return m.completed(l[len(l)-1])
}

// completed copies the rules with full host names.
func (m *Mesh) completed(r *model.RouteSet) *routeSet {
	s := &routeSet{RouteSet: r, export: newExport(exportTo(r.ExportTo, m.Settings.RouteExportTo), r.Namespace)}
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

// routesFor lists what a namespace sees bound to a gateway ("mesh" is one):
// private ones, then those exported to it, then public ones; oldest first in
// each.
func (m *Mesh) routesFor(gateway, ns string) []*routeSet {
	var out []*routeSet
	for _, r := range m.facts.routes.get(gateway) {
		if s := m.linked(r); s.export.to(ns) {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b *routeSet) int { return a.export.rank(ns) - b.export.rank(ns) })
	return out
}

// precedes orders the route sets that a namespace sees as routesFor does.
func precedes(ns string) func(a, b *routeSet) int {
	return func(a, b *routeSet) int {
		return cmp.Or(a.export.rank(ns)-b.export.rank(ns), byAge(a.Origin, b.Origin))
	}
}

// meshSets lists the route sets that name a host, wildcard hosts as they are
// written, and that a namespace's sidecars see, in their order of precedence.
func (m *Mesh) meshSets(ns, host string) []*routeSet {
	var out []*routeSet
	for _, x := range m.facts.names.get(host) {
		if r, ok := x.(*model.RouteSet); ok {
			if s := m.linked(r); s.export.to(ns) && slices.Contains(s.hosts, host) {
				out = append(out, s)
			}
		}
	}
	slices.SortStableFunc(out, precedes(ns))
	return out
}

// meshWilds lists the wildcard hosts of all sidecars' route sets that cover a
// host, longest first.
func (m *Mesh) meshWilds(host string) []string {
	var out []string
	for _, w := range m.facts.wilds.get() {
		if under(w, host) {
			out = append(out, w)
		}
	}
	longestFirst(out)
	return out
}
