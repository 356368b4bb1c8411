package link

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// makeWildPort makes the listener of a port at every address, and its table.
func (m *Mesh) makeWildPort(k portAt, _ *model.View) *model.View {
	s, v := k.scope, k.scope.part()
	w := &wildcardPort{port: k.port}
	for _, svc := range byAgeOf(m.onPort(s.who.eyes(), k.port)) {
		p, _ := svc.port(k.port)
		s.place(svc, p, w)
	}
	if k.port == 80 && !w.http {
		// Hosts that no service has at all.
		w.http = slices.ContainsFunc(m.tables.strangers.Get(k), func(h string) bool { return m.lookup(s.who.eyes(), h) == nil })
	}
	if o := w.outbound(); o != nil {
		s.bound(k.port, o)
		v.Outbound = append(v.Outbound, o)
	}
	if w.http || w.sniff {
		v.HTTP = append(v.HTTP, m.tables.httpPorts.Get(k))
	}
	v.Refers = s.referred(tcpOf(v.Outbound)...)
	return v
}

func tcpOf(list []*model.Outbound) [][]*model.TCPRoute {
	var out [][]*model.TCPRoute
	for _, o := range list {
		out = append(out, o.TCP)
	}
	return out
}

// byAgeOf orders services oldest first.
func byAgeOf(list []*service) []*service {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b *service) int { return servicesByAge(a.Service, b.Service) })
	return list
}

// makeDoors makes the listeners at the addresses of a service, for ports that
// do not speak HTTP.
func (m *Mesh) makeDoors(k hostAt, _ *model.View) *model.View {
	s, v := k.scope, k.scope.part()
	svc := m.lookup(s.who.eyes(), k.host)
	if svc == nil || svc.Host != k.host {
		return v
	}
	done := map[uint16]bool{}
	for _, p := range svc.Ports {
		if p.Protocol == model.UDP || done[p.Number] {
			continue
		}
		done[p.Number] = true
		if p.Protocol.IsHTTP() {
			continue
		}
		single, _ := s.addresses(svc, p)
		for _, a := range single {
			if s.holder(a, p.Number) == svc { // else another service has the address: told by Link
				v.Outbound = append(v.Outbound, s.addressListener(svc, p, a))
			}
		}
		if p.Protocol == model.Sniff && len(single) > 0 {
			v.HTTP = append(v.HTTP, s.serviceTable(svc, p.Number))
		}
	}
	v.Refers = s.referred(tcpOf(v.Outbound)...)
	return v
}

// addresses at which connections for a service's port arrive: those of the
// service, or of its endpoints (headless); and ranges of them.
func (s *Scope) addresses(svc *service, p model.Port) (single []netip.Addr, nets []netip.Prefix) {
	for _, a := range svc.Addresses {
		if a.IsSingleIP() {
			single = append(single, a.Addr().Unmap())
		} else {
			nets = append(nets, a.Masked())
		}
	}
	if len(svc.Addresses) == 0 && svc.Resolution == model.Passthrough {
		single = s.m.endpointAddresses(svc, p)
	}
	return single, nets
}

// holder is the service to which connections to an address and port go: the
// oldest of those that have it.
func (s *Scope) holder(a netip.Addr, port uint16) *service {
	text := a.String()
	var hosts []string
	for _, x := range s.m.facts.names.get(text) {
		if svc, ok := x.(*model.Service); ok {
			hosts = append(hosts, svc.Host)
		}
	}
	for _, x := range s.m.facts.names.get("[" + text + "]") {
		if svc, ok := x.(*model.Service); ok {
			hosts = append(hosts, svc.Host)
		}
	}
	for _, x := range s.m.facts.listed.get(text) {
		hosts = append(hosts, x.Host)
	}
	for _, w := range s.m.facts.addressed.get(text) {
		for _, x := range s.m.facts.headless.get(w.Namespace) {
			if len(x.Selector) > 0 && subset(x.Selector, w.Labels) {
				hosts = append(hosts, x.Host)
			}
		}
	}
	var best *service
	for _, h := range hosts {
		svc := s.m.lookup(s.who.eyes(), h)
		if svc == nil || svc.Host != h || svc == best {
			continue
		}
		p, ok := svc.port(port)
		if !ok || p.Protocol.IsHTTP() {
			continue
		}
		if single, _ := s.addresses(svc, p); slices.Contains(single, a) && (best == nil || servicesByAge(svc.Service, best.Service) < 0) {
			best = svc
		}
	}
	return best
}

// wildcardPort gathers what shares the listener 0.0.0.0_port.
type wildcardPort struct {
	port    uint16
	http    bool
	sniff   bool
	tcp     []*model.TCPRoute
	origins []model.Origin
}

func (w *wildcardPort) outbound() *model.Outbound {
	if !w.http && !w.sniff && len(w.tcp) == 0 {
		return nil
	}
	o := &model.Outbound{
		Name:    "0.0.0.0_" + strconv.Itoa(int(w.port)),
		Address: netip.IPv4Unspecified(), Extra: []netip.Addr{netip.IPv6Unspecified()},
		Port: w.port, TCP: distinct(w.tcp),
	}
	if len(w.origins) == 1 {
		o.Origin = w.origins[0]
	}
	switch {
	case (w.http || w.sniff) && (w.sniff || len(w.tcp) > 0):
		o.Protocol = model.Sniff
	case w.http:
		o.Protocol = model.HTTP
	case slices.ContainsFunc(w.tcp, func(r *model.TCPRoute) bool { return len(r.SNI) > 0 }):
		o.Protocol = model.TLS
	default:
		o.Protocol = model.TCP
	}
	if w.http || w.sniff {
		o.Table = strconv.Itoa(int(w.port))
	}
	return o
}

// place adds to a port's listener what a service has there: all of it when it
// speaks HTTP, else what does not arrive at addresses of its own.
func (s *Scope) place(svc *service, p model.Port, w *wildcardPort) {
	if p.Protocol.IsHTTP() {
		w.http = true
		w.origins = append(w.origins, svc.Origin)
		return
	}
	single, nets := s.addresses(svc, p)
	headless := len(svc.Addresses) == 0 && svc.Resolution == model.Passthrough
	if headless && len(single) == 0 && (svc.Kubernetes || len(svc.Selector) > 0) {
		return
	}
	if len(single) > 0 && len(nets) == 0 {
		return
	}
	w.origins = append(w.origins, svc.Origin)
	w.tcp = append(w.tcp, s.tcpRoutes(svc, p, nets, len(nets) == 0)...)
	if p.Protocol == model.Sniff {
		w.sniff = true
	}
}

// endpointAddresses of a headless service.
func (m *Mesh) endpointAddresses(svc *service, p model.Port) []netip.Addr {
	var out []netip.Addr
	for _, e := range m.at(svc, p) {
		a, err := netip.ParseAddr(e.Address)
		if err != nil || slices.Contains(out, a.Unmap()) {
			continue
		}
		out = append(out, a.Unmap())
	}
	return out
}

func (s *Scope) addressListener(svc *service, p model.Port, a netip.Addr) *model.Outbound {
	o := &model.Outbound{
		Name: a.String() + "_" + strconv.Itoa(int(p.Number)), Address: a, Port: p.Number,
		Protocol: p.Protocol, Origin: svc.Origin,
	}
	if p.Protocol == model.Sniff {
		o.Table = hostPort(svc.Host, p.Number)
	}
	o.TCP = distinct(s.tcpRoutes(svc, p, nil, false))
	return o
}

// distinct puts routes with subnets before those without, the narrowest first,
// and gives each pair of subnet and server name to the first route that asks:
// filter chains with equal conditions would be refused.
func distinct(list []*model.TCPRoute) []*model.TCPRoute {
	slices.SortStableFunc(list, func(a, b *model.TCPRoute) int { return narrowest(b) - narrowest(a) })
	type pair struct {
		net netip.Prefix
		sni string
	}
	taken := map[pair]bool{}
	out := make([]*model.TCPRoute, 0, len(list))
	for _, r := range list {
		nets, names := r.Subnets, r.SNI
		if len(nets) == 0 {
			nets = []netip.Prefix{{}}
		}
		if len(names) == 0 {
			names = []string{""}
		}
		clash := false
		for _, n := range nets {
			for _, h := range names {
				clash = clash || taken[pair{n, h}]
			}
		}
		if !clash {
			for _, n := range nets {
				for _, h := range names {
					taken[pair{n, h}] = true
				}
			}
			out = append(out, r)
			continue
		}
		for _, n := range nets {
			for _, h := range names {
				if taken[pair{n, h}] {
					continue
				}
				taken[pair{n, h}] = true
				one := *r
				one.Subnets, one.SNI = nil, nil
				if n.IsValid() {
					one.Subnets = []netip.Prefix{n}
				}
				if h != "" {
					one.SNI = []string{h}
				}
				out = append(out, &one)
			}
		}
	}
	return out
}

// narrowest is the length of a route's longest prefix; -1 without subnets.
func narrowest(r *model.TCPRoute) int {
	n := -1
	for _, p := range r.Subnets {
		n = max(n, p.Bits())
	}
	return n
}

// tcpRoutes settles the L4 rules for a service port. nets limit them to the
// service's address ranges; byName asks for the SNI where nothing else tells
// services apart.
func (s *Scope) tcpRoutes(svc *service, p model.Port, nets []netip.Prefix, byName bool) []*model.TCPRoute {
	at := s.site(p.Number)
	if p.Protocol.IsTLS() {
		var out []*model.TCPRoute
		done := map[string]bool{}
		for _, r := range s.setsFor(svc.Host) {
			if !s.imports(p.Number, r) {
				continue
			}
			out = append(out, at.tlsRules(r, nets, done, nil)...)
		}
		if len(out) > 0 {
			return out
		}
		own := s.ownRoute(at, svc, nets)
		if byName || len(nets) > 0 {
			own.SNI = append([]string{svc.Host}, s.m.shortNames(svc.Host, s.client.Namespace)...)
		}
		return []*model.TCPRoute{own}
	}
	var out []*model.TCPRoute
	for _, r := range s.setsFor(svc.Host) {
		if !s.imports(p.Number, r) {
			continue
		}
		l, end := at.tcpRules(r, nets)
		out = append(out, l...)
		if end {
			return out
		}
	}
	return append(out, s.ownRoute(at, svc, nets))
}

func (s *Scope) ownRoute(at *site, svc *service, nets []netip.Prefix) *model.TCPRoute {
	b, _ := at.backend(&model.Backend{Host: svc.Host, Port: at.port, Weight: 100})
	b.Origin = svc.Origin
	return &model.TCPRoute{Subnets: nets, Backends: []model.RouteBackend{b}, Origin: svc.Origin}
}

// setsFor lists the route sets with a host that covers a service's, in their
// order of precedence.
func (s *Scope) setsFor(host string) []*routeSet {
	out := s.sets(host)
	for _, w := range s.m.meshWilds(host) {
		for _, r := range s.sets(w) {
			if !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	slices.SortStableFunc(out, precedes(s.who.ns))
	return out
}

// tlsRules settles a route set's TLS rules for a site. A match that repeats an
// earlier one's SNI and subnets is never reached and left out. within, when
// not nil, limits SNI to a gateway server's hosts.
func (s *site) tlsRules(r *routeSet, nets []netip.Prefix, done map[string]bool, within []string) []*model.TCPRoute {
	var out []*model.TCPRoute
	for i := range r.tls {
		t := &r.tls[i]
		for j := range t.Matches {
			mt := &t.Matches[j]
			if !s.appliesL4(mt) {
				continue
			}
			key := strings.Join(mt.SNI, ",") + "|" + strings.Join(mt.DestSubnets, ",")
			if done[key] {
				continue
			}
			done[key] = true
			x := &model.TCPRoute{SNI: mt.SNI, Subnets: nets, Origin: t.Origin}
			if within != nil {
				if x.SNI = narrow(mt.SNI, within); len(x.SNI) == 0 {
					continue
				}
			}
			if len(mt.DestSubnets) > 0 && s.gateway == "mesh" {
				x.Subnets = prefixes(mt.DestSubnets)
			}
			x.Backends, _ = s.backends(t.Backends, t.Origin)
			if len(x.Backends) > 0 {
				out = append(out, x)
			}
		}
	}
	return out
}

// narrow is the SNI names that lie within a server's hosts.
func narrow(sni, hosts []string) []string {
	var out []string
	for _, a := range sni {
		for _, h := range hosts {
			if o := overlap(h, a); o != "" && !slices.Contains(out, o) {
				out = append(out, o)
			}
		}
	}
	return out
}

// tcpRules settles a route set's TCP rules for a site; end says that the last
// one takes every connection. Gateways do not look at subnets.
func (s *site) tcpRules(r *routeSet, nets []netip.Prefix) (out []*model.TCPRoute, end bool) {
	for i := range r.tcp {
		t := &r.tcp[i]
		x := &model.TCPRoute{Subnets: nets, Origin: t.Origin}
		if x.Backends, _ = s.backends(t.Backends, t.Origin); len(x.Backends) == 0 {
			continue
		}
		if len(t.Matches) == 0 {
			return append(out, x), true
		}
		var dest []netip.Prefix
		for j := range t.Matches {
			mt := &t.Matches[j]
			if !s.appliesL4(mt) {
				continue
			}
			if len(mt.DestSubnets) == 0 || s.gateway != "mesh" {
				return append(out, x), true
			}
			dest = append(dest, prefixes(mt.DestSubnets)...)
		}
		if len(dest) > 0 {
			x.Subnets = dest
			out = append(out, x)
		}
	}
	return out, false
}

// prefixes reads addresses and address ranges; the reader has checked them.
func prefixes(list []string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range list {
		if p, err := netip.ParsePrefix(t); err == nil {
			out = append(out, p.Masked())
		} else if a, err := netip.ParseAddr(t); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// portsView makes one real socket per dependency, and the HTTP proxy.
func (s *Scope) portsView() *model.View {
	c, v := &s.client, s.part()
	for _, key := range sortedKeys(c.Local) {
		host, num, ok := strings.Cut(key, ":")
		port, err := strconv.ParseUint(num, 10, 16)
		svc := s.m.lookup(s.who.eyes(), s.m.fqdn(host, c.Namespace))
		if !ok || err != nil || svc == nil {
			continue
		}
		p, ok := svc.port(uint16(port))
		if !ok {
			continue
		}
		at := c.Local[key]
		o := &model.Outbound{
			Name: at.Addr().String() + "_" + strconv.Itoa(int(at.Port())), Address: at.Addr(), Port: at.Port(),
			Bind: true, Protocol: p.Protocol, Origin: svc.Origin,
		}
		if p.Protocol.IsHTTP() || p.Protocol == model.Sniff {
			o.Table = hostPort(svc.Host, p.Number)
			if !slices.ContainsFunc(v.HTTP, func(t *model.HTTPTable) bool { return t.Name == o.Table }) {
				v.HTTP = append(v.HTTP, s.serviceTable(svc, p.Number))
			}
		}
		if !p.Protocol.IsHTTP() {
			o.TCP = distinct(s.tcpRoutes(svc, p, nil, false))
		}
		v.Outbound = append(v.Outbound, o)
	}
	v.Refers = s.referred(tcpOf(v.Outbound)...)
	if !c.HTTPProxy.IsValid() {
		return v
	}
	t := s.proxyTable()
	v.HTTP = append(v.HTTP, t)
	v.Outbound = append(v.Outbound, &model.Outbound{
		Name: "http_proxy", Address: c.HTTPProxy.Addr(), Port: c.HTTPProxy.Port(),
		Bind: true, Protocol: model.HTTP, Table: t.Name, HTTPProxy: true,
	})
	return v
}
