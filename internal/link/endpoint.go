package link

import (
	"net/netip"
	"slices"
	"sync"

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
	server   serverMTLS            // what the workload asks of clients
}

// endpointMemo remembers the endpoints per service port.
type endpointMemo struct {
	sync.Mutex
	byPort map[uint16][]model.ClusterEndpoint
}

// workloadIndex finds workloads by name and by labels.
type workloadIndex struct {
	list   []*model.Workload
	byName map[model.Ref][]*model.Workload
	byNS   map[string][]*model.Workload
	byPair map[[3]string][]*model.Workload // namespace, key, value
}

func (x *workloadIndex) build(list []*model.Workload) {
	x.list = list
	x.byName = map[model.Ref][]*model.Workload{}
	x.byNS = map[string][]*model.Workload{}
	x.byPair = map[[3]string][]*model.Workload{}
	for _, w := range list {
		r := model.Ref{Namespace: w.Namespace, Name: w.Name}
		x.byName[r] = append(x.byName[r], w)
		x.byNS[w.Namespace] = append(x.byNS[w.Namespace], w)
		for k, v := range w.Labels {
			p := [3]string{w.Namespace, k, v}
			x.byPair[p] = append(x.byPair[p], w)
		}
	}
}

// selected lists the workloads of ns that have all labels of sel, in the order
// they were given. An empty selector selects the namespace.
func (x *workloadIndex) selected(ns string, sel map[string]string) []*model.Workload {
	from := x.byNS[ns]
	for k, v := range sel {
		if l := x.byPair[[3]string{ns, k, v}]; len(l) < len(from) {
			from = l
		}
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
func (x *workloadIndex) running(ns, name, address string) *model.Workload {
	for _, w := range x.byName[model.Ref{Namespace: ns, Name: name}] {
		if !w.Template && (address == "" || w.Address == "" || w.Address == address) {
			return w
		}
	}
	return nil
}

func (m *Mesh) endpointsOf(s *model.Service) []endpoint {
	var out []endpoint
	for i := range s.Endpoints {
		out = append(out, m.listed(s, &s.Endpoints[i]))
	}
	if len(s.Selector) > 0 && !s.Sliced {
		for _, w := range m.workloads.selected(s.Namespace, s.Selector) {
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
		w = m.workloads.running(s.Namespace, e.Workload, e.Address)
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
	if e.base.Network == "" {
		e.base.Network = w.Network
	}
	if e.base.Locality == (model.Locality{}) {
		e.base.Locality = w.Locality
	}
	if w.MTLS {
		e.server = m.mtls.server(w.Namespace, w.Labels)
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
func (s *service) at(p model.Port) []model.ClusterEndpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, ok := s.mu.byPort[p.Number]; ok {
		return l
	}
	out := make([]model.ClusterEndpoint, 0, len(s.endpoints))
	for i := range s.endpoints {
		e := &s.endpoints[i]
		n := e.port(p)
		if n == 0 {
			continue
		}
		x := e.base
		x.Port = n
		x.MTLS = e.workload != nil && e.workload.MTLS && e.server.port(n) != model.MTLSDisable
		if at := e.reached(n); at.IsValid() {
			x.Address, x.Port = at.Addr().String(), at.Port()
		}
		out = append(out, x)
	}
	if s.mu.byPort == nil {
		s.mu.byPort = map[uint16][]model.ClusterEndpoint{}
	}
	s.mu.byPort[p.Number] = out
	return out
}

// spiffe lists the identities that a service's endpoints may have: those of
// its workloads and those that its object names; nil: unknown.
func (m *Mesh) spiffe(s *service) []string {
	out := slices.Clone(s.SANs)
	out = append(out, s.also...)
	for i := range s.endpoints {
		e := &s.endpoints[i]
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
