package link

import (
	"net/netip"
	"reflect"
	"slices"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/model"
)

// eyes are those that see the same services: a namespace ("" for all that no
// exportTo names), narrowed by a Sidecar or by none.
type eyes struct {
	ns string
	by model.Ref
}

type (
	seenHost struct {
		eyes
		host string
	}
	seenPort struct {
		eyes
		port uint16
	}
)

func (w who) eyes() eyes { return eyes{w.ns, w.by} }

// sight makes eyes that see alike equal.
func (m *Mesh) sight(e eyes) eyes {
	if e.by == (model.Ref{}) && len(m.facts.exports.get(e.ns)) == 0 {
		return eyes{}
	}
	return e
}

// whoIs is a client with the Sidecar that narrows what it sees: the oldest that
// selects it, else the oldest of its namespace without a selector, else that of
// the root namespace. Sidecars are not for gateways.
func (m *Mesh) whoIs(c *model.Client) who {
	w := who{ns: c.Namespace, labels: c.Labels}
	if c.Role != model.Sidecar {
		return w
	}
	if p := m.sidecarFor(c.Namespace, c.Labels); p != nil {
		w.by = model.Ref{Namespace: p.Namespace, Name: p.Name}
	}
	return w
}

func (m *Mesh) sidecarFor(ns string, labels map[string]string) *model.SidecarPolicy {
	var whole *model.SidecarPolicy
	for _, p := range m.facts.sidecars.get(ns) {
		if p = m.sidecarPolicy(model.Ref{Namespace: ns, Name: p.Name}); len(p.Selector) == 0 {
			if whole == nil {
				whole = p
			}
		} else if subset(p.Selector, labels) {
			return p
		}
	}
	if whole != nil || ns == m.Settings.RootNamespace {
		return whole
	}
	for _, p := range m.facts.sidecars.get(m.Settings.RootNamespace) {
		if p = m.sidecarPolicy(model.Ref{Namespace: m.Settings.RootNamespace, Name: p.Name}); len(p.Selector) == 0 {
			return p
		}
	}
	return nil
}

// sidecarPolicy finds a Sidecar: of objects with the same name the oldest.
func (m *Mesh) sidecarPolicy(ref model.Ref) *model.SidecarPolicy {
	if l := m.facts.sidecar.get(ref); len(l) > 0 {
		return l[0]
	}
	return nil
}

// policy is the Sidecar of the scope's clients; nil: none.
func (s *Scope) policy() *model.SidecarPolicy {
	if s.who.by == (model.Ref{}) {
		return nil
	}
	return s.m.sidecarPolicy(s.who.by)
}

// settings of the mesh, as the Sidecar changes them.
func (s *Scope) settings() model.Settings {
	out := s.m.Settings
	if p := s.policy(); p != nil {
		set(&out.AllowAny, p.AllowAny)
	}
	return out
}

// elsewhere is the cluster that connections to unknown destinations are sent
// to; "": where the client dialled.
func (s *Scope) elsewhere() string {
	p := s.policy()
	if p == nil || p.EgressProxy == nil {
		return ""
	}
	b := p.EgressProxy
	svc := s.m.lookup(s.who.eyes(), s.m.fqdn(b.Host, p.Namespace))
	if svc == nil {
		return ""
	}
	if _, ok := svc.port(b.Port); !ok {
		return ""
	}
	return clusterName(b.Port, b.Subset, svc.Host)
}

// Hidden finds the Sidecar that keeps a service from a client which exportTo
// would let see it, and the service's host; nil: none does.
func (m *Mesh) Hidden(c model.Client, name string) (by *model.SidecarPolicy, host string) {
	m.book.Do(func() {
		w := m.whoIs(&c)
		svc := m.named(c.Namespace, name)
		if p := m.narrows(w.by); p != nil && svc != nil && m.lookup(w.eyes(), svc.Host) == nil {
			by, host = p, svc.Host
		}
	})
	return by, host
}

// egressAt is what a Sidecar lets clients call at a port; nil: nothing. 0 asks
// for the ports that it does not name.
func egressAt(p *model.SidecarPolicy, port uint16) *model.SidecarEgress {
	var rest *model.SidecarEgress
	for i := range p.Egress {
		e := &p.Egress[i]
		if e.Port == nil {
			rest = e
		} else if e.Port.Number == port {
			return e
		}
	}
	return rest
}

// lists reports whether an egress entry names a host of a namespace and no "!"
// entry of it takes the host away. either: a host that is a wildcard is named,
// too, by an entry for a part of it.
func lists(e *model.SidecarEgress, client, ns, host string, either bool) bool {
	in := false
	for _, h := range e.Hosts {
		own := h.Namespace
		if own == "." {
			own = client
		}
		if own != "*" && own != ns || !under(h.Host, host) && !(either && !h.Not && under(host, h.Host)) {
			continue
		}
		if h.Not {
			return false
		}
		in = true
	}
	return in
}

// narrows is the Sidecar of some eyes when it says what they see.
func (m *Mesh) narrows(by model.Ref) *model.SidecarPolicy {
	if by == (model.Ref{}) {
		return nil
	}
	if p := m.sidecarPolicy(by); p != nil && len(p.Egress) > 0 {
		return p
	}
	return nil
}

// names reports whether a Sidecar's entries name a service at a port of it.
func names(p *model.SidecarPolicy, client string, s *model.Service, port uint16) bool {
	e := egressAt(p, port)
	return e != nil && lists(e, client, s.Namespace, s.Host, false)
}

// admitted leaves of the services of a host what a Sidecar names at any port,
// and destinations of the routes that it names.
func (m *Mesh) admitted(e eyes, list []*service) []*service {
	p := m.narrows(e.by)
	if p == nil || len(list) == 0 {
		return list
	}
	var out []*service
	for _, s := range list {
		if slices.ContainsFunc(s.Ports, func(x model.Port) bool { return names(p, e.ns, s.Service, x.Number) }) {
			out = append(out, s)
		}
	}
	if len(out) == 0 && m.tables.implied.Get(e)[list[0].Host] {
		return list
	}
	return out
}

// trimmed leaves a service the ports at which a Sidecar names it.
func (m *Mesh) trimmed(e eyes, s, old *service) *service {
	p := m.narrows(e.by)
	if p == nil || m.tables.implied.Get(e)[s.Host] {
		return s
	}
	ports := slices.DeleteFunc(slices.Clone(s.Ports), func(x model.Port) bool { return !names(p, e.ns, s.Service, x.Number) })
	if len(ports) == len(s.Ports) {
		return s
	}
	head, c := *s.Service, *s
	head.Ports, c.Service = ports, &head
	if old != nil && reflect.DeepEqual(*old, c) {
		return old
	}
	return &c
}

// makeImplied lists the hosts that clients of a Sidecar see because a route
// leads there that it names, or a name that it names stands for them.
func (m *Mesh) makeImplied(e eyes, _ map[string]bool) map[string]bool {
	p := m.narrows(e.by)
	if p == nil {
		return nil
	}
	out := map[string]bool{}
	backends := func(l []model.Backend) {
		for i := range l {
			out[l[i].Host] = true
		}
	}
	for _, r := range m.routesFor("mesh", e.ns) {
		if !slices.ContainsFunc(p.Egress, func(x model.SidecarEgress) bool { return importsBy(&x, e.ns, r) }) {
			continue
		}
		for i := range r.http {
			backends(r.http[i].Backends)
			for j := range r.http[i].Mirrors {
				out[r.http[i].Mirrors[j].Backend.Host] = true
			}
		}
		for i := range r.tls {
			backends(r.tls[i].Backends)
		}
		for i := range r.tcp {
			backends(r.tcp[i].Backends)
		}
	}
	for _, a := range m.facts.aliases.get(struct{}{}) {
		if slices.ContainsFunc(p.Egress, func(x model.SidecarEgress) bool { return lists(&x, e.ns, a.Namespace, a.Host, false) }) {
			out[external(a)] = true
		}
	}
	return out
}

// importsBy reports whether an egress entry names a host of a route set.
func importsBy(e *model.SidecarEgress, client string, r *routeSet) bool {
	return slices.ContainsFunc(r.hosts, func(h string) bool { return lists(e, client, r.Namespace, h, true) })
}

// imports reports whether a route set acts for the scope's clients at a port.
func (s *Scope) imports(port uint16, r *routeSet) bool {
	p := s.m.narrows(s.who.by)
	if p == nil {
		return true
	}
	e := egressAt(p, port)
	return e != nil && importsBy(e, s.who.ns, r)
}

// sets lists the route sets that name a host and that act for the scope's
// clients at some port, in their order of precedence.
func (s *Scope) sets(host string) []*routeSet {
	list := s.m.meshSets(s.who.ns, host)
	p := s.m.narrows(s.who.by)
	if p == nil {
		return list
	}
	return slices.DeleteFunc(list, func(r *routeSet) bool {
		return !slices.ContainsFunc(p.Egress, func(e model.SidecarEgress) bool { return importsBy(&e, s.who.ns, r) })
	})
}

// bound puts the listener of a port at the address that the Sidecar gives it.
func (s *Scope) bound(port uint16, o *model.Outbound) {
	p := s.m.narrows(s.who.by)
	if p == nil {
		return
	}
	e := egressAt(p, port)
	if e == nil || e.Port == nil || e.Bind == "" {
		return
	}
	a, err := netip.ParseAddr(e.Bind)
	if err != nil {
		return
	}
	o.Name, o.Address, o.Extra, o.Bind, o.Origin = a.String()+"_"+strconv.Itoa(int(port)), a, nil, e.Socket, e.Origin
}
