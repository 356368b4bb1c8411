package link

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Scope is the part of Views that all clients with the same ScopeKey share.
// Its methods are called within the Do of the Mesh's Book, and what they read is
// recorded there. What they return is shared: do not modify.
type Scope struct {
	m      *Mesh
	key    string
	client model.Client // only what the key names
	who    who
	routes *Scope // of clients that are alike but for where they are
}

// ScopeKey names what a client's outbound View depends on. Clients with equal
// keys have equal Clusters, HTTP and Outbound; gateways depend on all that is
// known of them, sidecars on labels that some object selects clients by.
func (m *Mesh) ScopeKey(c model.Client) (key string) {
	m.book.Do(func() { key = m.Scope(c).key })
	return key
}

// Scope of a client. Call it within Do.
func (m *Mesh) Scope(c model.Client) *Scope {
	return m.scope(m.reduced(c))
}

func (m *Mesh) scope(r model.Client) *Scope {
	w := m.whoIs(&r)
	key := scopeKey(&r, w.by)
	if s := m.scopes[key]; s != nil {
		return s
	}
	s := &Scope{m: m, key: key, client: r, who: w}
	m.scopes[key], s.routes = s, s
	if r.Role == model.Sidecar && (r.Host != "" || r.Locality != model.Locality{}) {
		r.Host, r.Locality = "", model.Locality{}
		s.routes = m.scope(r)
	}
	return s
}

// reduced leaves of a client what its scope depends on.
func (m *Mesh) reduced(c model.Client) model.Client {
	r := model.Client{
		Role: c.Role, Namespace: c.Namespace, Network: c.Network, Capture: c.Capture,
		Features: slices.Sorted(slices.Values(c.Features)), Addresses: families(c.Addresses),
	}
	r.Locality, r.Host = m.whereabouts(c)
	if c.Role == model.GatewayRole {
		r.Labels, r.Name, r.Addresses = c.Labels, c.Name, c.Addresses
		r.Expose, r.Assumed, r.Ports = c.Expose, c.Assumed, c.Ports
		return r
	}
	if c.Capture == model.PortsMode {
		r.Local, r.HTTPProxy = c.Local, c.HTTPProxy
	}
	for _, k := range m.facts.chosen.get() {
		if v, ok := c.Labels[k]; ok {
			if r.Labels == nil {
				r.Labels = map[string]string{}
			}
			r.Labels[k] = v
		}
	}
	return r
}

// whereabouts are a client's locality and node, where some destination depends
// on them.
func (m *Mesh) whereabouts(c model.Client) (l model.Locality, host string) {
	p := m.placing()
	p.keys = append(p.keys, m.facts.chosen.get()...)
	for _, k := range []string{regionLabel, zoneLabel, subzoneLabel} {
		p.locality = p.locality || slices.Contains(p.keys, k)
	}
	if p.locality {
		l = c.Locality
	}
	if slices.Contains(p.keys, hostLabel) {
		host = c.Host
	}
	return l, host
}

// families keeps one address of each IP version.
func families(list []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if slices.ContainsFunc(list, func(x netip.Addr) bool { return x.Unmap().Is4() == a.Is4() }) {
			out = append(out, a)
		}
	}
	return out
}

func scopeKey(c *model.Client, by model.Ref) string {
	var b strings.Builder
	b.WriteString([]string{model.Sidecar: "sidecar", model.GatewayRole: "gateway"}[c.Role])
	b.WriteString("|" + c.Namespace)
	for _, k := range sortedKeys(c.Labels) {
		b.WriteString("|" + strconv.Quote(k) + "=" + strconv.Quote(c.Labels[k]))
	}
	fmt.Fprintf(&b, "|%s|%q|%q", c.Network, c.Locality, c.Host)
	if by != (model.Ref{}) {
		b.WriteString("|sidecar=" + by.Namespace + "/" + by.Name)
	}
	for _, f := range c.Features {
		b.WriteString("|+" + f)
	}
	for _, a := range c.Addresses {
		b.WriteString("|" + a.String())
	}
	if c.Capture == model.PortsMode {
		b.WriteString("|ports|" + c.HTTPProxy.String())
		for _, k := range sortedKeys(c.Local) {
			b.WriteString("|" + k + "@" + c.Local[k].String())
		}
	}
	if c.Role == model.GatewayRole {
		fmt.Fprintf(&b, "|%s|%v|%v", c.Name, c.Assumed, c.Expose)
		for _, k := range sortedKeys(c.Ports) {
			fmt.Fprintf(&b, "|%s:%d", k, c.Ports[k])
		}
	}
	return b.String()
}

// Sweep forgets what nobody uses. Call it now and then within Do: it costs as
// much as there is to remember. Scopes that clients are still of are to be named.
func (m *Mesh) Sweep(live ...*Scope) {
	clear(m.scopes)
	for _, s := range live {
		m.scopes[s.key], m.scopes[s.routes.key] = s, s.routes
	}
	m.book.Sweep()
	m.alike.Sweep()
}

// View is the mesh as a client must see it. The result shares structure with
// other Views and must not be modified.
func (m *Mesh) View(c model.Client) (v *model.View) {
	m.book.Do(func() { v = m.view(c) })
	return v
}

// Whole is View, called within Do.
func (m *Mesh) Whole(c model.Client) *model.View { return m.view(c) }

func (m *Mesh) view(c model.Client) *model.View {
	s := m.Scope(c)
	v := m.Own(c)
	for _, h := range s.Hosts() {
		if set, ok := s.Clusters(h); ok {
			v.Clusters = append(v.Clusters, s.wanted(m.tables.clusters.Get(set))...)
		}
	}
	v.Refers = nil // all are among the clusters
	parts := []*model.View{s.Rest()}
	if s.Captured() {
		for _, h := range s.Hosts() {
			parts = append(parts, s.HostView(h))
		}
		for _, p := range s.Ports() {
			parts = append(parts, s.PortView(p))
		}
	}
	for _, p := range parts {
		v.HTTP, v.Outbound = append(v.HTTP, p.HTTP...), append(v.Outbound, p.Outbound...)
	}
	slices.SortFunc(v.Clusters, func(a, b *model.Cluster) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(v.HTTP, func(a, b *model.HTTPTable) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(v.Outbound, func(a, b *model.Outbound) int { return strings.Compare(a.Name, b.Name) })
	return v
}

// Captured reports whether connections of the scope's clients carry their
// original destination: Ports and HostView say where they go. Others have all of
// their listeners and tables in Rest.
func (s *Scope) Captured() bool {
	return s.client.Role == model.Sidecar && s.client.Capture == model.Redirected
}

// part is an empty View for clients of the scope.
func (s *Scope) part() *model.View {
	return &model.View{Client: s.client, Settings: s.settings(), Elsewhere: s.elsewhere()}
}

// Own is what is one client's alone: who may come in, and of a gateway its
// listeners, which hold that. Call it within Do.
func (m *Mesh) Own(c model.Client) *model.View {
	s := m.Scope(c)
	v := s.part()
	v.Client, v.Aliases = c, m.aliasOf(s.who.eyes())
	h := m.held(&c)
	v.InboundDefault = h.policy(0)
	if c.Role == model.Sidecar {
		v.Inbound = m.inbound(&c, h)
		return v
	}
	g := m.tables.rest.Get(s)
	v.Broken, v.Secrets, v.Servers, v.Refers = g.broken, g.secrets, g.servers, g.refers
	if len(h.authz)+len(h.requests) > 0 {
		v.Servers = make([]*model.GatewayPort, len(g.servers))
		for i, p := range g.servers {
			q := *p
			q.Policy = h.policy(p.Port)
			v.Servers[i] = &q
		}
	}
	return v
}

// Hosts lists the hosts that a client of the scope has clusters for.
func (s *Scope) Hosts() []string {
	var out []string
	if s.client.Role == model.GatewayRole {
		hosts := map[string]bool{}
		for name := range s.m.tables.rest.Get(s).used {
			hosts[name[strings.LastIndexByte(name, '|')+1:]] = true
		}
		return sortedKeys(hosts)
	}
	for _, x := range s.m.visible(s.who.eyes()) {
		out = append(out, x.Host)
	}
	return out
}

// Clusters names the clusters of a host; false: it has none.
func (s *Scope) Clusters(host string) (ClusterSet, bool) {
	svc := s.m.lookup(s.who.eyes(), host)
	if svc == nil || svc.Host != host {
		return ClusterSet{}, false
	}
	d := s.m.destinationFor(s.who, svc)
	return ClusterSet{svc, d, s.client.Role, s.placeFor(svc, d)}, true
}

// Class is all of a scope that writing down a cluster depends on.
type Class struct {
	Role     model.Role
	Capture  model.Capture
	Features string // sorted, a comma between
	V4, V6   bool   // addresses of the client
}

// Class of the scope.
func (s *Scope) Class() Class {
	f := families(s.client.Addresses)
	return Class{
		Role: s.client.Role, Capture: s.client.Capture, Features: strings.Join(s.client.Features, ","),
		V4: slices.Contains(f, netip.IPv4Unspecified()), V6: slices.Contains(f, netip.IPv6Unspecified()),
	}
}

// ClusterView holds the clusters of a set, for clients of a class.
func (m *Mesh) ClusterView(set ClusterSet, c Class) *model.View {
	v := &model.View{Client: model.Client{Role: c.Role, Capture: c.Capture}, Settings: m.Settings, Clusters: m.tables.clusters.Get(set)}
	if c.Features != "" {
		v.Client.Features = strings.Split(c.Features, ",")
	}
	if c.V4 {
		v.Client.Addresses = append(v.Client.Addresses, netip.IPv4Unspecified())
	}
	if c.V6 {
		v.Client.Addresses = append(v.Client.Addresses, netip.IPv6Unspecified())
	}
	return v
}

// Wants reports whether a client of the scope has a cluster: a gateway has those
// that its routes name.
func (s *Scope) Wants(cluster string) bool {
	return s.client.Role == model.Sidecar || s.m.tables.rest.Get(s).used[cluster]
}

func (s *Scope) wanted(list []*model.Cluster) []*model.Cluster {
	if s.client.Role == model.Sidecar {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(c *model.Cluster) bool { return !s.Wants(c.Name) })
}

// Ports lists the ports at which a client that captures connections may call
// services, and 80.
func (s *Scope) Ports() []uint16 {
	if !s.Captured() {
		return nil
	}
	ports := map[uint16]bool{80: true}
	for _, p := range portsOf(s.m.visible(s.who.eyes())) {
		ports[p] = true
	}
	if p := s.policy(); p != nil {
		for _, e := range p.Egress {
			if e.Port != nil {
				ports[e.Port.Number] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(ports))
}

// PortView holds the listener for every address of a port and its route table.
func (s *Scope) PortView(port uint16) *model.View {
	return s.m.tables.wildPorts.Get(portAt{s.routes, port})
}

// HostView holds the listeners at a service's own addresses, and their tables.
func (s *Scope) HostView(host string) *model.View {
	return s.m.tables.doors.Get(hostAt{s.routes, 0, host})
}

// Rest holds the listeners of a client that does not capture connections, and
// their tables; of a gateway only the tables.
func (s *Scope) Rest() *model.View {
	switch {
	case s.client.Role == model.GatewayRole:
		v := s.part()
		v.HTTP = s.m.tables.rest.Get(s).tables
		return v
	case s.client.Capture == model.PortsMode:
		return s.portsView()
	}
	return s.part()
}

// Aliases lists the hosts that stand for another one; nil: none.
func (s *Scope) Aliases() map[string]string { return s.m.aliasOf(s.who.eyes()) }

func (s *Scope) site(port uint16) *site {
	return &site{m: s.m, who: s.who, gateway: "mesh", port: port}
}
