package link

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

// ownServices lists the services whose endpoint a client's workload is, oldest
// first.
func (m *Mesh) ownServices(c *model.Client) []*model.Service {
	var out []*model.Service
	for _, s := range m.facts.own.get(c.Namespace) {
		if serves(s, c) && !slices.ContainsFunc(out, func(x *model.Service) bool { return x.Host == s.Host && x.Origin.Object() == s.Origin.Object() }) {
			out = append(out, s)
		}
	}
	return out
}

func serves(s *model.Service, c *model.Client) bool {
	if len(s.Selector) > 0 && !s.Sliced {
		return subset(s.Selector, c.Labels)
	}
	for _, e := range s.Endpoints {
		if e.Workload != "" && e.Workload == c.Name {
			return true
		}
		if a, err := netip.ParseAddr(e.Address); err == nil && slices.Contains(c.Addresses, a) {
			return true
		}
	}
	return false
}

// inbound makes the ports that a client's own workload declares: those that
// services target, the oldest service first, then what the workload alone
// says, and ports that a policy names.
func (m *Mesh) inbound(c *model.Client, server serverMTLS, authz []*model.AuthzPolicy) []*model.Inbound {
	var out []*model.Inbound
	have := map[uint16]bool{}
	for _, s := range m.ownServices(c) {
		for _, p := range s.Ports {
			if p.Protocol == model.UDP {
				continue
			}
			n := ownPort(s, p, c)
			if n == 0 || have[n] {
				continue
			}
			have[n] = true
			in := &model.Inbound{
				Port: n, Protocol: p.Protocol, Service: s, ServicePort: p.Number,
				Policy: m.policy(server, authz, n), Origin: s.Origin,
			}
			if d := m.destinationFor(who{ns: c.Namespace}, &service{Service: s}); d != nil {
				if pool := d.policyFor(p.Number, nil).Pool; pool != nil {
					in.Pool = *pool
				}
			}
			out = append(out, in)
		}
	}
	alone := func(n uint16) {
		if n == 0 || have[n] {
			return
		}
		have[n] = true
		out = append(out, &model.Inbound{Port: n, Policy: m.policy(server, authz, n)})
	}
	for _, e := range c.Expose {
		alone(e.Port)
	}
	for n := range server.ports {
		alone(n)
	}
	for _, in := range out {
		for _, e := range c.Expose {
			if e.Port == in.Port {
				in.Listen, in.App = e.Listen, e.App
			}
		}
	}
	if c.Capture == model.PortsMode {
		// Only what is exposed can be reached.
		out = slices.DeleteFunc(out, func(in *model.Inbound) bool { return !in.Listen.IsValid() })
	}
	slices.SortFunc(out, func(a, b *model.Inbound) int { return int(a.Port) - int(b.Port) })
	return out
}

// ownPort is the workload port that a service port reaches at this client.
func ownPort(s *model.Service, p model.Port, c *model.Client) uint16 {
	for _, e := range s.Endpoints {
		if e.Workload != c.Name && !sameAddress(e.Address, c.Addresses) {
			continue
		}
		if n, ok := e.Ports[p.Name]; ok {
			return n
		}
	}
	return targetPort(p, c.Ports, true)
}

func sameAddress(text string, list []netip.Addr) bool {
	a, err := netip.ParseAddr(text)
	return err == nil && slices.Contains(list, a)
}
