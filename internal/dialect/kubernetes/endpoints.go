package kubernetes

import (
	"fmt"
	"maps"
	"math"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
)

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

func (in *input) endpointSlice(r *dialect.Report) {
	var s discoveryv1.EndpointSlice
	if !dialect.Decode(r, &s) {
		return
	}
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	default:
		r.Invalid("addressType", "%q is not one of IPv4, IPv6, FQDN", s.AddressType)
		return
	}
	name := r.Object.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		r.Add(model.Warning, model.NotFound, "metadata.labels", "without the label %s the slice belongs to no Service: ignored", discoveryv1.LabelServiceName)
		return
	}
	in.slices = append(in.slices, slice{report: r, service: name, content: s})
}

func (in *input) services() map[model.Ref]*model.Service {
	out := make(map[model.Ref]*model.Service, len(in.out.Services))
	for _, s := range in.out.Services {
		out[model.Ref{Namespace: s.Namespace, Name: s.Name}] = s
	}
	return out
}

// attachEndpoints gives Services without slices what an old Endpoints object
// lists; where there are slices, an API server has copied it into one.
func (in *input) attachEndpoints() {
	services := in.services()
	for _, e := range in.endpoints {
		o := e.report.Object
		s := services[model.Ref{Namespace: o.Namespace, Name: o.Name}]
		switch {
		case s == nil:
			e.report.Add(model.Warning, model.NotFound, "metadata.name", "there is no Service %s/%s: ignored", o.Namespace, o.Name)
			continue
		case s.Sliced || s.External:
			continue
		}
		s.Sliced = true
		for i, sub := range e.content.Subsets {
			at := index("subsets", i)
			ports := make(map[string]uint16, len(sub.Ports))
			for j, p := range sub.Ports {
				if p.Port < 1 || p.Port > math.MaxUint16 {
					e.report.Invalid(index(at+".ports", j)+".port", "port %d is not within 1 and 65535", p.Port)
					continue
				}
				ports[p.Name] = uint16(p.Port)
			}
			in.oldAddresses(e.report, s, at+".addresses", sub.Addresses, ports, true)
			in.oldAddresses(e.report, s, at+".notReadyAddresses", sub.NotReadyAddresses, ports, false)
		}
	}
}

func (in *input) oldAddresses(r *dialect.Report, s *model.Service, path string, list []corev1.EndpointAddress, ports map[string]uint16, ready bool) { //nolint:staticcheck // as above
	for i, a := range list {
		at := index(path, i)
		ip, err := netip.ParseAddr(a.IP)
		if err != nil || ip.Zone() != "" {
			r.Invalid(at+".ip", "%q is not an IP address", a.IP)
			continue
		}
		e := model.Endpoint{Address: ip.Unmap().String(), Ports: ports, Ready: ready, Origin: r.Object.Origin(at)}
		if t := a.TargetRef; t != nil && (t.Kind == "" || t.Kind == "Pod") {
			e.Workload = t.Name
		}
		add(s, e)
	}
}

// attachSlices gives each Service the endpoints of its slices.
func (in *input) attachSlices() {
	services := in.services()
	for _, sl := range in.slices {
		s := services[model.Ref{Namespace: sl.report.Object.Namespace, Name: sl.service}]
		if s == nil {
			sl.report.Add(model.Warning, model.NotFound, "metadata.labels."+discoveryv1.LabelServiceName,
				"there is no Service %s/%s: ignored", sl.report.Object.Namespace, sl.service)
			continue
		}
		if s.External {
			continue
		}
		s.Sliced = true
		ports := slicePorts(sl.report, sl.content.Ports)
		for i, e := range sl.content.Endpoints {
			at := index("endpoints", i)
			for _, a := range e.Addresses {
				if address, ok := sliceAddress(sl.report, at, sl.content.AddressType, a); ok {
					add(s, endpoint(sl.report, at, e, address, ports))
				}
			}
		}
	}
}

// add an endpoint once: slices overlap while they are being rearranged. One
// that is ready in any slice is ready.
func add(s *model.Service, e model.Endpoint) {
	for i := range s.Endpoints {
		if have := &s.Endpoints[i]; have.Address == e.Address && maps.Equal(have.Ports, e.Ports) {
			have.Ready = have.Ready || e.Ready
			return
		}
	}
	s.Endpoints = append(s.Endpoints, e)
}

func slicePorts(r *dialect.Report, in []discoveryv1.EndpointPort) map[string]uint16 {
	out := make(map[string]uint16, len(in))
	for i, p := range in {
		if p.Port == nil {
			continue // every port
		}
		if *p.Port < 1 || *p.Port > math.MaxUint16 {
			r.Invalid(index("ports", i)+".port", "port %d is not within 1 and 65535", *p.Port)
			continue
		}
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		out[name] = uint16(*p.Port)
	}
	return out
}

func sliceAddress(r *dialect.Report, path string, kind discoveryv1.AddressType, text string) (string, bool) {
	if kind == discoveryv1.AddressTypeFQDN {
		r.Unsupported(path, "names in an EndpointSlice are not resolved; use a ServiceEntry with resolution DNS")
		return "", false
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Unmap().Is4() != (kind == discoveryv1.AddressTypeIPv4) {
		r.Invalid(path+".addresses", "%q is not an %s address", text, kind)
		return "", false
	}
	return a.Unmap().String(), true
}

func endpoint(r *dialect.Report, path string, e discoveryv1.Endpoint, address string, ports map[string]uint16) model.Endpoint {
	out := model.Endpoint{
		Address: address, Ports: ports, Origin: r.Object.Origin(path),
		Ready: e.Conditions.Ready == nil || *e.Conditions.Ready,
	}
	if e.Zone != nil {
		out.Locality.Zone = *e.Zone
	}
	if t := e.TargetRef; t != nil && (t.Kind == "" || t.Kind == "Pod") {
		out.Workload = t.Name
	}
	return out
}
