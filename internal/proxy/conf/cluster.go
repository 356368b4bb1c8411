package conf

import (
	"math"
	"net/netip"
	"time"
	"unique"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// cluster builds a Cluster.
func (b *builder) cluster(m *wire.Cluster) (*Cluster, error) {
	c := &Cluster{Name: m.Name, Panic: 50, BufferLimit: int(or(m.PerConnectionBufferLimitBytes, 0))}
	if m.Name == "" {
		return nil, refuse("name", "empty")
	}
	if err := b.discovery(c, m); err != nil {
		return nil, err
	}
	if err := c.balance(m); err != nil {
		return nil, err
	}
	err := durations(
		durationField{&c.ConnectTimeout, m.ConnectTimeout, "connect_timeout", 5 * time.Second, false},
		durationField{&c.DNSRefresh, m.DnsRefreshRate, "dns_refresh_rate", 5 * time.Second, false},
	)
	if err != nil {
		return nil, err
	}
	if c.ConnectTimeout == 0 {
		return nil, refuse("connect_timeout", "it must be positive")
	}
	if c.Limits, err = limits(m.CircuitBreakers); err != nil {
		return nil, in(err, "circuit_breakers")
	}
	if c.Outlier, err = outlier(m.OutlierDetection); err != nil {
		return nil, in(err, "outlier_detection")
	}
	if l := m.CommonLbConfig; l != nil {
		if c.LocalityWeighted = l.LocalityWeightedLbConfig != nil; l.HealthyPanicThreshold != nil {
			if c.Panic = l.HealthyPanicThreshold.Value; !(c.Panic >= 0 && c.Panic <= 100) {
				return nil, refuse("common_lb_config.healthy_panic_threshold.value", "%v is no percentage", c.Panic)
			}
		}
	}
	if err := b.transport(c, m); err != nil {
		return nil, err
	}
	if err := b.protocol(c, m.TypedExtensionProtocolOptions); err != nil {
		return nil, err
	}
	if err := c.sockets(m); err != nil {
		return nil, err
	}
	c.about(istio(m.Metadata))
	return c, nil
}

// discovery says how endpoints are found.
func (b *builder) discovery(c *Cluster, m *wire.Cluster) (err error) {
	switch or(m.Type, wire.ClusterDiscoveryTypeStatic) {
	case wire.ClusterDiscoveryTypeStatic:
		c.Type = ClusterStatic
	case wire.ClusterDiscoveryTypeEds:
		c.Type = ClusterEDS
		if m.EdsClusterConfig == nil {
			return refuse("eds_cluster_config", "missing")
		}
		if c.EDSName = m.EdsClusterConfig.ServiceName; c.EDSName == c.Name {
			c.EDSName = c.Name // the same bytes
		}
		if err := adsOnly(m.EdsClusterConfig.EdsConfig, "eds_cluster_config.eds_config"); err != nil {
			return err
		}
	case wire.ClusterDiscoveryTypeStrictDns:
		c.Type = ClusterDNS
	case wire.ClusterDiscoveryTypeLogicalDns:
		c.Type = ClusterLogicalDNS
	case wire.ClusterDiscoveryTypeOriginalDst:
		c.Type = ClusterOriginalDst
	}
	if m.LoadAssignment != nil {
		if c.Type == ClusterEDS || c.Type == ClusterOriginalDst {
			return refuse("load_assignment", "not in a cluster of this type")
		}
		names := c.Type == ClusterDNS || c.Type == ClusterLogicalDNS
		if c.Endpoints, err = b.endpoints(m.LoadAssignment, names); err != nil {
			return in(err, "load_assignment")
		}
	}
	if c.Type == ClusterLogicalDNS {
		n := 0
		if c.Endpoints != nil {
			for _, l := range c.Endpoints.Localities {
				n += len(l.Endpoints)
			}
		}
		if n != 1 {
			return refuse("load_assignment", "LOGICAL_DNS has exactly one endpoint, not %d", n)
		}
	}
	switch m.DnsLookupFamily {
	case wire.ClusterDnsLookupFamilyAuto:
		c.DNSFamily = "auto"
	case wire.ClusterDnsLookupFamilyV4Only:
		c.DNSFamily = "v4"
	case wire.ClusterDnsLookupFamilyV6Only:
		c.DNSFamily = "v6"
	case wire.ClusterDnsLookupFamilyAll:
		c.DNSFamily = "all"
	default:
		return refuse("dns_lookup_family", "%d is not supported", m.DnsLookupFamily)
	}
	return nil
}

// maxTable is Envoy's upper bound of hash tables.
const maxTable = 8 << 20

func (c *Cluster) balance(m *wire.Cluster) error {
	switch m.LbPolicy {
	case wire.ClusterLbPolicyRoundRobin:
		c.Balance = BalanceRoundRobin
		if l := m.RoundRobinLbConfig; l != nil {
			if err := c.warmup(l.SlowStartConfig); err != nil {
				return in(err, "round_robin_lb_config.slow_start_config")
			}
		}
	case wire.ClusterLbPolicyLeastRequest:
		c.Balance = BalanceLeastRequest
		if l := m.LeastRequestLbConfig; l != nil {
			if c.Choices = or(l.ChoiceCount, 0); l.ChoiceCount != nil && c.Choices < 2 {
				return refuse("least_request_lb_config.choice_count", "less than 2")
			}
			if err := c.warmup(l.SlowStartConfig); err != nil {
				return in(err, "least_request_lb_config.slow_start_config")
			}
		}
	case wire.ClusterLbPolicyRandom:
		c.Balance = BalanceRandom
	case wire.ClusterLbPolicyRingHash:
		c.Balance, c.TableSize = BalanceRingHash, 1024
		if r := m.RingHashLbConfig; r != nil {
			if r.HashFunction != wire.ClusterRingHashLbConfigHashFunctionXxHash {
				return refuse("ring_hash_lb_config.hash_function", "only XX_HASH is supported")
			}
			largest := or(r.MaximumRingSize, maxTable)
			if c.TableSize = or(r.MinimumRingSize, 1024); largest > maxTable || c.TableSize > largest {
				return refuse("ring_hash_lb_config", "ring sizes out of bounds")
			}
		}
	case wire.ClusterLbPolicyMaglev:
		c.Balance, c.TableSize = BalanceMaglev, 65537
		if r := m.MaglevLbConfig; r != nil {
			if c.TableSize = or(r.TableSize, 65537); c.TableSize > 5_000_011 || !prime(c.TableSize) {
				return refuse("maglev_lb_config.table_size", "%d is no prime up to 5000011", c.TableSize)
			}
		}
	case wire.ClusterLbPolicyClusterProvided:
		c.Balance = BalanceClusterProvided
	default:
		return refuse("lb_policy", "%d is not supported", m.LbPolicy)
	}
	if (c.Type == ClusterOriginalDst) != (c.Balance == BalanceClusterProvided) {
		return refuse("lb_policy", "CLUSTER_PROVIDED belongs to ORIGINAL_DST, and only to it")
	}
	return nil
}

// warmup reads the slow start of new endpoints; nil: there is none.
func (c *Cluster) warmup(m *wire.ClusterSlowStartConfig) error {
	if m == nil || m.SlowStartWindow == nil {
		return nil
	}
	w := &Warmup{Window: *m.SlowStartWindow, Min: .1, Aggression: 1}
	if p := m.MinWeightPercent; p != nil {
		w.Min = p.Value / 100
	}
	if a := m.Aggression; a != nil && a.DefaultValue > 0 {
		w.Aggression = a.DefaultValue
	}
	switch {
	case w.Window <= 0:
		return refuse("slow_start_window", "must be positive")
	case !(w.Min >= 0 && w.Min <= 1):
		return refuse("min_weight_percent", "must be from 0 to 100")
	case math.IsNaN(w.Aggression) || math.IsInf(w.Aggression, 0):
		return refuse("aggression", "must be a number")
	}
	c.Warmup = w
	return nil
}

func prime(n uint64) bool {
	if n < 2 {
		return false
	}
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// limits are the thresholds of default priority, with Envoy's defaults. No
// route can ask for high priority.
func limits(m *wire.CircuitBreakers) (Limits, error) {
	l := Limits{Connections: 1024, Pending: 1024, Requests: 1024, Retries: 3}
	if m == nil {
		return l, nil
	}
	seen := false
	for i, t := range m.Thresholds {
		if t.Priority != wire.RoutingPriorityDefault {
			continue
		}
		if seen {
			return l, inIndex(refuse("priority", "DEFAULT twice"), "thresholds", i)
		}
		seen = true
		l = Limits{Connections: or(t.MaxConnections, 1024), Pending: or(t.MaxPendingRequests, 1024),
			Requests: or(t.MaxRequests, 1024), Retries: or(t.MaxRetries, 3)}
		if t.RetryBudget != nil {
			if l.BudgetPercent, l.BudgetMin = 20, or(t.RetryBudget.MinRetryConcurrency, 3); t.RetryBudget.BudgetPercent != nil {
				l.BudgetPercent = t.RetryBudget.BudgetPercent.Value
			}
			if !(l.BudgetPercent >= 0 && l.BudgetPercent <= 100) {
				return l, inIndex(refuse("retry_budget.budget_percent", "%v is no percentage", l.BudgetPercent), "thresholds", i)
			}
			l.BudgetPercent = max(l.BudgetPercent, math.SmallestNonzeroFloat64) // 0 is a budget, of BudgetMin
		}
	}
	return l, nil
}

// outlier takes counters that are enforced always or never; ejection by rates
// is not supported, and is off unless it was asked for.
func outlier(m *wire.OutlierDetection) (*Outlier, error) {
	if m == nil {
		return nil, nil
	}
	for field, n := range map[string]*uint32{
		"enforcing_success_rate": m.EnforcingSuccessRate, "enforcing_local_origin_success_rate": m.EnforcingLocalOriginSuccessRate,
		"enforcing_failure_percentage":              m.EnforcingFailurePercentage,
		"enforcing_failure_percentage_local_origin": m.EnforcingFailurePercentageLocalOrigin,
	} {
		if or(n, 0) != 0 {
			return nil, refuse(field, "only 0 is supported")
		}
	}
	o := &Outlier{SplitLocal: m.SplitExternalLocalOriginErrors, MaxEjectionPercent: or(m.MaxEjectionPercent, 10), AlwaysEjectOne: or(m.AlwaysEjectOneHost, false)}
	if o.MaxEjectionPercent > 100 {
		return nil, refuse("max_ejection_percent", "%d is no percentage", o.MaxEjectionPercent)
	}
	for _, k := range []struct {
		to              *uint32
		count, enforced *uint32
		byDefault       uint32
		field           string
	}{
		{&o.Consecutive5xx, m.Consecutive5xx, m.EnforcingConsecutive5xx, 100, "enforcing_consecutive_5xx"},
		{&o.ConsecutiveGateway, m.ConsecutiveGatewayFailure, m.EnforcingConsecutiveGatewayFailure, 0, "enforcing_consecutive_gateway_failure"},
		{&o.ConsecutiveLocal, m.ConsecutiveLocalOriginFailure, m.EnforcingConsecutiveLocalOriginFailure, 100, "enforcing_consecutive_local_origin_failure"},
	} {
		switch or(k.enforced, k.byDefault) {
		case 0:
		case 100:
			*k.to = or(k.count, 5)
		default:
			return nil, refuse(k.field, "only 0 and 100 are supported")
		}
	}
	if !o.SplitLocal {
		o.ConsecutiveLocal = 0
	}
	err := durations(
		durationField{&o.Interval, m.Interval, "interval", 10 * time.Second, false},
		durationField{&o.BaseEjection, m.BaseEjectionTime, "base_ejection_time", 30 * time.Second, false},
		durationField{&o.MaxEjectionTime, m.MaxEjectionTime, "max_ejection_time", 300 * time.Second, false},
	)
	if err != nil {
		return nil, err
	}
	if o.Interval < time.Millisecond || o.BaseEjection < time.Millisecond {
		return nil, refuse("interval", "interval and base_ejection_time must be positive")
	}
	o.MaxEjectionTime = max(o.MaxEjectionTime, o.BaseEjection)
	return o, nil
}

// transport says which TLS is spoken to which endpoints.
func (b *builder) transport(c *Cluster, m *wire.Cluster) (err error) {
	if c.TLS, err = b.upstreamSocket(m.TransportSocket); err != nil {
		return in(err, "transport_socket")
	}
	for i, t := range m.TransportSocketMatches {
		x := TLSMatch{Name: t.Name, Labels: map[string]string{}}
		if x.TLS, err = b.upstreamSocket(t.TransportSocket); err != nil {
			return inIndex(in(err, "transport_socket"), "transport_socket_matches", i)
		}
		for k, v := range t.Match {
			s, ok := v.(string)
			if !ok {
				return inIndex(inKey(refuse("", "only text is supported"), "match", k), "transport_socket_matches", i)
			}
			x.Labels[k] = s
		}
		c.TLSMatches = append(c.TLSMatches, x)
	}
	return nil
}

func (b *builder) upstreamSocket(m *wire.TransportSocket) (*ClientTLS, error) {
	if m == nil {
		return nil, nil
	}
	if m.TypedConfig == nil {
		return nil, refuse("typed_config", "missing")
	}
	switch t := m.TypedConfig.Msg.(type) {
	case *wire.UpstreamTlsContext:
		c, err := b.clientTLS(t)
		return c, in(err, "typed_config")
	case *wire.RawBuffer:
		return nil, nil
	}
	return nil, refuse("typed_config", "a cluster needs an UpstreamTlsContext")
}

// httpOptions is the key of HttpProtocolOptions; no other is known.
const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func (b *builder) protocol(c *Cluster, m map[string]*wire.Any) error {
	for _, k := range sortedKeys(m) {
		o, ok := m[k].Msg.(*wire.UpstreamOptions)
		if !ok || k != httpOptions {
			return inKey(refuse("", "not supported"), "typed_extension_protocol_options", k)
		}
		if err := c.httpOptions(o); err != nil {
			return inKey(err, "typed_extension_protocol_options", k)
		}
	}
	return nil
}

func (c *Cluster) httpOptions(o *wire.UpstreamOptions) error {
	var h2 *wire.Http2ProtocolOptions
	switch {
	case o.ExplicitHttpConfig != nil && o.ExplicitHttpConfig.Http2ProtocolOptions != nil:
		c.Protocol, h2 = UpHTTP2, o.ExplicitHttpConfig.Http2ProtocolOptions
	case o.ExplicitHttpConfig != nil:
		c.Protocol = UpHTTP1
	case o.UseDownstreamProtocolConfig != nil:
		c.Protocol, h2 = UpDownstream, o.UseDownstreamProtocolConfig.Http2ProtocolOptions
	case o.AutoConfig != nil:
		c.Protocol, h2 = UpAuto, o.AutoConfig.Http2ProtocolOptions
	default:
		return refuse("", "no protocol")
	}
	if h2 != nil {
		c.MaxStreams = or(h2.MaxConcurrentStreams, 0)
		if err := windows(or(h2.InitialStreamWindowSize, 0), or(h2.InitialConnectionWindowSize, 0)); err != nil {
			return in(err, "http2_protocol_options")
		}
	}
	if u := o.UpstreamHttpProtocolOptions; u != nil {
		if u.AutoSanValidation && !u.AutoSni {
			return refuse("upstream_http_protocol_options.auto_san_validation", "auto_sni is off")
		}
		for _, t := range c.tlsContexts() {
			t.AutoSNI = t.AutoSNI || u.AutoSni
			if t.AutoSAN = t.AutoSAN || u.AutoSanValidation; t.AutoSAN && t.Validation == "" {
				return refuse("upstream_http_protocol_options.auto_san_validation", "there is nothing to verify certificates by")
			}
		}
	}
	if h := o.CommonHttpProtocolOptions; h != nil {
		if h.MaxHeadersCount != nil {
			return refuse("common_http_protocol_options.max_headers_count", "not supported for clusters")
		}
		if h.MaxStreamDuration != nil {
			return refuse("common_http_protocol_options.max_stream_duration", "not supported for clusters")
		}
		c.MaxRequestsPerConn = or(h.MaxRequestsPerConnection, 0)
		return in(durations(
			durationField{&c.IdleTimeout, h.IdleTimeout, "idle_timeout", 0, true},
			durationField{&c.MaxConnDuration, h.MaxConnectionDuration, "max_connection_duration", 0, false},
		), "common_http_protocol_options")
	}
	return nil
}

func (c *Cluster) tlsContexts() []*ClientTLS {
	var out []*ClientTLS
	if c.TLS != nil {
		out = append(out, c.TLS)
	}
	for _, m := range c.TLSMatches {
		if m.TLS != nil {
			out = append(out, m.TLS)
		}
	}
	return out
}

// sockets reads keep-alive and source addresses.
func (c *Cluster) sockets(m *wire.Cluster) error {
	if o := m.UpstreamConnectionOptions; o != nil && o.TcpKeepalive != nil {
		k := o.TcpKeepalive
		c.Keepalive = &Keepalive{Probes: or(k.KeepaliveProbes, 0),
			Time: time.Duration(or(k.KeepaliveTime, 0)) * time.Second, Interval: time.Duration(or(k.KeepaliveInterval, 0)) * time.Second}
		if c.Keepalive.Probes > math.MaxInt8 || c.Keepalive.Time > 32767*time.Second || c.Keepalive.Interval > 32767*time.Second {
			return refuse("upstream_connection_options.tcp_keepalive", "more than the kernel takes")
		}
	}
	if m.UpstreamBindConfig == nil {
		return nil
	}
	var all []*wire.SocketAddress
	if s := m.UpstreamBindConfig.SourceAddress; s != nil {
		all = append(all, s)
	}
	for _, e := range m.UpstreamBindConfig.ExtraSourceAddresses {
		all = append(all, e.Address)
	}
	for _, s := range all {
		if s == nil || or(s.PortValue, 0) != 0 {
			return refuse("upstream_bind_config", "an address without a port is needed")
		}
		a, err := netip.ParseAddr(s.Address)
		if err != nil {
			return refuse("upstream_bind_config", "%q is no IP address", s.Address)
		}
		to := &c.BindSource
		if a = a.Unmap(); a.Is6() {
			to = &c.BindSource6
		}
		if to.IsValid() {
			return refuse("upstream_bind_config", "two addresses of one family")
		}
		*to = a
	}
	return nil
}

// about reads Istio's metadata on whom the cluster leads to.
func (c *Cluster) about(m map[string]any) {
	c.External, _ = m["external"].(bool)
	if s, ok := m["config"].(string); ok {
		c.Origin = append(c.Origin, s)
	}
	ids, _ := m["origins"].([]any)
	for _, id := range ids {
		if s, ok := id.(string); ok {
			c.Origin = append(c.Origin, s)
		}
	}
	services, _ := m["services"].([]any)
	if len(services) == 0 {
		return
	}
	s, _ := services[0].(map[string]any)
	c.Host, _ = s["host"].(string)
	c.ServiceName, _ = s["name"].(string)
	namespace, _ := s["namespace"].(string)
	c.ServiceNamespace = unique.Make(namespace).Value() // of many clusters
}
