package istio

import (
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/tulle-mesh/tulle/internal/model"
)

// readWorkloadGroup makes the description of programs that join the mesh from
// outside of Kubernetes: what a Deployment is for pods.
func readWorkloadGroup(r *reading, m proto.Message, out *model.Fragment) {
	g := m.(*networking.WorkloadGroup)
	t := g.Template
	if t == nil {
		if !r.damaged("spec.template") {
			r.Invalid("spec.template", "is missing")
		}
		t = &networking.WorkloadEntry{}
	}
	if t.Address != "" {
		r.Invalid("spec.template.address", "each workload has its own address: leave it out")
		t.Address = ""
	}
	named := proto.Clone(t).(*networking.WorkloadEntry)
	named.Address = "unix:///" // a group has none
	named.Ports = nil
	w := r.entry("spec.template", named, true)
	for _, n := range slices.Sorted(maps.Keys(t.Ports)) {
		if w.Ports == nil {
			w.Ports = make(map[string]uint16)
		}
		w.Ports[n] = r.port("spec.template.ports."+n, t.Ports[n], false)
	}
	for k, v := range r.labels("spec.metadata.labels", g.Metadata.GetLabels()) {
		if w.Labels == nil {
			w.Labels = make(map[string]string)
		}
		if _, set := w.Labels[k]; !set {
			w.Labels[k] = v
		}
	}
	w.Name, w.Namespace, w.Owner, w.Origin = r.Object.Name, r.Object.Namespace, r.Object.Name, r.at("")
	w.Address, w.Template, w.Ready = "", true, true
	w.Injection, w.Probe = model.InjectUnlessNot, r.readiness("spec.probe", g.Probe)
	if w.Account == "" {
		w.Account = "default"
	}
	out.Workloads = append(out.Workloads, w)
}

// readiness reads a WorkloadGroup's probe; nil: there is none.
func (r *reading) readiness(path string, p *networking.ReadinessProbe) *model.Probe {
	if p == nil {
		return nil
	}
	seconds := func(name string, n int32) time.Duration {
		return time.Duration(r.count(path+"."+name, n)) * time.Second
	}
	out := &model.Probe{
		Initial: seconds("initialDelaySeconds", p.InitialDelaySeconds), Period: seconds("periodSeconds", p.PeriodSeconds),
		Timeout:  seconds("timeoutSeconds", p.TimeoutSeconds),
		Failures: r.count(path+".failureThreshold", p.FailureThreshold), Success: r.count(path+".successThreshold", p.SuccessThreshold),
	}
	switch c := p.HealthCheckMethod.(type) {
	case *networking.ReadinessProbe_HttpGet:
		h := c.HttpGet
		out.Path, out.Host, out.Port = h.GetPath(), h.GetHost(), r.port(path+".httpGet.port", h.GetPort(), false)
		if out.Path == "" {
			out.Path = "/"
		}
		if out.TLS = strings.EqualFold(h.GetScheme(), "https"); h.GetScheme() != "" && !out.TLS && !strings.EqualFold(h.GetScheme(), "http") {
			r.Invalid(path+".httpGet.scheme", "%q is neither HTTP nor HTTPS", clip(h.GetScheme()))
		}
		for _, x := range h.GetHttpHeaders() {
			if out.Headers == nil {
				out.Headers = make(map[string]string)
			}
			out.Headers[x.Name] = x.Value
		}
	case *networking.ReadinessProbe_TcpSocket:
		out.Host, out.Port = c.TcpSocket.GetHost(), r.port(path+".tcpSocket.port", c.TcpSocket.GetPort(), false)
	case *networking.ReadinessProbe_Exec:
		if out.Exec = c.Exec.GetCommand(); len(out.Exec) == 0 {
			r.Invalid(path+".exec.command", "is missing")
		}
	case *networking.ReadinessProbe_Grpc:
		out.Port = r.port(path+".grpc.port", c.Grpc.GetPort(), false) // as Kubernetes' own: connected to
	default:
		r.Invalid(path, "one of httpGet, tcpSocket, exec, grpc is needed")
	}
	return out
}
