package control

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tulle-mesh/tulle/internal/ext"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/link/linktest"
	"github.com/tulle-mesh/tulle/internal/lower"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/xds"
	"github.com/tulle-mesh/tulle/internal/xds/xdstest"
)

// questions that clients of linktest's worlds may have.
func questions() []ask {
	var out []ask
	for _, port := range []int{80, 8080, 443, 5432} {
		for _, a := range []string{"0.0.0.0", "10.0.0.1", "10.0.0.2", "10.1.0.2", "10.0.0.77", "fd00::1"} {
			out = append(out, ask{lower.ListenerType, fmt.Sprintf("%s_%d", a, port)})
		}
		for _, h := range []string{"s1", "s2.b", "s1.a.svc.cluster.local", "s2.b.svc.cluster.local", "out.example", "y.example", "lost.example", "10.0.0.1"} {
			out = append(out, ask{lower.RouteType, fmt.Sprintf("0.0.0.0_%d/%s", port, h)}, ask{lower.ListenerType, fmt.Sprintf("0.0.0.0_%d/%s", port, h)})
		}
	}
	for _, h := range []string{"s1", "s2.b", "s1.a.svc.cluster.local", "out.example", "y.example", "w1.s1.a.svc.cluster.local"} {
		out = append(out, ask{ext.HostType, h})
	}
	return append(out, ask{lower.RouteType, "nonsense"})
}

// What a client on demand holds, kept up to date while it asks for more and for
// less and the mesh changes, is what it would be anew; and what its answers name
// it holds as wildcard clients do.
func TestDemandStepsAreLikeAnew(t *testing.T) {
	var clients []model.Client
	for _, c := range linktest.Clients() {
		if c.Role == model.Sidecar && c.Capture == model.Redirected {
			clients = append(clients, c)
		}
	}
	all := questions()
	for seed := range *seeds {
		r := rand.New(rand.NewPCG(seed, 7))
		w := linktest.New(seed, int(1+seed%4))
		mesh := link.New(link.Defaults(), nil)
		m := newMemo(mesh)
		sessions := make([]*session, len(clients))
		mesh.Book().Do(func() {
			for i := range clients {
				key := fmt.Sprint(i)
				sessions[i] = &session{at: seat{key: key}, own: true, demand: true}
				m.setClient(key, &clients[i])
			}
		})
		for step := range *steps {
			what := w.Step()
			f := w.Fragment()
			if !mesh.Set(f) {
				t.Fatal("other settings")
			}
			fresh := newMemo(link.New(link.Defaults(), nil))
			fresh.mesh.Set(f)
			for i, s := range sessions {
				for range r.IntN(4) {
					if q := all[r.IntN(len(all))]; slices.Contains(s.asks, q) {
						s.asks = slices.DeleteFunc(slices.Clone(s.asks), func(x ask) bool { return x == q })
					} else {
						s.asks = append(slices.Clone(s.asks), q)
					}
				}
				if r.IntN(4) == 0 {
					continue
				}
				got, want, wild := setOf(m, s, &clients[i]), setOf(fresh, s, &clients[i]), setOf(fresh, &session{at: s.at, own: true}, &clients[i])
				if !got.Same(want) || !want.Same(got) {
					t.Fatalf("seed %d, step %d (%s), client %d: %s", seed, step, what, i, differ(got, want))
				}
				for _, url := range []string{lower.ClusterType, lower.EndpointType} {
					for _, n := range got.Names(url) {
						if x := wild.Find(url, n); x == nil || string(x.Body) != string(got.Find(url, n).Body) {
							t.Fatalf("seed %d, step %d (%s), client %d: %s is not what wildcard clients have", seed, step, what, i, n)
						}
					}
				}
			}
			if step%20 == 19 {
				mesh.Book().Do(func() { mesh.Sweep() })
			}
		}
	}
}

func setOf(m *memo, s *session, c *model.Client) (set *xds.Set) {
	m.mesh.Book().Do(func() {
		m.setClient(s.at.key, c)
		m.asked.Set(s, s.asks)
		set = m.made.Get(s).set
	})
	return set
}

func differ(got, want *xds.Set) string {
	for _, url := range append(slices.Clone(lower.Types), ext.HostType, ext.IndexType) {
		for _, n := range append(got.Names(url), want.Names(url)...) {
			a, b := got.Find(url, n), want.Find(url, n)
			if a == nil || b == nil || a.Name != b.Name || a.Version != b.Version {
				return fmt.Sprintf("%s: got %v, want %v", n, a, b)
			}
		}
	}
	return "?"
}

const twoMore = `
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.0.0.2, selector: {app: db}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: shop}
spec: {hosts: ["*.pay.example"], resolution: NONE, location: MESH_EXTERNAL, ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]}
`

// demander is a stream of a client on demand, which keeps what it is given.
type demander struct {
	*xdstest.Stream
	t     *testing.T
	held  map[[2]string]string // version by type URL and name, or alias
	leads map[[2]string]string // of aliases
	gone  map[[2]string]bool
	order []string // types, as they came
}

func (r *running) demands(reg *Registration) *demander {
	n := &corepb.Node{Id: "sidecar~127.0.0.1~" + reg.Name + ".shop~shop.svc.cluster.local", UserAgentName: proxyAgent, ClientFeatures: []string{ext.Demand}}
	return &demander{r.delta(reg.Token, n), r.t, map[[2]string]string{}, map[[2]string]string{}, map[[2]string]bool{}, nil}
}

// until takes responses until cond holds.
func (d *demander) until(cond func() bool) {
	d.t.Helper()
	for !cond() {
		r, err := d.Next()
		ok(d.t, err)
		d.order = append(d.order, r.Type)
		for n, v := range r.Versions {
			for _, name := range append([]string{n}, r.Aliases[n]...) {
				d.leads[[2]string{r.Type, name}] = n
				d.held[[2]string{r.Type, name}] = v
				delete(d.gone, [2]string{r.Type, name})
			}
		}
		for _, n := range r.Removed {
			for k := range d.held {
				if k[0] == r.Type && (k[1] == n || d.leads[k] == n) {
					delete(d.held, k)
				}
			}
			d.gone[[2]string{r.Type, n}] = true
		}
		ok(d.t, d.Answer(r, ""))
	}
}

func (d *demander) has(url string, names ...string) func() bool {
	return func() bool {
		return !slices.ContainsFunc(names, func(n string) bool { return d.held[[2]string{url, n}] == "" })
	}
}

func (d *demander) lacks(url, name string) func() bool {
	return func() bool { return d.gone[[2]string{url, name}] }
}

// The contract, as one client lives it.
func TestDemand(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop + twoMore})
	reg := r.register(WorkloadSpec{Namespace: "shop", Deployment: "users", Redirected: true})
	d := r.demands(reg)
	ok(t, d.Subscribe(ext.IndexType, "", ext.IndexName))
	d.until(d.has(ext.IndexType, ext.IndexName))
	for _, url := range []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType} {
		ok(t, d.Subscribe(url, "", "*"))
	}
	d.until(d.has(xds.ListenerType, "virtualOutbound", "virtualInbound"))
	if n := len(d.held); n > 16 {
		t.Errorf("%d resources before the first question: %v", n, d.held)
	}
	d.until(func() bool { return slices.Contains(d.order, xds.RouteType) })
	// A closure comes in order, in one go, and once.
	d.order = nil
	ok(t, d.Subscribe(xds.ListenerType, "", "10.0.0.2_5432", "0.0.0.0_5432"))
	d.until(func() bool {
		return d.has(xds.ListenerType, "10.0.0.2_5432")() && d.lacks(xds.ListenerType, "0.0.0.0_5432")() && d.has(xds.EndpointType, "outbound|5432||db.shop.svc.cluster.local")()
	})
	if !slices.Equal(d.order, []string{xds.ClusterType, xds.EndpointType, xds.ListenerType}) {
		t.Errorf("a closure came as %v", d.order)
	}
	// Several names lead to one resource.
	const canonical = "0.0.0.0_80/orders.shop.svc.cluster.local"
	ok(t, d.Subscribe(xds.ListenerType, "", "0.0.0.0_80"))
	ok(t, d.Subscribe(xds.RouteType, "", "0.0.0.0_80/orders"))
	d.until(d.has(xds.RouteType, canonical, "0.0.0.0_80/orders", "80"))
	ok(t, d.Subscribe(xds.RouteType, "", "0.0.0.0_80/orders.shop", "0.0.0.0_80/nobody"))
	d.until(d.has(xds.RouteType, "0.0.0.0_80/orders.shop"))
	d.until(d.lacks(xds.RouteType, "0.0.0.0_80/nobody"))
	ok(t, d.Subscribe(xds.RouteType, "", "0.0.0.0_80/a.pay.example"))
	ok(t, d.Subscribe(xds.ListenerType, "", "0.0.0.0_443", "0.0.0.0_443/b.pay.example"))
	d.until(d.has(xds.RouteType, "0.0.0.0_80/a.pay.example", "0.0.0.0_80/*.pay.example"))
	d.until(d.has(xds.ListenerType, "0.0.0.0_443/b.pay.example", "0.0.0.0_443/*.pay.example"))
	ok(t, d.Subscribe(ext.HostType, "", "orders", "nobody.shop"))
	d.until(d.has(ext.HostType, "orders", "orders.shop.svc.cluster.local"))
	d.until(d.lacks(ext.HostType, "nobody.shop"))

	// Who was told "no such" is told when it comes to be, and when it goes.
	r.write("nobody.yaml", `{apiVersion: v1, kind: Service, metadata: {name: nobody, namespace: shop}, spec: {clusterIP: 10.0.0.3, ports: [{name: http, port: 80}]}}`)
	d.until(d.has(xds.RouteType, "0.0.0.0_80/nobody"))
	d.until(d.has(ext.HostType, "nobody.shop"))
	d.until(d.has(xds.EndpointType, "outbound|80||nobody.shop.svc.cluster.local"))
	r.write("nobody.yaml", "")
	d.until(d.lacks(xds.RouteType, "0.0.0.0_80/nobody"))
	d.until(d.lacks(xds.ClusterType, "outbound|80||nobody.shop.svc.cluster.local"))

	// What no name leads to any more is taken back, what it named too.
	ok(t, d.Leave(xds.RouteType, "0.0.0.0_80/orders"))
	ok(t, d.Leave(xds.RouteType, "0.0.0.0_80/orders.shop"))
	d.until(d.lacks(xds.RouteType, canonical))
	d.until(d.lacks(xds.ClusterType, "outbound|80||orders.shop.svc.cluster.local"))
	d.until(d.lacks(xds.EndpointType, "outbound|80||orders.shop.svc.cluster.local"))

	// Who comes back with all that it had is told what differs.
	back := r.demands(reg)
	ok(t, back.Subscribe(ext.IndexType, "", ext.IndexName))
	back.until(back.has(ext.IndexType, ext.IndexName))
	back.order = nil
	for _, url := range []string{xds.ClusterType, xds.EndpointType, xds.ListenerType, xds.RouteType, ext.HostType} {
		known, names := map[string]string{}, []string{"*"}
		for k, v := range d.held {
			if k[0] == url {
				known[k[1]] = v
				if _, question := ext.ParseLookup(k[1]); question || url == ext.HostType {
					names = append(names, k[1])
				}
			}
		}
		if url == xds.RouteType {
			known["0.0.0.0_80/a.pay.example"] = "old"
			names = append(names, "0.0.0.0_80/orders")
		}
		if url == ext.HostType {
			names = slices.DeleteFunc(names, func(n string) bool { return n == "*" })
		}
		ok(t, back.Come(url, known, names...))
	}
	back.until(back.has(xds.RouteType, "0.0.0.0_80/orders", "0.0.0.0_80/a.pay.example", canonical))
	back.until(back.has(xds.EndpointType, "outbound|80||orders.shop.svc.cluster.local"))
	for k := range back.held {
		if d.held[k] == back.held[k] && k != [2]string{ext.IndexType, ext.IndexName} && k[1] != "0.0.0.0_80/*.pay.example" && k[1] != "0.0.0.0_80/a.pay.example" {
			t.Errorf("%v was sent again", k)
		}
	}
}

// Who may not is served as ever, and told that there is no index.
func TestDemandIsForSidecarsThatCapture(t *testing.T) {
	r := run(t, map[string]string{"shop.yaml": shop})
	for name, spec := range map[string]WorkloadSpec{
		"ports":   {Namespace: "shop", Deployment: "users"},
		"gateway": {Namespace: "shop", Account: "gw", Gateway: true, Redirected: true},
	} {
		reg := r.register(spec)
		n := &corepb.Node{Id: map[string]string{"ports": "sidecar", "gateway": "router"}[name] + "~127.0.0.1~" + reg.Name + ".shop~x", UserAgentName: proxyAgent, ClientFeatures: []string{ext.Demand}}
		d := &demander{r.delta(reg.Token, n), t, map[[2]string]string{}, map[[2]string]string{}, map[[2]string]bool{}, nil}
		ok(t, d.Subscribe(ext.IndexType, "", ext.IndexName))
		d.until(d.lacks(ext.IndexType, ext.IndexName))
		ok(t, d.Subscribe(xds.ListenerType, "", "*"))
		if name == "ports" {
			d.until(d.has(xds.ListenerType, "http_proxy"))
		}
	}
}
