package lower

import (
	"fmt"
	"net/netip"
	"strings"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcppb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typepb "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/tulle-mesh/tulle/internal/model"
)

// tcpProxy leads to one cluster or several weighted ones. Timeouts are those
// of the first destination's pool, as in Istio.
func (l *Lowering) tcpProxy(backends []model.RouteBackend) *listenerpb.Filter {
	p := &tcppb.TcpProxy{AccessLog: l.accessLog()}
	switch len(backends) {
	case 0:
		return l.tcpProxy([]model.RouteBackend{{Cluster: blackHoleCluster}})
	case 1:
		p.StatPrefix = backends[0].Cluster
		p.ClusterSpecifier = &tcppb.TcpProxy_Cluster{Cluster: backends[0].Cluster}
	default:
		p.StatPrefix = backends[0].Cluster
		w := &tcppb.TcpProxy_WeightedCluster{}
		for _, b := range backends {
			// Envoy refuses a weight of zero, and link leaves none.
			w.Clusters = append(w.Clusters, &tcppb.TcpProxy_WeightedCluster_ClusterWeight{Name: b.Cluster, Weight: max(b.Weight, 1)})
		}
		p.ClusterSpecifier = &tcppb.TcpProxy_WeightedClusters{WeightedClusters: w}
	}
	if c := l.clusters[backends[0].Cluster]; c != nil {
		if d := c.Pool.TCPIdleTimeout; d != 0 {
			p.IdleTimeout = dur(max(d, 0)) // 0 is never
		}
		if d := c.Pool.MaxConnectionDuration; d > 0 {
			p.MaxDownstreamConnectionDuration = dur(d)
		}
		if h := c.Balance.Hash; h != nil && h.SourceIP {
			p.HashPolicy = []*typepb.HashPolicy{{PolicySpecifier: &typepb.HashPolicy_SourceIp_{SourceIp: &typepb.HashPolicy_SourceIp{}}}}
		}
	}
	return networkFilter("envoy.filters.network.tcp_proxy", p)
}

// tcpTo leads to one cluster by name.
func (l *Lowering) tcpTo(cluster string) *listenerpb.Filter {
	return l.tcpProxy([]model.RouteBackend{{Cluster: cluster}})
}

// tcpChains makes a chain per L4 rule. Envoy takes the most specific match
// instead of the first one and refuses a listener that says the same twice, so
// that what an earlier rule has taken is left out of later ones.
func (l *Lowering) tcpChains(routes []*model.TCPRoute) []*listenerpb.FilterChain {
	var out []*listenerpb.FilterChain
	taken := map[string]bool{}
	for _, r := range routes {
		snis, all := serverNames(r.SNI), len(r.SNI) == 0
		if len(snis) == 0 && !all { // "*" is among them
			all = true
		}
		var free []string
		if all {
			snis = []string{""}
		}
		for _, s := range snis {
			if claim(taken, s, r.Subnets) {
				free = append(free, s)
			}
		}
		if len(free) == 0 {
			l.notice(model.Warning, model.Unreachable, r.Origin, "earlier rules of this port take every connection of this one")
			continue
		}
		c := &listenerpb.FilterChain{Filters: []*listenerpb.Filter{l.tcpProxy(r.Backends)}, Metadata: l.metadata(r.Origin)}
		if !all {
			c.FilterChainMatch = &listenerpb.FilterChainMatch{ServerNames: free}
		}
		for _, p := range r.Subnets {
			if c.FilterChainMatch == nil {
				c.FilterChainMatch = &listenerpb.FilterChainMatch{}
			}
			c.FilterChainMatch.PrefixRanges = append(c.FilterChainMatch.PrefixRanges,
				&corepb.CidrRange{AddressPrefix: p.Masked().Addr().String(), PrefixLen: u32(uint32(p.Bits()))})
		}
		out = append(out, c)
	}
	return out
}

// claim takes a name at all the given subnets, or says no.
func claim(taken map[string]bool, sni string, subnets []netip.Prefix) bool {
	keys := []string{sni + "|"}
	if len(subnets) > 0 {
		keys = keys[:0]
		for _, p := range subnets {
			keys = append(keys, fmt.Sprintf("%s|%s", sni, p.Masked()))
		}
	}
	for _, k := range keys {
		if taken[k] {
			return false
		}
	}
	for _, k := range keys {
		taken[k] = true
	}
	return true
}

// serverNames is empty when one of the names is "*".
func serverNames(hosts []string) []string {
	var out []string
	for _, h := range hosts {
		if h == "*" {
			return nil
		}
		out = append(out, strings.ToLower(h))
	}
	return out
}
