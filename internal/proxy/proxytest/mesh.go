package proxytest

import (
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Proxy is a running proxy with one listener.
type Proxy struct {
	*proxy.Fixed
	Addr     string // where the listener "in" is
	Snapshot *conf.Snapshot
}

// Start runs a proxy until the test ends.
func Start(t testing.TB, boot *proxy.Bootstrap, s *conf.Snapshot) *Proxy {
	t.Helper()
	if boot.Concurrency == 0 {
		boot.Concurrency = 1
	}
	f, err := proxy.NewFixed(boot, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := f.Panics(); n > 0 {
			t.Errorf("%d internal errors", n)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &Proxy{Fixed: f, Snapshot: s}
	f.Publish(s)
	addrs := f.Addresses()
	if len(addrs) != 1 {
		t.Fatalf("listening on %v", addrs)
	}
	p.Addr = addrs[0]
	return p
}

// Change publishes a changed copy of the present snapshot. edit may replace
// nodes, not change them.
func (p *Proxy) Change(edit func(*conf.Snapshot)) {
	s := conf.NewSnapshot()
	maps.Copy(s.Listeners, p.Snapshot.Listeners)
	maps.Copy(s.Routes, p.Snapshot.Routes)
	maps.Copy(s.Clusters, p.Snapshot.Clusters)
	maps.Copy(s.Endpoints, p.Snapshot.Endpoints)
	maps.Copy(s.Secrets, p.Snapshot.Secrets)
	edit(s)
	p.Snapshot = s
	p.Publish(s)
}

// Requests sums istio_requests_total over the series whose labels match.
func (p *Proxy) Requests(labels string) int {
	re := regexp.MustCompile(`(?m)^istio_requests_total\{[^}]*` + labels + `[^}]*\} (\d+)`)
	n := 0
	for _, m := range re.FindAllStringSubmatch(p.Metrics(), -1) {
		v, _ := strconv.Atoi(m[1])
		n += v
	}
	return n
}

// To is the endpoints of the cluster "backend".
func To(addrs ...string) *conf.Endpoints {
	l := conf.Locality{}
	for _, a := range addrs {
		l.Endpoints = append(l.Endpoints, conf.Endpoint{Addr: netip.MustParseAddrPort(a), Weight: 1, Health: conf.Healthy})
	}
	return &conf.Endpoints{Cluster: "backend", Localities: []conf.Locality{l}}
}

// Parts are the nodes of a snapshot that tests change before it is published.
type Parts struct {
	Listener *conf.Listener
	HTTP     *conf.HTTP
	Host     *conf.VirtualHost
	Route    *conf.Route
	Cluster  *conf.Cluster
}

// Forward is a snapshot whose listener "in" on 127.0.0.1 sends everything to
// the cluster "backend".
func Forward(eps *conf.Endpoints, edit func(*Parts)) *conf.Snapshot {
	c := &conf.Cluster{Name: "backend", Type: conf.ClusterEDS, Host: "backend.shop.svc.cluster.local"}
	r := &conf.Route{Name: "all", Match: conf.Match{Kind: conf.PathPrefix, Path: "/"},
		Forward: &conf.Forward{Clusters: []conf.WeightedCluster{{Name: "backend", Weight: 1}}, Total: 1}}
	v := &conf.VirtualHost{Name: "all", Domains: []string{"*"}, Routes: []*conf.Route{r}}
	h := &conf.HTTP{StatPrefix: "in", Routes: &conf.RouteTable{Name: "inline", Hosts: []*conf.VirtualHost{v}, Any: v},
		Upgrades: []string{"websocket"}, AcceptHTTP10: true}
	l := &conf.Listener{Name: "in", Bind: true, Addresses: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Chains: []*conf.Chain{{Name: "http", HTTP: h}}}
	if edit != nil {
		edit(&Parts{l, h, v, r, c})
	}
	s := conf.NewSnapshot()
	s.Clusters["backend"], s.Listeners["in"], s.Endpoints["backend"] = c, l, eps
	return s
}

// Options of a Mesh.
type Options struct {
	NoBridge bool
	HTTP2    bool         // the called service speaks HTTP/2
	Loops    int          // of each proxy; 0: 1
	Client   func(*Parts) // edits the client sidecar's configuration
	Server   func(*Parts) // edits the server sidecar's
}

// Identities of the two sidecars.
const (
	ClientURI = "spiffe://cluster.local/ns/web/sa/front"
	ServerURI = "spiffe://cluster.local/ns/shop/sa/backend"
)

// Mesh is a call's two sidecars, with mTLS between them.
type Mesh struct {
	Client, Server *Proxy
	CA             *CA
}

// NewMesh starts the sidecars of a caller and of the program at app.
func NewMesh(t testing.TB, app string, o Options) *Mesh {
	t.Helper()
	m := &Mesh{CA: NewCA(t)}
	server := Forward(To(app), func(p *Parts) {
		p.Listener.Inbound = true
		p.Listener.Chains[0].TLS = &conf.ServerTLS{Certificates: []string{"default"}, Validation: "ROOTCA", RequireClient: true,
			ALPN: []string{"tulle1", "istio", "h2", "http/1.1"}, NoTickets: true}
		if o.HTTP2 {
			p.Cluster.Protocol = conf.UpHTTP2
		}
		if o.Server != nil {
			o.Server(p)
		}
	})
	server.Secrets = m.CA.Secrets(t, ServerURI, time.Hour)
	m.Server = Start(t, &proxy.Bootstrap{Concurrency: o.Loops, NoBridge: o.NoBridge,
		Workload: proxy.Workload{Name: "backend-v1", Namespace: "shop", Canonical: "backend", Revision: "v1"}}, server)
	eps := To(m.Server.Addr)
	eps.Localities[0].Endpoints[0].Workload = "backend-v1;shop;backend;v1;Kubernetes"
	client := Forward(eps, func(p *Parts) {
		p.Cluster.TLS = &conf.ClientTLS{Certificate: "default", Validation: "ROOTCA", SNI: "outbound_.80_._.backend.shop.svc.cluster.local",
			SANs: []conf.StringMatch{{Value: ServerURI, SAN: conf.SANURI}}, ALPN: []string{"tulle1", "istio"}, Mesh: true}
		if o.HTTP2 {
			p.Cluster.Protocol = conf.UpHTTP2
			p.Cluster.TLS.ALPN = []string{"tulle1", "istio", "h2"}
		}
		if o.Client != nil {
			o.Client(p)
		}
	})
	client.Secrets = m.CA.Secrets(t, ClientURI, time.Hour)
	m.Client = Start(t, &proxy.Bootstrap{Concurrency: o.Loops, NoBridge: o.NoBridge,
		Workload: proxy.Workload{Name: "front-v2", Namespace: "web", Canonical: "front", Revision: "v2"}}, client)
	return m
}

// Totals are the lines of istio_requests_total, for messages.
func (p *Proxy) Totals() string {
	return strings.Join(regexp.MustCompile(`(?m)^istio_requests_total.*$`).FindAllString(p.Metrics(), -1), "\n")
}
