package lower

import (
	"cmp"
	"net/netip"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	origdstpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Ports that redirect rules send traffic to.
const (
	outboundPort = 15001
	inboundPort  = 15006
)

// Protocols that the HTTP inspector finds in clear text.
var clearHTTP = []string{"http/1.0", "http/1.1", "h2c"}

func (l *Lowering) planListeners() {
	for _, o := range l.v.Outbound {
		l.plan(ListenerType, o.Name, func() proto.Message { return l.outbound(o) })
	}
}

// planOwnListeners are those of a gateway, and a sidecar's that redirect rules
// feed or that its peers connect to.
func (l *Lowering) planOwnListeners() {
	if l.v.Client.Role == model.GatewayRole {
		for _, p := range l.v.Servers {
			l.plan(ListenerType, p.Name, func() proto.Message { return l.gateway(p) })
		}
		return
	}
	if l.captured() {
		l.plan(ListenerType, "virtualOutbound", func() proto.Message { return l.virtualOutbound() })
		l.plan(ListenerType, "virtualInbound", func() proto.Message { return l.virtualInbound() })
	}
	for _, in := range l.v.Inbound {
		if in.Listen.IsValid() {
			l.plan(ListenerType, l.inboundListenerName(in), func() proto.Message { return l.boundInbound(in) })
		}
	}
}

// anyAddress sets the addresses of a listener that is to be found at all of the
// client's own.
func (l *Lowering) anyAddress(out *listenerpb.Listener, port uint16) {
	v4, v6 := l.families()
	any6 := socket(netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	switch {
	case v6 && !v4:
		out.Address = any6
	default:
		out.Address = socket(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
		if v6 {
			out.AdditionalAddresses = []*listenerpb.AdditionalAddress{{Address: any6}}
		}
	}
}

// virtualOutbound takes redirected connections and hands them to the listener
// of their original destination; what has none passes or ends here.
func (l *Lowering) virtualOutbound() *listenerpb.Listener {
	out := &listenerpb.Listener{
		Name:             "virtualOutbound",
		UseOriginalDst:   yes(),
		TrafficDirection: corepb.TrafficDirection_OUTBOUND,
		AccessLog:        l.listenerLog(),
		FilterChains: []*listenerpb.FilterChain{{
			Name:             "virtualOutbound-blackhole", // dialled itself
			FilterChainMatch: &listenerpb.FilterChainMatch{DestinationPort: u32(outboundPort)},
			Filters:          []*listenerpb.Filter{l.tcpTo(blackHoleCluster)},
		}},
		DefaultFilterChain: l.otherwise("virtualOutbound-catchall-tcp"),
	}
	l.anyAddress(out, outboundPort)
	return out
}

// otherwise is what happens to connections that no rule names.
func (l *Lowering) otherwise(name string) *listenerpb.FilterChain {
	to := blackHoleCluster
	if l.v.Settings.AllowAny {
		to = l.elsewhere()
	}
	return &listenerpb.FilterChain{Name: name, Filters: []*listenerpb.Filter{l.tcpTo(to)}}
}

// elsewhere is the cluster for what is not known, where any destination is
// allowed.
func (l *Lowering) elsewhere() string { return cmp.Or(l.v.Elsewhere, passthroughCluster) }

// outbound is one listener of a sidecar towards the mesh.
func (l *Lowering) outbound(o *model.Outbound) *listenerpb.Listener {
	out := &listenerpb.Listener{
		Name:             o.Name,
		Address:          socket(netip.AddrPortFrom(o.Address, o.Port)),
		TrafficDirection: corepb.TrafficDirection_OUTBOUND,
		Metadata:         l.metadata(o.Origin),
	}
	if o.Bind {
		out.AccessLog = l.listenerLog()
	} else {
		out.BindToPort = no()
	}
	for _, a := range o.Extra {
		out.AdditionalAddresses = append(out.AdditionalAddresses,
			&listenerpb.AdditionalAddress{Address: socket(netip.AddrPortFrom(a, o.Port))})
	}
	switch {
	case o.Protocol.IsHTTP() || o.HTTPProxy:
		out.FilterChains = []*listenerpb.FilterChain{{Filters: []*listenerpb.Filter{l.outboundManager(o.Name, o.Table, o.HTTPProxy)}}}
		return out
	case o.Protocol == model.Sniff:
		inspect(out, true, true)
		out.FilterChains = append(out.FilterChains, &listenerpb.FilterChain{
			FilterChainMatch: &listenerpb.FilterChainMatch{TransportProtocol: "raw_buffer", ApplicationProtocols: clearHTTP},
			Filters:          []*listenerpb.Filter{l.outboundManager(o.Name, o.Table, false)},
		})
	}
	chains := l.tcpChains(o.TCP)
	for _, c := range chains {
		if c.FilterChainMatch != nil && len(c.FilterChainMatch.ServerNames) > 0 {
			inspect(out, true, o.Protocol == model.Sniff)
		}
		if c.FilterChainMatch == nil && out.DefaultFilterChain == nil {
			out.DefaultFilterChain = c
			continue
		}
		out.FilterChains = append(out.FilterChains, c)
	}
	if o.BySNI {
		inspect(out, true, o.Protocol == model.Sniff)
	}
	if out.DefaultFilterChain == nil && (o.Address.IsUnspecified() || o.Within) && !o.Bind && !o.Alone {
		out.DefaultFilterChain = l.otherwise("PassthroughFilterChain")
	}
	if len(out.FilterChains) == 0 && out.DefaultFilterChain == nil {
		// Nothing to lead to: Envoy wants a chain.
		out.FilterChains = []*listenerpb.FilterChain{{Filters: []*listenerpb.Filter{l.tcpTo(blackHoleCluster)}}}
	}
	return out
}

// inspect adds the listener filters that tell protocols apart. They wait for
// the first bytes as long as it takes, as Istio does by default.
func inspect(out *listenerpb.Listener, tls, http bool) {
	out.ListenerFilters = nil
	if tls {
		out.ListenerFilters = append(out.ListenerFilters, tlsInspector())
	}
	if http {
		out.ListenerFilters = append(out.ListenerFilters, httpInspector())
	}
	out.ListenerFiltersTimeout = dur(0)
	out.ContinueOnListenerFiltersTimeout = true
}

func listenerFilter(name string, m proto.Message) *listenerpb.ListenerFilter {
	return &listenerpb.ListenerFilter{Name: name, ConfigType: &listenerpb.ListenerFilter_TypedConfig{TypedConfig: pack(m)}}
}

func tlsInspector() *listenerpb.ListenerFilter {
	return listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspectorpb.TlsInspector{})
}

func httpInspector() *listenerpb.ListenerFilter {
	return listenerFilter("envoy.filters.listener.http_inspector", &httpinspectorpb.HttpInspector{})
}

func originalDst() *listenerpb.ListenerFilter {
	return listenerFilter("envoy.filters.listener.original_dst", &origdstpb.OriginalDst{})
}
