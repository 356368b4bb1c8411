package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// scope is the part of a View that all clients with the same scope key share,
// and what it is made from.
type scope struct {
	m      *Mesh
	client model.Client
	who    who
	reg    *registry
	routes []*routeSet            // bound to the mesh, in order of precedence
	order  map[*routeSet]int      // place in routes
	exact  map[string][]*routeSet // by host as completed, wildcards too
	wilds  []string               // wildcard hosts, longest first
	bounds map[uint16][]bound
	at     map[netip.AddrPort]bool // addresses that have a listener

	clusters []*model.Cluster
	tables   []*model.HTTPTable
	outbound []*model.Outbound
	servers  []*model.GatewayPort
	broken   []*model.BrokenServer
	secrets  []*model.Secret
	aliases  map[string]string
}

// clientSelectors are the labels and namespaces that user objects ask of
// clients; two clients that agree on them see the same.
type clientSelectors struct {
	labels     map[string]bool // keys of sourceLabels, of DestinationRule and Gateway selectors
	namespaces map[string]bool // of sourceNamespace
}

func (m *Mesh) clientSelectors() clientSelectors {
	s := clientSelectors{labels: map[string]bool{}, namespaces: map[string]bool{}}
	keys := func(l map[string]string) {
		for k := range l {
			s.labels[k] = true
		}
	}
	for _, r := range m.routes.all {
		for i := range r.http {
			for j := range r.http[i].Matches {
				keys(r.http[i].Matches[j].SourceLabels)
			}
		}
		for _, t := range r.tls {
			for _, x := range t.Matches {
				keys(x.SourceLabels)
			}
		}
		for _, t := range r.tcp {
			for _, x := range t.Matches {
				keys(x.SourceLabels)
			}
		}
	}
	for _, d := range m.dests.all {
		keys(d.selector)
	}
	return s
}

// ScopeKey names what a client's outbound View depends on. Clients with equal
// keys have equal Clusters, HTTP and Outbound; gateways depend on all of their
// labels, sidecars on those that some object selects clients by.
func (m *Mesh) ScopeKey(c model.Client) string {
	var b strings.Builder
	switch c.Role {
	case model.GatewayRole:
		b.WriteString("gateway|" + c.Namespace)
		for _, k := range sortedKeys(c.Labels) {
			b.WriteString("|" + strconv.Quote(k) + "=" + strconv.Quote(c.Labels[k]))
		}
		for _, e := range c.Expose {
			b.WriteString("|" + strconv.Itoa(int(e.Port)) + "@" + e.Listen.String())
		}
		listen := m.listenPorts(&c)
		for _, g := range m.gateways {
			if !subset(g.Selector, c.Labels) {
				continue
			}
			for i := range g.Servers {
				fmt.Fprintf(&b, "|%v", listen(g.Servers[i].Port.Number))
			}
		}
	default:
		b.WriteString("sidecar|" + c.Namespace)
		for _, k := range sortedKeys(m.selectors.labels) {
			if v, ok := c.Labels[k]; ok {
				b.WriteString("|" + strconv.Quote(k) + "=" + strconv.Quote(v))
			}
		}
	}
	b.WriteString("|" + c.Network)
	if c.Capture == model.PortsMode {
		b.WriteString("|ports|" + c.HTTPProxy.String())
		for _, k := range sortedKeys(c.Local) {
			b.WriteString("|" + k + "@" + c.Local[k].String())
		}
	}
	for _, f := range slices.Sorted(slices.Values(c.Features)) {
		b.WriteString("|+" + f)
	}
	return b.String()
}

// View is the mesh as a client must see it. The result shares structure with
// other Views and must not be modified.
func (m *Mesh) View(c model.Client) *model.View {
	s := m.scope(c)
	v := &model.View{
		Client: c, Settings: m.Settings, Clusters: s.clusters, HTTP: s.tables,
		Outbound: s.outbound, Servers: s.servers, Broken: s.broken, Secrets: s.secrets, Aliases: s.aliases,
	}
	server := m.mtls.server(c.Namespace, c.Labels)
	authz := m.authzOf(&c)
	v.InboundDefault = m.policy(server, authz, 0)
	if c.Role == model.Sidecar {
		v.Inbound = m.inbound(&c, server, authz)
		return v
	}
	if len(authz) > 0 {
		v.Servers = make([]*model.GatewayPort, len(s.servers))
		for i, p := range s.servers {
			q := *p
			q.Policy = m.policy(server, authz, p.Port)
			v.Servers[i] = &q
		}
	}
	return v
}

func (m *Mesh) scope(c model.Client) *scope {
	key := m.ScopeKey(c)
	m.mu.Lock()
	s := m.scopes[key]
	m.mu.Unlock()
	if s != nil {
		return s
	}
	s = m.newScope(c)
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.scopes[key]; old != nil {
		return old
	}
	m.scopes[key] = s
	return s
}

func (m *Mesh) newScope(c model.Client) *scope {
	s := &scope{
		m: m, client: c, who: who{c.Namespace, c.Labels}, reg: m.registry(c.Namespace),
		order: map[*routeSet]int{}, exact: map[string][]*routeSet{}, bounds: map[uint16][]bound{},
	}
	s.aliases = s.reg.aliasOf()
	if c.Role == model.GatewayRole {
		s.buildGateway()
		return s
	}
	s.routes = m.routesFor("mesh", c.Namespace)
	for i, r := range s.routes {
		s.order[r] = i
		for _, h := range r.hosts {
			if wild(h) && s.exact[h] == nil {
				s.wilds = append(s.wilds, h)
			}
			s.exact[h] = append(s.exact[h], r)
		}
	}
	slices.SortFunc(s.wilds, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	for _, svc := range s.reg.list {
		s.clusters = append(s.clusters, m.clustersOf(s.who, c.Role, svc)...)
	}
	s.buildOutbound()
	s.finish()
	return s
}

func (s *scope) finish() {
	slices.SortFunc(s.clusters, func(a, b *model.Cluster) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.tables, func(a, b *model.HTTPTable) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(s.outbound, func(a, b *model.Outbound) int { return strings.Compare(a.Name, b.Name) })
	s.bounds, s.at = nil, nil
}

func (s *scope) bound(port uint16) []bound {
	b, ok := s.bounds[port]
	if !ok {
		b = s.bind(port)
		s.bounds[port] = b
	}
	return b
}

func (s *scope) site(port uint16) *site {
	return &site{m: s.m, who: s.who, reg: s.reg, gateway: "mesh", port: port}
}
