package link

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/model"
)

// Sidecars on demand ask for parts of a View by name. What they put together is
// what the whole View would do; the parts are made from the same tables.

// scopeHost is a host as a scope's clients call it.
type scopeHost struct {
	scope *Scope
	host  string
}

type doorAt struct {
	scope *Scope
	at    netip.AddrPort
}

// ListenerFor answers a question for a listener: the canonical name of what it
// leads to, and a View that holds this alone, with its table; nil: no such.
func (s *Scope) ListenerFor(l ext.Lookup) (canonical string, v *model.View) {
	switch {
	case l.Address.IsValid():
		at := netip.AddrPortFrom(l.Address, l.Port)
		if v = s.m.tables.door.Get(doorAt{s.routes, at}); v != nil {
			return ext.AddressListener(at), v
		}
		return s.routes.rangeListener(at)
	case l.Host != "":
		return s.routes.namedListener(l.Port, l.Host)
	}
	v = s.m.tables.portDoor.Get(portAt{s.routes, l.Port})
	return ext.PortListener(l.Port), v
}

// RouteFor answers a question for the virtual host of a port for a host: its
// canonical name, and a View that holds the table with it alone; nil: no such.
func (s *Scope) RouteFor(l ext.Lookup) (canonical string, v *model.View) {
	if l.Address.IsValid() || l.Host == "" {
		return "", nil
	}
	r := s.routes
	owner := s.m.tables.hostFor.Get(hostAt{r, l.Port, l.Host})
	if owner == "" {
		return "", nil
	}
	h := r.virtualHost(l.Port, owner)
	if h == nil {
		return "", nil
	}
	// A domain belongs to one virtual host, so that its first one names it.
	canonical = ext.HostRoute(l.Port, h.Domains[0])
	v = r.part()
	v.HTTP = []*model.HTTPTable{{Name: canonical, Hosts: []*model.VirtualHost{h}}}
	return canonical, v
}

// makeHostFor finds the virtual host of a port that a request's host belongs to:
// the one that has it as a domain, else the one with the longest wildcard above
// it; empty: none.
func (m *Mesh) makeHostFor(k hostAt, _ string) string {
	if owner := k.scope.domainOwner(k.port, k.host); owner != "" {
		return owner
	}
	for i := 0; i < len(k.host); i++ {
		if k.host[i] == '.' {
			if owner := k.scope.domainOwner(k.port, "*"+k.host[i:]); owner != "" {
				return owner
			}
		}
	}
	return k.scope.domainOwner(k.port, "*")
}

// domainOwner is the host of the virtual host that has a domain at a port.
func (s *Scope) domainOwner(port uint16, domain string) string {
	rivals := s.m.facts.names.get(domain)
	if len(rivals) == 0 { // a name with a final dot stands for the one without
		if whole, dot := strings.CutSuffix(domain, "."); dot {
			rivals = s.m.facts.names.get(whole)
		}
	}
	for _, x := range rivals {
		hosts := []string{strings.TrimSuffix(domain, ".")}
		if o, ok := x.(*model.Service); ok {
			hosts = []string{o.Host}
			if to := s.m.lookup(s.who.eyes(), o.Host); to != nil && to.Host != o.Host {
				hosts = append(hosts, to.Host)
			}
		}
		for _, h := range hosts {
			if s.here(port, h) == nil && !s.away(port, h) {
				continue
			}
			if v := s.virtualHost(port, h); v != nil && slices.Contains(v.Domains, domain) {
				return h
			}
		}
	}
	for _, h := range s.completions(strings.TrimPrefix(domain, "*.")) {
		if s.here(port, h) != nil {
			if v := s.virtualHost(port, h); v != nil && slices.Contains(v.Domains, domain) {
				return h
			}
		}
	}
	return ""
}

// completions are the hosts of the cluster that a name may be short for: objects
// of one namespace may give hosts of another, whose short forms only clients
// there know.
func (s *Scope) completions(name string) []string {
	svc := ".svc." + s.m.Settings.ClusterDomain
	if !strings.Contains(name, ".") {
		return []string{name + "." + s.who.ns + svc}
	}
	return []string{name + svc, name + "." + s.m.Settings.ClusterDomain}
}

// sameView compares without the lines of Origins.
func sameView(a, b *model.View) bool { return reflect.DeepEqual(a, b) }

// makeDoor is the listener of a service at one of its addresses; nil: none has
// one there.
func (m *Mesh) makeDoor(k doorAt, _ *model.View) *model.View {
	s := k.scope
	svc := s.holder(k.at.Addr(), k.at.Port())
	if svc == nil {
		return nil
	}
	p, _ := svc.port(k.at.Port())
	v := s.part()
	v.Outbound = []*model.Outbound{s.addressListener(svc, p, k.at.Addr())}
	if p.Protocol == model.Sniff {
		v.HTTP = []*model.HTTPTable{s.serviceTable(svc, p.Number)}
	}
	v.Refers = s.referred(tcpOf(v.Outbound)...)
	return v
}

// elsewhere is what a namespace sees at a port but for HTTP and for what has
// listeners of its own at its addresses.
type elsewhere struct {
	http   bool
	others []*service
}

func (m *Mesh) makeElsewhere(k seenPort, _ elsewhere) (out elsewhere) {
	for _, svc := range m.tables.onPort.Get(k) {
		switch p, _ := svc.port(k.port); {
		case p.Protocol.IsHTTP():
			out.http = true
		case len(svc.Addresses) > 0 && !slices.ContainsFunc(svc.Addresses, func(a netip.Prefix) bool { return !a.IsSingleIP() }):
		default:
			out.others = append(out.others, svc)
		}
	}
	slices.SortFunc(out.others, func(a, b *service) int { return servicesByAge(a.Service, b.Service) })
	return out
}

// shared is what shares the listener for every address of a port.
type shared struct {
	*model.Outbound // nil: nothing does
	bySNI           map[string]*model.TCPRoute
}

// makeShared is makeWildPort without the hosts of the table, which is what may
// be as large as the mesh.
func (m *Mesh) makeShared(k portAt, _ *shared) *shared {
	s := k.scope
	at := m.tables.elsewhere.Get(seenPort{m.sight(s.who.eyes()), k.port})
	w := &wildcardPort{port: k.port, http: at.http}
	for _, svc := range at.others {
		p, _ := svc.port(k.port)
		s.place(svc, p, w)
	}
	if k.port == 80 && !w.http {
		w.http = slices.ContainsFunc(m.tables.strangers.Get(k), func(h string) bool { return m.lookup(s.who.eyes(), h) == nil })
	}
	out := &shared{Outbound: w.outbound(), bySNI: map[string]*model.TCPRoute{}}
	if out.Outbound == nil {
		return out
	}
	if s.bound(k.port, out.Outbound); out.Name != ext.PortListener(k.port) {
		return &shared{} // see Always
	}
	out.Origin = model.Origin{} // of one service, where the listener has no other: not told on demand
	for _, r := range out.TCP {
		for _, n := range r.SNI {
			if n = strings.ToLower(n); len(r.Subnets) == 0 && out.bySNI[n] == nil {
				out.bySNI[n] = r
			}
		}
	}
	return out
}

// makePortDoor is a port's own listener without what is asked for by name or
// address, and its table without hosts; nil: the port has none.
func (m *Mesh) makePortDoor(k portAt, _ *model.View) *model.View {
	all := m.tables.shared.Get(k)
	if all.Outbound == nil {
		return nil
	}
	s, o := k.scope, *all.Outbound
	o.TCP = all.rest()
	o.BySNI = len(all.bySNI) > 0
	v := s.part()
	v.Outbound = []*model.Outbound{&o}
	if o.Table != "" {
		v.HTTP = []*model.HTTPTable{{Name: o.Table, Hosts: []*model.VirtualHost{s.catchAll()}}}
	}
	v.Refers = s.referred(o.TCP)
	return v
}

// rest is what takes connections that neither name nor address tell apart.
func (a *shared) rest() []*model.TCPRoute {
	var out []*model.TCPRoute
	for _, r := range a.TCP {
		if len(r.Subnets) == 0 && (len(r.SNI) == 0 || slices.Contains(r.SNI, "*")) {
			out = append(out, r)
		}
	}
	return out
}

// namedListener has the one chain of a port for a server name.
func (s *Scope) namedListener(port uint16, sni string) (string, *model.View) {
	all := s.m.tables.shared.Get(portAt{s, port})
	if all.Outbound == nil {
		return "", nil
	}
	name, r := sni, all.bySNI[sni]
	for i := 0; r == nil && i < len(sni); i++ {
		if sni[i] == '.' {
			name = "*" + sni[i:]
			r = all.bySNI[name]
		}
	}
	if r == nil {
		return "", nil
	}
	one := *r
	one.SNI = []string{name}
	v := s.part()
	v.Outbound = []*model.Outbound{{
		Name: ext.NamedListener(port, name), Address: all.Address, Extra: all.Extra, Port: port,
		Protocol: model.TLS, TCP: []*model.TCPRoute{&one}, Alone: true, Origin: r.Origin,
	}}
	v.Refers = s.referred(v.Outbound[0].TCP)
	return v.Outbound[0].Name, v
}

// rangeListener has the chains of the narrowest range of a port that holds an
// address, and what takes the rest.
func (s *Scope) rangeListener(at netip.AddrPort) (string, *model.View) {
	all := s.m.tables.shared.Get(portAt{s, at.Port()})
	if all.Outbound == nil {
		return "", nil
	}
	var best netip.Prefix
	for _, r := range all.TCP {
		for _, p := range r.Subnets {
			if p.Contains(at.Addr()) && (!best.IsValid() || p.Bits() > best.Bits()) {
				best = p
			}
		}
	}
	if !best.IsValid() {
		return "", nil
	}
	var list []*model.TCPRoute
	for _, r := range all.TCP {
		if slices.Contains(r.Subnets, best) {
			one := *r
			one.Subnets = nil
			list = append(list, &one)
		}
	}
	if rest := all.rest(); len(rest) > 0 {
		list = append(list, rest...)
	}
	v := s.part()
	name := ext.PortListener(at.Port()) + "/" + best.String()
	v.Outbound = []*model.Outbound{{Name: name, Address: best.Addr(), Port: at.Port(), Protocol: model.TCP, TCP: distinct(list), Within: true}}
	v.Refers = s.referred(v.Outbound[0].TCP)
	return name, v
}

// Always lists what clients on demand have without asking: the ports whose
// listeners a Sidecar has put at an address of its own, and the cluster for
// unknown destinations, if a Sidecar names one.
func (s *Scope) Always() (ports []uint16, cluster string) {
	if p := s.m.narrows(s.who.by); p != nil {
		for _, e := range p.Egress {
			if e.Port != nil && e.Bind != "" {
				ports = append(ports, e.Port.Number)
			}
		}
	}
	return ports, s.elsewhere()
}

// ClustersIn lists the clusters that a View's listeners and tables lead to, in
// the order met.
func ClustersIn(v *model.View) []string {
	var out []string
	add := func(name string) {
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, t := range v.HTTP {
		for _, h := range t.Hosts {
			for _, r := range h.Routes {
				for i := range r.Backends {
					add(r.Backends[i].Cluster)
				}
				for i := range r.Mirrors {
					add(r.Mirrors[i].Cluster)
				}
			}
		}
	}
	for _, o := range v.Outbound {
		for _, r := range o.TCP {
			for i := range r.Backends {
				add(r.Backends[i].Cluster)
			}
		}
	}
	return out
}

// HostFor answers a question for a name, as the mesh's DNS: the canonical name,
// and what it has; nil: the mesh has no such name.
func (s *Scope) HostFor(name string) (canonical string, h *ext.Host) {
	name = strings.TrimSuffix(name, ".")
	a := s.m.tables.hostNamed.Get(scopeHost{s.routes, name})
	return a.canonical, a.host
}

type namedHost struct {
	canonical string
	host      *ext.Host
}

func (m *Mesh) makeHostNamed(k scopeHost, _ namedHost) namedHost {
	s, pod := k.scope, ""
	svc := s.serviceNamed(k.host)
	if svc == nil { // a replica of a headless service has a name below it
		first, rest, ok := strings.Cut(k.host, ".")
		if svc = s.serviceNamed(rest); !ok || svc == nil || !svc.Headless || !svc.Kubernetes {
			svc = nil
		}
		pod = first
	}
	for i := 0; svc == nil && i < len(k.host); i++ {
		if k.host[i] == '.' {
			pod, svc = "", s.serviceNamed("*"+k.host[i:])
		}
	}
	if svc == nil {
		return namedHost{}
	}
	var out []netip.Addr
	add := func(a netip.Addr) {
		if a = a.Unmap(); len(out) < ext.MaxAddresses && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, p := range svc.Addresses {
		if p.IsSingleIP() && pod == "" {
			add(p.Addr())
		}
	}
	if len(out) == 0 && svc.Headless {
		for _, p := range svc.Ports {
			for _, e := range m.at(svc, p) {
				a, err := netip.ParseAddr(e.Address)
				_, name, _ := strings.Cut(e.Workload, "/")
				if err == nil && e.Ready && (pod == "" || name == pod) {
					add(a)
				}
			}
		}
	}
	if len(out) == 0 {
		return namedHost{}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	h := &ext.Host{Addresses: out}
	s.ahead(h, svc, svc.Host)
	if pod != "" {
		return namedHost{k.host, h}
	}
	return namedHost{svc.Host, h}
}

// fewAddresses of a name are asked for ahead.
const fewAddresses = 2

// ahead fills in what connections to a name will ask for.
func (s *Scope) ahead(h *ext.Host, svc *service, name string) {
	for _, p := range svc.Ports {
		switch {
		case p.Protocol == model.UDP:
		case p.Protocol.IsHTTP():
			if owner := s.m.tables.hostFor.Get(hostAt{s, p.Number, name}); owner != "" && len(h.Routes) < ext.MaxAhead && len(h.Listeners) < ext.MaxAhead {
				h.Listeners = append(h.Listeners, ext.PortListener(p.Number))
				h.Routes = append(h.Routes, ext.HostRoute(p.Number, name))
			}
		case len(h.Addresses) <= fewAddresses:
			for _, a := range h.Addresses {
				if len(h.Listeners) < ext.MaxAhead {
					h.Listeners = append(h.Listeners, ext.AddressListener(netip.AddrPortFrom(a, p.Number)))
				}
			}
		}
	}
}

// serviceNamed finds the service that a client may call by a name.
func (s *Scope) serviceNamed(name string) *service {
	for _, x := range s.m.facts.names.get(name) {
		o, ok := x.(*model.Service)
		if !ok {
			continue
		}
		svc := s.m.lookup(s.who.eyes(), o.Host)
		if svc == nil {
			continue
		}
		if name == o.Host || slices.Contains(s.m.shortNames(o.Host, s.who.ns), name) {
			return svc
		}
	}
	for _, h := range s.completions(name) {
		if slices.Contains(s.m.shortNames(h, s.who.ns), name) {
			if svc := s.m.lookup(s.who.eyes(), h); svc != nil {
				return svc
			}
		}
	}
	return nil
}
