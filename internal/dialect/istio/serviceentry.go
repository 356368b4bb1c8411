package istio

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/model"
)

func readServiceEntry(r *reading, m proto.Message, out *model.Fragment) {
	se := m.(*networking.ServiceEntry)
	common := model.Service{
		Name: r.Object.Name, Namespace: r.Object.Namespace,
		External:   se.Location == networking.ServiceEntry_MESH_EXTERNAL,
		Resolution: r.resolution(se),
		Selector:   r.labels("spec.workloadSelector.labels", se.GetWorkloadSelector().GetLabels()),
		ExportTo:   r.exportTo("spec.exportTo", se.ExportTo),
		SANs:       se.SubjectAltNames,
		Origin:     r.at(""),
	}
	for i, a := range se.Addresses {
		at := index("spec.addresses", i)
		p, ok := r.cidr(at, a)
		if !ok {
			continue
		}
		if !p.IsSingleIP() && se.Resolution != networking.ServiceEntry_NONE && se.Resolution != networking.ServiceEntry_STATIC {
			r.Invalid(at, "a block can stand with resolution NONE or STATIC alone")
		}
		common.Addresses = append(common.Addresses, p.Masked())
	}
	common.Ports = r.entryPorts(se.Ports)
	if len(se.Ports) == 0 && !r.damaged("spec.ports") {
		r.Doubtful("spec.ports", "without ports nothing can be reached")
	}
	r.entryEndpoints(se, &common)
	if len(se.Hosts) == 0 && !r.damaged("spec.hosts") {
		r.Invalid("spec.hosts", "at least one host is needed")
	}
	seen := make(map[string]bool)
	for i, h := range se.Hosts {
		at := index("spec.hosts", i)
		h = r.host(at, h, true)
		switch {
		case h == "*":
			r.Invalid(at, "* alone is no host; write a name or *.name")
		case seen[h]:
			r.Invalid(at, "host %q stands here twice", h)
		case netipHost(h):
			r.Invalid(at, "%q is an address; write a name here and the address in addresses", h)
		}
		seen[h] = true
		s := common
		s.Host = h
		if dns := s.Resolution == model.DNS || s.Resolution == model.DNSRoundRobin; dns && len(se.Endpoints) == 0 && se.WorkloadSelector == nil {
			if strings.HasPrefix(h, "*") {
				r.Invalid(at, "a wildcard cannot be resolved: with resolution %s give endpoints or a full name", se.Resolution)
			}
			s.Endpoints = []model.Endpoint{{Address: h, Ready: true, Origin: r.at(at)}}
		}
		out.Services = append(out.Services, &s)
	}
}

func (r *reading) resolution(se *networking.ServiceEntry) model.Resolution {
	switch se.Resolution {
	case networking.ServiceEntry_STATIC:
		return model.Static
	case networking.ServiceEntry_DNS:
		return model.DNS
	case networking.ServiceEntry_DNS_ROUND_ROBIN:
		return model.DNSRoundRobin
	case networking.ServiceEntry_DYNAMIC_DNS:
		r.Add(model.Error, model.Unsupported, "spec.resolution", "DYNAMIC_DNS is not acted on yet; list the hosts and use DNS")
	}
	return model.Passthrough
}

// entryProtocols of ServiceEntry ports.
var entryProtocols = map[string]model.Protocol{
	"": model.Sniff, "HTTP": model.HTTP, "HTTP_PROXY": model.HTTP, "HTTP2": model.HTTP2, "GRPC": model.GRPC, "GRPC-WEB": model.HTTP2,
	"HTTPS": model.HTTPS, "TLS": model.TLS, "TCP": model.TCP, "UDP": model.UDP,
	"MONGO": model.TCP, "MYSQL": model.TCP, "REDIS": model.TCP,
}

func (r *reading) entryPorts(in []*networking.ServicePort) []model.Port {
	var out []model.Port
	names, numbers := make(map[string]bool), make(map[uint32]bool)
	for i, p := range in {
		at := index("spec.ports", i)
		if p.Name == "" {
			r.Invalid(at+".name", "is missing")
		} else {
			r.dnsLabel(at+".name", "port name", p.Name)
		}
		if names[p.Name] && p.Name != "" {
			r.Invalid(at+".name", "port name %q stands here twice", clip(p.Name))
		}
		if numbers[p.Number] {
			r.Invalid(at+".number", "port %d stands here twice", p.Number)
		}
		names[p.Name], numbers[p.Number] = true, true
		kind, ok := entryProtocols[strings.ToUpper(p.Protocol)]
		if !ok {
			r.Invalid(at+".protocol", "%q is not one of HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP, TLS", clip(p.Protocol))
		}
		out = append(out, model.Port{
			Number: r.port(at+".number", p.Number, false), Name: p.Name, Protocol: kind,
			Target: r.port(at+".targetPort", p.TargetPort, true),
		})
	}
	return out
}

// entryEndpoints reads the listed endpoints and checks how they fit the
// resolution.
func (r *reading) entryEndpoints(se *networking.ServiceEntry, s *model.Service) {
	if se.WorkloadSelector != nil && len(se.Endpoints) > 0 {
		r.Invalid("spec", "endpoints and workloadSelector exclude each other")
	}
	if se.WorkloadSelector != nil && len(se.WorkloadSelector.Labels) == 0 && !r.damaged("spec.workloadSelector") {
		r.Invalid("spec.workloadSelector.labels", "is missing")
	}
	switch se.Resolution {
	case networking.ServiceEntry_NONE:
		if len(se.Endpoints) > 0 {
			r.Invalid("spec.endpoints", "resolution NONE takes no endpoints; use STATIC or DNS")
		}
	case networking.ServiceEntry_STATIC:
		if len(se.Endpoints) == 0 && se.WorkloadSelector == nil && !r.damaged("spec.endpoints") {
			r.Invalid("spec.endpoints", "resolution STATIC needs endpoints or a workloadSelector")
		}
	case networking.ServiceEntry_DNS_ROUND_ROBIN:
		if len(se.Endpoints) > 1 {
			r.Invalid("spec.endpoints", "resolution DNS_ROUND_ROBIN takes one endpoint, not %d", len(se.Endpoints))
		}
	}
	names := make(map[string]bool)
	for _, p := range se.Ports {
		names[p.Name] = true
	}
	for i, e := range se.Endpoints {
		at := index("spec.endpoints", i)
		w := r.entry(at, e, se.Resolution == networking.ServiceEntry_DNS || se.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN)
		for _, n := range slices.Sorted(maps.Keys(e.Ports)) {
			if !names[n] {
				r.Invalid(at+".ports."+n, "the service has no port %q", clip(n))
			}
		}
		if w.Address == "" {
			if e.Network != "" {
				r.Unsupported(at, "an endpoint behind the gateway of another network is not reached yet: left out")
			}
			continue
		}
		s.Endpoints = append(s.Endpoints, model.Endpoint{
			Address: w.Address, Ports: w.Ports, Labels: w.Labels, Locality: w.Locality, Weight: w.Weight,
			Network: w.Network, Account: e.ServiceAccount, Ready: true, Origin: r.at(at),
		})
	}
}

// entry reads a WorkloadEntry, inside a ServiceEntry or alone.
func (r *reading) entry(path string, e *networking.WorkloadEntry, dns bool) *model.Workload {
	w := &model.Workload{
		Labels: r.labels(path+".labels", e.Labels), Network: e.Network, Weight: e.Weight, Account: e.ServiceAccount, Ready: true,
	}
	a := strings.ToLower(e.Address)
	switch {
	case a == "" && e.Network == "":
		if !r.damaged(path + ".address") {
			r.Invalid(path+".address", "is missing")
		}
	case strings.HasPrefix(a, "unix://"):
		a = e.Address
		if !strings.HasPrefix(a, "unix:///") && !strings.HasPrefix(a, "unix://@") {
			r.Invalid(path+".address", "the path of a unix socket must be absolute")
		}
		if len(e.Ports) > 0 {
			r.Invalid(path+".ports", "a unix socket has no ports")
		}
	case a != "" && !netipHost(a):
		a = r.host(path+".address", a, false)
		if !dns {
			r.Invalid(path+".address", "%q is a name; with this resolution an IP address is needed", clip(a))
		}
	}
	w.Address = a
	for _, n := range slices.Sorted(maps.Keys(e.Ports)) {
		if w.Ports == nil {
			w.Ports = make(map[string]uint16)
		}
		w.Ports[n] = r.port(path+".ports."+n, e.Ports[n], false)
	}
	w.Locality = locality(e.Locality)
	return w
}

// locality splits "region/zone/subzone".
func locality(s string) model.Locality {
	var l model.Locality
	var rest string
	l.Region, rest, _ = strings.Cut(s, "/")
	l.Zone, l.Subzone, _ = strings.Cut(rest, "/")
	return l
}

func readWorkloadEntry(r *reading, m proto.Message, out *model.Fragment) {
	e := m.(*networking.WorkloadEntry)
	w := r.entry("spec", e, true)
	w.Name, w.Namespace, w.Origin = r.Object.Name, r.Object.Namespace, r.at("")
	for k, v := range r.Object.Labels {
		if w.Labels == nil {
			w.Labels = make(map[string]string)
		}
		w.Labels[k] = v
	}
	if w.Network == "" {
		w.Network = w.Labels["topology.istio.io/network"]
	}
	// Istio takes a service account to mean that a sidecar is there.
	if mode, ok := w.Labels[tlsModeLabel]; ok {
		w.MTLS = mode == "istio"
	} else {
		w.MTLS = w.Account != ""
	}
	if w.Account == "" {
		w.Account = "default"
	}
	out.Workloads = append(out.Workloads, w)
}

const tlsModeLabel = "security.istio.io/tlsMode"
