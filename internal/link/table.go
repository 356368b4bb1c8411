package link

import (
	"cmp"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Keys of what is remembered for a scope.
type (
	portAt struct {
		scope *Scope
		port  uint16
	}
	hostAt struct {
		scope *Scope
		port  uint16
		host  string
	}
	setAt struct {
		scope *Scope
		port  uint16
		set   *routeSet
	}
)

// speaksHTTP reports whether a service's port carries, or may carry, requests.
func (s *service) speaksHTTP(port uint16) bool {
	p, ok := s.port(port)
	return ok && (p.Protocol.IsHTTP() || p.Protocol == model.Sniff)
}

// here is the service that a host is at a port, not by another name; nil: none.
func (s *Scope) here(port uint16, host string) *service {
	svc := s.m.lookup(s.who.eyes(), host)
	if svc == nil || svc.Host != host {
		return nil
	}
	if _, ok := svc.port(port); !ok {
		return nil
	}
	return svc
}

// httpRoutes of a route set at a port; nil: none.
func (s *Scope) httpRoutes(port uint16, r *routeSet) []*model.Route {
	if !s.imports(port, r) {
		return nil
	}
	return s.m.tables.routes.Get(setAt{s, port, r})
}

func (m *Mesh) makeRoutes(k setAt, _ []*model.Route) []*model.Route {
	return k.scope.site(k.port).httpRoutes(k.set)
}

// speakers lists the route sets that may speak for a host: those that name it,
// else the first of those with the longest wildcard that covers it.
func (s *Scope) speakers(host string) []*routeSet {
	if !wild(host) {
		if l := s.sets(host); len(l) > 0 {
			return l
		}
	}
	for _, w := range s.m.meshWilds(host) {
		if l := s.sets(w); len(l) > 0 {
			return l[:1]
		}
	}
	return nil
}

// ruled finds the route set that owns a service at a port, and its routes there;
// nil: none does.
func (s *Scope) ruled(svc *service, port uint16) (*routeSet, []*model.Route) {
	for _, r := range s.speakers(svc.Host) {
		if routes := s.httpRoutes(port, r); len(routes) > 0 {
			return r, routes
		}
	}
	return nil, nil
}

// stranger finds the route set that owns a host which no service has at the
// port; nil: none does. Such hosts act on port 80, and where another host of the
// set has a service.
func (s *Scope) stranger(port uint16, host string) (*routeSet, []*model.Route) {
	for _, r := range s.sets(host) {
		routes := s.httpRoutes(port, r)
		if len(routes) > 0 && (port == 80 || s.serves(r, port)) {
			return r, routes
		}
	}
	return nil, nil
}

// serves reports whether a route set speaks for a service at a port.
func (s *Scope) serves(r *routeSet, port uint16) bool {
	for _, h := range r.hosts {
		if !wild(h) {
			if svc := s.here(port, h); svc != nil && svc.speaksHTTP(port) {
				return true
			}
			continue
		}
		for _, svc := range s.m.onPort(s.who.eyes(), port) {
			if under(h, svc.Host) && svc.speaksHTTP(port) && slices.Contains(s.speakers(svc.Host), r) {
				return true
			}
		}
	}
	return false
}

// away reports whether no service of a port has the host, or is one of those
// that it stands for.
func (s *Scope) away(port uint16, host string) bool {
	if !wild(host) {
		return s.here(port, host) == nil
	}
	return !slices.ContainsFunc(s.m.onPort(s.who.eyes(), port), func(svc *service) bool { return under(host, svc.Host) })
}

// makeStrangers lists the hosts that only route sets give at a port, sorted.
func (m *Mesh) makeStrangers(k portAt, _ []string) []string {
	s := k.scope
	var from []string
	if k.port == 80 {
		from = m.facts.routed.get()
	} else {
		for _, svc := range m.onPort(s.who.eyes(), k.port) {
			for _, r := range s.speakers(svc.Host) {
				from = append(from, r.hosts...)
			}
		}
		slices.Sort(from)
		from = slices.Compact(from)
	}
	var out []string
	for _, h := range from {
		if !s.away(k.port, h) {
			continue
		}
		if r, _ := s.stranger(k.port, h); r != nil {
			out = append(out, h)
		}
	}
	return out
}

// virtualHost serves a host at a port: a service with its other names, or a
// host that only route sets give. nil: it has no name that is not another's.
func (s *Scope) virtualHost(port uint16, host string) *model.VirtualHost {
	return s.m.tables.hostsAt.Get(hostAt{s, port, host})
}

// sameHost compares without Origin lines: what stands on another line is equal.
func sameHost(a, b *model.VirtualHost) bool { return reflect.DeepEqual(a, b) }

func (m *Mesh) makeHostAt(k hostAt, _ *model.VirtualHost) *model.VirtualHost {
	s, svc := k.scope, k.scope.here(k.port, k.host)
	c := claimant{host: k.host}
	var routes []*model.Route
	if svc == nil {
		if c.set, routes = s.stranger(k.port, k.host); c.set == nil {
			return nil
		}
		c.all, c.shorts = []string{k.host}, nil
		if to := m.lookup(s.who.eyes(), k.host); to != nil && to.Host != k.host { // another name of a service, with routes of its own
			c.all, c.shorts = s.aliasNames(k.host)
		}
	} else {
		if !svc.speaksHTTP(k.port) {
			return nil
		}
		if c.set, routes = s.ruled(svc, k.port); c.set == nil {
			routes = s.site(k.port).serviceRoute(svc)
		}
		c.service = true
		c.all, c.shorts = s.serviceNames(k.port, svc)
	}
	doms := s.claim(k.port, &c)
	if len(doms) == 0 {
		return nil
	}
	v := &model.VirtualHost{Name: hostPort(k.host, k.port), Domains: doms, Routes: routes, IncludeAttempt: true}
	return m.alike.One(v.Name, v, sameHost)
}

// serviceNames are the names of a service at a port, those of its aliases too
// unless these have routes of their own.
func (s *Scope) serviceNames(port uint16, svc *service) (all, shorts []string) {
	all, shorts = s.m.namesOf(svc.Service, s.who.ns)
	for _, a := range s.m.aliases(s.who.eyes())[svc.Host] {
		if r, _ := s.stranger(port, a); r != nil {
			continue
		}
		more, moreShorts := s.aliasNames(a)
		all, shorts = append(all, more...), append(shorts, moreShorts...)
	}
	return all, shorts
}

func (s *Scope) aliasNames(host string) (all, shorts []string) {
	shorts = s.m.shortNames(host, s.who.ns)
	return append([]string{host, host + "."}, shorts...), shorts
}

// claimant is a virtual host that wants domains.
type claimant struct {
	host    string
	set     *routeSet // whose routes it has; nil: the service's own
	service bool      // else a host that only route sets give
	all     []string  // what it wants
	shorts  []string  // those that are short forms
}

// before is the order in which claimants are served: route sets in their order
// of precedence, then services by themselves. Of one route set hosts without a
// service come first, then each as the set names them.
func (s *Scope) before(a, b *claimant) int {
	switch {
	case a.set != nil && b.set == nil:
		return -1
	case a.set == nil && b.set != nil:
		return 1
	case a.set != b.set:
		return precedes(s.who.ns)(a.set, b.set)
	case a.set != nil && a.service != b.service:
		if b.service {
			return -1
		}
		return 1
	case a.set != nil:
		if d := a.place() - b.place(); d != 0 {
			return d
		}
	}
	return strings.Compare(a.host, b.host)
}

// place of the host among the route set's.
func (c *claimant) place() int {
	return slices.IndexFunc(c.set.hosts, func(h string) bool { return under(h, c.host) })
}

// claim deals out domains: each belongs to the first virtual host that asks,
// and a short form never takes another host's full name.
func (s *Scope) claim(port uint16, c *claimant) []string {
	var out []string
	for _, n := range c.all {
		if !slices.Contains(out, n) && s.wins(port, n, c) {
			out = append(out, n)
		}
	}
	return out
}

func (s *Scope) wins(port uint16, domain string, c *claimant) bool {
	rivals := s.m.facts.names.get(domain)
	if len(rivals) < 2 {
		return true
	}
	short := slices.Contains(c.shorts, domain)
	seen := map[string]bool{c.host: true}
	for _, x := range rivals {
		r := s.rival(port, x, domain)
		if r == nil || seen[r.host] || !slices.Contains(r.all, domain) {
			continue
		}
		seen[r.host] = true
		if !slices.Contains(r.shorts, domain) {
			if short && r.service || s.before(r, c) < 0 {
				return false
			}
		} else if s.before(r, c) < 0 && !s.full(port, domain) {
			return false
		}
	}
	return !short || !s.full(port, domain)
}

// full reports whether a domain is the whole name of a service at the port, or
// of an alias of one.
func (s *Scope) full(port uint16, domain string) bool {
	svc := s.m.lookup(s.who.eyes(), domain)
	return svc != nil && svc.speaksHTTP(port)
}

// rival is the virtual host through which an object may have a domain at a
// port; nil: none.
func (s *Scope) rival(port uint16, x any, domain string) *claimant {
	if o, ok := x.(*model.Service); ok {
		svc := s.m.lookup(s.who.eyes(), o.Host)
		if svc == nil {
			return nil
		}
		if svc.Host != o.Host { // an alias
			if r, _ := s.stranger(port, o.Host); r != nil {
				c := &claimant{host: o.Host, set: r}
				c.all, c.shorts = s.aliasNames(o.Host)
				return c
			}
		}
		if !svc.speaksHTTP(port) {
			return nil
		}
		c := &claimant{host: svc.Host, service: true}
		c.set, _ = s.ruled(svc, port)
		c.all, c.shorts = s.serviceNames(port, svc)
		return c
	}
	if !s.away(port, domain) {
		return nil
	}
	r, _ := s.stranger(port, domain)
	if r == nil {
		return nil
	}
	return &claimant{host: domain, set: r, all: []string{domain}}
}

// makeHTTPPort is the route table of a port.
func (m *Mesh) makeHTTPPort(k portAt, _ *model.HTTPTable) *model.HTTPTable {
	t := &model.HTTPTable{Name: strconv.Itoa(int(k.port)), Hosts: k.scope.virtualHosts(k.port)}
	t.Hosts = append(t.Hosts, k.scope.catchAll())
	return t
}

// virtualHosts of a port, by name.
func (s *Scope) virtualHosts(port uint16) []*model.VirtualHost {
	var out []*model.VirtualHost
	for _, svc := range s.m.onPort(s.who.eyes(), port) {
		if v := s.virtualHost(port, svc.Host); v != nil {
			out = append(out, v)
		}
	}
	for _, h := range s.m.tables.strangers.Get(portAt{s, port}) {
		if v := s.virtualHost(port, h); v != nil {
			out = append(out, v)
		}
	}
	sortHosts(out)
	return out
}

func sortHosts(l []*model.VirtualHost) {
	slices.SortFunc(l, func(a, b *model.VirtualHost) int { return cmp.Compare(a.Name, b.Name) })
}

// catchAll answers for hosts that the mesh does not know.
func (s *Scope) catchAll() *model.VirtualHost {
	v := &model.VirtualHost{Name: "block_all", Domains: []string{"*"}, BlackHole: true, IncludeAttempt: true}
	if s.settings().AllowAny {
		v.Name, v.BlackHole, v.AllowAny = "allow_any", false, true
	}
	return v
}

// portDomains writes domains for a table that serves all ports: with the port,
// and without it for port 80.
func portDomains(list []string, port uint16) []string {
	var out []string
	for _, d := range list {
		if port == 80 {
			out = append(out, d)
		}
		out = append(out, hostPort(d, port))
	}
	return out
}

// serviceTable is the route table of one service port, for listeners that are
// this service's alone: whatever host the request names.
func (s *Scope) serviceTable(svc *service, port uint16) *model.HTTPTable {
	t := &model.HTTPTable{Name: hostPort(svc.Host, port)}
	if v := s.virtualHost(port, svc.Host); v != nil {
		c := *v
		c.Domains = []string{"*"}
		t.Hosts = []*model.VirtualHost{&c}
	}
	return t
}

// proxyTable serves absolute-form requests for all ports: domains carry the port.
func (s *Scope) proxyTable() *model.HTTPTable {
	t := &model.HTTPTable{Name: "http_proxy", WithPort: true}
	ports := portsOf(s.m.visible(s.who.eyes()))
	if !slices.Contains(ports, 80) {
		ports = append(ports, 80)
	}
	for _, p := range ports {
		for _, v := range s.virtualHosts(p) {
			c := *v
			c.Domains = portDomains(v.Domains, p)
			t.Hosts = append(t.Hosts, &c)
		}
	}
	sortHosts(t.Hosts)
	t.Hosts = append(t.Hosts, s.catchAll())
	return t
}
