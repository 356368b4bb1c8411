package demand

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/source"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// world is a mesh in YAML that changes at random, step by step. Names, addresses
// and ports come from small sets, so that objects meet.
type world struct {
	t     testing.TB
	r     *rand.Rand
	path  string
	step  int
	all   map[string]string // by kind and name
	doors map[string]door   // of Services and ServiceEntries, likewise
	door  door              // of the one that is made
	emits chan source.Snapshot
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, r: rand.New(rand.NewPCG(seed, 7)), path: filepath.Join(t.TempDir(), "mesh.yaml"), all: map[string]string{}, doors: map[string]door{}, emits: make(chan source.Snapshot, 1)}
	for range 45 {
		w.change()
	}
	w.emit()
	return w
}

// Watch implements source.Source.
func (w *world) Watch(ctx context.Context, emit func(source.Snapshot)) error {
	for {
		select {
		case s := <-w.emits:
			emit(s)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// door is how a service may be reached.
type door struct {
	hosts, addrs []string
	ports        []int
}

// emit makes the present state the source's. The host mark.mesh answers with the
// number of the step.
func (w *world) emit() {
	w.step++
	docs := []string{fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: mark, namespace: shop}
spec:
  hosts: [mark.mesh]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mark, namespace: shop}
spec:
  hosts: [mark.mesh]
  http: [{directResponse: {status: 200, body: {string: "%d"}}}]
`, w.step)}
	for _, k := range slices.Sorted(maps.Keys(w.all)) {
		docs = append(docs, w.all[k])
	}
	if err := os.WriteFile(w.path, []byte(strings.Join(docs, "\n---\n")), 0o600); err != nil {
		w.t.Fatal(err)
	}
	s, err := file.Load([]string{w.path})
	if err != nil {
		w.t.Fatal(err)
	}
	w.emits <- s
}

// yaml is the present state, for messages.
func (w *world) yaml() string {
	b, err := os.ReadFile(w.path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// change makes, replaces or removes one object, and says which.
func (w *world) change() string {
	ns := pick(w.r, "shop", "other")
	i := w.r.IntN(5)
	kinds := []struct {
		kind string
		make func(ns string, i int) string
	}{{"Service", w.service}, {"Service", w.service}, {"EndpointSlice", w.slice}, {"EndpointSlice", w.slice}, {"ServiceEntry", w.entry}, {"ServiceEntry", w.entry},
		{"VirtualService", w.routes}, {"VirtualService", w.routes}, {"DestinationRule", w.rule}, {"Sidecar", w.sidecar}}
	k := kinds[w.r.IntN(len(kinds))]
	if k.kind == "Sidecar" {
		ns, i = "shop", 0
	}
	key := fmt.Sprintf("%s %s/%d", k.kind, ns, i)
	if w.all[key] != "" && (w.r.IntN(4) == 0 || k.kind == "Sidecar") {
		delete(w.all, key)
		delete(w.doors, key)
		return key + " goes"
	}
	w.door = door{}
	w.all[key] = k.make(ns, i)
	if len(w.door.hosts) > 0 {
		w.doors[key] = w.door
	}
	return key
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// ports that services may have, and what they speak there.
var servicePorts = []string{
	"{name: http, port: 80}", "{name: http-alt, port: 8080}", "{name: tcp, port: 3306}", "{name: tls, port: 443}",
	"{name: other, port: 7000}", "{name: grpc, port: 9000}", "{name: tcp-web, port: 80}",
}

func (w *world) service(ns string, i int) string {
	v4, v6 := fmt.Sprintf("10.0.%d.%d", len(ns), i+1), fmt.Sprintf("fd00::%d:%d", len(ns), i+1)
	ips := pick(w.r, []string{v4}, []string{v4}, []string{v4, v6}, []string{v6}, []string{"None"})
	n := 1 + w.r.IntN(3)
	var ports []string
	w.door.hosts = []string{fmt.Sprintf("s%d", i), fmt.Sprintf("s%d.%s", i, ns), fmt.Sprintf("s%d.%s.svc", i, ns), fmt.Sprintf("S%d.%s.svc.cluster.local", i, ns)}
	w.door.addrs = []string{fmt.Sprintf("10.1.%d.%d", len(ns), 1+i), fmt.Sprintf("10.1.%d.%d", len(ns), 6+i), fmt.Sprintf("fd00:1::%d:%d", len(ns), 1+i)}
	if ips[0] != "None" {
		w.door.addrs = append(w.door.addrs, ips...)
	}
	seen := map[int]bool{}
	for _, p := range w.r.Perm(len(servicePorts))[:n] {
		text := servicePorts[p]
		number, _ := strconv.Atoi(strings.Trim(text[strings.Index(text, "port: ")+6:], "}"))
		if !seen[number] {
			seen[number] = true
			ports = append(ports, text)
			w.door.ports = append(w.door.ports, number)
		}
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: s%d, namespace: %s}
spec: {clusterIP: %q, clusterIPs: ["%s"], ports: [%s]}`, i, ns, ips[0], strings.Join(ips, `", "`), strings.Join(ports, ", "))
}

// slice are the endpoints of a service: one, so that the choice is no chance.
func (w *world) slice(ns string, i int) string {
	var ports []string
	for _, p := range servicePorts {
		name, port, _ := strings.Cut(strings.Trim(strings.TrimPrefix(p, "{name: "), "}"), ", port: ")
		ports = append(ports, fmt.Sprintf("{name: %s, port: %s}", name, port))
	}
	kind, addr := "IPv4", fmt.Sprintf("10.1.%d.%d", len(ns), 1+i+5*w.r.IntN(2))
	if w.r.IntN(4) == 0 {
		kind, addr = "IPv6", fmt.Sprintf("fd00:1::%d:%d", len(ns), 1+i)
	}
	return fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s%d, namespace: %s, labels: {kubernetes.io/service-name: s%d}}
addressType: %s
endpoints: [{addresses: ["%s"], conditions: {ready: true}}]
ports: [%s]`, i, ns, i, kind, addr, strings.Join(ports, ", "))
}

func (w *world) entry(ns string, i int) string {
	hosts := pick(w.r, "one.ext", "two.ext", `"*.wild.ext"`, `"*.deep.wild.ext"`, "db.ext")
	port := pick(w.r, "{number: 80, name: http, protocol: HTTP}", "{number: 443, name: tls, protocol: TLS}", "{number: 443, name: https, protocol: HTTPS}",
		"{number: 3306, name: tcp, protocol: TCP}", "{number: 8080, name: http, protocol: HTTP}", "{number: 7000, name: any}")
	rest := pick(w.r, "resolution: NONE", "resolution: NONE\n  addresses: [10.9.0.0/24]", "resolution: NONE\n  addresses: [10.9.0.7]",
		fmt.Sprintf("resolution: STATIC\n  endpoints: [{address: 10.2.0.%d}]", i+1),
		fmt.Sprintf("resolution: STATIC\n  addresses: [10.9.1.%d]\n  endpoints: [{address: 10.2.0.%d}]", i+1, i+1),
		"resolution: NONE\n  addresses: [\"fd00:9::/64\"]", fmt.Sprintf("resolution: STATIC\n  addresses: [\"fd00:9::%d\", 10.9.0.8]\n  endpoints: [{address: \"fd00:2::%d\"}]", i+1, i+1))
	if strings.Contains(hosts, "*") {
		rest = "resolution: NONE"
	}
	number, _ := strconv.Atoi(port[len("{number: "):strings.IndexByte(port, ',')])
	w.door = door{hosts: []string{strings.Replace(strings.Trim(hosts, `"`), "*", "x", 1)}, ports: []int{number},
		addrs: []string{"192.0.2.1", "10.9.0.7", fmt.Sprintf("10.9.1.%d", i+1), "10.9.0.8", "fd00:9::7", fmt.Sprintf("fd00:9::%d", i+1)}}
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e%d, namespace: %s}
spec:
  hosts: [%s]
  location: %s
  ports: [%s]
  exportTo: ["%s"]
  %s`, i, ns, hosts, pick(w.r, "MESH_EXTERNAL", "MESH_INTERNAL"), port, pick(w.r, "*", "*", "."), rest)
}

// host is one that something may be called.
func (w *world) host() string {
	return pick(w.r, fmt.Sprintf("s%d.shop.svc.cluster.local", w.r.IntN(5)), fmt.Sprintf("s%d.other.svc.cluster.local", w.r.IntN(5)),
		"one.ext", "two.ext", "x.wild.ext", "x.deep.wild.ext", "db.ext")
}

func (w *world) routes(ns string, i int) string {
	host := pick(w.r, w.host(), fmt.Sprintf("s%d", i), `"*.wild.ext"`, "stranger.ext")
	to := w.host()
	rule := pick(w.r,
		fmt.Sprintf("http: [{directResponse: {status: 418, body: {string: tea%d}}}]", i),
		fmt.Sprintf("http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: %s}}]}, {route: [{destination: {host: %s}}]}]", to, w.host()),
		fmt.Sprintf("http: [{redirect: {authority: moved%d}}]", i),
		fmt.Sprintf("http: [{fault: {abort: {percentage: {value: 100}, httpStatus: 50%d}}, route: [{destination: {host: %s}}]}]", 1+i%4, to),
		fmt.Sprintf("http: [{headers: {response: {set: {x-by: v%d}}}, route: [{destination: {host: %s}}]}]", i, to),
		fmt.Sprintf("tcp: [{match: [{port: 3306}], route: [{destination: {host: %s}}]}]", to),
		fmt.Sprintf("tls: [{match: [{port: 443, sniHosts: [%s]}], route: [{destination: {host: %s}}]}]", host, to))
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v%d, namespace: %s}
spec:
  hosts: [%s]
  exportTo: ["%s"]
  %s`, i, ns, host, pick(w.r, "*", "*", "."), rule)
}

func (w *world) rule(ns string, i int) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d%d, namespace: %s}
spec:
  host: %s
  trafficPolicy: %s`, i, ns, w.host(), pick(w.r, "{tls: {mode: DISABLE}}", "{connectionPool: {http: {maxRequestsPerConnection: 1}}}", "{loadBalancer: {simple: RANDOM}}"))
}

func (w *world) sidecar(string, int) string {
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  egress: [{hosts: [%s]}]
  outboundTrafficPolicy: {mode: %s}`, pick(w.r, `"*/*"`, `"./*"`, `"./*", "other/s1.other.svc.cluster.local"`), pick(w.r, "REGISTRY_ONLY", "ALLOW_ANY", "ALLOW_ANY"))
}

// use is something that a program does.
type use struct {
	to, host, path string
	kind           string // "http", "http2", "tcp", "tls", "dns"
}

func (u use) String() string { return fmt.Sprintf("%s to %s for %s%s", u.kind, u.to, u.host, u.path) }

// use is a random one: most are of what there is.
func (w *world) use() use {
	if len(w.doors) == 0 || w.r.IntN(3) == 0 {
		return w.anything()
	}
	d := w.doors[pick(w.r, slices.Sorted(maps.Keys(w.doors))...)]
	u := use{host: pick(w.r, d.hosts...), path: pick(w.r, "/", "/a")}
	addr, port := pick(w.r, d.addrs...), pick(w.r, d.ports...)
	switch port {
	case 443:
		u.kind = pick(w.r, "tls", "tls", "tls", "tcp", "dns")
	case 3306:
		u.kind = pick(w.r, "tcp", "tcp", "tcp", "tls", "dns")
	case 7000:
		u.kind = pick(w.r, "http", "tcp", "tls", "http2")
	default:
		u.kind = pick(w.r, "http", "http", "http2", "tcp", "dns")
	}
	switch {
	case u.kind == "tcp" || u.kind == "tls":
		u.path = ""
	case u.kind != "dns" && w.r.IntN(4) == 0:
		u.host += fmt.Sprintf(":%d", port)
	}
	u.to = netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)).String()
	return u
}

// anything may be of nobody.
func (w *world) anything() use {
	addr := pick(w.r, fmt.Sprintf("10.0.%d.%d", pick(w.r, 4, 5), 1+w.r.IntN(5)), fmt.Sprintf("10.1.%d.%d", pick(w.r, 4, 5), 1+w.r.IntN(10)),
		fmt.Sprintf("10.9.%d.%d", w.r.IntN(2), 1+w.r.IntN(8)), "192.0.2.1", "10.0.4.99", "fd00::4:99", "2001:db8::1")
	u := use{kind: pick(w.r, "http", "http", "http", "http2", "tcp", "tls", "dns"), path: pick(w.r, "/", "/a")}
	port := pick(w.r, 80, 80, 8080, 7000, 9000)
	short := fmt.Sprintf("s%d", w.r.IntN(5))
	u.host = pick(w.r, w.host(), w.host(), short, short+".other", short+".other.svc", strings.ToUpper(short)+".shop.svc.cluster.local",
		"stranger.ext", "example.com", "nobody.shop.svc.cluster.local", short+".shop.svc.cluster.local.")
	switch {
	case u.kind == "tcp":
		port, u.host, u.path = pick(w.r, 3306, 3306, 7000, 80, 443, 5432), "", ""
	case u.kind == "tls":
		port, u.path, u.host = pick(w.r, 443, 443, 7000, 3306), "", strings.TrimSuffix(u.host, ".")
	case u.kind != "dns" && w.r.IntN(8) == 0:
		u.host = netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)).String()
	}
	u.to = netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)).String()
	return u
}
