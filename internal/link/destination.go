package link

import (
	"maps"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// destination is the merge of the DestinationRules of one namespace for one
// host that have the same exportTo and selector.
type destination struct {
	host     string
	ns       string
	selector map[string]string
	export   export
	exportTo []string
	policy   model.TrafficPolicy
	by       model.Origin // whose top-level policy it is
	subsets  []*model.Subset
	origins  []model.Origin // every rule that had a part, oldest first
}

// hostRules finds the rules for the most specific host.
type hostRules struct {
	exact map[string][]*destination
	wild  []string // longest first
}

func (r *hostRules) add(d *destination) {
	if r.exact == nil {
		r.exact = map[string][]*destination{}
	}
	if wild(d.host) && r.exact[d.host] == nil {
		r.wild = append(r.wild, d.host)
	}
	r.exact[d.host] = append(r.exact[d.host], d)
}

func (r *hostRules) sort() {
	slices.SortFunc(r.wild, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
}

// find lists the rules of the most specific host; nil: none.
func (r *hostRules) find(host string) []*destination {
	if r == nil {
		return nil
	}
	if l := r.exact[host]; l != nil {
		return l
	}
	for _, w := range r.wild {
		if under(w, host) {
			return r.exact[w]
		}
	}
	return nil
}

// destinationIndex is Istio's: what a namespace has for itself, what it
// exports, and what the root namespace keeps to itself.
type destinationIndex struct {
	all       []*destination
	local     map[string]*hostRules
	exported  map[string]*hostRules
	rootLocal hostRules
}

func (m *Mesh) buildDestinations(list []*model.DestinationPolicy, n *notices) {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *model.DestinationPolicy) int { return byAge(a.Origin, b.Origin) })
	x := &m.dests
	x.local, x.exported = map[string]*hostRules{}, map[string]*hostRules{}
	type key struct{ ns, host string }
	have := map[key][]*destination{}
	for _, p := range list {
		host := m.fqdn(p.Host, p.Namespace)
		k := key{p.Namespace, host}
		d := mergeable(have[k], p)
		if d == nil {
			d = &destination{host: host, ns: p.Namespace, selector: p.Selector, exportTo: p.ExportTo, export: m.sees(newExport(exportTo(p.ExportTo, m.Settings.DestinationExportTo), p.Namespace))}
			have[k] = append(have[k], d)
			x.all = append(x.all, d)
		}
		d.merge(p, n)
	}
	for _, d := range x.all {
		if d.export.to(d.ns) {
			rules(x.local, d.ns).add(d)
		}
		private := !d.export.public && d.export.own != "" && len(d.export.names) == 0
		if !private {
			rules(x.exported, d.ns).add(d)
		} else if d.ns == m.Settings.RootNamespace {
			x.rootLocal.add(d)
		}
	}
	for _, r := range x.local {
		r.sort()
	}
	for _, r := range x.exported {
		r.sort()
	}
	x.rootLocal.sort()
}

func rules(byNS map[string]*hostRules, ns string) *hostRules {
	r := byNS[ns]
	if r == nil {
		r = &hostRules{}
		byNS[ns] = r
	}
	return r
}

func mergeable(list []*destination, p *model.DestinationPolicy) *destination {
	for _, d := range list {
		if maps.Equal(d.selector, p.Selector) && slices.Equal(d.exportTo, p.ExportTo) {
			return d
		}
	}
	return nil
}

// merge adds a younger rule: its new subsets, and its policy when there is none.
func (d *destination) merge(p *model.DestinationPolicy, n *notices) {
	d.origins = append(d.origins, p.Origin)
	switch {
	case empty(&p.Policy):
	case empty(&d.policy):
		d.policy, d.by = p.Policy, p.Origin
	default:
		n.code("TUL0108").add(model.Warning, model.Conflict, p.Origin, "its top-level trafficPolicy is ignored: %s has one for %s", where(d.by), d.host)
	}
	for i := range p.Subsets {
		s := &p.Subsets[i]
		if s.Name == "" {
			n.code("TUL0108").add(model.Error, model.Invalid, s.Origin, "a subset needs a name")
			continue
		}
		if old := d.subset(s.Name); old != nil {
			n.code("TUL0108").add(model.Warning, model.Conflict, s.Origin, "subset %s of %s is already defined by %s", s.Name, d.host, where(old.Origin))
			continue
		}
		d.subsets = append(d.subsets, s)
	}
}

func (d *destination) subset(name string) *model.Subset {
	if d == nil {
		return nil
	}
	for _, s := range d.subsets {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func empty(p *model.TrafficPolicy) bool {
	return p.LoadBalancer == nil && p.Pool == nil && p.Outlier == nil && p.TLS == nil && len(p.Ports) == 0
}

// who is a client as far as destination rules look at it.
type who struct {
	ns     string
	labels map[string]string
}

// destinationFor finds the rule that a client uses for a service: of the
// client's namespace, the service's, the root namespace, the first level that
// has one wins whole; there, the most specific host.
func (m *Mesh) destinationFor(w who, s *service) *destination {
	x, root := &m.dests, m.Settings.RootNamespace
	var l []*destination
	if w.ns != root {
		l = x.local[w.ns].find(s.Host)
	} else {
		l = x.rootLocal.find(s.Host)
	}
	if l == nil {
		l = exportedTo(x.exported[s.Namespace].find(s.Host), w.ns)
	}
	if l == nil && s.Namespace != root {
		l = exportedTo(x.exported[root].find(s.Host), w.ns)
	}
	var all *destination
	for _, d := range l {
		switch {
		case len(d.selector) == 0:
			all = d
		case d.ns == w.ns && subset(d.selector, w.labels):
			return d
		}
	}
	return all
}

func exportedTo(l []*destination, ns string) []*destination {
	var out []*destination
	for _, d := range l {
		if d.export.to(ns) {
			out = append(out, d)
		}
	}
	return out
}

// policyFor settles the four blocks for a port and subset: the port's blocks
// replace the rule's wholesale, the subset's replace block by block, the
// subset's own port blocks replace wholesale again.
func (d *destination) policyFor(port uint16, sub *model.Subset) model.TrafficPolicy {
	var out model.TrafficPolicy
	if d != nil {
		out = atPort(d.policy, port)
	}
	if sub == nil {
		return out
	}
	p := sub.Policy
	if p.LoadBalancer != nil {
		out.LoadBalancer = p.LoadBalancer
	}
	if p.Pool != nil {
		out.Pool = p.Pool
	}
	if p.Outlier != nil {
		out.Outlier = p.Outlier
	}
	if p.TLS != nil {
		out.TLS = p.TLS
	}
	for i := range p.Ports {
		if p.Ports[i].Port == port {
			return blocks(p.Ports[i].TrafficPolicy)
		}
	}
	return out
}

func atPort(p model.TrafficPolicy, port uint16) model.TrafficPolicy {
	for i := range p.Ports {
		if p.Ports[i].Port == port {
			return blocks(p.Ports[i].TrafficPolicy)
		}
	}
	return blocks(p)
}

func blocks(p model.TrafficPolicy) model.TrafficPolicy {
	p.Ports = nil
	return p
}
