package link

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// bound is a route set's routes for one port, with the hosts they serve.
type bound struct {
	routes   []*model.Route
	hosts    []string   // not in the registry
	services []*service // in the registry
	origin   model.Origin
}

// bind finds the route sets that act on a port, oldest first, and then gives
// every other service its own route. Hosts that no service has act on port 80
// only, or where another host of the same set has a service.
func (s *scope) bind(port uint16) []bound {
	at := s.site(port)
	here := map[string]*service{}
	for _, svc := range s.reg.ports[port] {
		here[svc.Host] = svc
	}
	var out []bound
	owned := map[string]bool{}
	for _, r := range s.candidates(port, here) {
		b := s.split(r, here)
		b.services = slices.DeleteFunc(b.services, func(x *service) bool {
			p, _ := x.port(port)
			return !p.Protocol.IsHTTP() && p.Protocol != model.Sniff
		})
		if len(b.services) == 0 && port != 80 {
			continue
		}
		if b.routes = at.httpRoutes(r); len(b.routes) == 0 {
			continue
		}
		for _, x := range b.services {
			owned[x.Host] = true
		}
		out = append(out, b)
	}
	for _, svc := range s.reg.ports[port] {
		p, _ := svc.port(port)
		if owned[svc.Host] || !p.Protocol.IsHTTP() && p.Protocol != model.Sniff {
			continue
		}
		out = append(out, bound{routes: at.serviceRoute(svc), services: []*service{svc}, origin: svc.Origin})
	}
	return out
}

// candidates are the route sets that may say something on a port, in their
// order of precedence.
func (s *scope) candidates(port uint16, here map[string]*service) []*routeSet {
	if port == 80 {
		return s.routes
	}
	want := map[*routeSet]bool{}
	for host := range here {
		for _, r := range s.exact[host] {
			want[r] = true
		}
		if w := s.mostSpecific(host); w != nil {
			want[w] = true
		}
	}
	return s.ordered(want)
}

// mostSpecific finds the route set that a service belongs to: one that names
// it, else the one with the longest wildcard; the first of those.
func (s *scope) mostSpecific(host string) *routeSet {
	if l := s.exact[host]; len(l) > 0 && !wild(host) {
		return l[0]
	}
	for _, w := range s.wilds {
		if under(w, host) {
			return s.exact[w][0]
		}
	}
	return nil
}

// split sorts a route set's hosts into services of the port and others.
func (s *scope) split(r *routeSet, here map[string]*service) bound {
	b := bound{origin: r.Origin}
	for _, h := range r.hosts {
		if !wild(h) {
			if svc := here[h]; svc != nil {
				b.services = append(b.services, svc)
			} else {
				b.hosts = append(b.hosts, h)
			}
			continue
		}
		found := false
		for _, host := range sortedKeys(here) {
			if !under(h, host) {
				continue
			}
			found = true
			if s.mostSpecific(host) == r {
				b.services = append(b.services, here[host])
			}
		}
		if !found {
			b.hosts = append(b.hosts, h)
		}
	}
	return b
}

// table is the route table of a port. The first to claim a domain keeps it.
func (s *scope) table(port uint16) *model.HTTPTable {
	t := &model.HTTPTable{Name: strconv.Itoa(int(port))}
	t.Hosts = s.virtualHosts(port, s.bound(port), false)
	sortHosts(t.Hosts)
	t.Hosts = append(t.Hosts, s.catchAll())
	return t
}

func sortHosts(l []*model.VirtualHost) {
	slices.SortFunc(l, func(a, b *model.VirtualHost) int { return strings.Compare(a.Name, b.Name) })
}

// catchAll answers for hosts that the mesh does not know.
func (s *scope) catchAll() *model.VirtualHost {
	v := &model.VirtualHost{Name: "block_all", Domains: []string{"*"}, BlackHole: true, IncludeAttempt: true}
	if s.m.Settings.AllowAny {
		v.Name, v.BlackHole, v.AllowAny = "allow_any", false, true
	}
	return v
}

func (s *scope) virtualHosts(port uint16, list []bound, withPort bool) []*model.VirtualHost {
	d := domains{taken: map[string]bool{}, full: map[string]bool{}}
	routed := map[string]bool{} // aliases with routes of their own
	for _, b := range list {
		for _, h := range b.hosts {
			routed[h] = true
		}
		for _, svc := range b.services {
			d.full[svc.Host] = true
			for _, a := range s.reg.aliases[svc.Host] {
				d.full[a] = true
			}
		}
	}
	var out []*model.VirtualHost
	have := map[string]bool{}
	add := func(host string, all, shorts []string, routes []*model.Route) {
		name := hostPort(host, port)
		if have[name] {
			return
		}
		have[name] = true
		doms := d.claim(all, shorts)
		if withPort {
			doms = portDomains(doms, port)
		}
		if len(doms) == 0 {
			return
		}
		out = append(out, &model.VirtualHost{Name: name, Domains: doms, Routes: routes, IncludeAttempt: true})
	}
	for _, b := range list {
		for _, h := range b.hosts {
			if s.aliases[h] != "" { // another name of a service, with routes of its own
				shorts := s.m.shortNames(h, s.client.Namespace)
				add(h, append([]string{h, h + "."}, shorts...), shorts, b.routes)
				continue
			}
			add(h, []string{h}, nil, b.routes)
		}
		for _, svc := range b.services {
			all, shorts := s.m.names(svc, s.client.Namespace)
			for _, a := range s.reg.aliases[svc.Host] {
				if routed[a] {
					continue
				}
				more := s.m.shortNames(a, s.client.Namespace)
				all, shorts = append(append(all, a, a+"."), more...), append(shorts, more...)
			}
			add(svc.Host, all, shorts, b.routes)
		}
	}
	return out
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
func (s *scope) serviceTable(svc *service, port uint16) *model.HTTPTable {
	name := hostPort(svc.Host, port)
	t := &model.HTTPTable{Name: name}
	for _, v := range s.virtualHosts(port, s.bound(port), false) {
		if v.Name == name {
			c := *v
			c.Domains = []string{"*"}
			t.Hosts = []*model.VirtualHost{&c}
		}
	}
	return t
}

// proxyTable serves absolute-form requests for all ports: domains carry the port.
func (s *scope) proxyTable() *model.HTTPTable {
	t := &model.HTTPTable{Name: "http_proxy", WithPort: true}
	ports := map[uint16]bool{80: true}
	for p := range s.reg.ports {
		ports[p] = true
	}
	for p := range ports {
		t.Hosts = append(t.Hosts, s.virtualHosts(p, s.bound(p), true)...)
	}
	sortHosts(t.Hosts)
	t.Hosts = append(t.Hosts, s.catchAll())
	return t
}
