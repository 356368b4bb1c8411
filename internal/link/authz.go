package link

import (
	"slices"

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
				if c.Role == model.GatewayRole && targets(p.Gateways, p.Namespace, c) {
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

// targets reports whether one of the gateways that an object of namespace own
// names is this one.
func targets(gateways []model.Ref, own string, c *model.Client) bool {
	for _, g := range gateways {
		ns := g.Namespace
		if ns == "" {
			ns = own
		}
		if ns == c.Namespace && g.Name == c.Labels[gatewayNameLabel] {
			return true
		}
	}
	return false
}

// requestsOf lists the RequestPolicies of a workload, the root namespace's first.
// Those for Services are of some of its ports only.
func (m *Mesh) requestsOf(c *model.Client) []*model.RequestPolicy {
	var out []*model.RequestPolicy
	take := func(ns string) {
		for _, p := range m.facts.requests.get(ns) {
			switch {
			case len(p.Gateways) > 0 && c.Role == model.GatewayRole && targets(p.Gateways, ns, c),
				len(p.Services) > 0 && c.Role == model.Sidecar && ns == c.Namespace,
				len(p.Gateways)+len(p.Services) == 0 && subset(p.Selector, c.Labels):
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

// held is what all ports of a workload are held to.
type held struct {
	server   serverMTLS
	authz    []*model.AuthzPolicy
	requests []*model.RequestPolicy
	services map[uint16][]string // names of Services that target a port; of sidecars with policies for Services
}

func (m *Mesh) held(c *model.Client) *held {
	h := &held{server: m.server(c.Namespace, c.Labels), authz: m.authzOf(c), requests: m.requestsOf(c)}
	if !slices.ContainsFunc(h.requests, func(p *model.RequestPolicy) bool { return len(p.Services) > 0 }) {
		return h
	}
	h.services = map[uint16][]string{}
	for _, s := range m.ownServices(c) {
		for _, p := range s.Ports {
			if n := ownPort(s, p, c); n != 0 {
				h.services[n] = append(h.services[n], s.Origin.Name)
			}
		}
	}
	return h
}

// policy is what a workload's port asks of its clients.
func (h *held) policy(port uint16) model.InboundPolicy {
	mode, origin := h.server.portOrigin(port)
	p := model.InboundPolicy{MTLS: mode, MTLSOrigin: origin, Authz: h.authz}
	for _, r := range h.requests {
		if len(r.Services) == 0 || slices.ContainsFunc(r.Services, func(x model.Ref) bool { return slices.Contains(h.services[port], x.Name) }) {
			p.Requests = append(p.Requests, r)
		}
	}
	return p
}
