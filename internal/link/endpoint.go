package link

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/model"
)

// endpoint is one resolved endpoint of a service; its port depends on the
// service port.
type endpoint struct {
	base     model.ClusterEndpoint // without Port and MTLS
	ports    map[string]uint16     // by service port name, wins
	named    map[string]uint16     // container ports, for targetPort names
	workload *model.Workload       // nil: not one of ours
	mtls     bool                  // it has a sidecar
	server   serverMTLS            // what the workload asks of clients
}

// selected lists the workloads of ns that have all labels of sel, by name. An
// empty selector selects the namespace.
func (m *Mesh) selected(ns string, sel map[string]string) []*model.Workload {
	// The rarest label: of equal ones the first by name, so that the same is read
	// every time.
	var from []*model.Workload
	for i, k := range sortedKeys(sel) {
		if l := m.facts.labelled.get([3]string{ns, k, sel[k]}); i == 0 || len(l) < len(from) {
			from = l
		}
	}
	if len(sel) == 0 {
		from = m.facts.inside.get(ns)
	}
	var out []*model.Workload
	for _, w := range from {
		if subset(sel, w.Labels) {
			out = append(out, w)
		}
	}
	return out
}

// running finds the workload that an endpoint names.
func (m *Mesh) running(ns, name, address string) *model.Workload {
	for _, w := range m.facts.running.get(model.Ref{Namespace: ns, Name: name}) {
		if !w.Template && (address == "" || w.Address == "" || w.Address == address || slices.Contains(w.More, address)) {
			return w
		}
	}
	return nil
}

// endpoints of a service. The slice is shared: do not modify.
func (m *Mesh) endpoints(s *service) []endpoint { return m.tables.endpoints.Get(s) }

func (m *Mesh) makeEndpoints(s *service, _ []endpoint) []endpoint {
	if x := m.source(s); x != nil {
		return m.endpointsOf(x)
	}
	return nil
}

func (m *Mesh) endpointsOf(s *model.Service) []endpoint {
	var out []endpoint
	for i := range s.Endpoints {
		out = append(out, m.listed(s, &s.Endpoints[i]))
	}
	if len(s.Selector) > 0 && !s.Sliced {
		for _, w := range m.selected(s.Namespace, s.Selector) {
			if w.Template || w.Address == "" {
				continue
			}
			out = append(out, m.selectedEndpoint(w))
		}
	}
	if len(out) == 0 && len(s.Selector) == 0 && (s.Resolution == model.DNS || s.Resolution == model.DNSRoundRobin) && !wild(s.Host) {
		out = append(out, endpoint{base: model.ClusterEndpoint{Address: s.Host, Weight: 1, Ready: true}})
	}
	return out
}

func (m *Mesh) listed(s *model.Service, e *model.Endpoint) endpoint {
	out := endpoint{
		base: model.ClusterEndpoint{
			Address: e.Address, Weight: max(e.Weight, 1), Locality: e.Locality, Labels: e.Labels,
			Ready: e.Ready, Account: e.Account, Network: e.Network,
		},
		ports: e.Ports,
	}
	var w *model.Workload
	if e.Workload != "" {
		w = m.running(s.Namespace, e.Workload, e.Address)
	}
	if w == nil {
		return out
	}
	out.attach(m, w)
	if len(e.Labels) > 0 {
		out.base.Labels = e.Labels
	}
	if e.Account != "" {
		out.base.Account = e.Account
	}
	return out
}

func (m *Mesh) selectedEndpoint(w *model.Workload) endpoint {
	out := endpoint{base: model.ClusterEndpoint{
		Address: w.Address, Weight: max(w.Weight, 1), Locality: w.Locality, Ready: w.Ready, Network: w.Network,
	}}
	if w.Origin.Kind == "WorkloadEntry" {
		out.ports = w.Ports
	}
	out.attach(m, w)
	return out
}

// attach takes what is known of the workload behind the endpoint.
func (e *endpoint) attach(m *Mesh, w *model.Workload) {
	e.workload = w
	e.named = w.Ports
	e.base.Labels = w.Labels
	e.base.Account = w.Account
	e.base.Workload = w.Namespace + "/" + w.Name
	e.base.Owner = w.Owner
	e.base.Host = w.Host
	if e.base.Network == "" {
		e.base.Network = w.Network
	}
	if e.base.Locality == (model.Locality{}) {
		e.base.Locality = w.Locality
	}
	if e.mtls = m.sidecar(w); e.mtls {
		e.server = m.server(w.Namespace, w.Labels)
	}
}

// port that this endpoint has for a service port; 0: none (a named target port
// that the workload does not have).
func (e *endpoint) port(p model.Port) uint16 {
	if n, ok := e.ports[p.Name]; ok {
		return n
	}
	return targetPort(p, e.named, e.workload != nil)
}

// reached is where peers connect for a workload port, when that is not the
// workload's own address and port: a standalone sidecar's socket.
func (e *endpoint) reached(port uint16) netip.AddrPort {
	if e.workload == nil {
		return netip.AddrPort{}
	}
	for _, x := range e.workload.Expose {
		if x.Port == port {
			return x.Listen
		}
	}
	return netip.AddrPort{}
}

// targetPort of a workload for a service port. A name that a known workload
// does not have gives 0.
func targetPort(p model.Port, named map[string]uint16, known bool) uint16 {
	switch {
	case p.Target != 0:
		return p.Target
	case p.TargetName != "":
		if n, ok := named[p.TargetName]; ok {
			return n
		}
		if known {
			return 0
		}
	}
	return p.Number
}

// at lists the endpoints for a port. The slice is shared: do not modify.
func (m *Mesh) at(s *service, p model.Port) []model.ClusterEndpoint {
	return m.tables.at.Get(servicePort{s, p})
}

type servicePort struct {
	service *service
	port    model.Port
}

func (m *Mesh) makeAt(k servicePort, _ []model.ClusterEndpoint) []model.ClusterEndpoint {
	list := m.endpoints(k.service)
	out := make([]model.ClusterEndpoint, 0, len(list))
	for i := range list {
		e := &list[i]
		n := e.port(k.port)
		if n == 0 {
			continue
		}
		x := e.base
		x.Port = n
		x.MTLS = e.mtls && e.server.port(n) != model.MTLSDisable
		if at := e.reached(n); at.IsValid() {
			x.Address, x.Port = at.Addr().String(), at.Port()
		}
		out = append(out, x)
	}
	return out
}

// spiffe lists the identities that a service's endpoints may have: those of
// its workloads and those that its object names; nil: unknown.
func (m *Mesh) spiffe(s *service) []string {
	out := slices.Clone(s.SANs)
	out = append(out, s.also...)
	list := m.endpoints(s)
	for i := range list {
		e := &list[i]
		if e.base.Account == "" {
			continue
		}
		ns := s.Namespace
		if e.workload != nil {
			ns = e.workload.Namespace
		}
		out = append(out, identity.ID{TrustDomain: m.Settings.TrustDomain, Namespace: ns, Account: e.base.Account}.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}
