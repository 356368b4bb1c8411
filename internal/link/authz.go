package link

import (
	"github.com/tulle-mesh/tulle/internal/model"
)

// gatewayNameLabel is carried by gateways that a Gateway API object made.
const gatewayNameLabel = "gateway.networking.k8s.io/gateway-name"

// authzOf lists the policies of a workload, the root namespace's first. Those
// that target Services act in waypoints only.
func (m *Mesh) authzOf(c *model.Client) []*model.AuthzPolicy {
	var out []*model.AuthzPolicy
	take := func(ns string) {
		for _, p := range m.facts.authz.get(ns) {
			if len(p.Gateways) > 0 || len(p.Services) > 0 {
				if c.Role == model.GatewayRole && targets(p, c) {
					out = append(out, p)
				}
				continue
			}
			if subset(p.Selector, c.Labels) {
				out = append(out, p)
			}
		}
	}
	take(m.Settings.RootNamespace)
	if c.Namespace != m.Settings.RootNamespace {
		take(c.Namespace)
	}
	return out
}

func targets(p *model.AuthzPolicy, c *model.Client) bool {
	for _, g := range p.Gateways {
		ns := g.Namespace
		if ns == "" {
			ns = p.Namespace
		}
		if ns == c.Namespace && g.Name == c.Labels[gatewayNameLabel] {
			return true
		}
	}
	return false
}

// policy is what a workload's port asks of its clients.
func (m *Mesh) policy(s serverMTLS, authz []*model.AuthzPolicy, port uint16) model.InboundPolicy {
	mode, origin := s.portOrigin(port)
	return model.InboundPolicy{MTLS: mode, MTLSOrigin: origin, Authz: authz}
}
