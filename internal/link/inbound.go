package link

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/internal/model"
)

// ownServices lists the services whose endpoint a client's workload is, oldest
// first.
func (m *Mesh) ownServices(c *model.Client) []*model.Service {
	var all []*model.Service
	selects := func(s *model.Service) bool { return len(s.Selector) > 0 && !s.Sliced }
	for _, s := range m.facts.own.get(c.Namespace) {
		if selects(s) && subset(s.Selector, c.Labels) {
			all = append(all, s)
		}
	}
	ends := []end{{c.Namespace, c.Name}}
	for _, a := range c.Addresses {
		ends = append(ends, end{"", a.String()})
	}
	for _, e := range ends {
		for _, s := range m.facts.at(e) {
			if s.Namespace == c.Namespace && !selects(s) && !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, servicesByAge)
	var out []*model.Service
	for _, s := range all {
		if !slices.ContainsFunc(out, func(x *model.Service) bool { return x.Host == s.Host && x.Origin.Object() == s.Origin.Object() }) {
			out = append(out, s)
		}
	}
	return out
}

// inbound makes the ports that a client's own workload declares: those that its
// Sidecar lists, or else that services target, the oldest service first, then
// what the workload alone says, and ports that a policy names.
func (m *Mesh) inbound(c *model.Client, h *held) []*model.Inbound {
	said := m.sidecarPolicy(m.whoIs(c).by)
	out := m.servedPorts(c)
	if said != nil && len(said.Ingress) > 0 {
		out = m.ingress(c, said, out)
	} else if said != nil && said.Pool != nil {
		for _, in := range out {
			in.Pool = *said.Pool
		}
	}
	have := map[uint16]bool{}
	for _, in := range out {
		have[in.Port] = true
		in.Policy = h.policy(in.Port)
	}
	alone := func(n uint16) {
		if n == 0 || have[n] {
			return
		}
		have[n] = true
		out = append(out, &model.Inbound{Port: n, Policy: h.policy(n)})
	}
	for _, e := range c.Expose {
		alone(e.Port)
	}
	for n := range h.server.ports {
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

// servedPorts are those that services target.
func (m *Mesh) servedPorts(c *model.Client) []*model.Inbound {
	var out []*model.Inbound
	have := map[uint16]bool{}
	for _, s := range m.ownServices(c) {
		for _, p := range s.Ports {
			if p.Protocol == model.UDP {
				continue
			}
			n := ownPort(m.facts.full.Get(s), p, c)
			if n == 0 || have[n] {
				continue
			}
			have[n] = true
			in := &model.Inbound{Port: n, Protocol: p.Protocol, Service: s, ServicePort: p.Number, Origin: s.Origin}
			if d := m.destinationFor(who{ns: c.Namespace}, &service{Service: s}); d != nil {
				if pool := d.policyFor(p.Number, nil).Pool; pool != nil {
					in.Pool = *pool
				}
			}
			out = append(out, in)
		}
	}
	return out
}

// ingress are the ports that a Sidecar lists, instead of those that services
// target; a service that does says which service it is.
func (m *Mesh) ingress(c *model.Client, p *model.SidecarPolicy, served []*model.Inbound) []*model.Inbound {
	var out []*model.Inbound
	for i := range p.Ingress {
		e := &p.Ingress[i]
		in := &model.Inbound{Port: e.Port.Number, Protocol: e.Port.Protocol, Origin: e.Origin}
		for _, s := range served {
			if s.Port == in.Port {
				in.Service, in.ServicePort, in.Pool = s.Service, s.ServicePort, s.Pool
			}
		}
		if pool := cmp.Or(e.Pool, p.Pool); pool != nil {
			in.Pool = *pool
		}
		switch {
		case e.Loopback:
			in.App = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), e.App)
		case e.App != 0 && e.App != in.Port && len(c.Addresses) > 0:
			in.App = netip.AddrPortFrom(c.Addresses[0], e.App)
		}
		out = append(out, in)
	}
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
