package lower

import (
	"cmp"
	"math"
	"net/netip"
	"time"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httppb "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Names of the clusters that every sidecar has.
const (
	passthroughCluster        = "PassthroughCluster"
	blackHoleCluster          = "BlackHoleCluster"
	inboundPassthroughCluster = "InboundPassthroughCluster"
)

// Source addresses of inbound connections to the program: redirect rules let
// them pass, and tell them from outbound ones.
var (
	inboundSource4 = netip.MustParseAddr("127.0.0.6")
	inboundSource6 = netip.MustParseAddr("::6")
)

func (l *Lowering) planClusters() {
	for _, c := range l.v.Clusters {
		if l.clusters[c.Name] == nil {
			l.clusters[c.Name] = c
		}
		l.plan(ClusterType, c.Name, func() proto.Message { return l.cluster(c) })
		if l.clusterType(c) == clusterpb.Cluster_EDS {
			l.plan(EndpointType, c.Name, func() proto.Message { return l.endpoints(c) })
		}
	}
}

// planOwnClusters are the clusters that every client has, and those that lead to
// the client's own program.
func (l *Lowering) planOwnClusters() {
	l.plan(ClusterType, blackHoleCluster, func() proto.Message { return l.blackHole() })
	if l.v.Client.Role != model.Sidecar {
		return
	}
	if l.captured() {
		l.plan(ClusterType, passthroughCluster, func() proto.Message { return l.passthrough(passthroughCluster) })
		l.plan(ClusterType, inboundPassthroughCluster, func() proto.Message {
			c := l.passthrough(inboundPassthroughCluster)
			c.UpstreamBindConfig = l.inboundBind()
			return c
		})
	}
	for _, in := range l.v.Inbound {
		l.plan(ClusterType, inboundName(in.Port), func() proto.Message { return l.inboundCluster(in) })
	}
}

// captured reports whether connections carry their original destination. In
// ports mode they do not, and passing one on would mean dialling ourselves.
func (l *Lowering) captured() bool { return l.v.Client.Capture == model.Redirected }

func (l *Lowering) clusterType(c *model.Cluster) clusterpb.Cluster_DiscoveryType {
	switch {
	case c.Resolution == model.Passthrough || c.Balance.Algorithm == model.OriginalDst:
		if l.v.Client.Role == model.GatewayRole || !l.captured() {
			return clusterpb.Cluster_EDS // there is no original destination
		}
		return clusterpb.Cluster_ORIGINAL_DST
	case c.Resolution == model.DNS:
		return clusterpb.Cluster_STRICT_DNS
	case c.Resolution == model.DNSRoundRobin:
		return clusterpb.Cluster_LOGICAL_DNS
	default:
		return clusterpb.Cluster_EDS
	}
}

// cluster lowers one outbound destination.
func (l *Lowering) cluster(c *model.Cluster) *clusterpb.Cluster {
	kind := l.clusterType(c)
	out := &clusterpb.Cluster{
		Name:                 c.Name,
		ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: kind},
		ConnectTimeout:       dur(l.connectTimeout(c.Pool)),
		CircuitBreakers:      thresholds(c.Pool),
		Metadata:             l.clusterMetadata(c),
	}
	if r := c.Retries; r != nil {
		b := &clusterpb.CircuitBreakers_Thresholds_RetryBudget{}
		if r.Percent != nil {
			b.BudgetPercent = &typepb.Percent{Value: *r.Percent}
		}
		if r.Min > 0 {
			b.MinRetryConcurrency = u32(r.Min)
		}
		out.CircuitBreakers.Thresholds[0].RetryBudget = b
	}
	switch kind {
	case clusterpb.Cluster_EDS:
		out.EdsClusterConfig = &clusterpb.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: c.Name}
	case clusterpb.Cluster_STRICT_DNS, clusterpb.Cluster_LOGICAL_DNS:
		out.LoadAssignment = l.endpoints(c)
		out.DnsLookupFamily = l.dnsFamily()
		out.RespectDnsTtl = true
		if kind == clusterpb.Cluster_LOGICAL_DNS {
			l.singleTarget(c, out)
		}
	}
	balance(&c.Balance, out)
	outlier(c.Outlier, out)
	if c.Weighted && kind != clusterpb.Cluster_ORIGINAL_DST {
		if out.CommonLbConfig == nil {
			out.CommonLbConfig = &clusterpb.Cluster_CommonLbConfig{}
		}
		out.CommonLbConfig.LocalityConfigSpecifier = &clusterpb.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterpb.Cluster_CommonLbConfig_LocalityWeightedLbConfig{}}
	}
	keepalive(c.Pool.Keepalive, out)
	l.upstreamTLS(c, out)
	if opt := l.protocolOptions(c); opt != nil {
		out.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: pack(opt)}
	}
	return out
}

// singleTarget keeps the first endpoint: a logical DNS cluster has exactly one.
func (l *Lowering) singleTarget(c *model.Cluster, out *clusterpb.Cluster) {
	for _, loc := range out.LoadAssignment.Endpoints {
		if len(loc.LbEndpoints) == 0 {
			continue
		}
		if len(c.Endpoints) > 1 {
			l.notice(model.Warning, model.Unsupported, firstOrigin(c.Origins),
				"DNS_ROUND_ROBIN takes one endpoint; only the first is used")
		}
		loc.LbEndpoints = loc.LbEndpoints[:1]
		out.LoadAssignment.Endpoints = out.LoadAssignment.Endpoints[:0]
		out.LoadAssignment.Endpoints = append(out.LoadAssignment.Endpoints, loc)
		return
	}
	// No endpoint: Envoy refuses an empty logical DNS cluster, and a static
	// one with nothing in it answers the same (no healthy upstream).
	out.ClusterDiscoveryType = &clusterpb.Cluster_Type{Type: clusterpb.Cluster_STATIC}
	out.DnsLookupFamily, out.RespectDnsTtl = 0, false
}

func firstOrigin(os []model.Origin) model.Origin {
	if len(os) == 0 {
		return model.Origin{}
	}
	return os[0]
}

func (l *Lowering) connectTimeout(p model.ConnectionPool) time.Duration {
	switch {
	case p.ConnectTimeout > 0:
		return p.ConnectTimeout
	case l.v.Settings.ConnectTimeout > 0:
		return l.v.Settings.ConnectTimeout
	default:
		return 10 * time.Second
	}
}

// clusterMetadata says whom the cluster leads to and what shaped it.
func (l *Lowering) clusterMetadata(c *model.Cluster) *corepb.Metadata {
	f := map[string]*structpb.Value{}
	var ids []*structpb.Value
	for _, o := range c.Origins {
		if id := l.origin(o); id != "" {
			ids = append(ids, structpb.NewStringValue(id))
		}
	}
	if len(ids) > 0 {
		f["origins"] = structpb.NewListValue(&structpb.ListValue{Values: ids})
	}
	if s := c.Service; s != nil {
		f["services"] = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{serviceValue(s)}})
	}
	if c.Subset != "" {
		f["subset"] = structpb.NewStringValue(c.Subset)
	}
	f["external"] = structpb.NewBoolValue(c.External)
	return istioMetadata(f)
}

func serviceValue(s *model.Service) *structpb.Value {
	return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		"host":      structpb.NewStringValue(s.Host),
		"name":      structpb.NewStringValue(s.Name),
		"namespace": structpb.NewStringValue(s.Namespace),
	}})
}

// thresholds sets all four: Envoy's own defaults (1024, 3 retries) are not
// Istio's, which are none.
func thresholds(p model.ConnectionPool) *clusterpb.CircuitBreakers {
	or := func(n uint32) uint32 {
		if n == 0 {
			return math.MaxUint32
		}
		return n
	}
	return &clusterpb.CircuitBreakers{Thresholds: []*clusterpb.CircuitBreakers_Thresholds{{
		MaxConnections:     u32(or(p.MaxConnections)),
		MaxPendingRequests: u32(or(p.MaxPendingRequests)),
		MaxRequests:        u32(or(p.MaxRequests)),
		MaxRetries:         u32(or(p.MaxRetries)),
		TrackRemaining:     true,
	}}}
}

func balance(b *model.LoadBalancer, out *clusterpb.Cluster) {
	var slow *clusterpb.Cluster_SlowStartConfig
	if w := b.Warmup; w != nil {
		least := 10.0
		if w.MinPercent != nil {
			least = *w.MinPercent
		}
		slow = &clusterpb.Cluster_SlowStartConfig{
			SlowStartWindow:  dur(w.Duration),
			Aggression:       &corepb.RuntimeDouble{DefaultValue: cmp.Or(w.Aggression, 1), RuntimeKey: "aggression"},
			MinWeightPercent: &typepb.Percent{Value: least},
		}
	}
	if out.GetType() == clusterpb.Cluster_ORIGINAL_DST {
		out.LbPolicy = clusterpb.Cluster_CLUSTER_PROVIDED
		return
	}
	switch b.Algorithm {
	case model.RoundRobin:
		out.LbPolicy = clusterpb.Cluster_ROUND_ROBIN
		if slow != nil {
			out.LbConfig = &clusterpb.Cluster_RoundRobinLbConfig_{
				RoundRobinLbConfig: &clusterpb.Cluster_RoundRobinLbConfig{SlowStartConfig: slow}}
		}
	case model.Random:
		out.LbPolicy = clusterpb.Cluster_RANDOM
	case model.RingHash:
		out.LbPolicy = clusterpb.Cluster_RING_HASH
		size := b.TableSize
		if size == 0 {
			size = 1024
		}
		cfg := &clusterpb.Cluster_RingHashLbConfig{MinimumRingSize: u64(size)}
		if size > maxRing {
			cfg.MaximumRingSize = u64(size)
		}
		out.LbConfig = &clusterpb.Cluster_RingHashLbConfig_{RingHashLbConfig: cfg}
	case model.Maglev:
		out.LbPolicy = clusterpb.Cluster_MAGLEV
		if b.TableSize > 0 {
			out.LbConfig = &clusterpb.Cluster_MaglevLbConfig_{
				MaglevLbConfig: &clusterpb.Cluster_MaglevLbConfig{TableSize: u64(b.TableSize)}}
		}
	default:
		out.LbPolicy = clusterpb.Cluster_LEAST_REQUEST
		if slow != nil {
			out.LbConfig = &clusterpb.Cluster_LeastRequestLbConfig_{
				LeastRequestLbConfig: &clusterpb.Cluster_LeastRequestLbConfig{SlowStartConfig: slow}}
		}
	}
}

// maxRing is Envoy's upper bound of a ring.
const maxRing = 8 << 20

// outlier maps as Istio does: errors eject always when counted, success rates
// never, and a cluster that ejects does not panic.
func outlier(o *model.Outlier, out *clusterpb.Cluster) {
	if o == nil {
		return
	}
	od := &clusterpb.OutlierDetection{EnforcingSuccessRate: u32(0)}
	enforce := func(n uint32) uint32 {
		if n > 0 {
			return 100
		}
		return 0
	}
	if n := o.Consecutive5xx; n != nil {
		od.Consecutive_5Xx, od.EnforcingConsecutive_5Xx = u32(*n), u32(enforce(*n))
	}
	if n := o.ConsecutiveGateway; n != nil {
		od.ConsecutiveGatewayFailure, od.EnforcingConsecutiveGatewayFailure = u32(*n), u32(enforce(*n))
	}
	if o.Interval > 0 {
		od.Interval = dur(o.Interval)
	}
	if o.BaseEjection > 0 {
		od.BaseEjectionTime = dur(o.BaseEjection)
	}
	if o.MaxEjectionPercent != nil {
		od.MaxEjectionPercent = u32(*o.MaxEjectionPercent)
	}
	if o.SplitLocalErrors {
		od.SplitExternalLocalOriginErrors = true
		if n := o.ConsecutiveLocal; n != nil {
			od.ConsecutiveLocalOriginFailure, od.EnforcingConsecutiveLocalOriginFailure = u32(*n), u32(enforce(*n))
		}
		od.EnforcingLocalOriginSuccessRate = u32(0)
	}
	out.OutlierDetection = od
	out.CommonLbConfig = &clusterpb.Cluster_CommonLbConfig{
		HealthyPanicThreshold: &typepb.Percent{Value: float64(o.MinHealthPercent)},
	}
}

func keepalive(k *model.Keepalive, out *clusterpb.Cluster) {
	if k == nil {
		return
	}
	ka := &corepb.TcpKeepalive{}
	if k.Probes > 0 {
		ka.KeepaliveProbes = u32(k.Probes)
	}
	if k.Time > 0 {
		ka.KeepaliveTime = u32(uint32(k.Time / time.Second))
	}
	if k.Interval > 0 {
		ka.KeepaliveInterval = u32(uint32(k.Interval / time.Second))
	}
	out.UpstreamConnectionOptions = &clusterpb.UpstreamConnectionOptions{TcpKeepalive: ka}
}

// httpOptions is the key of HttpProtocolOptions.
const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// protocolOptions says which HTTP is spoken; nil where none is.
func (l *Lowering) protocolOptions(c *model.Cluster) *httppb.HttpProtocolOptions {
	p := c.Port.Protocol
	if !c.HTTP2 && !p.IsHTTP() && p != model.Sniff && c.TLS.Mode != model.TLSSimple && c.TLS.Mode != model.TLSMutual {
		return nil
	}
	opt := &httppb.HttpProtocolOptions{CommonHttpProtocolOptions: httpCommon(c.Pool)}
	h2 := &corepb.Http2ProtocolOptions{}
	if n := c.Pool.MaxConcurrentStreams; n > 0 {
		h2.MaxConcurrentStreams = u32(n)
	}
	switch {
	case c.HTTP2:
		opt.UpstreamProtocolOptions = explicitHTTP2(h2)
	case c.Pool.UseClientProtocol || p == model.Sniff && l.v.Client.Role == model.Sidecar:
		opt.UpstreamProtocolOptions = clientProtocol(h2)
	default:
		opt.UpstreamProtocolOptions = explicitHTTP1()
	}
	if tls := c.TLS; (tls.Mode == model.TLSSimple || tls.Mode == model.TLSMutual) && tls.SNI == "" {
		opt.UpstreamHttpProtocolOptions = &corepb.UpstreamHttpProtocolOptions{
			AutoSni:           true,
			AutoSanValidation: len(tls.SANs) == 0 && !tls.InsecureSkipVerify,
		}
	}
	return opt
}

func httpCommon(p model.ConnectionPool) *corepb.HttpProtocolOptions {
	o := &corepb.HttpProtocolOptions{}
	if d := p.HTTPIdleTimeout; d != 0 {
		o.IdleTimeout = dur(max(d, 0)) // 0 is never
	}
	if p.MaxRequestsPerConn > 0 {
		o.MaxRequestsPerConnection = u32(p.MaxRequestsPerConn)
	}
	if p.MaxConnectionDuration > 0 {
		o.MaxConnectionDuration = dur(p.MaxConnectionDuration)
	}
	if proto.Size(o) == 0 {
		return nil
	}
	return o
}

type explicitConfig = httppb.HttpProtocolOptions_ExplicitHttpConfig

func explicitHTTP1() *httppb.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &httppb.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &explicitConfig{
		ProtocolConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corepb.Http1ProtocolOptions{}}}}
}

func explicitHTTP2(h2 *corepb.Http2ProtocolOptions) *httppb.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &httppb.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &explicitConfig{
		ProtocolConfig: &httppb.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: h2}}}
}

func clientProtocol(h2 *corepb.Http2ProtocolOptions) *httppb.HttpProtocolOptions_UseDownstreamProtocolConfig {
	return &httppb.HttpProtocolOptions_UseDownstreamProtocolConfig{
		UseDownstreamProtocolConfig: &httppb.HttpProtocolOptions_UseDownstreamHttpConfig{
			HttpProtocolOptions:  &corepb.Http1ProtocolOptions{},
			Http2ProtocolOptions: h2,
		}}
}

// dnsFamily follows the addresses that the client has.
func (l *Lowering) dnsFamily() clusterpb.Cluster_DnsLookupFamily {
	switch v4, v6 := l.families(); {
	case v4 && !v6:
		return clusterpb.Cluster_V4_ONLY
	case v6 && !v4:
		return clusterpb.Cluster_V6_ONLY
	default:
		return clusterpb.Cluster_ALL
	}
}

// families of the client's own addresses; both false when none is known.
func (l *Lowering) families() (v4, v6 bool) {
	for _, a := range l.v.Client.Addresses {
		if a.Unmap().Is4() {
			v4 = true
		} else {
			v6 = true
		}
	}
	return v4, v6
}

// passthrough leads to the address that the client dialled.
func (l *Lowering) passthrough(name string) *clusterpb.Cluster {
	return &clusterpb.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_ORIGINAL_DST},
		LbPolicy:             clusterpb.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout:       dur(l.connectTimeout(model.ConnectionPool{})),
		CircuitBreakers:      thresholds(model.ConnectionPool{}),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptions: pack(&httppb.HttpProtocolOptions{
			UpstreamProtocolOptions: clientProtocol(&corepb.Http2ProtocolOptions{}),
		})},
	}
}

func (l *Lowering) blackHole() *clusterpb.Cluster {
	return &clusterpb.Cluster{
		Name:                 blackHoleCluster,
		ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_STATIC},
		ConnectTimeout:       dur(l.connectTimeout(model.ConnectionPool{})),
	}
}

// inboundBind marks connections from the sidecar to its program.
func (l *Lowering) inboundBind() *corepb.BindConfig {
	v4, v6 := l.families()
	bind := &corepb.BindConfig{SourceAddress: socket(netip.AddrPortFrom(inboundSource4, 0)).GetSocketAddress()}
	switch {
	case v6 && !v4:
		bind.SourceAddress = socket(netip.AddrPortFrom(inboundSource6, 0)).GetSocketAddress()
	case v6:
		bind.ExtraSourceAddresses = []*corepb.ExtraSourceAddress{{
			Address: socket(netip.AddrPortFrom(inboundSource6, 0)).GetSocketAddress()}}
	}
	return bind
}
