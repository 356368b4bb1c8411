package link

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// buildOutbound makes the listeners and route tables of a sidecar.
func (s *scope) buildOutbound() {
	if s.client.Capture == model.PortsMode {
		s.buildPorts()
		return
	}
	s.at = map[netip.AddrPort]bool{}
	wilds := map[uint16]*wildcardPort{}
	for port, list := range s.reg.ports {
		w := &wildcardPort{port: port}
		wilds[port] = w
		for _, svc := range byAgeOf(list) {
			p, _ := svc.port(port)
			s.place(svc, p, w)
		}
	}
	if wilds[80] == nil {
		wilds[80] = &wildcardPort{port: 80}
	}
	for port, w := range wilds {
		if port == 80 && !w.http && s.strangers() {
			w.http = true
		}
		if o := w.outbound(); o != nil {
			s.outbound = append(s.outbound, o)
		}
		if w.http || w.sniff {
			s.tables = append(s.tables, s.table(port))
		}
	}
}

// byAgeOf orders services oldest first.
func byAgeOf(list []*service) []*service {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *service) int { return byAge(a.Origin, b.Origin) })
	return list
}

// strangers reports whether port 80 has hosts of route sets that no service has.
func (s *scope) strangers() bool {
	for _, b := range s.bound(80) {
		for _, h := range b.hosts {
			if s.reg.byHost[h] == nil {
				return true
			}
		}
	}
	return false
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

// place decides where connections to a service port arrive: at its addresses,
// at those of its endpoints (headless), or at the port alone.
func (s *scope) place(svc *service, p model.Port, w *wildcardPort) {
	if p.Protocol.IsHTTP() {
		w.http = true
		w.origins = append(w.origins, svc.Origin)
		return
	}
	var single []netip.Addr
	var nets []netip.Prefix
	for _, a := range svc.Addresses {
		if a.IsSingleIP() {
			single = append(single, a.Addr().Unmap())
		} else {
			nets = append(nets, a.Masked())
		}
	}
	if len(svc.Addresses) == 0 && svc.Resolution == model.Passthrough {
		single = endpointAddresses(svc, p)
		if len(single) == 0 && (svc.Kubernetes || len(svc.Selector) > 0) {
			return
		}
	}
	for _, a := range single {
		at := netip.AddrPortFrom(a, p.Number)
		if s.at[at] {
			continue // another service has the address: told by Link
		}
		s.at[at] = true
		s.outbound = append(s.outbound, s.addressListener(svc, p, a))
	}
	if p.Protocol == model.Sniff && len(single) > 0 {
		s.tables = append(s.tables, s.serviceTable(svc, p.Number))
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
func endpointAddresses(svc *service, p model.Port) []netip.Addr {
	var out []netip.Addr
	for _, e := range svc.at(p) {
		a, err := netip.ParseAddr(e.Address)
		if err != nil || slices.Contains(out, a.Unmap()) {
			continue
		}
		out = append(out, a.Unmap())
	}
	return out
}

func (s *scope) addressListener(svc *service, p model.Port, a netip.Addr) *model.Outbound {
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
func (s *scope) tcpRoutes(svc *service, p model.Port, nets []netip.Prefix, byName bool) []*model.TCPRoute {
	at := s.site(p.Number)
	if p.Protocol.IsTLS() {
		var out []*model.TCPRoute
		done := map[string]bool{}
		for _, r := range s.setsFor(svc.Host) {
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
		l, end := at.tcpRules(r, nets)
		out = append(out, l...)
		if end {
			return out
		}
	}
	return append(out, s.ownRoute(at, svc, nets))
}

func (s *scope) ownRoute(at *site, svc *service, nets []netip.Prefix) *model.TCPRoute {
	b, _ := at.backend(&model.Backend{Host: svc.Host, Port: at.port, Weight: 100})
	b.Origin = svc.Origin
	return &model.TCPRoute{Subnets: nets, Backends: []model.RouteBackend{b}, Origin: svc.Origin}
}

// setsFor lists the route sets with a host that covers a service's.
func (s *scope) setsFor(host string) []*routeSet {
	want := map[*routeSet]bool{}
	for _, r := range s.exact[host] {
		want[r] = true
	}
	for _, w := range s.wilds {
		if under(w, host) {
			for _, r := range s.exact[w] {
				want[r] = true
			}
		}
	}
	return s.ordered(want)
}

// ordered lists route sets in their order of precedence.
func (s *scope) ordered(set map[*routeSet]bool) []*routeSet {
	if len(set) == 0 {
		return nil
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b *routeSet) int { return s.order[a] - s.order[b] })
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

// buildPorts makes one real socket per dependency, and the HTTP proxy.
func (s *scope) buildPorts() {
	c := &s.client
	for _, key := range sortedKeys(c.Local) {
		host, num, ok := strings.Cut(key, ":")
		port, err := strconv.ParseUint(num, 10, 16)
		svc := s.reg.byHost[s.m.fqdn(host, c.Namespace)]
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
			if !slices.ContainsFunc(s.tables, func(t *model.HTTPTable) bool { return t.Name == o.Table }) {
				s.tables = append(s.tables, s.serviceTable(svc, p.Number))
			}
		}
		if !p.Protocol.IsHTTP() {
			o.TCP = distinct(s.tcpRoutes(svc, p, nil, false))
		}
		s.outbound = append(s.outbound, o)
	}
	if !c.HTTPProxy.IsValid() {
		return
	}
	t := s.proxyTable()
	s.tables = append(s.tables, t)
	s.outbound = append(s.outbound, &model.Outbound{
		Name: "http_proxy", Address: c.HTTPProxy.Addr(), Port: c.HTTPProxy.Port(),
		Bind: true, Protocol: model.HTTP, Table: t.Name, HTTPProxy: true,
	})
}
