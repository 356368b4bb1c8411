package analyze

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

func itoa(i int) string { return strconv.Itoa(i) }

// systemPorts have well-known protocols whatever they are called.
var systemPorts = map[uint16]bool{25: true, 53: true, 3306: true, 27017: true}

// services checks names of ports, and Services that share workloads.
func (a *analysis) services() {
	a.each("", "Service", func(o *source.Object, r *raw) {
		if outside[o.Namespace] || o.Namespace == a.Root {
			return
		}
		for i, p := range r.Spec.Ports {
			at := o.Origin("spec.ports[" + itoa(i) + "]")
			switch {
			case r.Spec.Type == "ExternalName" && plainTCP(p):
				a.add("IST0150", at, "port %d of an ExternalName Service is TCP: it may take connections to other hosts on this port; name it http, https or tls", p.Port)
			case r.Spec.Type != "ExternalName" && undecided(p):
				a.add("IST0118", at, "the name %q of port %d does not say what it speaks: the first bytes decide; name it as http-web or set appProtocol", p.Name, p.Port)
			}
		}
	})
	a.shared()
}

func plainTCP(p rawPort) bool {
	if p.Protocol == "UDP" || p.AppProtocol != nil {
		return false
	}
	prefix, _, _ := strings.Cut(p.Name, "-")
	return prefix == "" || prefix == "tcp"
}

var protocolNames = []string{"http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "udp", "mongo", "mysql", "redis", "http_proxy"}

func undecided(p rawPort) bool {
	if p.Protocol == "UDP" || p.AppProtocol != nil || systemPorts[uint16(p.Port)] {
		return false
	}
	prefix, _, _ := strings.Cut(strings.ToLower(p.Name), "-")
	return !slices.Contains(protocolNames, prefix)
}

// use of a workload's port by a Service.
type use struct {
	svc  *model.Service
	port model.Port
}

func (u use) target() string {
	switch {
	case u.port.TargetName != "":
		return u.port.TargetName
	case u.port.Target != 0:
		return itoa(int(u.port.Target))
	}
	return itoa(int(u.port.Number))
}

// shared reports Deployments that several Services select in ways that a
// sidecar cannot tell apart.
func (a *analysis) shared() {
	for _, w := range a.Fragment.Workloads {
		if !w.Template {
			continue
		}
		byTarget := map[string][]use{}
		byNumber := map[uint16][]use{}
		for _, s := range a.Fragment.Services {
			if s.Namespace != w.Namespace || len(s.Selector) == 0 || !within(s.Selector, w.Labels) {
				continue
			}
			for _, p := range s.Ports {
				u := use{s, p}
				byTarget[u.target()] = append(byTarget[u.target()], u)
				byNumber[p.Number] = append(byNumber[p.Number], u)
			}
		}
		for n, l := range byNumber {
			if differ(l, func(u use) string { return u.port.Protocol.String() }) {
				a.add("IST0116", w.Origin, "port %d has different protocols in %s: one of them is used for all", n, uses(l))
			}
		}
		for t, l := range byTarget {
			if differ(l, func(u use) string { return itoa(int(u.port.Number)) }) {
				a.add("IST0137", w.Origin, "target port %s has different ports in %s", t, uses(l))
			}
		}
	}
}

func differ(l []use, of func(use) string) bool {
	for _, u := range l[1:] {
		if u.svc != l[0].svc && of(u) != of(l[0]) {
			return true
		}
	}
	return false
}

func uses(l []use) string {
	var out []string
	for _, u := range l {
		out = append(out, u.svc.Name+":"+itoa(int(u.port.Number))+" ("+u.port.Protocol.String()+")")
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// removed API versions, by the Kubernetes release without them.
var removed = map[string]string{
	"extensions/v1beta1": "1.22", "networking.k8s.io/v1beta1": "1.22", "apps/v1beta1": "1.16", "apps/v1beta2": "1.16",
	"autoscaling/v2beta1": "1.25", "autoscaling/v2beta2": "1.26", "policy/v1beta1": "1.25", "batch/v1beta1": "1.25",
	"batch/v2alpha1": "1.21", "discovery.k8s.io/v1beta1": "1.25", "events.k8s.io/v1beta1": "1.25",
	"rbac.authorization.k8s.io/v1beta1": "1.22", "rbac.authorization.k8s.io/v1alpha1": "1.22",
	"apiextensions.k8s.io/v1beta1": "1.22", "admissionregistration.k8s.io/v1beta1": "1.22",
	"certificates.k8s.io/v1beta1": "1.22", "coordination.k8s.io/v1beta1": "1.22", "scheduling.k8s.io/v1beta1": "1.22",
	"storage.k8s.io/v1beta1": "1.27", "flowcontrol.apiserver.k8s.io/v1beta2": "1.29",
}

func (a *analysis) removedAPIs() {
	for _, o := range a.Objects {
		if v := removed[o.APIVersion]; v != "" {
			a.add("TUL0209", o.Origin("apiVersion"), "%s is not served since Kubernetes %s: the object cannot be applied", o.APIVersion, v)
		}
	}
}
