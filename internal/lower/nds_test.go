package lower

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// TestNameTable writes names as the proxy reads them: services by their
// address, headless ones by their ready endpoints, each of which has a name.
func TestNameTable(t *testing.T) {
	service := func(name string, edit func(*model.Service)) *model.Service {
		s := &model.Service{Name: name, Namespace: "shop", Host: name + ".shop.svc.cluster.local", Kubernetes: true,
			Addresses: []netip.Prefix{netip.MustParsePrefix("240.240.0.1/32")}}
		if edit != nil {
			edit(s)
		}
		return s
	}
	headless := service("peers", func(s *model.Service) { s.Addresses, s.Headless = nil, true })
	v := &model.View{Clusters: []*model.Cluster{
		{Service: service("users", nil), Port: model.Port{Number: 80}},
		{Service: service("users", nil), Port: model.Port{Number: 81}},
		{Service: service("users", nil), Subset: "v1"},
		{Service: headless, Port: model.Port{Number: 1}, Endpoints: []model.ClusterEndpoint{
			{Address: "127.64.0.2", Ready: true, Workload: "shop/peers-2"}, {Address: "127.64.0.1", Ready: true, Workload: "shop/peers-1"},
			{Address: "127.64.0.3", Workload: "shop/peers-3"}, {Address: "a.name", Ready: true}, {Address: "unix:///x", Ready: true}}},
		{Service: headless, Port: model.Port{Number: 2}, Endpoints: []model.ClusterEndpoint{{Address: "127.64.0.1", Ready: true, Workload: "shop/peers-1"}}},
		{Service: &model.Service{Host: "*.example.com", Addresses: []netip.Prefix{netip.MustParsePrefix("fd00::1/128"), netip.MustParsePrefix("10.0.0.0/8")}}},
		{Service: &model.Service{Host: "no.address.example"}},
		{},
	}}
	r := NameTable(v)
	got, err := conf.Decode(r.Type, r.Name, r.Body)
	if err != nil {
		t.Fatal(err)
	}
	addr := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	want := &conf.NameTable{Hosts: map[string]*conf.NameInfo{
		"users.shop.svc.cluster.local":         {Addresses: addr("240.240.0.1"), Short: "users", Namespace: "shop"},
		"peers.shop.svc.cluster.local":         {Addresses: addr("127.64.0.1", "127.64.0.2"), Short: "peers", Namespace: "shop"},
		"peers-1.peers.shop.svc.cluster.local": {Addresses: addr("127.64.0.1"), Namespace: "shop"},
		"peers-2.peers.shop.svc.cluster.local": {Addresses: addr("127.64.0.2"), Namespace: "shop"},
		"*.example.com":                        {Addresses: addr("fd00::1")},
	}}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if again := NameTable(v); string(again.Body) != string(r.Body) {
		t.Error("the same view gives other bytes")
	}
}
