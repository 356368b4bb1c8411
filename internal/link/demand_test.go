package link_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/link/linktest"
	"github.com/tulle-mesh/tulle/internal/model"
)

// The index excludes nothing that a View has: no address with a listener, no
// port with one, no domain, no server name.
func TestIndexExcludesNothing(t *testing.T) {
	for seed := range uint64(15) {
		w := linktest.New(seed, 1+int(seed%5))
		for step := range 30 {
			w.Step()
			mesh, _ := link.Link(w.Fragment(), link.Defaults())
			var x *ext.Index
			for _, c := range linktest.Clients() {
				if c.Role != model.Sidecar || c.Capture != model.Redirected {
					continue
				}
				v := mesh.View(c)
				mesh.Book().Do(func() { x = mesh.Scope(c).Index() })
				for _, o := range v.Outbound {
					p, listed := x.Port(o.Port)
					switch {
					case !o.Address.IsUnspecified() && !x.Holds(o.Address):
						t.Fatalf("seed %d, step %d: %s is not held", seed, step, o.Address)
					case o.Address.IsUnspecified() && !listed && !allRanges(x, o):
						t.Fatalf("seed %d, step %d: port %d is not listed", seed, step, o.Port)
					case o.Address.IsUnspecified() && o.Table != "" && !p.ByHost:
						t.Fatalf("seed %d, step %d: port %d is not by host", seed, step, o.Port)
					}
					for _, r := range o.TCP {
						for _, n := range r.SNI {
							if o.Address.IsUnspecified() && len(r.Subnets) == 0 && !(p.BySNI && x.MayName(under(n))) {
								t.Fatalf("seed %d, step %d: server name %s of %s is excluded", seed, step, n, o.Name)
							}
						}
					}
				}
				for _, table := range v.HTTP {
					for _, h := range table.Hosts {
						for _, d := range h.Domains {
							if d != "*" && !x.MayName(under(d)) {
								t.Fatalf("seed %d, step %d: domain %s of %s is excluded", seed, step, d, table.Name)
							}
						}
					}
				}
			}
		}
	}
}

// allRanges reports whether a port's listener has nothing but ranges, all held.
func allRanges(x *ext.Index, o *model.Outbound) bool {
	return o.Table == "" && !slices.ContainsFunc(o.TCP, func(r *model.TCPRoute) bool {
		return len(r.Subnets) == 0 || slices.ContainsFunc(r.Subnets, func(p netip.Prefix) bool { return !x.Holds(p.Addr()) })
	})
}

// under a wildcard is what somebody may ask for.
func under(d string) string {
	if d[0] == '*' {
		return "a-name" + d[1:]
	}
	return d
}

// connection is what a client does.
type connection struct {
	to   netip.AddrPort
	host string // of a request
	sni  string // of TLS
}

// chosen is what a connection gets: routes of L4, a virtual host, or nothing of
// the mesh's.
type chosen struct {
	tcp  []model.RouteBackend
	host *model.VirtualHost
	none bool
}

// whole decides by everything that a client sees.
func whole(v *model.View, c connection) chosen {
	listeners := map[string]*model.Outbound{}
	for _, o := range v.Outbound {
		listeners[o.Name] = o
	}
	o := listeners[ext.AddressListener(c.to)]
	if o == nil {
		if o = listeners[ext.PortListener(c.to.Port())]; o == nil {
			return chosen{none: true}
		}
	}
	var table *model.HTTPTable
	for _, t := range v.HTTP {
		if t.Name == o.Table {
			table = t
		}
	}
	return within(o, table, c)
}

// within decides by one listener and its table.
func within(o *model.Outbound, table *model.HTTPTable, c connection) chosen {
	best := netip.Prefix{}
	for _, r := range o.TCP {
		for _, p := range r.Subnets {
			if p.Contains(c.to.Addr()) && (!best.IsValid() || p.Bits() > best.Bits()) {
				best = p
			}
		}
	}
	in := func(r *model.TCPRoute) bool {
		return !best.IsValid() && len(r.Subnets) == 0 || best.IsValid() && slices.Contains(r.Subnets, best)
	}
	if !best.IsValid() && table != nil && c.sni == "" && c.host != "" {
		return chosen{host: domain(table, c.host)}
	}
	for _, name := range wildcards(c.sni) {
		for _, r := range o.TCP {
			if in(r) && slices.Contains(r.SNI, name) {
				return chosen{tcp: r.Backends}
			}
		}
	}
	for _, r := range o.TCP {
		if in(r) && len(r.SNI) == 0 {
			return chosen{tcp: r.Backends}
		}
	}
	for _, r := range o.TCP {
		if len(r.Subnets) == 0 && len(r.SNI) == 0 {
			return chosen{tcp: r.Backends}
		}
	}
	return chosen{none: true}
}

// wildcards are a name and what may stand for it, longest first.
func wildcards(name string) []string {
	if name == "" {
		return nil
	}
	out := []string{name}
	for i := range len(name) {
		if name[i] == '.' {
			out = append(out, "*"+name[i:])
		}
	}
	return append(out, "*")
}

func domain(t *model.HTTPTable, host string) *model.VirtualHost {
	for _, name := range wildcards(host) {
		for _, h := range t.Hosts {
			if slices.Contains(h.Domains, name) {
				return h
			}
		}
	}
	return nil
}

// asking decides by the index and what it asks for.
func asking(s *link.Scope, x *ext.Index, c connection) chosen {
	p, listed := x.Port(c.to.Port())
	find := func(name string) *model.View {
		l, ok := ext.ParseLookup(name)
		if !ok {
			panic(name)
		}
		_, v := s.ListenerFor(l)
		if ports, _ := s.Always(); v == nil && slices.Contains(ports, l.Port) {
			if p := s.PortView(l.Port); len(p.Outbound) > 0 && p.Outbound[0].Name == name {
				return p
			}
		}
		return v
	}
	var v *model.View
	if x.Holds(c.to.Addr()) {
		v = find(ext.AddressListener(c.to))
	}
	if v == nil && listed {
		v = find(ext.PortListener(p.Number))
	}
	if v == nil {
		return chosen{none: true}
	}
	o := v.Outbound[0]
	var table *model.HTTPTable
	if len(v.HTTP) > 0 {
		table = v.HTTP[0]
	}
	if o.Name != ext.PortListener(p.Number) {
		return within(o, table, c)
	}
	if table != nil && c.sni == "" && c.host != "" {
		if x.MayName(c.host) {
			if _, r := s.RouteFor(ext.Lookup{Port: p.Number, Host: c.host}); r != nil {
				return chosen{host: domain(r.HTTP[0], c.host)}
			}
		}
		return chosen{host: domain(table, c.host)}
	}
	if p.BySNI && c.sni != "" && x.MayName(c.sni) {
		if n := find(ext.NamedListener(p.Number, c.sni)); n != nil {
			return chosen{tcp: n.Outbound[0].TCP[0].Backends}
		}
	}
	return within(o, table, c)
}

// Wildcard is the judge: whatever a client does, it gets by asking what it would
// get by holding everything, while objects change.
func TestAskingIsLikeHolding(t *testing.T) {
	names := []string{
		"s1", "s2.b", "s1.a", "s3.c.svc", "s1.a.svc.cluster.local", "s2.b.svc.cluster.local", "s2.b.svc.cluster.local.", "s4.istio-system.svc.cluster.local",
		"out.example", "x.out.example", "y.example", "lost.example", "elsewhere.test", "10.0.0.1", "10.9.9.9", "w1.s1.a.svc.cluster.local", "w2.s3",
	}
	var addresses []netip.Addr
	for _, a := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.77", "10.1.0.2", "10.1.0.200", "fd00::1", "192.0.2.9"} {
		addresses = append(addresses, netip.MustParseAddr(a))
	}
	for seed := range uint64(8) {
		w := linktest.New(seed, 1+int(seed%5))
		mesh := link.New(link.Defaults(), nil)
		for step := range 25 {
			what := w.Step()
			if !mesh.Set(w.Fragment()) {
				t.Fatal("other settings")
			}
			for i, c := range linktest.Clients() {
				if c.Role != model.Sidecar || c.Capture != model.Redirected {
					continue
				}
				v := mesh.View(c)
				mesh.Book().Do(func() {
					s := mesh.Scope(c)
					x := s.Index()
					for _, a := range addresses {
						for _, port := range []uint16{80, 8080, 443, 5432, 9999} {
							to := netip.AddrPortFrom(a, port)
							list := []connection{{to: to}}
							for _, n := range names {
								list = append(list, connection{to: to, host: n}, connection{to: to, sni: n})
							}
							for _, c := range list {
								if got, want := asking(s, x, c), whole(v, c); !reflect.DeepEqual(got, want) {
									t.Fatalf("seed %d, step %d (%.60s), client %d, %+v:\n got %+v %+v\nwant %+v %+v", seed, step, what, i, c, got, got.host, want, want.host)
								}
							}
						}
					}
				})
			}
		}
	}
}
