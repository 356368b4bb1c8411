package link

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Whatever readers make of user objects, Link and View neither panic nor write
// down what a proxy would refuse: names are unique, routes go somewhere.
func FuzzLink(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.txtar")
	for _, path := range paths {
		ar, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range ar.Files {
			if part.Name == "mesh" {
				f.Add(string(part.Data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<14 {
			return
		}
		frag, err := model.Parse(text)
		if err != nil || divided(frag) {
			return
		}
		m, _ := Link(frag, Defaults())
		clients := []model.Client{
			{Namespace: "shop", Name: "web-1", Labels: map[string]string{"app": "web"}},
			{Namespace: "edge", Role: model.GatewayRole, Labels: map[string]string{"istio": "gateway"}},
			{Namespace: "shop", Capture: model.PortsMode, HTTPProxy: netip.MustParseAddrPort("127.0.0.1:1")},
		}
		for _, w := range frag.Workloads {
			clients = append(clients, clientOf(w))
		}
		for _, c := range clients {
			soundView(t, m.View(c))
		}
	})
}

// divided: a name holds what divides the parts of a cluster's name. Readers
// refuse such hosts and subsets.
func divided(frag model.Fragment) bool {
	for _, s := range frag.Services {
		if strings.Contains(s.Host, "|") {
			return true
		}
	}
	for _, d := range frag.Destinations {
		for _, s := range d.Subsets {
			if strings.Contains(d.Host+s.Name, "|") {
				return true
			}
		}
	}
	return false
}

// soundView checks what must hold of every View.
func soundView(t *testing.T, v *model.View) {
	t.Helper()
	seen := map[string]bool{}
	unique := func(kind, name string) {
		if seen[kind+name] {
			t.Errorf("two %s %q", kind, name)
		}
		seen[kind+name] = true
	}
	clusters := map[string]bool{}
	for _, c := range v.Clusters {
		unique("clusters", c.Name)
		clusters[c.Name] = true
	}
	backends := func(l []model.RouteBackend) {
		for _, b := range l {
			if clusters[b.Cluster] == b.Missing {
				t.Errorf("cluster %s: missing is %v", b.Cluster, b.Missing)
			}
		}
	}
	tcp := func(l []*model.TCPRoute) {
		for _, r := range l {
			if len(r.Backends) == 0 {
				t.Error("a TCP route without a backend")
			}
			backends(r.Backends)
		}
	}
	tables := map[string]bool{}
	for _, h := range v.HTTP {
		unique("tables", h.Name)
		tables[h.Name] = true
		domains := map[string]bool{}
		for _, x := range h.Hosts {
			for _, d := range x.Domains {
				if domains[d] {
					t.Errorf("table %s has domain %s twice", h.Name, d)
				}
				domains[d] = true
			}
			for _, r := range x.Routes {
				n := 0
				for _, set := range []bool{len(r.Backends) > 0, r.Redirect != nil, r.Direct != nil} {
					if set {
						n++
					}
				}
				if n != 1 {
					t.Errorf("route %s does %d things", r.Name, n)
				}
				backends(r.Backends)
			}
		}
	}
	table := func(name string) {
		if name != "" && !tables[name] {
			t.Errorf("table %q is not there", name)
		}
	}
	for _, o := range v.Outbound {
		unique("listeners", o.Name)
		table(o.Table)
		tcp(o.TCP)
	}
	for _, p := range v.Servers {
		unique("gateway ports", p.Name)
		table(p.Table)
		for _, s := range p.Servers {
			table(s.Table)
			tcp(s.TCP)
			names := s.Hosts
			if s.TLS != nil && s.TLS.Mode == model.ServerPassthrough {
				names = nil
				for _, r := range s.TCP {
					names = append(names, r.SNI...)
				}
			}
			for _, h := range names {
				unique("server names of "+p.Name, h)
			}
		}
	}
	for _, in := range v.Inbound {
		if in.Policy.MTLS == model.MTLSUnset {
			t.Errorf("inbound %d has no mTLS mode", in.Port)
		}
	}
}
