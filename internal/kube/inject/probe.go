package inject

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// rewrite sends the kubelet's HTTP, TCP and gRPC probes to the sidecar, which
// asks the program from inside: under STRICT the kubelet, which has no
// certificate, would be refused. It returns the probes as they were, by path.
// Commands are left alone.
func (o *choices) rewrite(spec *corev1.PodSpec) map[string]corev1.Probe {
	old := map[string]corev1.Probe{}
	visit := func(c *corev1.Container) {
		for name, p := range map[string]*corev1.Probe{"livez": c.LivenessProbe, "readyz": c.ReadinessProbe, "startupz": c.StartupProbe} {
			if p == nil || p.Exec != nil || p.HTTPGet == nil && p.TCPSocket == nil && p.GRPC == nil {
				continue
			}
			path := probePath(c.Name, name)
			keep := corev1.Probe{ProbeHandler: p.ProbeHandler, TimeoutSeconds: p.TimeoutSeconds}
			resolve(&keep.ProbeHandler, c.Ports)
			old[path] = keep
			p.ProbeHandler = corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(StatusPort)}}
		}
		if c.Lifecycle == nil {
			return
		}
		for name, h := range map[string]*corev1.LifecycleHandler{"prestopz": c.Lifecycle.PreStop, "poststartz": c.Lifecycle.PostStart} {
			if h == nil || h.HTTPGet == nil {
				continue
			}
			path := probePath(c.Name, name)
			keep := corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: h.HTTPGet}}
			resolve(&keep.ProbeHandler, c.Ports)
			old[path] = keep
			h.HTTPGet = &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(StatusPort)}
		}
	}
	for i := range spec.Containers {
		if !isProxy(spec.Containers[i]) {
			visit(&spec.Containers[i])
		}
	}
	for i := range spec.InitContainers { // native sidecars of the user
		if c := &spec.InitContainers[i]; c.RestartPolicy != nil && !isProxy(*c) {
			visit(c)
		}
	}
	return old
}

// resolve writes named ports as numbers: the sidecar does not know the names.
func resolve(h *corev1.ProbeHandler, ports []corev1.ContainerPort) {
	number := func(p intstr.IntOrString) intstr.IntOrString {
		if p.Type == intstr.String {
			for _, x := range ports {
				if x.Name == p.StrVal {
					return intstr.FromInt32(x.ContainerPort)
				}
			}
		}
		return p
	}
	if h.HTTPGet != nil {
		h.HTTPGet = h.HTTPGet.DeepCopy()
		h.HTTPGet.Port = number(h.HTTPGet.Port)
	}
	if h.TCPSocket != nil {
		h.TCPSocket = h.TCPSocket.DeepCopy()
		h.TCPSocket.Port = number(h.TCPSocket.Port)
	}
}
