package envoy

import (
	"fmt"
	"net/netip"
	"regexp"

	bootstrappb "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httppb "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Node names a client of ADS.
type Node struct {
	ID       string
	Metadata map[string]string // sent as initial metadata of the stream
	Delta    bool
}

// Bootstrap makes Envoy take everything by ADS from a plaintext server at a
// host:port or the path of a unix socket.
func Bootstrap(n Node, ads string) ([]byte, error) {
	b := base(n.ID)
	at := &corepb.Address{Address: &corepb.Address_Pipe{Pipe: &corepb.Pipe{Path: ads}}}
	if a, err := netip.ParseAddrPort(ads); err == nil {
		at = address(a)
	}
	api := &corepb.ApiConfigSource{
		ApiType:             corepb.ApiConfigSource_GRPC,
		TransportApiVersion: corepb.ApiVersion_V3,
		GrpcServices: []*corepb.GrpcService{{TargetSpecifier: &corepb.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &corepb.GrpcService_EnvoyGrpc{ClusterName: adsCluster}}}},
		SetNodeOnFirstMessageOnly: true,
	}
	if n.Delta {
		api.ApiType = corepb.ApiConfigSource_DELTA_GRPC
	}
	for k, v := range n.Metadata {
		api.GrpcServices[0].InitialMetadata = append(api.GrpcServices[0].InitialMetadata, &corepb.HeaderValue{Key: k, Value: v})
	}
	b.DynamicResources = &bootstrappb.Bootstrap_DynamicResources{AdsConfig: api, CdsConfig: viaADS(), LdsConfig: viaADS()}
	b.StaticResources = &bootstrappb.Bootstrap_StaticResources{Clusters: []*clusterpb.Cluster{xdsCluster(at)}}
	return protojson.Marshal(b)
}

const adsCluster = "ads"

func base(id string) *bootstrappb.Bootstrap {
	return &bootstrappb.Bootstrap{
		Node:  &corepb.Node{Id: id, Cluster: "tulle"},
		Admin: &bootstrappb.Admin{Address: &corepb.Address{Address: &corepb.Address_Pipe{Pipe: &corepb.Pipe{Path: AdminPath}}}},
	}
}

func viaADS() *corepb.ConfigSource {
	return &corepb.ConfigSource{
		ConfigSourceSpecifier: &corepb.ConfigSource_Ads{Ads: &corepb.AggregatedConfigSource{}},
		ResourceApiVersion:    corepb.ApiVersion_V3,
	}
}

func address(a netip.AddrPort) *corepb.Address {
	return &corepb.Address{Address: &corepb.Address_SocketAddress{SocketAddress: &corepb.SocketAddress{
		Address: a.Addr().String(), PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: uint32(a.Port())}}}}
}

func xdsCluster(ads *corepb.Address) *clusterpb.Cluster {
	opt := &httppb.HttpProtocolOptions{UpstreamProtocolOptions: &httppb.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
				Http2ProtocolOptions: &corepb.Http2ProtocolOptions{}}}}}
	return &clusterpb.Cluster{
		Name:                 adsCluster,
		ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_STATIC},
		LoadAssignment: &endpointpb.ClusterLoadAssignment{ClusterName: adsCluster, Endpoints: []*endpointpb.LocalityLbEndpoints{{
			LbEndpoints: []*endpointpb.LbEndpoint{{HostIdentifier: &endpointpb.LbEndpoint_Endpoint{
				Endpoint: &endpointpb.Endpoint{Address: ads}}}}}}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(opt)},
	}
}

func packed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic("BUG: pack " + err.Error())
	}
	return a
}

// Static writes resources of any of the five types into one bootstrap, so that
// Validate looks at every one of them: route tables behind listeners of their
// own, endpoints in static clusters. Envoy's validate mode has no ADS stream
// and crashes where something refers to it, so that such references become
// plain gRPC ones.
func Static(resources []proto.Message) ([]byte, error) {
	b := base("static")
	s := &bootstrappb.Bootstrap_StaticResources{Clusters: []*clusterpb.Cluster{xdsCluster(address(netip.MustParseAddrPort("127.0.0.1:1")))}}
	b.StaticResources = s
	for _, m := range resources {
		switch r := m.(type) {
		case *clusterpb.Cluster:
			s.Clusters = append(s.Clusters, r)
		case *endpointpb.ClusterLoadAssignment:
			s.Clusters = append(s.Clusters, &clusterpb.Cluster{
				Name:                 "endpoints of " + r.ClusterName,
				ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_STATIC},
				ConnectTimeout:       durationpb.New(1e9),
				LoadAssignment:       r,
			})
		case *listenerpb.Listener:
			s.Listeners = append(s.Listeners, r)
		case *routepb.RouteConfiguration:
			s.Listeners = append(s.Listeners, tableListener(r, len(s.Listeners)))
		case *tlspb.Secret:
			s.Secrets = append(s.Secrets, r)
		default:
			return nil, fmt.Errorf("no place for a %T", m)
		}
	}
	out, err := protojson.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("write bootstrap: %w", err)
	}
	return adsReference.ReplaceAll(out, []byte(`"apiConfigSource":{"apiType":"GRPC","transportApiVersion":"V3",`+
		`"grpcServices":[{"envoyGrpc":{"clusterName":"`+adsCluster+`"}}]}`)), nil
}

var adsReference = regexp.MustCompile(`"ads": *\{\}`)

func tableListener(r *routepb.RouteConfiguration, n int) *listenerpb.Listener {
	m := &hcmpb.HttpConnectionManager{
		StatPrefix:     "table",
		RouteSpecifier: &hcmpb.HttpConnectionManager_RouteConfig{RouteConfig: r},
		HttpFilters: []*hcmpb.HttpFilter{{Name: "envoy.filters.http.router",
			ConfigType: &hcmpb.HttpFilter_TypedConfig{TypedConfig: packed(&routerpb.Router{})}}},
		UpgradeConfigs: []*hcmpb.HttpConnectionManager_UpgradeConfig{{UpgradeType: "CONNECT"}},
	}
	return &listenerpb.Listener{
		Name:    "table " + r.Name,
		Address: address(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 99, byte(n >> 8), byte(n)}), 9)),
		FilterChains: []*listenerpb.FilterChain{{Filters: []*listenerpb.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerpb.Filter_TypedConfig{TypedConfig: packed(m)},
		}}}},
	}
}
