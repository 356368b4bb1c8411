package control

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
)

// WorkloadSpec asks for a place in the mesh for one process on this machine.
type WorkloadSpec struct {
	Namespace  string            `json:"namespace"`
	Name       string            `json:"name,omitempty"`       // empty: made from Deployment, Service or Account
	Deployment string            `json:"deployment,omitempty"` // its labels, account and ports are taken
	Service    string            `json:"service,omitempty"`    // its selector is taken as labels
	Labels     map[string]string `json:"labels,omitempty"`     // win over the Deployment's
	Account    string            `json:"serviceAccount,omitempty"`
	Ports      []PortSpec        `json:"ports,omitempty"`   // empty: those of the Deployment or the Service
	ListenOn   netip.Addr        `json:"listenOn,omitzero"` // where the program listens; absent or 0.0.0.0: the workload's own address
	Gateway    bool              `json:"gateway,omitempty"`
	Redirected bool              `json:"redirected,omitempty"` // its connections are captured; else it gets a socket per dependency
	Locality   string            `json:"locality,omitempty"`   // region/zone/subzone
	IP         netip.Addr        `json:"ip,omitzero"`          // the address it had before, if it is free
	Ready      bool              `json:"ready,omitempty"`      // false: not until SetReady
	// Token of the registration that this one continues, after a restart of the
	// control plane: Name, IP, Ports and Local are then what they were, or it
	// fails; the token stays valid.
	Token string                    `json:"token,omitempty"`
	Local map[string]netip.AddrPort `json:"local,omitempty"` // with Token: the sockets of its dependencies
	PID   int                       `json:"-"`               // the process that asks, if known: when it has ended its place is not kept over a restart
}

// PortSpec is one port of a workload.
type PortSpec struct {
	Port uint16         `json:"port"`           // as services target it
	Name string         `json:"name,omitempty"` // as targetPort may call it
	App  netip.AddrPort `json:"app,omitzero"`   // where the program listens; absent: the workload's own address and Port
	// Listen is where the sidecar (or gateway) listens; absent: a free port of
	// the workload's own address.
	Listen netip.AddrPort `json:"listen,omitzero"`
}

// Registration is a place in the mesh.
type Registration struct {
	ID        string            `json:"id"` // namespace/name
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Account   string            `json:"serviceAccount"`
	Identity  string            `json:"identity"` // SPIFFE ID
	Labels    map[string]string `json:"labels,omitempty"`
	Gateway   bool              `json:"gateway,omitempty"`
	IP        netip.Addr        `json:"ip"`    // a loopback address of its own
	Token     string            `json:"token"` // the bearer token of its proxy, for xDS and the CA; lives as long as the registration
	Ports     []PortSpec        `json:"ports,omitempty"`
	Probe     *model.Probe      `json:"probe,omitempty"`    // the Deployment's readiness probe
	HTTPProxy netip.AddrPort    `json:"httpProxy,omitzero"` // not when Redirected
	// Local are the sockets of its dependencies by "host:port", host being the
	// service's full name; not when Redirected. It grows when services come.
	Local map[string]netip.AddrPort `json:"local,omitempty"`

	lease uint64 // which of the registrations that continue each other
}

// check bounds what a caller may say.
func (s *WorkloadSpec) check() error {
	if s.Namespace == "" {
		return errors.New("namespace is missing")
	}
	texts := []string{s.Namespace, s.Name, s.Deployment, s.Service, s.Account, s.Locality, s.Token}
	for k, v := range s.Labels {
		texts = append(texts, k, v)
	}
	for _, t := range texts {
		if len(t) > maxText {
			return fmt.Errorf("%.20q... has %d bytes, more than %d", t, len(t), maxText)
		}
	}
	if strings.ContainsAny(s.Namespace+s.Name, "/ \t\n") {
		return errors.New("namespace and name hold no slash and no white space")
	}
	if len(s.Labels) > maxLabels || len(s.Ports) > maxPorts {
		return fmt.Errorf("more than %d labels or %d ports", maxLabels, maxPorts)
	}
	if s.Token != "" && (len(s.Token) < 32 || s.Name == "" || len(s.Local) > portEnd-portOutbound) {
		return errors.New("token: want one that was given out, and the name that belongs to it")
	}
	if s.Deployment != "" && s.Service != "" {
		return errors.New("deployment and service exclude each other")
	}
	for _, p := range s.Ports {
		if p.Port == 0 {
			return errors.New("port 0")
		}
	}
	return nil
}

// describe fills a workload from the Deployment or Service that spec names.
func (s *WorkloadSpec) describe(f *model.Fragment) (*model.Workload, error) {
	w := &model.Workload{
		Namespace: s.Namespace, Account: s.Account, Labels: maps.Clone(s.Labels), Ports: map[string]uint16{},
		Weight: 1, Ready: s.Ready, MTLS: !s.Gateway, Gateway: s.Gateway,
		Origin: model.Origin{Kind: "Process", Namespace: s.Namespace},
	}
	if w.Labels == nil {
		w.Labels = map[string]string{}
	}
	inherit := func(labels map[string]string) {
		for k, v := range labels {
			if _, set := w.Labels[k]; !set {
				w.Labels[k] = v
			}
		}
	}
	switch {
	case s.Deployment != "":
		i := slices.IndexFunc(f.Workloads, func(d *model.Workload) bool {
			return d.Template && d.Namespace == s.Namespace && d.Name == s.Deployment
		})
		if i < 0 {
			return nil, fmt.Errorf("there is no Deployment or WorkloadGroup %s/%s", s.Namespace, s.Deployment)
		}
		d := f.Workloads[i]
		w.Owner, w.Locality, w.Probe = d.Name, d.Locality, d.Probe
		w.Account = cmp.Or(w.Account, d.Account)
		maps.Copy(w.Ports, d.Ports)
		inherit(d.Labels)
	case s.Service != "":
		i := slices.IndexFunc(f.Services, func(v *model.Service) bool {
			return v.Namespace == s.Namespace && v.Name == s.Service
		})
		if i < 0 {
			return nil, fmt.Errorf("there is no Service %s/%s", s.Namespace, s.Service)
		}
		if len(f.Services[i].Selector) == 0 {
			return nil, fmt.Errorf("the Service %s/%s selects nothing", s.Namespace, s.Service)
		}
		inherit(f.Services[i].Selector)
	}
	w.Account = cmp.Or(w.Account, "default")
	for _, p := range s.Ports {
		if p.Name != "" {
			w.Ports[p.Name] = p.Port
		}
	}
	if s.Locality != "" {
		part := strings.SplitN(s.Locality, "/", 3)
		w.Locality = model.Locality{Region: part[0]}
		if len(part) > 1 {
			w.Locality.Zone = part[1]
		}
		if len(part) > 2 {
			w.Locality.Subzone = part[2]
		}
	}
	if len(s.Ports) == 0 {
		s.Ports = declared(w, f)
	}
	if on := s.ListenOn; on.IsValid() && !on.IsUnspecified() {
		s.Ports = slices.Clone(s.Ports)
		for i := range s.Ports {
			if p := &s.Ports[i]; !p.App.IsValid() {
				p.App = netip.AddrPortFrom(on.Unmap(), p.Port)
			}
		}
	}
	return w, nil
}

// declared are the ports of a workload for which nobody named any: those that
// its Deployment declares, and those that services which select it target.
func declared(w *model.Workload, f *model.Fragment) []PortSpec {
	have := map[uint16]bool{}
	var out []PortSpec
	add := func(p uint16, name string) {
		if p != 0 && !have[p] && len(out) < maxPorts {
			have[p] = true
			out = append(out, PortSpec{Port: p, Name: name})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.Ports)) {
		add(w.Ports[name], name)
	}
	for _, s := range f.Services {
		if s.Namespace != w.Namespace || len(s.Selector) == 0 || !selects(s.Selector, w.Labels) {
			continue
		}
		for _, p := range s.Ports {
			switch {
			case p.Protocol == model.UDP:
			case p.TargetName != "":
				add(w.Ports[p.TargetName], p.TargetName)
			case p.Target != 0:
				add(p.Target, "")
			default:
				add(p.Number, "")
			}
		}
	}
	return out
}

// sameDoor lets the sidecar listen at the program's own address and port, as
// far as an ordinary user may and nobody else does: the program is in another
// network namespace, and peers that were told its address (a headless
// service's, or by itself) find the sidecar there. Elsewhere the sidecar gets a
// port of its own, and is found by those who ask for the service.
func sameDoor(ports []PortSpec, ip netip.Addr) {
	for i := range ports {
		p := &ports[i]
		if p.Listen.IsValid() || p.Port < 1024 {
			continue
		}
		at := netip.AddrPortFrom(ip, p.Port)
		if l, err := net.Listen("tcp", at.String()); err == nil { // a port that somebody has on every address is taken here too
			_ = l.Close()
			p.Listen = at
		}
	}
}

// expose settles where each port is really reached.
func expose(ports []PortSpec, w *model.Workload, ip netip.Addr) []model.Expose {
	var out []model.Expose
	next := uint16(portInbound)
	for _, p := range ports {
		e := model.Expose{Port: p.Port, Listen: p.Listen, App: p.App}
		if !e.Listen.IsValid() {
			e.Listen = netip.AddrPortFrom(ip, next)
			next++
		}
		if !e.App.IsValid() && !w.Gateway {
			e.App = netip.AddrPortFrom(ip, p.Port)
		}
		out = append(out, e)
	}
	return out
}
