package conf

import (
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// inspectTimeout is Envoy's default of listener_filters_timeout.
const inspectTimeout = 15 * time.Second

// listener builds a Listener.
func (b *builder) listener(m *wire.Listener) (*Listener, error) {
	l := &Listener{
		Name: m.Name, OriginalDst: or(m.UseOriginalDst, false), Bind: or(m.BindToPort, true),
		InspectClose: !m.ContinueOnListenerFiltersTimeout, IgnoreLimit: m.IgnoreGlobalConnLimit,
		Inbound:     m.TrafficDirection == wire.TrafficDirectionInbound,
		BufferLimit: int(or(m.PerConnectionBufferLimitBytes, 0)), Origin: origin(m.Metadata),
	}
	if m.Name == "" {
		return nil, refuse("name", "empty")
	}
	if d := m.DeprecatedV1; d != nil && m.BindToPort == nil {
		l.Bind = or(d.BindToPort, true)
	}
	if or(m.Transparent, false) {
		return nil, refuse("transparent", "not supported")
	}
	if err := l.addresses(m); err != nil {
		return nil, err
	}
	var err error
	if l.InspectTimeout, err = duration(m.ListenerFiltersTimeout, "listener_filters_timeout", inspectTimeout); err != nil {
		return nil, err
	}
	for i, f := range m.ListenerFilters {
		if f.TypedConfig == nil {
			return nil, inIndex(refuse("typed_config", "missing"), "listener_filters", i)
		}
		switch f.TypedConfig.Msg.(type) {
		case *wire.TlsInspector:
			l.InspectTLS = true
		case *wire.HttpInspector:
			l.InspectHTTP = true
		case *wire.OriginalDst:
			l.RestoreDst = true
		}
	}
	if l.AccessLog, err = accessLogs(m.AccessLog); err != nil {
		return nil, err
	}
	return l, b.chains(l, m)
}

func (b *builder) chains(l *Listener, m *wire.Listener) error {
	seen := map[string]int{}
	for i, c := range m.FilterChains {
		ch, err := b.chain(c)
		if err == nil {
			key := ch.Match.key()
			if j, dup := seen[key]; dup {
				err = refuse("filter_chain_match", "the same as that of filter_chains[%d]", j)
			}
			seen[key] = i
		}
		if err != nil {
			return inIndex(err, "filter_chains", i)
		}
		l.Chains = append(l.Chains, ch)
	}
	if m.DefaultFilterChain != nil {
		ch, err := b.chain(m.DefaultFilterChain)
		if err != nil {
			return in(err, "default_filter_chain")
		}
		l.Default = ch
	}
	if len(l.Chains) == 0 && l.Default == nil {
		return refuse("filter_chains", "none")
	}
	return nil
}

func (l *Listener) addresses(m *wire.Listener) error {
	ap, pipe, _, _, err := address(m.Address, false)
	if err != nil {
		return in(err, "address")
	}
	if l.Pipe = pipe; pipe != "" {
		if len(m.AdditionalAddresses) > 0 {
			return refuse("additional_addresses", "a unix socket has none")
		}
		return nil
	}
	l.Addresses = []netip.AddrPort{ap}
	for i, a := range m.AdditionalAddresses {
		ap, pipe, _, _, err := address(a.Address, false)
		if err == nil && pipe != "" {
			err = refuse("pipe", "not supported")
		}
		if err != nil {
			return inIndex(in(err, "address"), "additional_addresses", i)
		}
		l.Addresses = append(l.Addresses, ap)
	}
	return nil
}

// key is the same for matches that Envoy takes for equal.
func (m *ChainMatch) key() string {
	var s strings.Builder
	add := func(parts ...string) {
		for _, p := range parts {
			s.WriteString(p)
			s.WriteByte(0)
		}
		s.WriteByte(1)
	}
	add(netip.AddrPortFrom(netip.IPv4Unspecified(), m.DestinationPort).String(), m.Transport)
	for _, ps := range [][]netip.Prefix{m.Prefixes, m.SourcePrefixes} {
		for _, p := range ps {
			add(p.String())
		}
		add()
	}
	add(m.ServerNames...)
	add(m.ALPN...)
	return s.String()
}

func (b *builder) chain(m *wire.FilterChain) (*Chain, error) {
	c := &Chain{Name: m.Name, Origin: origin(m.Metadata)}
	var err error
	if m.FilterChainMatch != nil {
		if c.Match, err = chainMatch(m.FilterChainMatch); err != nil {
			return nil, in(err, "filter_chain_match")
		}
	}
	if t := m.TransportSocket; t != nil && t.TypedConfig != nil {
		switch s := t.TypedConfig.Msg.(type) {
		case *wire.DownstreamTlsContext:
			c.TLS, err = b.serverTLS(s)
		case *wire.UpstreamTlsContext:
			err = refuse("", "a listener needs a DownstreamTlsContext")
		}
		if err != nil {
			return nil, in(err, "transport_socket.typed_config")
		}
	} else if t != nil {
		return nil, refuse("transport_socket.typed_config", "missing")
	}
	if c.HandshakeTimeout, err = duration(m.TransportSocketConnectTimeout, "transport_socket_connect_timeout", 0); err != nil {
		return nil, err
	}
	for i, f := range m.Filters {
		if f.TypedConfig == nil {
			err = refuse("typed_config", "missing")
		} else if c.HTTP != nil || c.TCP != nil {
			err = refuse("", "a filter after the last one")
		} else {
			err = in(b.networkFilter(c, f.TypedConfig.Msg), "typed_config")
		}
		if err != nil {
			return nil, inIndex(err, "filters", i)
		}
	}
	if c.HTTP == nil && c.TCP == nil {
		return nil, refuse("filters", "neither an HTTP manager nor a TCP proxy at the end")
	}
	return c, nil
}

func (b *builder) networkFilter(c *Chain, msg any) (err error) {
	switch f := msg.(type) {
	case *wire.NetworkRBAC:
		var r *RBAC
		if r, err = b.rbacPair(f.Rules, f.ShadowRules, f.StatPrefix); r != nil {
			c.RBAC = append(c.RBAC, r)
		}
	case *wire.HttpConnectionManager:
		c.HTTP, err = b.http(f)
	case *wire.TcpProxy:
		c.TCP, err = tcp(f)
	default:
		err = refuse("", "not supported here")
	}
	return err
}

func chainMatch(m *wire.FilterChainMatch) (c ChainMatch, err error) {
	if m.DestinationPort != nil {
		if c.DestinationPort, err = port(*m.DestinationPort, "destination_port"); err != nil {
			return c, err
		}
		if c.DestinationPort == 0 {
			return c, refuse("destination_port", "0 is no port")
		}
	}
	if c.Prefixes, err = prefixes(m.PrefixRanges, "prefix_ranges"); err != nil {
		return c, err
	}
	if c.SourcePrefixes, err = prefixes(m.SourcePrefixRanges, "source_prefix_ranges"); err != nil {
		return c, err
	}
	if c.ServerNames, err = serverNames(m.ServerNames); err != nil {
		return c, err
	}
	switch c.Transport = m.TransportProtocol; c.Transport {
	case "", "tls", "raw_buffer":
	default:
		return c, refuse("transport_protocol", "%q is not known", c.Transport)
	}
	c.ALPN = m.ApplicationProtocols
	return c, nil
}

// tcp builds a TcpProxy.
func tcp(m *wire.TcpProxy) (*TCP, error) {
	t := &TCP{StatPrefix: m.StatPrefix, MaxConnect: or(m.MaxConnectAttempts, 1)}
	switch {
	case m.Cluster != nil && *m.Cluster != "":
		t.Clusters = []WeightedCluster{{Name: *m.Cluster, Weight: 1}}
	case m.WeightedClusters != nil && len(m.WeightedClusters.Clusters) > 0:
		for i, c := range m.WeightedClusters.Clusters {
			if c.Name == "" || c.Weight == 0 {
				return nil, inIndex(refuse("", "a name and a weight of at least 1 are needed"), "weighted_clusters.clusters", i)
			}
			t.Clusters = append(t.Clusters, WeightedCluster{Name: c.Name, Weight: c.Weight})
		}
	default:
		return nil, refuse("", "no cluster")
	}
	for _, h := range m.HashPolicy {
		t.HashSource = t.HashSource || h.SourceIp != nil
	}
	err := durations(
		durationField{&t.IdleTimeout, m.IdleTimeout, "idle_timeout", 0, true},
		durationField{&t.MaxDuration, m.MaxDownstreamConnectionDuration, "max_downstream_connection_duration", 0, false},
	)
	if err != nil {
		return nil, err
	}
	t.AccessLog, err = accessLogs(m.AccessLog)
	return t, err
}
