package link

import (
	"net/netip"
	"testing"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Services of files have no address; two TCP services on one port can only be
// told apart when they get one, and it must not move when others come.
func TestVirtualIPs(t *testing.T) {
	for _, from := range []string{"240.240.0.0/16", "fd00:240::/112"} {
		s := Defaults()
		s.VirtualIPs = netip.MustParsePrefix(from)
		svc := func(name string) *model.Service {
			return &model.Service{
				Name: name, Namespace: "shop", Host: name + ".shop.svc.cluster.local", Kubernetes: true,
				Ports:  []model.Port{{Number: 5432, Protocol: model.TCP}},
				Origin: model.Origin{Kind: "Service", Namespace: "shop", Name: name},
			}
		}
		f := model.Fragment{Services: []*model.Service{svc("a"), svc("b")}}
		m, _ := Link(f, s)
		a, b := m.Service("shop", "a"), m.Service("other", "b.shop")
		if a == nil || b == nil || len(a.Addresses) != 1 || len(b.Addresses) != 1 || a.Addresses[0] == b.Addresses[0] {
			t.Fatalf("%s: addresses of %+v and %+v", from, a, b)
		}
		if !s.VirtualIPs.Contains(a.Addresses[0].Addr()) {
			t.Errorf("%v is not in %s", a.Addresses[0], from)
		}
		if f.Services[0].Addresses != nil {
			t.Error("the fragment was changed")
		}
		names := map[string]bool{}
		for _, o := range m.View(model.Client{Namespace: "shop"}).Outbound {
			names[o.Name] = true
		}
		if !names[a.Addresses[0].Addr().String()+"_5432"] || !names[b.Addresses[0].Addr().String()+"_5432"] {
			t.Errorf("listeners %v", names)
		}
		for _, n := range []string{"c", "d", "0"} {
			f.Services = append(f.Services, svc(n))
		}
		m2, _ := Link(f, s)
		if got := m2.Service("shop", "a.shop.svc.cluster.local."); got.Addresses[0] != a.Addresses[0] {
			t.Errorf("a moved from %v to %v", a.Addresses, got.Addresses)
		}
	}
}

func TestPickFillsItsRange(t *testing.T) {
	from, taken := netip.MustParsePrefix("10.0.0.0/29"), map[netip.Addr]bool{}
	for range 6 {
		a, ok := pick("x", from, taken)
		if !ok || taken[a] || a == netip.MustParseAddr("10.0.0.0") || a == netip.MustParseAddr("10.0.0.7") {
			t.Fatal(a, ok)
		}
		taken[a] = true
	}
	if _, ok := pick("x", from, taken); ok {
		t.Error("an address too many")
	}
}

func TestServiceByName(t *testing.T) {
	f := model.Fragment{Services: []*model.Service{
		{Host: "a.shop.svc.cluster.local", Namespace: "shop", Kubernetes: true},
		{Host: "*.example.com", Namespace: "shop"},
		{Host: "*.b.example.com", Namespace: "shop", ExportTo: []string{"."}},
	}}
	m, _ := Link(f, Defaults())
	for _, c := range []struct{ ns, name, want string }{
		{"shop", "a", "a.shop.svc.cluster.local"},
		{"shop", "A.Shop", "a.shop.svc.cluster.local"},
		{"other", "a", ""},
		{"other", "a.shop.svc", "a.shop.svc.cluster.local"},
		{"other", "x.b.example.com", "*.example.com"},
		{"shop", "x.b.example.com", "*.b.example.com"},
		{"shop", "example.com", ""},
	} {
		got := ""
		if s := m.Service(c.ns, c.name); s != nil {
			got = s.Host
		}
		if got != c.want {
			t.Errorf("%s in %s: %q, want %q", c.name, c.ns, got, c.want)
		}
	}
}
