package link

import (
	"cmp"
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

func (m *Mesh) makeRules(k nsHost, _ []*destination) []*destination { return m.rulesOf(k, nil) }

// rulesOf merges the DestinationRules of a namespace for a host, oldest first.
func (m *Mesh) rulesOf(k nsHost, n *notices) []*destination {
	var out []*destination
	for _, p := range m.facts.rules.get(k) {
		d := mergeable(out, p)
		if d == nil {
			d = &destination{host: k.host, ns: p.Namespace, selector: p.Selector, exportTo: p.ExportTo, export: newExport(exportTo(p.ExportTo, m.Settings.DestinationExportTo), p.Namespace)}
			out = append(out, d)
		}
		d.merge(p, n)
	}
	return out
}

// private reports whether only the rule's own namespace sees it.
func (d *destination) private() bool {
	return !d.export.public && d.export.own != "" && len(d.export.names) == 0
}

// find lists the rules of a namespace, of those that may, for the most specific
// host; nil: none.
func (m *Mesh) find(ns, host string, may func(*destination) bool) []*destination {
	at := func(h string) (out []*destination) {
		for _, d := range m.tables.rules.Get(nsHost{ns, h}) {
			if may(d) {
				out = append(out, d)
			}
		}
		return out
	}
	if l := at(host); l != nil {
		return l
	}
	for _, w := range m.tables.wildRules.Get(ns) {
		if under(w, host) {
			if l := at(w); l != nil {
				return l
			}
		}
	}
	return nil
}

// makeWildRules lists the wildcard hosts of a namespace's rules, longest first.
func (m *Mesh) makeWildRules(ns string, _ []string) []string {
	var out []string
	for _, p := range m.facts.wildRules.get(ns) {
		if h := m.fqdn(p.Host, ns); !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	longestFirst(out)
	return out
}

func longestFirst(hosts []string) {
	slices.SortFunc(hosts, func(a, b string) int {
		return cmp.Or(len(b)-len(a), strings.Compare(a, b))
	})
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
	return p.LoadBalancer == nil && p.Pool == nil && p.Outlier == nil && p.TLS == nil && p.Retries == nil && len(p.Ports) == 0
}

// who is a client as far as destination rules look at it.
type who struct {
	ns     string
	labels map[string]string
	by     model.Ref // the Sidecar that narrows what it sees
}

// destinationFor finds the rule that a client uses for a service: of the
// client's namespace, the service's, the root namespace, the first level that
// has one wins whole; there, the most specific host.
func (m *Mesh) destinationFor(w who, s *service) *destination {
	root := m.Settings.RootNamespace
	var l []*destination
	if w.ns != root {
		l = m.find(w.ns, s.Host, func(d *destination) bool { return d.export.to(d.ns) })
	} else {
		l = m.find(root, s.Host, (*destination).private)
	}
	if l == nil {
		l = m.exported(s.Namespace, s.Host, w.ns)
	}
	if l == nil && s.Namespace != root {
		l = m.exported(root, s.Host, w.ns)
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

// exported lists the rules that a namespace exports, for the most specific host,
// as far as another namespace sees them; nil: none.
func (m *Mesh) exported(from, host, to string) (out []*destination) {
	for _, d := range m.find(from, host, func(d *destination) bool { return !d.private() }) {
		if d.export.to(to) {
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
	if p.Retries != nil {
		out.Retries = p.Retries
	}
	for i := range p.Ports {
		if p.Ports[i].Port == port {
			return blocks(p.Ports[i].TrafficPolicy, out.Retries)
		}
	}
	return out
}

func atPort(p model.TrafficPolicy, port uint16) model.TrafficPolicy {
	for i := range p.Ports {
		if p.Ports[i].Port == port {
			return blocks(p.Ports[i].TrafficPolicy, p.Retries)
		}
	}
	return blocks(p, p.Retries)
}

// blocks of a port; the retry budget is not a port's to say.
func blocks(p model.TrafficPolicy, r *model.RetryBudget) model.TrafficPolicy {
	p.Ports, p.Retries = nil, r
	return p
}
