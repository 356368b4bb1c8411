package linktest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

// World is a mesh that changes step by step. Not for concurrent use.
type World struct {
	r *rand.Rand
	f model.Fragment
	n int // objects made, for ages
}

// New makes a World with about size objects of each kind.
func New(seed uint64, size int) *World {
	w := &World{r: rand.New(rand.NewPCG(seed, 1))}
	for range size {
		for kind := range kinds {
			w.change(kind)
		}
	}
	return w
}

// Fragment is the present mesh. Objects that no step has touched are the same
// pointers as before.
func (w *World) Fragment() model.Fragment {
	f := w.f
	f.Namespaces, f.Services, f.Workloads = slices.Clone(f.Namespaces), slices.Clone(f.Services), slices.Clone(f.Workloads)
	f.RouteSets, f.Destinations, f.Gateways = slices.Clone(f.RouteSets), slices.Clone(f.Destinations), slices.Clone(f.Gateways)
	f.MTLS, f.Authz, f.Secrets = slices.Clone(f.MTLS), slices.Clone(f.Authz), slices.Clone(f.Secrets)
	f.Sidecars, f.Requests = slices.Clone(f.Sidecars), slices.Clone(f.Requests)
	return f
}

// Step changes one object: it comes, goes or is replaced. It says which.
func (w *World) Step() string { return w.change(w.r.IntN(kinds)) }

const kinds = 11

func (w *World) change(kind int) string {
	w.n++
	switch kind {
	case 0:
		return alter(w, &w.f.Namespaces, 4, w.namespace)
	case 1:
		return alter(w, &w.f.Services, 14, w.service)
	case 2:
		return alter(w, &w.f.Workloads, 14, w.workload)
	case 3:
		return alter(w, &w.f.RouteSets, 12, w.routes)
	case 4:
		return alter(w, &w.f.Destinations, 10, w.rule)
	case 5:
		return alter(w, &w.f.Gateways, 3, w.gateway)
	case 6:
		return alter(w, &w.f.MTLS, 4, w.mtls)
	case 7:
		return alter(w, &w.f.Authz, 4, w.authz)
	case 8:
		return alter(w, &w.f.Sidecars, 4, w.sidecar)
	case 9:
		return alter(w, &w.f.Requests, 3, w.requests)
	default:
		return alter(w, &w.f.Secrets, 2, w.secret)
	}
}

func alter[T any](w *World, list *[]*T, most int, add func() *T) string {
	l := slices.Clone(*list)
	defer func() { *list = l }()
	var now *T
	switch x := w.r.IntN(8); {
	case len(l) == 0 || len(l) < most && x < 4:
		now = add()
		l = slices.Insert(l, w.r.IntN(len(l)+1), now)
	case x == 4 || len(l) > most:
		at := w.r.IntN(len(l))
		gone := l[at]
		l = slices.Delete(l, at, at+1)
		return fmt.Sprintf("without %+v", *gone)
	default:
		at := w.r.IntN(len(l))
		now = add()
		l[at] = now
	}
	return fmt.Sprintf("with %+v", *now)
}

func pick[T any](w *World, list ...T) T { return list[w.r.IntN(len(list))] }

func (w *World) odds(n int) bool { return w.r.IntN(n) == 0 }

func (w *World) ns() string { return pick(w, "a", "b", "c", "istio-system") }

// origin of an object. Names repeat, as they do in files with duplicates.
func (w *World) origin(kind, ns, name string) model.Origin {
	return model.Origin{Kind: kind, Namespace: ns, Name: name, File: "f", Line: w.n, Created: time.Unix(int64(w.r.IntN(3)), 0)}
}

func (w *World) export() []string {
	return pick(w, nil, nil, nil, nil, []string{"*"}, []string{"."}, []string{"a", "b"}, []string{"~"}, []string{".", "c"})
}

func (w *World) labels() map[string]string {
	return pick(w, map[string]string{"app": "x"}, map[string]string{"app": "y"}, map[string]string{"app": "x", "v": "1"}, map[string]string{"app": "y", "v": "2"}, map[string]string{"v": "1"})
}

func (w *World) namespace() *model.Namespace {
	n := w.ns()
	return &model.Namespace{Name: n, Labels: pick(w, nil, map[string]string{"istio-injection": "enabled"}), Origin: w.origin("Namespace", "", n)}
}

var addresses = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.1.0.1", "10.1.0.2", "10.1.0.3", "fd00::1"}

func (w *World) address() string { return addresses[w.r.IntN(len(addresses))] }

func (w *World) ports() []model.Port {
	var out []model.Port
	for range 1 + w.r.IntN(3) {
		out = append(out, model.Port{
			Number: pick[uint16](w, 80, 80, 8080, 443, 5432), Name: pick(w, "p", "q"),
			Protocol: pick(w, model.HTTP, model.HTTP, model.GRPC, model.TCP, model.TLS, model.Sniff, model.UDP, model.HTTPS),
			Target:   pick[uint16](w, 0, 8080, 9000), TargetName: pick(w, "", "web"),
		})
	}
	return out
}

func (w *World) prefix() netip.Prefix {
	a := netip.MustParseAddr(w.address())
	if w.odds(5) && a.Is4() {
		return netip.PrefixFrom(a, 24)
	}
	return netip.PrefixFrom(a, a.BitLen())
}

func (w *World) listed() []model.Endpoint {
	var out []model.Endpoint
	for range 1 + w.r.IntN(3) {
		out = append(out, model.Endpoint{
			Address: w.address(), Workload: pick(w, "", "w1", "w2"), Ready: !w.odds(4), Labels: pick(w, nil, w.labels()), Account: pick(w, "", "acc"),
			Locality: model.Locality{Zone: pick(w, "", "z1")},
		})
	}
	return out
}

func (w *World) service() *model.Service {
	ns, name := w.ns(), pick(w, "s1", "s2", "s3", "s4")
	s := &model.Service{Name: name, Namespace: ns, Ports: w.ports(), ExportTo: w.export()}
	if !w.odds(3) {
		s.Kubernetes, s.Host, s.Origin = true, name+"."+ns+".svc.cluster.local", w.origin("Service", ns, name)
		s.Selector = w.labels()
		switch w.r.IntN(6) {
		case 0:
			s.Headless, s.Resolution = true, model.Passthrough
		case 1: // an ExternalName
			s.External, s.Resolution, s.Selector = true, model.DNS, nil
			s.Endpoints = []model.Endpoint{{Address: pick(w, "s1.a.svc.cluster.local", "s2.b.svc.cluster.local", "s3.a.svc.cluster.local", "out.example"), Ready: true}}
		default:
			s.Addresses = []netip.Prefix{w.prefix()}
		}
		if !s.External && w.odds(3) {
			s.Sliced, s.Endpoints = true, w.listed()
		}
		return s
	}
	s.Host = pick(w, "out.example", "*.example", "s1.a", "s1.a.svc.cluster.local", "s2", "x.out.example", "10.0.0.1")
	s.Origin = w.origin("ServiceEntry", ns, name)
	s.Resolution = pick(w, model.Static, model.DNS, model.DNSRoundRobin, model.Passthrough)
	s.External = w.odds(2)
	s.SANs = pick(w, nil, []string{"spiffe://cluster.local/ns/a/sa/other"})
	if w.odds(2) {
		s.Addresses = []netip.Prefix{w.prefix()}
	}
	if w.odds(2) {
		s.Endpoints = w.listed()
	}
	return s
}

func (w *World) workload() *model.Workload {
	ns, name := w.ns(), pick(w, "w1", "w2", "w3")
	x := &model.Workload{
		Name: name, Namespace: ns, Address: w.address(), Labels: w.labels(), Account: pick(w, "acc", "default"), Ready: !w.odds(4),
		MTLS: w.odds(2), Injection: pick(w, model.InjectNone, model.InjectUnlessNot, model.InjectIfAsked), Ports: map[string]uint16{"web": pick[uint16](w, 8080, 8081)},
		Origin: w.origin("Pod", ns, name), Locality: model.Locality{Region: pick(w, "r", "")},
	}
	switch w.r.IntN(6) {
	case 0:
		x.Template, x.Address = true, ""
	case 1:
		x.Gateway, x.Labels = true, map[string]string{"istio": "gateway"}
	case 2:
		x.Expose = []model.Expose{{Port: 8080, Listen: netip.AddrPortFrom(netip.MustParseAddr(w.address()), 15100)}}
	}
	return x
}

func (w *World) host() string {
	return pick(w, "s1", "s2", "s3", "s1.a.svc.cluster.local", "s2.b.svc.cluster.local", "s3.c.svc.cluster.local", "out.example", "*.example", "*.a.svc.cluster.local", "*", "s1.a", "lost.example", "10.0.0.1")
}

func (w *World) backends() []model.Backend {
	var out []model.Backend
	for range 1 + w.r.IntN(2) {
		out = append(out, model.Backend{Host: pick(w, "s1", "s2.b.svc.cluster.local", "s3", "out.example", "s4.a.svc.cluster.local"), Subset: pick(w, "", "", "v1", "v2"), Port: pick[uint16](w, 0, 80, 8080), Weight: uint32(w.r.IntN(3)) * 50})
	}
	return out
}

func (w *World) routes() *model.RouteSet {
	ns, name := w.ns(), pick(w, "v1", "v2", "v3", "v4", "v5")
	o := w.origin("VirtualService", ns, name)
	s := &model.RouteSet{Name: name, Namespace: ns, Origin: o, ExportTo: w.export(), Gateways: pick(w, []string{"mesh"}, []string{"mesh"}, []string{"a/g1", "mesh"}, []string{"b/g2"})}
	for range 1 + w.r.IntN(3) {
		s.Hosts = append(s.Hosts, w.host())
	}
	if w.odds(6) {
		s.Hosts = nil // a delegate
	}
	match := func() model.HTTPMatch {
		m := model.HTTPMatch{Origin: o}
		m.Path = pick(w, nil, &model.StringMatch{Kind: model.Prefix, Value: "/"}, &model.StringMatch{Kind: model.Exact, Value: "/x"})
		m.Port = pick[uint16](w, 0, 0, 0, 80, 8080)
		m.SourceLabels = pick(w, nil, nil, nil, map[string]string{"app": "x"})
		m.SourceNamespace = pick(w, "", "", "", "a")
		m.Gateways = pick(w, nil, nil, nil, []string{"mesh"}, []string{"a/g1"})
		return m
	}
	for i := range w.r.IntN(3) {
		h := model.HTTPRule{Name: fmt.Sprint("r", i), Origin: o.At(fmt.Sprintf("spec.http[%d]", i), 0)}
		for range w.r.IntN(3) {
			h.Matches = append(h.Matches, match())
		}
		switch w.r.IntN(5) {
		case 0:
			h.Direct = &model.DirectResponse{Status: 200 + w.r.IntN(3)}
		case 1:
			h.Delegate = &model.Ref{Namespace: pick(w, "", "a"), Name: pick(w, "v1", "v2", "v3")}
		default:
			h.Backends = w.backends()
		}
		s.HTTP = append(s.HTTP, h)
	}
	l4 := func() []model.L4Match {
		if w.odds(2) {
			return nil
		}
		return []model.L4Match{{Port: pick[uint16](w, 0, 5432, 443), DestSubnets: pick(w, nil, []string{"10.0.0.0/24"}), SourceLabels: pick(w, nil, map[string]string{"v": "1"}), Origin: o}}
	}
	if w.odds(2) {
		s.TCP = append(s.TCP, model.TCPRule{Matches: l4(), Backends: w.backends(), Origin: o.At("spec.tcp[0]", 0)})
	}
	if w.odds(2) {
		t := model.TLSRule{Backends: w.backends(), Origin: o.At("spec.tls[0]", 0)}
		for _, m := range append(l4(), model.L4Match{Origin: o}) {
			m.SNI = []string{pick(w, "out.example", "x.example", "s1.a.svc.cluster.local")}
			t.Matches = append(t.Matches, m)
		}
		s.TLS = append(s.TLS, t)
	}
	return s
}

func (w *World) rule() *model.DestinationPolicy {
	ns, name := w.ns(), pick(w, "d1", "d2", "d3", "d4")
	o := w.origin("DestinationRule", ns, name)
	d := &model.DestinationPolicy{Name: name, Namespace: ns, Host: w.host(), ExportTo: w.export(), Origin: o, Selector: pick(w, nil, nil, nil, map[string]string{"v": "1"})}
	if w.odds(2) {
		d.Policy.Pool = &model.ConnectionPool{MaxConnections: uint32(1 + w.r.IntN(9)), Origin: o}
	}
	if w.odds(3) {
		d.Policy.TLS = &model.ClientTLS{Mode: pick(w, model.TLSDisable, model.TLSIstioMutual, model.TLSSimple), Origin: o}
	}
	if w.odds(3) {
		d.Policy.LoadBalancer = &model.LoadBalancer{Algorithm: pick(w, model.RoundRobin, model.OriginalDst, model.RingHash), Hash: &model.HashKey{Header: "x-user"}, Origin: o}
	}
	for _, n := range []string{"v1", "v2"} {
		if w.odds(2) {
			d.Subsets = append(d.Subsets, model.Subset{Name: n, Labels: w.labels(), Origin: o.At("spec.subsets."+n, 0)})
		}
	}
	return d
}

func (w *World) gateway() *model.Gateway {
	ns := pick(w, "a", "b")
	name := map[string]string{"a": "g1", "b": "g2"}[ns]
	o := w.origin("Gateway", ns, name)
	g := &model.Gateway{Name: name, Namespace: ns, Selector: map[string]string{"istio": "gateway"}, Origin: o}
	for i := range 1 + w.r.IntN(2) {
		s := model.Server{
			Name: "n", Port: model.Port{Number: pick[uint16](w, 80, 8080), Name: "http", Protocol: model.HTTP},
			Hosts: []string{pick(w, "*", "out.example", "*/s1.a.svc.cluster.local", "./*")}, Redirect: w.odds(4), Origin: o.At(fmt.Sprintf("spec.servers[%d]", i), 0),
		}
		if w.odds(3) {
			s.Port = model.Port{Number: 443, Name: "tls", Protocol: pick(w, model.HTTPS, model.TLS)}
			s.TLS = &model.ServerTLS{Mode: pick(w, model.ServerPassthrough, model.ServerSimple, model.ServerIstioMutual), CredentialNames: []string{"cert"}}
		}
		g.Servers = append(g.Servers, s)
	}
	return g
}

func (w *World) mtls() *model.MTLSPolicy {
	ns, name := w.ns(), pick(w, "m1", "m2", "m3")
	return &model.MTLSPolicy{
		Name: name, Namespace: ns, Selector: pick(w, nil, w.labels()), Mode: pick(w, model.MTLSUnset, model.MTLSDisable, model.MTLSStrict, model.MTLSPermissive),
		Ports: pick(w, nil, map[uint16]model.MTLSMode{8080: model.MTLSDisable}), Origin: w.origin("PeerAuthentication", ns, name),
	}
}

func (w *World) authz() *model.AuthzPolicy {
	ns, name := w.ns(), pick(w, "z1", "z2", "z3")
	o := w.origin("AuthorizationPolicy", ns, name)
	return &model.AuthzPolicy{
		Name: name, Namespace: ns, Selector: pick(w, nil, w.labels()), Action: pick(w, model.Allow, model.Deny), Origin: o,
		Rules: []model.AuthzRule{{To: []model.AuthzOperation{{Methods: []string{pick(w, "GET", "POST")}}}, Origin: o}},
	}
}

func (w *World) requests() *model.RequestPolicy {
	ns, name := w.ns(), pick(w, "q1", "q2", "q3")
	o := w.origin("RequestPolicy", ns, name)
	p := &model.RequestPolicy{Name: name, Namespace: ns, Selector: pick(w, nil, w.labels()), Origin: o}
	if w.odds(2) {
		p.Selector, p.Services = nil, []model.Ref{{Namespace: ns, Name: pick(w, "s1", "s2")}}
	}
	p.Limits = []model.RateLimit{{Requests: pick[uint32](w, 1, 9), Per: time.Second, Burst: 9, Origin: o}}
	return p
}

func (w *World) sidecar() *model.SidecarPolicy {
	ns, name := w.ns(), pick(w, "d1", "d2")
	o := w.origin("Sidecar", ns, name)
	yes := true
	p := &model.SidecarPolicy{
		Name: name, Namespace: ns, Selector: pick(w, nil, nil, w.labels()), AllowAny: pick(w, nil, &yes, new(bool)), Origin: o,
		EgressProxy: pick(w, nil, nil, &model.Backend{Host: w.host(), Port: 80}),
	}
	if w.odds(3) {
		p.Ingress = []model.SidecarIngress{{Port: model.Port{Number: 8080, Protocol: model.HTTP}, App: 9090, Loopback: w.odds(2), Origin: o}}
	}
	for range w.r.IntN(3) {
		e := model.SidecarEgress{Origin: o}
		if len(p.Egress) == 0 && w.odds(2) {
			e.Port = &model.Port{Number: pick[uint16](w, 80, 443, 8080), Protocol: model.HTTP}
			if w.odds(2) {
				e.Bind, e.Socket = "127.0.0.1", w.odds(2)
			}
		}
		for range 1 + w.r.IntN(3) {
			e.Hosts = append(e.Hosts, model.SidecarHost{Not: w.odds(4), Namespace: pick(w, "*", ".", "a", "b"), Host: pick(w, "*", "*", w.host())})
		}
		p.Egress = append(p.Egress, e)
	}
	return p
}

func (w *World) secret() *model.Secret {
	ns := w.ns()
	return &model.Secret{Name: "cert", Namespace: ns, Data: map[string]model.Sensitive{"tls.crt": []byte("not a certificate")}, Origin: w.origin("Secret", ns, "cert")}
}

// Clients are proxies of every kind.
func Clients() []model.Client {
	v4 := []netip.Addr{netip.MustParseAddr("10.1.0.1")}
	local := map[string]netip.AddrPort{}
	for i, h := range []string{"s1.a.svc.cluster.local:80", "s2.b.svc.cluster.local:8080", "out.example:443", "s3.c.svc.cluster.local:5432"} {
		local[h] = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), uint16(16000+i))
	}
	return []model.Client{
		{Namespace: "a", Name: "w1", Labels: map[string]string{"app": "x", "v": "1"}, Addresses: v4, Features: []string{"tulle.bridge"}},
		{Namespace: "b", Name: "w2", Labels: map[string]string{"app": "y"}, Addresses: v4},
		{Namespace: "c", Name: "w1", Labels: map[string]string{"v": "2"}, Ports: map[string]uint16{"web": 8080}},
		{Namespace: "istio-system", Name: "w1", Labels: map[string]string{"app": "x"}},
		{Namespace: "a", Name: "w3", Labels: map[string]string{"app": "x"}, Capture: model.PortsMode, Local: local, HTTPProxy: netip.MustParseAddrPort("127.0.0.9:15080")},
		{Namespace: "a", Name: "gw", Role: model.GatewayRole, Labels: map[string]string{"istio": "gateway"}},
		{Namespace: "b", Name: "gw", Role: model.GatewayRole, Labels: map[string]string{"istio": "gateway"}, Assumed: true, Expose: []model.Expose{{Port: 80, Listen: netip.MustParseAddrPort("127.0.0.9:8080")}}},
	}
}
