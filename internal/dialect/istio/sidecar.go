package istio

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/model"
)

func readSidecar(r *reading, m proto.Message, out *model.Fragment) {
	sc := m.(*networking.Sidecar)
	s := &model.SidecarPolicy{
		Name: r.Object.Name, Namespace: r.Object.Namespace,
		Selector: r.labels("spec.workloadSelector.labels", sc.GetWorkloadSelector().GetLabels()),
		Pool:     r.pool("spec.inboundConnectionPool", sc.InboundConnectionPool),
		Origin:   r.at(""),
	}
	if p := sc.OutboundTrafficPolicy; p != nil {
		any := p.Mode == networking.OutboundTrafficPolicy_ALLOW_ANY
		s.AllowAny = &any
		if p.EgressProxy != nil {
			at := "spec.outboundTrafficPolicy.egressProxy"
			b := r.backend(at, p.EgressProxy)
			switch {
			case !any:
				r.Invalid(at, "acts with mode ALLOW_ANY alone")
			case p.EgressProxy.Port == nil:
				r.Invalid(at+".port.number", "is missing")
			}
			s.EgressProxy = &b
		}
	}
	if len(sc.Ingress)+len(sc.Egress) == 0 && sc.InboundConnectionPool == nil && sc.OutboundTrafficPolicy == nil && !r.damaged("spec") {
		r.Invalid("spec", "says nothing: give ingress, egress, inboundConnectionPool or outboundTrafficPolicy")
	}
	ports := make(map[uint16]bool)
	for i, l := range sc.Ingress {
		at := index("spec.ingress", i)
		in := r.ingress(at, l)
		if ports[in.Port.Number] && in.Port.Number != 0 {
			r.Invalid(at+".port.number", "port %d stands here twice", in.Port.Number)
		}
		ports[in.Port.Number] = true
		s.Ingress = append(s.Ingress, in)
	}
	r.egress(sc.Egress, s)
	out.Sidecars = append(out.Sidecars, s)
}

// sidecarProtocols of a listener's port.
var sidecarProtocols = map[string]model.Protocol{
	"HTTP": model.HTTP, "HTTP_PROXY": model.HTTP, "HTTP2": model.HTTP2, "GRPC": model.GRPC, "GRPC-WEB": model.HTTP2,
	"HTTPS": model.HTTPS, "TLS": model.TLS, "TCP": model.TCP, "MONGO": model.TCP, "MYSQL": model.TCP, "REDIS": model.TCP,
}

func (r *reading) sidecarPort(path string, p *networking.SidecarPort) model.Port {
	out := model.Port{Number: r.port(path+".number", p.Number, false), Name: p.Name}
	kind, ok := sidecarProtocols[strings.ToUpper(p.Protocol)]
	switch {
	case p.Protocol == "":
		r.Invalid(path+".protocol", "is missing")
	case !ok:
		r.Invalid(path+".protocol", "%q is not one of HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP, TLS", clip(p.Protocol))
	case strings.EqualFold(p.Protocol, "HTTP_PROXY"):
		r.Unsupported(path+".protocol", "a port is no HTTP proxy yet: taken as HTTP")
	}
	out.Protocol = kind
	return out
}

func (r *reading) ingress(path string, l *networking.IstioIngressListener) model.SidecarIngress {
	out := model.SidecarIngress{Pool: r.pool(path+".connectionPool", l.ConnectionPool), Origin: r.at(path)}
	if l.Port == nil {
		if !r.damaged(path + ".port") {
			r.Invalid(path+".port", "is missing")
		}
		return out
	}
	out.Port = r.sidecarPort(path+".port", l.Port)
	if l.CaptureMode == networking.CaptureMode_NONE {
		r.Unsupported(path+".captureMode", "inbound sockets are not opened: connections to the port are captured")
	}
	at := path + ".defaultEndpoint"
	if strings.HasPrefix(l.DefaultEndpoint, "unix://") {
		r.Unsupported(at, "programs are not reached at unix sockets yet: connections go to the port itself")
		return out
	}
	if l.DefaultEndpoint == "" {
		return out
	}
	a, err := netip.ParseAddrPort(l.DefaultEndpoint)
	if err != nil {
		r.Invalid(at, "%q is not 127.0.0.1:PORT, 0.0.0.0:PORT or unix:///PATH", clip(l.DefaultEndpoint))
		return out
	}
	if !a.Addr().IsLoopback() && !a.Addr().IsUnspecified() {
		r.Invalid(at, "%s is neither loopback (127.0.0.1) nor the workload itself (0.0.0.0)", a.Addr())
	}
	out.App, out.Loopback = r.port(at, uint32(a.Port()), false), a.Addr().IsLoopback()
	return out
}

func (r *reading) egress(list []*networking.IstioEgressListener, s *model.SidecarPolicy) {
	rest := -1
	seen := make(map[string]bool)
	for i, l := range list {
		at := index("spec.egress", i)
		e := model.SidecarEgress{Bind: l.Bind, Socket: l.CaptureMode == networking.CaptureMode_NONE, Origin: r.at(at)}
		if l.Port != nil {
			p := r.sidecarPort(at+".port", l.Port)
			e.Port = &p
			key := l.Bind + ":" + strconv.Itoa(int(p.Number))
			if seen[key] && p.Number != 0 {
				r.Invalid(at+".port.number", "port %d stands here twice", p.Number)
			}
			seen[key] = true
		} else if !r.damaged(at + ".port") {
			if rest >= 0 {
				r.Invalid(at, "only one entry can be without a port; egress[%d] is", rest)
			}
			rest = i
		}
		r.egressBind(at, &e)
		if len(l.Hosts) == 0 && !r.damaged(at+".hosts") {
			r.Invalid(at+".hosts", "at least one host is needed (\"~/*\" for none)")
		}
		for j, h := range l.Hosts {
			e.Hosts = append(e.Hosts, r.sidecarHost(index(at+".hosts", j), h))
		}
		s.Egress = append(s.Egress, e)
	}
	if rest >= 0 && rest != len(list)-1 {
		r.Invalid(index("spec.egress", rest), "the entry without a port must be the last one")
	}
}

func (r *reading) egressBind(path string, e *model.SidecarEgress) {
	switch {
	case strings.HasPrefix(e.Bind, "unix://"):
		r.Add(model.Error, model.Unsupported, path+".bind", "sockets of the file system are not opened by sidecars yet")
	case e.Bind != "" && !netipHost(e.Bind):
		r.Invalid(path+".bind", "%q is not an IP address", clip(e.Bind))
	case e.Port == nil && e.Bind != "":
		r.Invalid(path+".port", "is needed beside bind")
	case e.Port == nil && e.Socket:
		r.Unsupported(path+".captureMode", "without a port no socket is opened: connections are captured")
		e.Socket = false
	}
	if e.Socket && e.Bind == "" {
		e.Bind = "127.0.0.1"
	}
}

// sidecarHost reads "ns/host", "./host", "*/host", "~/host" (none) and
// "~ns/host" (not those).
func (r *reading) sidecarHost(path, text string) model.SidecarHost {
	ns, host, ok := strings.Cut(text, "/")
	if !ok {
		r.Invalid(path, "%q must be NAMESPACE/HOST, as ./*, */%s or istio-system/*", clip(text), clip(text))
		return model.SidecarHost{}
	}
	out := model.SidecarHost{}
	ns, out.Not = strings.CutPrefix(ns, "~")
	if out.Not && ns == "" {
		ns = "*"
	}
	if !slices.Contains([]string{"*", "."}, ns) {
		r.dnsLabel(path, "namespace", ns)
	}
	out.Namespace, out.Host = ns, r.host(path, host, true)
	return out
}
