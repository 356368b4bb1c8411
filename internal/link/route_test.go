package link

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/model"
)

func TestOperation(t *testing.T) {
	r := &routeSet{RouteSet: &model.RouteSet{Name: "vs"}}
	one := []model.RouteBackend{{Cluster: clusterName(8080, "v1", "orders.shop.svc.cluster.local")}}
	for _, c := range []struct {
		path     *model.StringMatch
		backends []model.RouteBackend
		want     string
	}{
		{nil, one, "orders.shop.svc.cluster.local:8080/*"},
		{&model.StringMatch{Kind: model.Prefix, Value: "/api"}, one, "orders.shop.svc.cluster.local:8080/api*"},
		{&model.StringMatch{Kind: model.Exact, Value: "/x"}, append(one, one...), "vs:80/x"},
		{&model.StringMatch{Kind: model.Regex, Value: "/a.+"}, nil, "vs:80/a.+"},
	} {
		if got := operation(r, &model.Route{Match: model.HTTPMatch{Path: c.path}, Backends: c.backends}, 80); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestUnder(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"*", "a", true}, {"*", "*.b", true}, {"a.b", "a.b", true}, {"a.b", "c.b", false},
		{"*.b", "a.b", true}, {"*.b", "b", false}, {"*.b", ".b", false}, {"*.b", "x.a.b", true},
		{"*.b", "*.a.b", true}, {"*.a.b", "*.b", false}, {"*.b", "*", false}, {"*.b", "*.b", true}, {"*.b", "ab", false},
	} {
		if got := under(c.a, c.b); got != c.want {
			t.Errorf("under(%q, %q) = %v", c.a, c.b, got)
		}
	}
}

func TestFQDN(t *testing.T) {
	m := &Mesh{Settings: Defaults()}
	for in, want := range map[string]string{
		"Orders": "orders.shop.svc.cluster.local", "orders.shop": "orders.shop", "*": "*", "": "",
		"10.0.0.1": "10.0.0.1", "::1": "::1", "www.example.com": "www.example.com",
	} {
		if got := m.fqdn(in, "shop"); got != want {
			t.Errorf("fqdn(%q) = %q, want %q", in, got, want)
		}
	}
}
