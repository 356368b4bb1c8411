package lower

import (
	"fmt"
	"strconv"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httppb "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/model"
)

// ALPN of peers. Istio's sidecars say by it whether HTTP is inside; ours say
// tulle1 when it is.
var (
	meshHTTPALPN = []string{alpnBridge, "istio-http/1.0", "istio-http/1.1", "istio-h2"}
	meshTCPALPN  = []string{alpnPeerExchange, alpnIstio}
	meshALPN     = append(append([]string{}, meshTCPALPN...), meshHTTPALPN...)
)

func inboundName(port uint16) string { return fmt.Sprintf("inbound|%d||", port) }

// inboundListenerName is that of a port with a socket of its own. Where
// connections are captured, the plain name is a destination's.
func (l *Lowering) inboundListenerName(in *model.Inbound) string {
	name := fmt.Sprintf("%s_%d", in.Listen.Addr(), in.Listen.Port())
	if l.captured() {
		return "inbound_" + name
	}
	return name
}

// virtualInbound takes connections that redirect rules send here, by their
// original destination port. It has no default chain: a declared port that
// asks for mTLS must not fall through to another one.
func (l *Lowering) virtualInbound() *listenerpb.Listener {
	out := &listenerpb.Listener{
		Name:                             "virtualInbound",
		TrafficDirection:                 corepb.TrafficDirection_INBOUND,
		AccessLog:                        l.listenerLog(),
		ListenerFiltersTimeout:           dur(0),
		ContinueOnListenerFiltersTimeout: true,
		FilterChains: []*listenerpb.FilterChain{{
			Name:             "virtualInbound-blackhole", // dialled itself
			FilterChainMatch: &listenerpb.FilterChainMatch{DestinationPort: u32(inboundPort)},
			Filters:          []*listenerpb.Filter{l.tcpTo(blackHoleCluster)},
		}},
	}
	l.anyAddress(out, inboundPort)
	noTLS, noHTTP := []uint16{inboundPort}, []uint16{inboundPort}
	seen := map[uint16]bool{}
	for _, in := range l.v.Inbound {
		if seen[in.Port] {
			continue
		}
		seen[in.Port] = true
		out.FilterChains = append(out.FilterChains, l.inboundChains(l.declared(in))...)
		if in.Policy.MTLS == model.MTLSDisable && in.Protocol != model.Sniff {
			noTLS = append(noTLS, in.Port)
		}
		if in.Protocol != model.Sniff {
			noHTTP = append(noHTTP, in.Port)
		}
	}
	out.FilterChains = append(out.FilterChains, l.inboundChains(inboundPlace{
		name: "virtualInbound", cluster: inboundPassthroughCluster, protocol: model.Sniff, policy: l.v.InboundDefault,
	})...)
	tls, http := tlsInspector(), httpInspector()
	if !l.ours() {
		tls.FilterDisabled, http.FilterDisabled = onPorts(noTLS), onPorts(noHTTP)
	}
	out.ListenerFilters = []*listenerpb.ListenerFilter{originalDst(), tls, http}
	return out
}

// onPorts matches connections to one of the ports. Inspectors must not wait on
// ports where it is the server that speaks first. Our own proxy sees from the
// chains of a port whether there is anything to tell apart, and is not told.
func onPorts(ports []uint16) *listenerpb.ListenerFilterChainMatchPredicate {
	var rules []*listenerpb.ListenerFilterChainMatchPredicate
	for _, p := range ports {
		rules = append(rules, &listenerpb.ListenerFilterChainMatchPredicate{
			Rule: &listenerpb.ListenerFilterChainMatchPredicate_DestinationPortRange{
				DestinationPortRange: &typepb.Int32Range{Start: int32(p), End: int32(p) + 1}}})
	}
	if len(rules) == 1 {
		return rules[0]
	}
	return &listenerpb.ListenerFilterChainMatchPredicate{Rule: &listenerpb.ListenerFilterChainMatchPredicate_OrMatch{
		OrMatch: &listenerpb.ListenerFilterChainMatchPredicate_MatchSet{Rules: rules}}}
}

// boundInbound is one port with a socket of its own, where nothing is redirected.
func (l *Lowering) boundInbound(in *model.Inbound) *listenerpb.Listener {
	out := &listenerpb.Listener{
		Name:             l.inboundListenerName(in),
		Address:          socket(in.Listen),
		TrafficDirection: corepb.TrafficDirection_INBOUND,
		AccessLog:        l.listenerLog(),
		Metadata:         l.metadata(in.Origin),
	}
	place := l.declared(in)
	place.port = 0 // the socket says it
	place.scope = rbacScope{workloadPort: in.Port, listenPort: in.Listen.Port()}
	tls := in.Policy.MTLS != model.MTLSDisable
	if tls || in.Protocol == model.Sniff {
		inspect(out, tls || in.Protocol == model.Sniff, in.Protocol == model.Sniff)
	}
	out.FilterChains = l.inboundChains(place)
	return out
}

// inboundPlace is one port as filter chains see it.
type inboundPlace struct {
	name     string // of the chains
	port     uint16 // to match; 0: every other port
	cluster  string
	protocol model.Protocol
	policy   model.InboundPolicy
	scope    rbacScope
	in       *model.Inbound // nil: the ports that nobody declared
}

func (l *Lowering) declared(in *model.Inbound) inboundPlace {
	return inboundPlace{
		name: "0.0.0.0_" + strconv.Itoa(int(in.Port)), port: in.Port, cluster: inboundName(in.Port),
		protocol: in.Protocol, policy: in.Policy, in: in,
	}
}

// inboundChain is a row of the table below.
type inboundChain struct {
	transport string
	alpn      []string
	mtls      bool
	http      bool
}

// inboundTable says which connections a port takes. TLS that is not the
// mesh's passes as bytes where plain text may.
func inboundTable(p model.Protocol, mode model.MTLSMode) []inboundChain {
	http := p.IsHTTP()
	sniff := p == model.Sniff
	if mode == model.MTLSDisable && !sniff {
		return []inboundChain{{http: http}} // nothing to tell apart, nobody waits
	}
	var out []inboundChain
	if mode != model.MTLSDisable {
		if sniff {
			out = append(out, inboundChain{transport: "tls", alpn: meshHTTPALPN, mtls: true, http: true})
		}
		row := inboundChain{transport: "tls", mtls: true, http: http}
		if mode != model.MTLSStrict {
			row.alpn = meshALPN
			if sniff {
				row.alpn = meshTCPALPN
			}
		}
		out = append(out, row)
	}
	if mode == model.MTLSStrict {
		return out
	}
	if sniff {
		out = append(out, inboundChain{transport: "raw_buffer", alpn: clearHTTP, http: true})
	}
	if !http {
		out = append(out, inboundChain{transport: "tls"})
	}
	return append(out, inboundChain{transport: "raw_buffer", http: http})
}

func (l *Lowering) inboundChains(p inboundPlace) []*listenerpb.FilterChain {
	if p.policy.MTLSOrigin.Kind != "" {
		l.origin(p.policy.MTLSOrigin)
	}
	var out []*listenerpb.FilterChain
	for _, row := range inboundTable(p.protocol, p.policy.MTLS) {
		c := &listenerpb.FilterChain{
			Name:             p.name,
			FilterChainMatch: &listenerpb.FilterChainMatch{TransportProtocol: row.transport, ApplicationProtocols: row.alpn},
			Metadata:         l.inboundMetadata(p),
		}
		if p.port != 0 {
			c.FilterChainMatch.DestinationPort = u32(uint32(p.port))
		}
		if row.http {
			c.Filters = []*listenerpb.Filter{hcmFilter(l.inboundManager(p))}
		} else {
			scope := p.scope
			scope.guessed = p.protocol == model.Sniff
			c.Filters = append(l.tcpRBAC(p.policy.Authz, scope), l.tcpTo(p.cluster))
		}
		if row.mtls {
			c.TransportSocket = tlsSocket(l.meshServer(l.inboundALPN(row.http)))
		}
		out = append(out, c)
	}
	return out
}

// inboundALPN prefers what says most. Istio's own token comes last, for peers
// that offer nothing else.
func (l *Lowering) inboundALPN(http bool) []string {
	if !http {
		return []string{alpnIstio}
	}
	alpn := []string{alpnH2, alpnHTTP11, alpnIstio}
	if l.bridge() {
		alpn = append([]string{alpnBridge}, alpn...)
	}
	return alpn
}

// inboundMetadata names the Service of the port and the PeerAuthentication in
// effect.
func (l *Lowering) inboundMetadata(p inboundPlace) *corepb.Metadata {
	f := map[string]*structpb.Value{}
	if p.in != nil {
		if id := l.origin(p.in.Origin); id != "" {
			f["config"] = structpb.NewStringValue(id)
		}
	}
	if id := l.origin(p.policy.MTLSOrigin); id != "" {
		f["mtls"] = structpb.NewStringValue(id)
	}
	if len(f) == 0 {
		return nil
	}
	return istioMetadata(f)
}

func (l *Lowering) inboundManager(p inboundPlace) *hcmpb.HttpConnectionManager {
	stat := "InboundPassthroughCluster"
	if p.in != nil {
		stat = "inbound_0.0.0.0_" + strconv.Itoa(int(p.in.Port))
	}
	m := l.manager(stat, append(l.httpRBAC(p.policy.Authz, p.scope), l.requestFilters(p.policy.Requests)...))
	l.bound(m, p.policy.Requests)
	m.ForwardClientCertDetails = hcmpb.HttpConnectionManager_APPEND_FORWARD
	m.SetCurrentClientCertDetails = &hcmpb.HttpConnectionManager_SetCurrentClientCertDetails{Subject: yes(), Dns: true, Uri: true}
	a := plainAction(p.cluster)
	a.RetryPolicy = &routepb.RetryPolicy{RetryOn: "reset-before-request", NumRetries: u32(2)}
	route := &routepb.Route{Name: "default", Match: everything(), Action: &routepb.Route_Route{Route: a}}
	vhost := "inbound|http|0"
	if p.in != nil {
		vhost = fmt.Sprintf("inbound|http|%d", p.in.ServicePort)
		route.Metadata = l.metadata(p.in.Origin)
		if s := p.in.Service; s != nil {
			route.Decorator = &routepb.Decorator{Operation: fmt.Sprintf("%s:%d/*", s.Host, p.in.ServicePort)}
		}
	}
	byRoutes(m, &routepb.RouteConfiguration{
		Name:             p.cluster,
		ValidateClusters: no(),
		VirtualHosts:     []*routepb.VirtualHost{{Name: vhost, Domains: []string{"*"}, Routes: []*routepb.Route{route}}},
	})
	return m
}

// inboundCluster leads to the program behind a declared port.
func (l *Lowering) inboundCluster(in *model.Inbound) *clusterpb.Cluster {
	out := &clusterpb.Cluster{
		Name:            inboundName(in.Port),
		ConnectTimeout:  dur(l.connectTimeout(in.Pool)),
		CircuitBreakers: thresholds(in.Pool),
		Metadata:        l.inboundClusterMetadata(in),
	}
	if in.App.IsValid() {
		out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_STATIC}
		out.LoadAssignment = &endpointpb.ClusterLoadAssignment{
			ClusterName: out.Name,
			Endpoints: []*endpointpb.LocalityLbEndpoints{{LbEndpoints: []*endpointpb.LbEndpoint{{
				HostIdentifier: &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: socket(in.App)}},
			}}}},
		}
	} else {
		out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_ORIGINAL_DST}
		out.LbPolicy = clusterpb.Cluster_CLUSTER_PROVIDED
		out.UpstreamBindConfig = l.inboundBind()
	}
	keepalive(in.Pool.Keepalive, out)
	opt := &httppb.HttpProtocolOptions{CommonHttpProtocolOptions: httpCommon(in.Pool)}
	switch {
	case in.Protocol.IsHTTP2():
		opt.UpstreamProtocolOptions = explicitHTTP2(&corepb.Http2ProtocolOptions{})
	case in.Protocol == model.Sniff:
		opt.UpstreamProtocolOptions = clientProtocol(&corepb.Http2ProtocolOptions{})
	case in.Protocol == model.HTTP:
		opt.UpstreamProtocolOptions = explicitHTTP1()
	default:
		return out
	}
	out.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: pack(opt)}
	return out
}

func (l *Lowering) inboundClusterMetadata(in *model.Inbound) *corepb.Metadata {
	f := map[string]*structpb.Value{}
	if id := l.origin(in.Origin); id != "" {
		f["origins"] = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue(id)}})
	}
	if in.Service != nil {
		f["services"] = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{serviceValue(in.Service)}})
	}
	if len(f) == 0 {
		return nil
	}
	return istioMetadata(f)
}
