package kubernetes

import (
	"math"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/model"
)

const exportToAnnotation = "networking.istio.io/exportTo"

func (in *input) service(r *dialect.Report) {
	var s corev1.Service
	if !dialect.Decode(r, &s) {
		return
	}
	o := r.Object
	out := &model.Service{
		Name: o.Name, Namespace: o.Namespace, Kubernetes: true,
		Host:     strings.ToLower(o.Name + "." + o.Namespace + ".svc." + in.domain),
		Selector: s.Spec.Selector, Origin: o.Origin(""),
	}
	if errs := validation.IsDNS1123Label(o.Name); len(errs) > 0 {
		r.Invalid("metadata.name", "%q cannot be the name of a Service: %s", o.Name, short(errs[0]))
	}
	if len(out.Selector) == 0 {
		out.Selector = nil
	}
	out.Ports = ports(r, &s)
	if list, ok := o.Annotations[exportToAnnotation]; ok {
		for e := range strings.SplitSeq(list, ",") {
			if e = strings.TrimSpace(e); e != "" {
				out.ExportTo = append(out.ExportTo, e)
			}
		}
	}
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		name := strings.ToLower(strings.TrimSuffix(s.Spec.ExternalName, "."))
		if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
			r.Invalid("spec.externalName", "%q is not a host name: %s", s.Spec.ExternalName, short(errs[0]))
		}
		out.External, out.Resolution, out.Selector = true, model.DNS, nil
		out.Endpoints = []model.Endpoint{{Address: name, Ready: true, Origin: o.Origin("spec.externalName")}}
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		out.Headless, out.Resolution = true, model.Passthrough
	default:
		out.Addresses = addresses(r, &s)
	}
	switch s.Spec.Type {
	case "", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName:
	default:
		r.Invalid("spec.type", "%q is not one of ClusterIP, NodePort, LoadBalancer, ExternalName", s.Spec.Type)
	}
	if len(out.Ports) == 0 && !out.External && !out.Headless {
		r.Invalid("spec.ports", "at least one port is needed")
	}
	unsupported(r, &s)
	if r.Errors() > 0 {
		return
	}
	in.out.Services = append(in.out.Services, out)
}

// unsupported tells of fields that choose endpoints and are not acted on.
func unsupported(r *dialect.Report, s *corev1.Service) {
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		r.Unsupported("spec.sessionAffinity", "ClientIP is not acted on inside a mesh; use consistentHash.useSourceIp of a DestinationRule")
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		r.Unsupported("spec.internalTrafficPolicy", "Local is not acted on yet: endpoints of every node are used")
	}
	if d := s.Spec.TrafficDistribution; d != nil && *d != "" {
		r.Unsupported("spec.trafficDistribution", "is not acted on yet: endpoints are chosen without regard to zone and node")
	}
	if s.Spec.PublishNotReadyAddresses {
		r.Unsupported("spec.publishNotReadyAddresses", "is not acted on yet: endpoints that are not ready get no requests")
	}
}

func addresses(r *dialect.Report, s *corev1.Service) []netip.Prefix {
	list, path := s.Spec.ClusterIPs, "spec.clusterIPs"
	if len(list) == 0 && s.Spec.ClusterIP != "" {
		list, path = []string{s.Spec.ClusterIP}, "spec.clusterIP"
	}
	var out []netip.Prefix
	for _, text := range list {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			r.Invalid(path, "%q is not an IP address", text)
			continue
		}
		a = a.Unmap()
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out
}

func ports(r *dialect.Report, s *corev1.Service) []model.Port {
	var out []model.Port
	type key struct {
		number   int32
		protocol corev1.Protocol
	}
	names, numbers := make(map[string]bool), make(map[key]bool)
	for i, p := range s.Spec.Ports {
		at := index("spec.ports", i)
		if p.Port < 1 || p.Port > math.MaxUint16 {
			r.Invalid(at+".port", "port %d is not within 1 and 65535", p.Port)
			continue
		}
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		switch p.Protocol {
		case corev1.ProtocolTCP, corev1.ProtocolUDP:
		case corev1.ProtocolSCTP:
			r.Unsupported(at+".protocol", "SCTP does not pass through proxies: the port is not in the mesh")
			continue
		default:
			r.Invalid(at+".protocol", "%q is not one of TCP, UDP, SCTP", p.Protocol)
		}
		switch {
		case p.Name == "" && len(s.Spec.Ports) > 1:
			r.Invalid(at+".name", "is missing; each of several ports needs a name")
		case p.Name != "" && len(validation.IsDNS1123Label(p.Name)) > 0:
			r.Invalid(at+".name", "%q is not a port name: %s", p.Name, short(validation.IsDNS1123Label(p.Name)[0]))
		case p.Name != "" && names[p.Name]:
			r.Invalid(at+".name", "port name %q stands here twice", p.Name)
		}
		if k := (key{p.Port, p.Protocol}); numbers[k] {
			r.Invalid(at+".port", "%s port %d stands here twice", p.Protocol, p.Port)
		} else {
			names[p.Name], numbers[k] = true, true
		}
		port := model.Port{Number: uint16(p.Port), Name: p.Name, Protocol: protocol(p)}
		switch {
		case p.TargetPort.Type == intstr.String:
			port.TargetName = p.TargetPort.StrVal
			if errs := validation.IsValidPortName(port.TargetName); len(errs) > 0 {
				r.Invalid(at+".targetPort", "%q is not a port name: %s", port.TargetName, short(errs[0]))
			}
		case p.TargetPort.IntVal < 0 || p.TargetPort.IntVal > math.MaxUint16:
			r.Invalid(at+".targetPort", "port %d is not within 1 and 65535", p.TargetPort.IntVal)
		default:
			port.Target = uint16(p.TargetPort.IntVal)
		}
		out = append(out, port)
	}
	return out
}

// words of appProtocol and of port-name prefixes.
var words = map[string]model.Protocol{
	"http": model.HTTP, "http_proxy": model.HTTP, "http2": model.HTTP2, "grpc": model.GRPC,
	"https": model.HTTPS, "tls": model.TLS, "tcp": model.TCP, "udp": model.UDP,
	"mongo": model.TCP, "mysql": model.TCP, "redis": model.TCP,
}

// wellKnownTCP ports speak first at the server or are no HTTP, so that waiting
// for a client's first bytes would hang them.
var wellKnownTCP = map[int32]bool{25: true, 53: true, 3306: true, 27017: true}

// protocol of a port by Istio's rules: appProtocol, else the name up to its
// first dash, else the well-known ports, else it is told by the first bytes.
func protocol(p corev1.ServicePort) model.Protocol {
	if p.Protocol == corev1.ProtocolUDP {
		return model.UDP
	}
	name := p.Name
	if p.AppProtocol != nil {
		name = *p.AppProtocol
		switch name {
		case "kubernetes.io/h2c":
			return model.HTTP2
		case "kubernetes.io/ws":
			return model.HTTP
		case "kubernetes.io/wss":
			return model.HTTPS
		}
	}
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "grpc-web") {
		return model.HTTP2
	}
	word, _, _ := strings.Cut(name, "-")
	if k, ok := words[word]; ok {
		return k
	}
	if wellKnownTCP[p.Port] {
		return model.TCP
	}
	return model.Sniff
}

// short leaves out the examples and expressions of Kubernetes' messages.
func short(text string) string {
	text, _, _ = strings.Cut(text, " (e.g.")
	return text
}
