package feed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/url"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/feed/rpc"
)

// plane is a control plane that does what the test says. It is the feed's
// transport; everything is checked with the published Go protos.
type plane struct {
	t       *testing.T
	mu      sync.Mutex
	down    bool // streams cannot be opened
	opened  int
	streams chan *fakeStream
	ca      *fakeCA
	signs   int
}

type fakeStream struct {
	ctx  context.Context
	in   chan []byte // from the feed
	out  chan []byte // to the feed
	gone chan struct{}
	t    *testing.T
	n    int
}

func newPlane(t *testing.T) *plane { return &plane{t: t, streams: make(chan *fakeStream, 8)} }

func (p *plane) open(ctx context.Context, method string) (rawStream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened++
	if p.down {
		return nil, fmt.Errorf("%w: refused", rpc.ErrUnreachable)
	}
	s := &fakeStream{ctx: ctx, in: make(chan []byte, 64), out: make(chan []byte, 64), gone: make(chan struct{}), t: p.t}
	p.streams <- s
	return s, nil
}

func (p *plane) setDown(v bool) {
	p.mu.Lock()
	p.down = v
	p.mu.Unlock()
}

// fail makes the CA answer err from now on.
func (p *plane) fail(err error) {
	p.mu.Lock()
	p.ca.err = err
	p.mu.Unlock()
}

func (p *plane) call(_ context.Context, _ string, in []byte) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signs++
	if p.ca == nil {
		return nil, errUnimplemented
	}
	return p.ca.sign(in)
}

func (p *plane) close() error { return nil }

func (s *fakeStream) send(b []byte) error {
	select {
	case s.in <- b:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *fakeStream) recv() ([]byte, error) {
	select {
	case b := <-s.out:
		return b, nil
	case <-s.gone:
		return nil, io.EOF
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// requests are those that wait now, in order.
func (s *fakeStream) requests() []*discoverypb.DeltaDiscoveryRequest {
	synctest.Wait()
	var out []*discoverypb.DeltaDiscoveryRequest
	for len(s.in) > 0 {
		m := &discoverypb.DeltaDiscoveryRequest{}
		if err := proto.Unmarshal(<-s.in, m); err != nil {
			s.t.Fatal(err)
		}
		if len(m.ProtoReflect().GetUnknown()) > 0 {
			s.t.Errorf("request with unknown fields: %v", m)
		}
		out = append(out, m)
	}
	return out
}

// of picks the requests of a type that are not just an ACK.
func of(rs []*discoverypb.DeltaDiscoveryRequest, url string) (out []*discoverypb.DeltaDiscoveryRequest) {
	for _, r := range rs {
		if r.TypeUrl == url && r.ResponseNonce == "" {
			out = append(out, r)
		}
	}
	return out
}

// push sends resources (and removals) of one type at a version, and returns
// the answer.
func (s *fakeStream) push(version string, k kind, removed []string, ms ...proto.Message) *discoverypb.DeltaDiscoveryRequest {
	s.t.Helper()
	s.n++
	nonce := types[k].url[len(types[k].url)-4:] + version + string(rune('a'+s.n))
	r := &discoverypb.DeltaDiscoveryResponse{TypeUrl: types[k].url, Nonce: nonce, SystemVersionInfo: version, RemovedResources: removed}
	for _, m := range ms {
		a, err := anypb.New(m)
		if err != nil {
			s.t.Fatal(err)
		}
		r.Resources = append(r.Resources, &discoverypb.Resource{Name: nameOf(m), Version: version, Resource: a})
	}
	b, err := proto.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.out <- b
	synctest.Wait()
	var rest [][]byte
	var answer *discoverypb.DeltaDiscoveryRequest
	for len(s.in) > 0 {
		b := <-s.in
		m := &discoverypb.DeltaDiscoveryRequest{}
		if err := proto.Unmarshal(b, m); err != nil {
			s.t.Fatal(err)
		}
		if m.ResponseNonce == nonce {
			answer = m
			continue
		}
		rest = append(rest, b)
	}
	for _, b := range rest {
		s.in <- b
	}
	if answer == nil {
		s.t.Fatalf("no answer to %s", nonce)
	}
	return answer
}

func nameOf(m proto.Message) string {
	if e, ok := m.(*endpointpb.ClusterLoadAssignment); ok {
		return e.ClusterName
	}
	return m.(interface{ GetName() string }).GetName()
}

// world is a feed with its plane and what it published.
type world struct {
	*Feed
	plane *plane
	mu    sync.Mutex
	snaps []*conf.Snapshot
	stop  func()
}

// run starts a feed inside a synctest bubble. It is stopped with the test.
func run(t *testing.T, p *plane, edit func(*Config)) *world {
	t.Helper()
	w := &world{plane: p}
	c := Config{Address: "unix:///nowhere", Node: Node{ID: "shop/web-1", UserAgent: "tulle-proxy", Version: "1", Features: []string{"f"}, Metadata: map[string]string{"a": "b"}},
		Identity: "shop/web-1", NoCertificate: true, transport: p, Log: slog.New(slog.DiscardHandler),
		Publish: func(s *conf.Snapshot) {
			w.mu.Lock()
			w.snaps = append(w.snaps, s)
			w.mu.Unlock()
		}}
	if edit != nil {
		edit(&c)
	}
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.Feed = f
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error)
	go func() { over <- f.Run(ctx) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	synctest.Wait()
	return w
}

// last is the newest snapshot, and how many there were.
func (w *world) last() (*conf.Snapshot, int) {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.snaps) == 0 {
		return nil, 0
	}
	return w.snaps[len(w.snaps)-1], len(w.snaps)
}

func (w *world) stream(t *testing.T) *fakeStream {
	t.Helper()
	synctest.Wait()
	select {
	case s := <-w.plane.streams:
		return s
	default:
		t.Fatal("no stream was opened")
		return nil
	}
}

func ads() *corepb.ConfigSource {
	return &corepb.ConfigSource{ResourceApiVersion: corepb.ApiVersion_V3,
		ConfigSourceSpecifier: &corepb.ConfigSource_Ads{Ads: &corepb.AggregatedConfigSource{}}}
}

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

func edsCluster(name string) *clusterpb.Cluster {
	return &clusterpb.Cluster{Name: name, ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_EDS},
		EdsClusterConfig: &clusterpb.Cluster_EdsClusterConfig{EdsConfig: ads()}}
}

// withTLS makes c name two secrets.
func withTLS(c *clusterpb.Cluster, pair, roots string) *clusterpb.Cluster {
	c.TransportSocket = &corepb.TransportSocket{Name: "tls", ConfigType: &corepb.TransportSocket_TypedConfig{TypedConfig: pack(&tlspb.UpstreamTlsContext{
		CommonTlsContext: &tlspb.CommonTlsContext{
			TlsCertificateSdsSecretConfigs: []*tlspb.SdsSecretConfig{{Name: pair, SdsConfig: ads()}},
			ValidationContextType: &tlspb.CommonTlsContext_ValidationContextSdsSecretConfig{
				ValidationContextSdsSecretConfig: &tlspb.SdsSecretConfig{Name: roots, SdsConfig: ads()}},
		}})}}
	return c
}

func load(cluster string, addrs ...string) *endpointpb.ClusterLoadAssignment {
	e := &endpointpb.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointpb.LocalityLbEndpoints{{}}}
	for _, a := range addrs {
		e.Endpoints[0].LbEndpoints = append(e.Endpoints[0].LbEndpoints, &endpointpb.LbEndpoint{HostIdentifier: &endpointpb.LbEndpoint_Endpoint{
			Endpoint: &endpointpb.Endpoint{Address: socket(a, 80)}}})
	}
	return e
}

func socket(a string, port uint32) *corepb.Address {
	return &corepb.Address{Address: &corepb.Address_SocketAddress{SocketAddress: &corepb.SocketAddress{Address: a,
		PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: port}}}}
}

func listener(name, routes string) *listenerpb.Listener {
	return &listenerpb.Listener{Name: name, Address: socket("::1", 80), FilterChains: []*listenerpb.FilterChain{{Filters: []*listenerpb.Filter{{
		Name: "hcm", ConfigType: &listenerpb.Filter_TypedConfig{TypedConfig: pack(&hcmpb.HttpConnectionManager{
			RouteSpecifier: &hcmpb.HttpConnectionManager_Rds{Rds: &hcmpb.Rds{ConfigSource: ads(), RouteConfigName: routes}},
			HttpFilters:    []*hcmpb.HttpFilter{{Name: "router", ConfigType: &hcmpb.HttpFilter_TypedConfig{TypedConfig: pack(&routerpb.Router{})}}},
		})}}}}}}
}

func routes(name string, clusters ...string) *routepb.RouteConfiguration {
	v := &routepb.VirtualHost{Name: "v", Domains: []string{"*"}}
	for _, c := range clusters {
		v.Routes = append(v.Routes, &routepb.Route{
			Match:  &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routepb.Route_Route{Route: &routepb.RouteAction{ClusterSpecifier: &routepb.RouteAction_Cluster{Cluster: c}}},
		})
	}
	return &routepb.RouteConfiguration{Name: name, VirtualHosts: []*routepb.VirtualHost{v}}
}

// settle brings a feed to one listener, table and cluster.
func settle(t *testing.T, s *fakeStream) {
	t.Helper()
	s.push("1", cds, nil, edsCluster("a"))
	s.push("1", lds, nil, listener("l", "80"))
	s.push("1", eds, nil, load("a", "10.0.0.1"))
	s.push("1", rds, nil, routes("80", "a"))
	s.requests()
}

// fakeCA signs what it is asked to, with the bubble's clock.
type fakeCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
	life time.Duration
	late time.Duration // its clock, behind ours
	err  error
}

func newCA(t *testing.T, life time.Duration) *fakeCA {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(87600 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &fakeCA{key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), life, 0, nil}
}

func (c *fakeCA) sign(in []byte) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	var csr *x509.CertificateRequest
	for len(in) > 0 {
		num, typ, n := protowire.ConsumeTag(in)
		in = in[n:]
		v, n := protowire.ConsumeBytes(in)
		if num == 1 && typ == protowire.BytesType {
			block, _ := pem.Decode(v)
			var err error
			if csr, err = x509.ParseCertificateRequest(block.Bytes); err != nil {
				return nil, err
			}
		}
		in = in[n:]
	}
	id, _ := url.Parse("spiffe://cluster.local/ns/shop/sa/web")
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), URIs: []*url.URL{id}, NotBefore: time.Now().Add(-c.late), NotAfter: time.Now().Add(c.life - c.late)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, csr.PublicKey, c.key)
	if err != nil {
		return nil, err
	}
	out := putBytes(nil, 1, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return putBytes(out, 1, c.pem), nil
}

func names(rs []*discoverypb.DeltaDiscoveryRequest) (sub, unsub []string) {
	for _, r := range rs {
		sub = append(sub, r.ResourceNamesSubscribe...)
		unsub = append(unsub, r.ResourceNamesUnsubscribe...)
	}
	slices.Sort(sub)
	slices.Sort(unsub)
	return sub, unsub
}
