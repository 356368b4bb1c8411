package lower

import (
	"net/netip"
	"strings"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/tulle-mesh/tulle/internal/model"
)

// serverName is what gateways put into the server header.
const serverName = "istio-envoy"

// gateway is one socket of a gateway: a plain HTTP table, or a chain per
// server, chosen by SNI.
func (l *Lowering) gateway(p *model.GatewayPort) *listenerpb.Listener {
	bind := p.Bind
	if !bind.IsValid() {
		bind = netip.IPv4Unspecified()
	}
	at := netip.AddrPortFrom(bind, p.Port)
	if p.Listen.IsValid() {
		at = p.Listen
	}
	out := &listenerpb.Listener{
		Name:             p.Name,
		Address:          socket(at),
		TrafficDirection: corepb.TrafficDirection_OUTBOUND,
		AccessLog:        l.listenerLog(),
		Metadata:         l.metadata(p.Origin),
	}
	if !p.Listen.IsValid() && at.Addr() == netip.IPv4Unspecified() {
		l.anyAddress(out, at.Port())
	}
	if p.Table != "" {
		out.FilterChains = []*listenerpb.FilterChain{{Filters: []*listenerpb.Filter{l.gatewayManager(p, p.Table)}}}
		return out
	}
	taken := map[string]bool{}
	for _, s := range p.Servers {
		for _, c := range l.gatewayServer(p, s) {
			l.addGatewayChain(out, c, s, taken)
		}
	}
	if len(out.FilterChains) == 0 { // Envoy wants one
		out.FilterChains = []*listenerpb.FilterChain{{Filters: []*listenerpb.Filter{l.tcpTo(blackHoleCluster)}}}
	}
	return out
}

func gatewayScope(p *model.GatewayPort) rbacScope {
	if !p.Listen.IsValid() || p.Listen.Port() == p.Port {
		return rbacScope{}
	}
	return rbacScope{workloadPort: p.Port, listenPort: p.Listen.Port()}
}

// addGatewayChain leaves out names that an earlier server has: Envoy would
// refuse the listener.
func (l *Lowering) addGatewayChain(out *listenerpb.Listener, c *listenerpb.FilterChain, s *model.GatewayServer, taken map[string]bool) {
	m := c.FilterChainMatch
	if m == nil {
		m = &listenerpb.FilterChainMatch{}
	}
	prefixes := make([]string, 0, len(m.PrefixRanges))
	for _, r := range m.PrefixRanges {
		prefixes = append(prefixes, r.String())
	}
	names := m.ServerNames
	if len(names) == 0 {
		names = []string{"*"}
	}
	var free []string
	for _, n := range names {
		key := n + "|" + strings.Join(prefixes, ",")
		if !taken[key] {
			taken[key] = true
			free = append(free, n)
		}
	}
	if len(free) < len(names) {
		l.notice(model.Warning, model.Conflict, s.Origin, "an earlier server of this port has the same hosts")
	}
	if len(free) == 0 {
		return
	}
	if len(m.ServerNames) > 0 {
		m.ServerNames = free
		inspect(out, true, false)
	}
	if c.TransportSocket != nil {
		inspect(out, true, false)
	}
	out.FilterChains = append(out.FilterChains, c)
}

// gatewayServer is one server of a port: opened TLS with HTTP or bytes inside,
// TLS that passes by its SNI, or plain TCP.
func (l *Lowering) gatewayServer(p *model.GatewayPort, s *model.GatewayServer) []*listenerpb.FilterChain {
	if s.TLS != nil && s.TLS.Mode == model.ServerAutoPassthrough {
		l.notice(model.Error, model.Unsupported, s.Origin, "tls mode AUTO_PASSTHROUGH is not supported yet")
		return nil
	}
	opens := s.TLS != nil && s.TLS.Mode != model.ServerPassthrough
	if s.Table != "" && opens {
		return []*listenerpb.FilterChain{l.withTLS(s, &listenerpb.FilterChain{
			Name:     s.Table,
			Filters:  []*listenerpb.Filter{l.gatewayManager(p, s.Table)},
			Metadata: l.metadata(s.Origin),
		})}
	}
	chains := l.tcpChains(s.TCP)
	rbac := l.tcpRBAC(p.Policy.Authz, gatewayScope(p))
	for _, c := range chains {
		c.Filters = append(append([]*listenerpb.Filter{}, rbac...), c.Filters...)
		if opens {
			l.withTLS(s, c)
		}
	}
	return chains
}

// withTLS opens TLS on a chain for the names of a server.
func (l *Lowering) withTLS(s *model.GatewayServer, c *listenerpb.FilterChain) *listenerpb.FilterChain {
	c.TransportSocket = tlsSocket(l.gatewayTLS(s))
	if c.FilterChainMatch == nil {
		c.FilterChainMatch = &listenerpb.FilterChainMatch{}
	}
	if len(c.FilterChainMatch.ServerNames) == 0 {
		c.FilterChainMatch.ServerNames = serverNames(s.Hosts)
	}
	return c
}

// gatewayManager serves a route table to the outside: what the client says of
// itself is not believed.
func (l *Lowering) gatewayManager(p *model.GatewayPort, table string) *listenerpb.Filter {
	filters := append(l.httpRBAC(p.Policy.Authz, gatewayScope(p)), l.requestFilters(p.Policy.Requests)...)
	m := l.manager("outbound_"+p.Name, append(filters, routeFilters()...))
	byTable(m, table)
	l.bound(m, p.Policy.Requests)
	m.UseRemoteAddress = yes()
	m.ServerName = serverName
	m.ForwardClientCertDetails = hcmpb.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcmpb.HttpConnectionManager_SetCurrentClientCertDetails{Subject: yes(), Cert: true, Dns: true, Uri: true}
	return hcmFilter(m)
}
