package link

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// clusterName is Istio's: outbound|port|subset|host.
func clusterName(port uint16, subset, host string) string {
	return "outbound|" + strconv.Itoa(int(port)) + "|" + subset + "|" + host
}

func meshSNI(port uint16, subset, host string) string {
	return "outbound_." + strconv.Itoa(int(port)) + "_." + subset + "_." + host
}

// ClusterSet names the clusters of one service as one kind of client sees them:
// clients whose sets are equal share them.
type ClusterSet struct {
	service *service
	rule    *destination
	role    model.Role
	place   place // of the client, as far as it matters
}

// makeClusters lists the clusters of a service: per port, the whole service and
// each subset of the rule. Clients share them.
func (m *Mesh) makeClusters(k ClusterSet, _ []*model.Cluster) []*model.Cluster {
	role, s, d := k.role, k.service, k.rule
	sans := m.spiffe(s)
	var out []*model.Cluster
	seen := map[uint16]bool{}
	for _, p := range s.Ports {
		if p.Protocol == model.UDP || seen[p.Number] {
			continue
		}
		seen[p.Number] = true
		add := func(sub *model.Subset) {
			c := m.cluster(role, s, p, d, sub, sans)
			m.locate(c, k.place)
			out = append(out, c)
		}
		add(nil)
		if d == nil {
			continue
		}
		for _, sub := range d.subsets {
			add(sub)
		}
	}
	return out
}

func (m *Mesh) cluster(role model.Role, s *service, p model.Port, d *destination, sub *model.Subset, sans []string) *model.Cluster {
	pol := d.policyFor(p.Number, sub)
	c := &model.Cluster{
		Service: s.Service, Port: p, External: s.External, Resolution: s.Resolution,
		Origins: []model.Origin{s.Origin},
	}
	if d != nil {
		c.Origins = append(c.Origins, d.origins...)
	}
	if sub != nil {
		c.Subset, c.Labels = sub.Name, sub.Labels
		c.Origins = append(c.Origins, sub.Origin)
	}
	c.Name = clusterName(p.Number, c.Subset, s.Host)
	c.Endpoints = selectEndpoints(m.at(s, p), c.Labels)
	m.settle(c, pol)
	c.Outlier, c.Retries = cmp.Or(pol.Outlier, m.Settings.Outlier), pol.Retries
	if c.Resolution == model.Passthrough && role == model.GatewayRole {
		c.Resolution = model.Static // a gateway has no original destination
	}
	if c.Balance.Algorithm == model.OriginalDst && role == model.Sidecar {
		c.Resolution = model.Passthrough
	}
	// Who asks for the upgrade is sure of HTTP, whatever the port is called: a
	// TLS port may carry HTTP by TLS origination.
	c.HTTP2 = p.Protocol.IsHTTP2() || c.Pool.H2Upgrade == model.H2Always ||
		m.Settings.UpgradeHTTP2 && p.Protocol == model.HTTP && c.Pool.H2Upgrade == model.H2Default
	if c.Pool.UseClientProtocol {
		c.HTTP2 = false
	}
	m.secure(c, s, pol.TLS, sans)
	return c
}

// settle sets how the cluster balances and what it limits.
func (m *Mesh) settle(c *model.Cluster, pol model.TrafficPolicy) {
	if pol.LoadBalancer != nil {
		c.Balance = *pol.LoadBalancer
	}
	if pool := cmp.Or(pol.Pool, m.Settings.Pool); pool != nil {
		c.Pool = *pool
	}
	c.Pool.Keepalive = cmp.Or(c.Pool.Keepalive, m.Settings.Keepalive)
	if c.Pool.ConnectTimeout == 0 {
		c.Pool.ConnectTimeout = m.Settings.ConnectTimeout
	}
}

// referred are the clusters that the first destinations of TCP routes name,
// without endpoints.
func (s *Scope) referred(list ...[]*model.TCPRoute) []*model.Cluster {
	var out []*model.Cluster
	done := map[string]bool{}
	for _, routes := range list {
		for _, r := range routes {
			name := r.Backends[0].Cluster
			if done[name] || r.Backends[0].Missing {
				continue
			}
			done[name] = true
			part := strings.Split(name, "|")
			svc := s.m.lookup(s.who.eyes(), part[3])
			port, _ := strconv.ParseUint(part[1], 10, 16)
			d := s.m.destinationFor(s.who, svc)
			c := &model.Cluster{Name: name}
			s.m.settle(c, d.policyFor(uint16(port), d.subset(part[2])))
			out = append(out, c)
		}
	}
	return out
}

func selectEndpoints(all []model.ClusterEndpoint, labels map[string]string) []model.ClusterEndpoint {
	out := make([]model.ClusterEndpoint, 0, len(all))
	for _, e := range all {
		if subset(labels, e.Labels) {
			out = append(out, e)
		}
	}
	return out
}

// secure settles TLS towards a cluster: what a DestinationRule says, else mesh
// mTLS to the endpoints that can.
func (m *Mesh) secure(c *model.Cluster, s *service, tls *model.ClientTLS, sans []string) {
	c.SNI = meshSNI(c.Port.Number, c.Subset, s.Host)
	auto := false
	switch {
	case tls != nil && tls.Mode != model.TLSAuto:
		c.TLS = *tls
		if !s.Kubernetes && len(tls.SANs) == 0 && tls.Mode != model.TLSIstioMutual && tls.Mode != model.TLSDisable {
			c.TLS.SANs = s.SANs // of the ServiceEntry
		}
		if tls.Mode == model.TLSIstioMutual {
			if c.TLS.SNI != "" {
				c.SNI = c.TLS.SNI
			}
			c.SANs = sans
			if len(tls.SANs) > 0 {
				c.SANs = tls.SANs
			}
		}
	case s.External || !m.Settings.AutoMTLS:
		c.TLS.Mode = model.TLSDisable
	case c.Resolution == model.Passthrough:
		// The address is only known when the connection arrives, so the whole
		// cluster is mTLS or none of it.
		c.TLS.Mode = model.TLSDisable
		if len(c.Endpoints) > 0 && m.namespaceMode(s.Namespace) != model.MTLSDisable && allMTLS(c.Endpoints) {
			c.TLS.Mode, c.SANs = model.TLSIstioMutual, sans
		}
	default:
		auto = true
		c.TLS.Mode, c.SANs = model.TLSAuto, sans
	}
	if !auto {
		on := c.TLS.Mode == model.TLSIstioMutual
		for i := range c.Endpoints {
			c.Endpoints[i].MTLS = on
		}
	}
}

func allMTLS(l []model.ClusterEndpoint) bool {
	for _, e := range l {
		if !e.MTLS {
			return false
		}
	}
	return true
}
