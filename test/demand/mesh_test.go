package demand

import (
	"net/netip"
	"slices"
	"testing"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	inspectorpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcppb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/ext"
)

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

func socket(at string) *corepb.Address {
	a := netip.MustParseAddrPort(at)
	return &corepb.Address{Address: &corepb.Address_SocketAddress{SocketAddress: &corepb.SocketAddress{Address: a.Addr().String(),
		PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: uint32(a.Port())}}}}
}

// cluster is one with static endpoints; without any it passes on.
func cluster(name string, at ...string) *clusterpb.Cluster {
	c := &clusterpb.Cluster{Name: name, ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_STATIC}}
	if len(at) == 0 {
		c.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_ORIGINAL_DST}
		c.LbPolicy = clusterpb.Cluster_CLUSTER_PROVIDED
		return c
	}
	l := &endpointpb.LocalityLbEndpoints{}
	for _, a := range at {
		l.LbEndpoints = append(l.LbEndpoints, &endpointpb.LbEndpoint{HostIdentifier: &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: socket(a)}}})
	}
	c.LoadAssignment = &endpointpb.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointpb.LocalityLbEndpoints{l}}
	return c
}

func tcpTo(cluster string) []*listenerpb.Filter {
	return []*listenerpb.Filter{{Name: "tcp", ConfigType: &listenerpb.Filter_TypedConfig{TypedConfig: pack(&tcppb.TcpProxy{
		StatPrefix: cluster, ClusterSpecifier: &tcppb.TcpProxy_Cluster{Cluster: cluster}})}}}
}

func httpBy(table string) []*listenerpb.Filter {
	ads := &corepb.ConfigSource{ResourceApiVersion: corepb.ApiVersion_V3, ConfigSourceSpecifier: &corepb.ConfigSource_Ads{Ads: &corepb.AggregatedConfigSource{}}}
	return []*listenerpb.Filter{{Name: "http", ConfigType: &listenerpb.Filter_TypedConfig{TypedConfig: pack(&hcmpb.HttpConnectionManager{
		StatPrefix: table, RouteSpecifier: &hcmpb.HttpConnectionManager_Rds{Rds: &hcmpb.Rds{ConfigSource: ads, RouteConfigName: table}},
		HttpFilters: []*hcmpb.HttpFilter{{Name: "router", ConfigType: &hcmpb.HttpFilter_TypedConfig{TypedConfig: pack(&routerpb.Router{})}}},
	})}}}
}

// listener is one that others hand over to, with a default chain.
func listener(name, at string, otherwise []*listenerpb.Filter) *listenerpb.Listener {
	return &listenerpb.Listener{Name: name, Address: socket(at), BindToPort: wrapperspb.Bool(false),
		DefaultFilterChain: &listenerpb.FilterChain{Filters: otherwise}}
}

// table is a route table of one virtual host.
func table(name, cluster string, domains ...string) *routepb.RouteConfiguration {
	return &routepb.RouteConfiguration{Name: name, IgnorePortInHostMatching: true, VirtualHosts: []*routepb.VirtualHost{{Name: domains[0], Domains: domains,
		Routes: []*routepb.Route{{Match: &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routepb.Route_Route{Route: &routepb.RouteAction{ClusterSpecifier: &routepb.RouteAction_Cluster{Cluster: cluster}}}}}}}}
}

// names are Fingerprints.
func names(hosts ...string) []uint32 {
	var out []uint32
	for _, h := range hosts {
		out = append(out, ext.Fingerprint(h))
	}
	slices.Sort(out)
	return out
}

// shop is a mesh with an HTTP host, a wildcard one, a database at an address and
// a host by TLS, and everything else passes.
func shop(t testing.TB) (*plane, map[string]*backend) {
	b := map[string]*backend{}
	for _, n := range []string{"a", "wild", "db", "tls", "outside"} {
		b[n] = newBackend(t, n)
	}
	p := newPlane(t)
	p.raw(ext.IndexType, ext.IndexName, (&ext.Index{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Ports: []ext.Port{{Number: 80, ByHost: true}, {Number: 443, BySNI: true}}, Names: names("*.shop"), AllowAny: true}).Encode())
	p.set(clusters, map[string]proto.Message{"pass": cluster("pass"), "a": cluster("a", b["a"].addr), "wild": cluster("wild", b["wild"].addr),
		"db": cluster("db", b["db"].addr), "tls": cluster("tls", b["tls"].addr)})
	out := listener("virtualOutbound", "0.0.0.0:15001", tcpTo("pass"))
	out.BindToPort, out.UseOriginalDst = nil, wrapperspb.Bool(true)
	sni := listener("0.0.0.0_443", "0.0.0.0:443", tcpTo("pass"))
	sni.ListenerFilters = []*listenerpb.ListenerFilter{{Name: "tls", ConfigType: &listenerpb.ListenerFilter_TypedConfig{TypedConfig: pack(&inspectorpb.TlsInspector{})}}}
	named := listener("0.0.0.0_443/db.shop", "0.0.0.0:443", nil)
	named.DefaultFilterChain = nil
	named.FilterChains = []*listenerpb.FilterChain{{FilterChainMatch: &listenerpb.FilterChainMatch{ServerNames: []string{"db.shop"}}, Filters: tcpTo("tls")}}
	p.set(listeners, map[string]proto.Message{"virtualOutbound": out, "0.0.0.0_443": sni, "0.0.0.0_443/db.shop": named,
		"0.0.0.0_80": listener("0.0.0.0_80", "0.0.0.0:80", httpBy("80")), "10.0.0.9_3306": listener("10.0.0.9_3306", "10.0.0.9:3306", tcpTo("db"))})
	p.set(routes, map[string]proto.Message{"80": table("80", "pass", "*"), "0.0.0.0_80/a.shop": table("0.0.0.0_80/a.shop", "a", "a.shop"),
		"0.0.0.0_80/*.wild.shop": table("0.0.0.0_80/*.wild.shop", "wild", "*.wild.shop")})
	p.start()
	return p, b
}
