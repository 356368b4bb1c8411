package link

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/tulle-mesh/tulle/internal/model"
)

// bigMesh has services in namespaces, each with a route set, a destination rule
// with two subsets and some workloads.
func bigMesh(services, perService int) model.Fragment {
	var f model.Fragment
	for i := range services {
		ns, name := fmt.Sprintf("ns%d", i/20), fmt.Sprintf("svc%d", i)
		o := func(kind string) model.Origin { return model.Origin{Kind: kind, Namespace: ns, Name: name} }
		f.Services = append(f.Services, &model.Service{
			Name: name, Namespace: ns, Host: name + "." + ns + ".svc.cluster.local", Kubernetes: true,
			Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)},
			Ports:     []model.Port{{Number: 80, Name: "http", Protocol: model.HTTP}, {Number: 5432, Name: "tcp", Protocol: model.TCP}},
			Selector:  map[string]string{"app": name}, Origin: o("Service"),
		})
		f.RouteSets = append(f.RouteSets, &model.RouteSet{
			Name: name, Namespace: ns, Hosts: []string{name}, Gateways: []string{"mesh"}, Origin: o("VirtualService"),
			HTTP: []model.HTTPRule{{Backends: []model.Backend{{Host: name, Subset: "v1", Weight: 90}, {Host: name, Subset: "v2", Weight: 10}}}},
		})
		f.Destinations = append(f.Destinations, &model.DestinationPolicy{
			Name: name, Namespace: ns, Host: name, Origin: o("DestinationRule"),
			Subsets: []model.Subset{{Name: "v1", Labels: map[string]string{"v": "0"}}, {Name: "v2", Labels: map[string]string{"v": "1"}}},
		})
		for k := range perService {
			f.Workloads = append(f.Workloads, &model.Workload{
				Name: fmt.Sprintf("%s-%d", name, k), Namespace: ns, Address: fmt.Sprintf("10.%d.%d.%d", 1+k, i>>8, i&255),
				Labels: map[string]string{"app": name, "v": fmt.Sprint(k % 2)}, Account: name, Ready: true, MTLS: true,
			})
		}
	}
	return f
}

// Clients with one scope key share what they see; labels that no object
// selects clients by do not make a scope of their own.
func TestScopeKey(t *testing.T) {
	f := bigMesh(40, 1)
	f.Destinations[0].Selector = map[string]string{"tier": "front"}
	m, _ := Link(f, Defaults())
	c := func(ns, name string, labels ...string) model.Client {
		l := map[string]string{}
		for i := 0; i < len(labels); i += 2 {
			l[labels[i]] = labels[i+1]
		}
		return model.Client{Namespace: ns, Name: name, Labels: l}
	}
	a, b := c("ns0", "a", "app", "x"), c("ns0", "b", "app", "y", "pod-template-hash", "1")
	if m.ScopeKey(a) != m.ScopeKey(b) {
		t.Errorf("labels that nothing selects by matter: %q, %q", m.ScopeKey(a), m.ScopeKey(b))
	}
	va, vb := m.View(a), m.View(b)
	if va.Clusters[0] != vb.Clusters[0] || va.HTTP[0] != vb.HTTP[0] {
		t.Error("two clients of one scope do not share")
	}
	for _, other := range []model.Client{
		c("ns1", "a", "app", "x"), c("ns0", "a", "app", "x", "tier", "front"),
		{Namespace: "ns0", Name: "a", Network: "n2"}, {Namespace: "ns0", Name: "a", Features: []string{"f"}},
		{Namespace: "ns0", Role: model.GatewayRole},
		{Namespace: "ns0", Capture: model.PortsMode},
	} {
		if m.ScopeKey(a) == m.ScopeKey(other) {
			t.Errorf("%+v has the scope of %+v", other, a)
		}
	}
}

// Views are made by many streams at once.
func TestViewConcurrently(t *testing.T) {
	m, _ := Link(bigMesh(60, 2), Defaults())
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for k := range 6 {
				v := m.View(model.Client{Namespace: fmt.Sprintf("ns%d", (i+k)%3), Labels: map[string]string{"app": "svc1"}})
				if len(v.Clusters) != 60*6 {
					t.Errorf("%d clusters", len(v.Clusters))
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkLink(b *testing.B) {
	f := bigMesh(1000, 4)
	b.ReportAllocs()
	for b.Loop() {
		Link(f, Defaults())
	}
}

// BenchmarkFirstView is the View of the first client of a namespace.
func BenchmarkFirstView(b *testing.B) {
	m, _ := Link(bigMesh(1000, 4), Defaults())
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		m.View(model.Client{Namespace: "ns0", Network: fmt.Sprint(i)})
	}
}

// BenchmarkNextView is the View of every further client of it.
func BenchmarkNextView(b *testing.B) {
	m, _ := Link(bigMesh(1000, 4), Defaults())
	c := model.Client{Namespace: "ns0", Labels: map[string]string{"app": "svc1"}}
	m.View(c)
	b.ReportAllocs()
	for b.Loop() {
		m.View(c)
	}
}
