package demand

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/source"
)

// bazaar has one of each kind of destination.
const bazaar = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, "fd00::1"], ports: [{name: http, port: 80}, {name: tcp, port: 3306}, {name: any, port: 7000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.1], conditions: {ready: true}}]
ports: [{name: http, port: 80}, {name: tcp, port: 3306}, {name: any, port: 7000}]
---
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: other}
spec: {clusterIP: None, ports: [{name: http, port: 80}, {name: tcp, port: 3306}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: peers, namespace: other, labels: {kubernetes.io/service-name: peers}}
addressType: IPv4
endpoints:
- {addresses: [10.1.0.7], conditions: {ready: true}, hostname: p-0, targetRef: {kind: Pod, name: p-0, namespace: other}}
ports: [{name: http, port: 80}, {name: tcp, port: 3306}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: shop}
spec:
  hosts: ["*.wild.ext"]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: net, namespace: shop}
spec:
  hosts: [net.ext]
  addresses: [10.9.0.0/24, "fd00:9::/64"]
  ports: [{number: 3306, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 10.2.0.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: one, namespace: shop}
spec:
  hosts: [one.ext, also.ext]
  addresses: [10.8.0.1]
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 3306, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 10.2.0.2}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - {match: [{uri: {prefix: /a}}], fault: {abort: {percentage: {value: 100}, httpStatus: 555}}, route: [{destination: {host: web}}]}
  - {headers: {response: {set: {x-by: web}}}, route: [{destination: {host: web}}]}
`

// mesh is a world that is as it is written.
func mesh(t testing.TB, yaml string) *world {
	w := &world{t: t, path: t.TempDir() + "/mesh.yaml", all: map[string]string{"": yaml}, emits: make(chan source.Snapshot, 1)}
	w.emit()
	return w
}

// Each kind of destination, by each of its names and addresses: what comes of it
// is what comes of it with everything known, and what is meant.
func TestLookups(t *testing.T) {
	w := mesh(t, bazaar)
	p := real(t, w)
	e := &ends{t: t, all: map[string]*backend{}}
	know, look := e.sidecar(p, "know", proxy.Bootstrap{}), e.sidecar(p, "look", proxy.Bootstrap{OnDemand: true})
	const web, peers = "outbound|%d||web.shop.svc.cluster.local 10.1.0.1:%[1]d", "outbound|%d||peers.other.svc.cluster.local 10.1.0.7:%[1]d"
	byHTTP := "200 " + fmt.Sprintf(web, 80) + "! web"
	var list []string
	for _, u := range []struct {
		use
		want string
	}{
		// names first: what they answer is asked for ahead
		{use{kind: "dns", host: "web"}, "10.0.0.1 fd00::1"},
		{use{kind: "dns", host: "WEB.shop.svc"}, "10.0.0.1 fd00::1"},
		{use{kind: "dns", host: "peers.other"}, "10.1.0.7 RCodeSuccess"},
		{use{kind: "dns", host: "also.ext"}, "10.8.0.1 RCodeSuccess"},
		{use{kind: "dns", host: "nobody.shop.svc.cluster.local"}, "RCodeNameError RCodeNameError"},
		// HTTP by its host, in all its forms, to its own address or any other
		{use{kind: "http", to: "10.0.0.1:80", host: "web", path: "/"}, byHTTP},
		{use{kind: "http", to: "192.0.2.1:80", host: "Web.Shop:80", path: "/"}, byHTTP},
		{use{kind: "http2", to: "10.0.0.99:80", host: "web.shop.svc", path: "/"}, byHTTP},
		{use{kind: "http", to: "[fd00::1]:80", host: "web.shop.svc.cluster.local.", path: "/"}, byHTTP},
		{use{kind: "http", to: "10.0.0.1:80", host: "10.0.0.1", path: "/"}, byHTTP},
		{use{kind: "http", to: "[2001:db8::1]:80", host: "[fd00::1]", path: "/"}, byHTTP},
		{use{kind: "http", to: "10.0.0.1:80", host: "web", path: "/a"}, "555 fault filter abort 555 FI"},
		{use{kind: "http", to: "192.0.2.1:80", host: "a.b.wild.ext", path: "/"}, "200 outbound|80||*.wild.ext 192.0.2.1:80!"},
		{use{kind: "http", to: "10.1.0.7:80", host: "peers.other", path: "/"}, "200 " + fmt.Sprintf(peers, 80) + "!"},
		{use{kind: "http", to: "10.1.0.7:80", host: "p-0.peers.other.svc.cluster.local", path: "/"}, "200 " + fmt.Sprintf(peers, 80) + "!"},
		{use{kind: "http", to: "10.0.0.1:80", host: "stranger.ext", path: "/"}, "200 PassthroughCluster 10.0.0.1:80!"},
		{use{kind: "http", to: "10.0.0.1:7000", host: "whatever", path: "/"}, "200 " + fmt.Sprintf(web, 7000) + "! web"},
		// TCP by address: services, replicas, ranges, nobody
		{use{kind: "tcp", to: "10.0.0.1:3306"}, fmt.Sprintf(web, 3306)},
		{use{kind: "tcp", to: "[fd00::1]:3306"}, fmt.Sprintf(web, 3306)},
		{use{kind: "tcp", to: "10.0.0.1:7000"}, fmt.Sprintf(web, 7000)},
		{use{kind: "tcp", to: "10.1.0.7:3306"}, fmt.Sprintf(peers, 3306)},
		{use{kind: "tcp", to: "10.1.0.1:3306"}, "PassthroughCluster 10.1.0.1:3306"},
		{use{kind: "tcp", to: "10.9.0.200:3306"}, "outbound|3306||net.ext 10.2.0.1:3306"},
		{use{kind: "tcp", to: "[fd00:9::77]:3306"}, "outbound|3306||net.ext 10.2.0.1:3306"},
		{use{kind: "tcp", to: "10.9.1.1:3306"}, "PassthroughCluster 10.9.1.1:3306"},
		{use{kind: "tcp", to: "10.8.0.1:3306"}, "outbound|3306||also.ext 10.2.0.2:3306"},
		// TLS by server name
		{use{kind: "tls", to: "192.0.2.1:443", host: "x.wild.ext"}, "outbound|443||*.wild.ext 192.0.2.1:443"},
		{use{kind: "tls", to: "10.8.0.1:443", host: "also.ext"}, "outbound|443||also.ext 10.2.0.2:443"},
		{use{kind: "tls", to: "192.0.2.1:443", host: "stranger.ext"}, "PassthroughCluster 192.0.2.1:443"},
	} {
		// A cold one is asked first: it has no other way than to look up.
		if got := look.try(u.use); got != u.want {
			t.Errorf("%s: %q, want %q", u.use, got, u.want)
		}
		if got := know.try(u.use); got != u.want {
			t.Errorf("%s: with everything known %q, want %q", u.use, got, u.want)
		}
	}
	tables := map[*conf.RouteTable]int{} // all names of a host lead to one answer
	for q, a := range look.Learnt().All() {
		if a.Routes != nil && strings.HasPrefix(q.Name, "0.0.0.0_80/") && strings.Contains(a.Routes.Name, "web") {
			tables[a.Routes]++
			list = append(list, q.Name)
		}
	}
	if len(tables) != 1 || slices.Max(slices.Collect(maps.Values(tables))) < 5 {
		t.Errorf("%d tables for %q", len(tables), list)
	}

	// What is known by whatever name follows its service.
	w.all[""] = strings.NewReplacer("10.0.0.1,", "10.0.0.2,", "clusterIP: 10.0.0.1", "clusterIP: 10.0.0.2").Replace(bazaar)
	w.emit()
	for _, s := range []*sidecar{look, know} {
		s.wait("a name leads elsewhere", func() bool { return s.resolve("WEB.shop.svc") == "10.0.0.2 fd00::1" })
		s.wait("an address is nobody's now", func() bool { return s.tcp("10.0.0.1:3306") == "PassthroughCluster 10.0.0.1:3306" })
		s.wait("and another is", func() bool { return s.tcp("10.0.0.2:3306") == fmt.Sprintf(web, 3306) })
	}
}

// A name that was asked for is had before its connections come: they find what
// they need, and wait for nothing.
func TestPrefetch(t *testing.T) {
	p := real(t, mesh(t, bazaar))
	e := &ends{t: t, all: map[string]*backend{}}
	s := e.sidecar(p, "look", proxy.Bootstrap{OnDemand: true})
	s.wait("the ports' own listeners", func() bool { return s.Learnt().OfPort(80) != nil })
	s.is("a name", s.resolve("web"), "10.0.0.1 fd00::1")
	for _, q := range []conf.Lookup{{Kind: conf.LookupListener, Name: "10.0.0.1_3306"}, {Kind: conf.LookupListener, Name: "fd00::1_3306"}, {Kind: conf.LookupRoutes, Name: "0.0.0.0_80/web.shop.svc.cluster.local"}} {
		s.wait(q.Name+" is had", func() bool { return s.Learnt().Find(q) != nil })
	}
	before := s.metric("tulle_proxy_lookups_waited_total")
	s.is("an address", s.tcp("10.0.0.1:3306"), "outbound|3306||web.shop.svc.cluster.local 10.1.0.1:3306")
	if n := s.metric("tulle_proxy_lookups_waited_total"); n != before {
		t.Errorf("%d had to wait", n-before)
	}
}
