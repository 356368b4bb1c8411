package link

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// openPort is one port of a gateway workload while Gateways are merged on it.
type openPort struct {
	number   uint16 // in the Gateway
	listen   uint16 // of the process
	bind     string
	plain    bool // HTTP or TCP without TLS
	protocol model.Protocol
	servers  []openServer
	sni      map[string]openServer // who has a TLS host
	routed   map[string]bool       // server names that a pass-through route has
}

type openServer struct {
	gateway *model.Gateway
	server  *model.Server
	hosts   []string // with namespace, "./" resolved
}

// name is what route sets are bound to: the Gateway, or the server of a closed one.
func (s openServer) name() string {
	n := s.gateway.Namespace + "/" + s.gateway.Name
	if s.gateway.Closed {
		n += "/" + s.server.Name
	}
	return n
}

// sni lists the hosts without their namespace part.
func (s openServer) sni() []string {
	var out []string
	for _, h := range s.hosts {
		_, host := splitHost(h)
		if !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	return out
}

func splitHost(h string) (ns, host string) {
	if a, b, ok := strings.Cut(h, "/"); ok {
		return a, b
	}
	return "*", h
}

// hostsFor lists the server's hosts that route sets of a namespace may use.
func (s openServer) hostsFor(ns string) []string {
	var out []string
	for _, h := range s.hosts {
		if n, host := splitHost(h); n == "*" || n == ns {
			out = append(out, host)
		}
	}
	return out
}

func serverHosts(g *model.Gateway, s *model.Server) []string {
	var out []string
	for _, h := range s.Hosts {
		switch ns, host := splitHost(h); ns {
		case ".":
			out = append(out, g.Namespace+"/"+host)
		case "*":
			out = append(out, host)
		default:
			out = append(out, h)
		}
	}
	return out
}

// terminates reports whether a server opens TLS.
func terminates(s *model.Server) bool {
	return s.TLS != nil && !s.Port.Protocol.IsHTTP() && s.TLS.Mode != model.ServerPassthrough && s.TLS.Mode != model.ServerAutoPassthrough
}

func plain(s *model.Server) bool { return s.Port.Protocol.IsHTTP() || s.TLS == nil }

// openPorts merges the Gateways that select a workload, oldest first. On one
// port either plain HTTP servers are merged, or TLS servers with different
// hosts, or one TCP server stands alone; who comes later loses.
func (m *Mesh) openPorts(c *model.Client, listen func(uint16) []uint16, n *notices) []*openPort {
	var out []*openPort
	find := func(port uint16, bind string) *openPort {
		for _, p := range out {
			if p.listen == port && (p.bind == bind || p.bind == "" || bind == "") {
				return p
			}
		}
		return nil
	}
	for _, g := range m.facts.gateways.get(struct{}{}) {
		if !subset(g.Selector, c.Labels) || g.Closed && g.Namespace != c.Namespace {
			continue
		}
		for i := range g.Servers {
			s := openServer{g, &g.Servers[i], serverHosts(g, &g.Servers[i])}
			if len(s.hosts) == 0 {
				n.code("TUL0110").add(model.Error, model.Invalid, s.server.Origin, "it has no hosts and serves nothing")
				continue
			}
			for _, port := range listen(s.server.Port.Number) {
				p := find(port, s.server.Bind)
				if p == nil {
					p = &openPort{
						number: s.server.Port.Number, listen: port, bind: s.server.Bind,
						plain: plain(s.server), protocol: s.server.Port.Protocol, sni: map[string]openServer{}, routed: map[string]bool{},
					}
					out = append(out, p)
				} else if !p.joins(s, n) {
					continue
				}
				p.add(s, n)
			}
		}
	}
	slices.SortFunc(out, func(a, b *openPort) int {
		if a.listen != b.listen {
			return int(a.listen) - int(b.listen)
		}
		return strings.Compare(a.bind, b.bind)
	})
	return out
}

// joins reports whether a server may share the port with those before it.
func (p *openPort) joins(s openServer, n *notices) bool {
	first := p.servers
	if len(first) == 0 {
		return true
	}
	same := p.plain == plain(s.server)
	if same && p.plain {
		same = p.protocol.IsHTTP() && s.server.Port.Protocol.IsHTTP()
	}
	if same {
		return true
	}
	mine, theirs := kind(s.server), kind(first[0].server)
	if mine == theirs {
		n.code("IST0145").add(model.Error, model.Conflict, s.server.Origin, "port %d is ignored: %s has it, and two servers for %s cannot share a port",
			s.server.Port.Number, where(first[0].server.Origin), mine)
		return false
	}
	n.code("IST0145").add(model.Error, model.Conflict, s.server.Origin, "port %d is ignored: %s has it for %s, this server wants %s",
		s.server.Port.Number, where(first[0].server.Origin), theirs, mine)
	return false
}

func kind(s *model.Server) string {
	if s.Port.Protocol.IsHTTP() {
		return "plain HTTP"
	}
	if s.TLS == nil {
		return "plain TCP"
	}
	return "TLS"
}

// add gives a server the port; a TLS server loses the hosts that another one
// has on it.
func (p *openPort) add(s openServer, n *notices) {
	if p.plain {
		p.servers = append(p.servers, s)
		return
	}
	var own []string
	for _, h := range s.hosts {
		_, host := splitHost(h)
		if old, ok := p.sni[host]; ok && old.server != s.server {
			n.code("IST0145").add(model.Error, model.Conflict, s.server.Origin, "host %s on port %d is ignored: %s has it already",
				host, s.server.Port.Number, where(old.server.Origin))
			continue
		}
		p.sni[host] = s
		own = append(own, h)
	}
	if len(own) > 0 {
		s.hosts = own
		p.servers = append(p.servers, s)
	}
}

// listenPorts translates a Gateway's port by the Services in front of a
// gateway workload; without one the number itself is meant.
func (m *Mesh) listenPorts(c *model.Client) func(uint16) []uint16 {
	own := m.ownServices(c)
	return func(number uint16) []uint16 {
		var out []uint16
		for _, s := range own {
			if p, ok := tcpPort(s, number); ok {
				if t := ownPort(s, p, c); t != 0 && !slices.Contains(out, t) {
					out = append(out, t)
				}
			}
		}
		if len(out) == 0 {
			out = []uint16{number}
		}
		slices.Sort(out)
		return out
	}
}

// gatewayShape is all of a gateway but its clusters and who may come in.
type gatewayShape struct {
	*Scope
	tables  []*model.HTTPTable
	servers []*model.GatewayPort
	broken  []*model.BrokenServer
	secrets []*model.Secret
	refers  []*model.Cluster
	used    usage // clusters that its routes name
}

func (m *Mesh) makeGateway(scope *Scope, _ *gatewayShape) *gatewayShape {
	s := &gatewayShape{Scope: scope, used: usage{}}
	c := &s.client
	sec := newSecrets(s.m, c)
	for _, p := range s.m.openPorts(c, s.m.listenPorts(c), nil) {
		g := &model.GatewayPort{
			Bind: netip.IPv4Unspecified(), Port: p.listen, External: p.number, Origin: p.servers[0].server.Origin,
		}
		if a, err := netip.ParseAddr(p.bind); err == nil {
			g.Bind = a
		}
		for _, e := range c.Expose {
			if e.Port == p.listen || e.Port == p.number && !g.Listen.IsValid() {
				g.Listen = e.Listen
			}
		}
		g.Name = g.Bind.String() + "_" + strconv.Itoa(int(p.listen))
		g.Policy = (&held{server: s.m.server(c.Namespace, c.Labels)}).policy(p.listen)
		if p.plain && p.protocol.IsHTTP() {
			t := s.gatewayTable(httpTable(p), p.number, p.servers, &s.used)
			s.tables = append(s.tables, t)
			g.Table = t.Name
			s.servers = append(s.servers, g)
			continue
		}
		for _, sv := range p.servers {
			s.gatewayServer(g, p, sv, sec, &s.used)
		}
		if len(g.Servers) > 0 {
			s.servers = append(s.servers, g)
		}
	}
	s.secrets = sec.list()
	var tcp [][]*model.TCPRoute
	for _, p := range s.servers {
		for _, sv := range p.Servers {
			tcp = append(tcp, sv.TCP)
		}
	}
	s.refers = s.referred(tcp...)
	return s
}

func httpTable(p *openPort) string {
	name := "http." + strconv.Itoa(int(p.listen))
	if p.bind != "" {
		name += "." + p.bind
	}
	return name
}

// gatewayServer adds one TLS or TCP server, unless it cannot serve.
func (s *gatewayShape) gatewayServer(g *model.GatewayPort, p *openPort, sv openServer, sec *secrets, used *usage) {
	out := &model.GatewayServer{Hosts: sv.sni(), Protocol: sv.server.Port.Protocol, TLS: sv.server.TLS, Origin: sv.server.Origin}
	if terminates(sv.server) && sv.server.TLS.Mode != model.ServerIstioMutual {
		names, why := sec.of(sv.server.TLS, sv.gateway.Namespace)
		if why != "" {
			s.broken = append(s.broken, &model.BrokenServer{Port: p.listen, Hosts: out.Hosts, Why: why, Origin: out.Origin})
			return
		}
		out.Secrets = names
	}
	if sv.server.Port.Protocol == model.HTTPS && terminates(sv.server) {
		out.Table = tlsTable(p, sv)
		if !slices.ContainsFunc(s.tables, func(t *model.HTTPTable) bool { return t.Name == out.Table }) {
			s.tables = append(s.tables, s.gatewayTable(out.Table, p.number, sharing(p, out.Table), used))
		}
	} else if out.TCP = s.gatewayTCP(p, sv, used); len(out.TCP) == 0 {
		s.broken = append(s.broken, &model.BrokenServer{Port: p.listen, Hosts: out.Hosts, Why: "no route takes its connections", Origin: out.Origin})
		return
	}
	g.Servers = append(g.Servers, out)
}

// sharing lists the servers of a port that have the same table: those of one
// Gateway whose ports are named alike.
func sharing(p *openPort, table string) []openServer {
	var out []openServer
	for _, sv := range p.servers {
		if sv.server.Port.Protocol == model.HTTPS && terminates(sv.server) && tlsTable(p, sv) == table {
			out = append(out, sv)
		}
	}
	return out
}

func tlsTable(p *openPort, sv openServer) string {
	name := "https." + strconv.Itoa(int(sv.server.Port.Number)) + "." + sv.server.Port.Name + "." + sv.gateway.Name + "." + sv.gateway.Namespace
	if p.bind != "" {
		name += "." + p.bind
	}
	return name
}

func (s *Scope) gatewaySite(gateway string, port uint16, tls bool, used *usage) *site {
	return &site{m: s.m, who: s.who, gateway: gateway, port: port, tls: tls, used: used}
}

// requireTLS marks a host of a server that redirects to https.
func requireTLS(v *model.VirtualHost, s *model.Server) {
	if s.Redirect && !v.RequireTLS {
		v.RequireTLS, v.Origin = true, s.Origin
	}
}

// gatewayTable merges the route sets of all servers by host.
func (s *gatewayShape) gatewayTable(name string, port uint16, servers []openServer, used *usage) *model.HTTPTable {
	t := &model.HTTPTable{Name: name}
	hosts := map[string]*model.VirtualHost{}
	get := func(h string) *model.VirtualHost {
		v := hosts[h]
		if v == nil {
			v = &model.VirtualHost{Name: hostPort(h, port), Domains: []string{h}, IncludeAttempt: true}
			hosts[h] = v
		}
		return v
	}
	type once struct {
		set  *routeSet
		gw   string
		host string
	}
	done := map[once]bool{}
	for _, sv := range servers {
		at := s.gatewaySite(sv.name(), port, terminates(sv.server), used)
		for _, r := range s.m.routesFor(sv.name(), s.client.Namespace) {
			common := intersect(sv.hostsFor(r.Namespace), r.hosts)
			if len(common) == 0 {
				continue
			}
			routes := at.httpRoutes(r)
			if len(routes) == 0 {
				continue
			}
			for _, h := range common {
				v := get(h)
				if k := (once{r, sv.name(), h}); !done[k] {
					done[k] = true
					v.Routes = append(v.Routes, routes...)
				}
				requireTLS(v, sv.server)
			}
		}
		if sv.server.Redirect {
			for _, h := range sv.sni() {
				requireTLS(get(h), sv.server)
			}
		}
	}
	for _, h := range sortedKeys(hosts) {
		v := hosts[h]
		v.Routes = catchAllLast(v.Routes)
		t.Hosts = append(t.Hosts, v)
	}
	if len(t.Hosts) == 0 {
		t.Hosts = []*model.VirtualHost{{Name: hostPort("blackhole", port), Domains: []string{"*"}}}
	}
	return t
}

// intersect is the hosts that both lists stand for, the narrower spelling.
func intersect(a, b []string) []string {
	var out []string
	for _, x := range a {
		for _, y := range b {
			if o := overlap(x, y); o != "" && !slices.Contains(out, o) {
				out = append(out, o)
			}
		}
	}
	return out
}

// catchAllLast keeps the order but moves routes that match everything to the end.
func catchAllLast(list []*model.Route) []*model.Route {
	var first, last []*model.Route
	for _, r := range list {
		if catchAll(&r.Match) {
			last = append(last, r)
		} else {
			first = append(first, r)
		}
	}
	return append(first, last...)
}

// gatewayTCP settles the L4 rules of a server: by SNI where TLS passes
// through, else TCP rules.
func (s *gatewayShape) gatewayTCP(p *openPort, sv openServer, used *usage) []*model.TCPRoute {
	at := s.gatewaySite(sv.name(), p.number, false, used)
	var out []*model.TCPRoute
	done := map[string]bool{}
	for _, r := range s.m.routesFor(sv.name(), s.client.Namespace) {
		common := intersect(sv.hostsFor(r.Namespace), r.hosts)
		if len(common) == 0 {
			continue
		}
		if sv.server.TLS != nil && !terminates(sv.server) {
			out = append(out, p.claim(sv, at.tlsRules(r, nil, done, common))...)
			continue
		}
		l, end := at.tcpRules(r, nil)
		out = append(out, l...)
		if end {
			break
		}
	}
	return distinct(out)
}

// claim leaves routes the server names that no other server of the port and no
// earlier route has.
func (p *openPort) claim(sv openServer, list []*model.TCPRoute) []*model.TCPRoute {
	var out []*model.TCPRoute
	for _, r := range list {
		r.SNI = slices.DeleteFunc(slices.Clone(r.SNI), func(h string) bool {
			if o, ok := p.sni[h]; ok && o.server != sv.server || p.routed[h] {
				return true
			}
			p.routed[h] = true
			return false
		})
		if len(r.SNI) > 0 {
			out = append(out, r)
		}
	}
	return out
}
